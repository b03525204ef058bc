"""The frozen worker and the programs that unpacked it: it ends when they are killed, and removes their folders.

One executable file runs as three processes. staticx unpacks a C library and PyInstaller's program into one folder
and starts that program; PyInstaller unpacks Python into a second folder and starts the worker. Each passes
signals on, waits for its child and then removes its folder, unless it gets SIGKILL: that case is covered here. A
worker that uses a folder holds a lock (flock) on it, which the kernel releases when the worker dies.
"""

import os
import select
import shutil
import signal
import stat
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.system.linux import boottime, stat_of
from kelpie_worker.system.locks import try_lock

_MARK = "kelpie"  # a file in each of our folders; other programs are packed the same way
_PYINSTALLERS, _STATICX = "_MEI", "staticx-"  # prefixes of the folders' names
_QUIET = 5.0  # seconds; while a folder is being unpacked no process has a lock on it
_UNPACKED_BY_THEN = 600.0  # seconds; a folder that is incomplete after that was interrupted
_CLOCKS_DIFFER = 1.0  # seconds, at most, between a file's time and a process's start for the same moment
_POLL = 1.0  # seconds, where a container forbids pidfd_open
_OURS = ("LD_LIBRARY_PATH", "LD_LIBRARY_PATH_ORIG", "STATICX_BUNDLE_DIR", "STATICX_PROG_PATH")
_hidden: dict[str, str] = {}  # what `hide_bundle` took out of this process's environment


@dataclass(frozen=True)
class Unpacked:
    """A folder of this worker, and the process that unpacked it and removes it at its end.

    `unpacker` is that process's id; None if it was killed already.
    """

    folder: Path
    unpacker: int | None


def is_frozen() -> bool:
    return bool(getattr(sys, "frozen", False))


def missing() -> Path | None:
    """The folder that was unpacked for this process, if it was removed meanwhile; None if it is there.

    Only the first file in it is looked for.
    """
    if not is_frozen():
        return None
    folder = Path(sys._MEIPASS)  # type: ignore[attr-defined]
    try:
        (folder / _MARK).stat()
    except FileNotFoundError:
        return folder
    except OSError:  # a disk error, for example, which may be temporary
        return None
    return None


@cache
def kept(path: str) -> str:
    """A path under which a file of the program can be read even if the unpacked folder is removed.

    In a frozen program that is a copy in memory.
    """
    if not is_frozen():
        return path
    copy = os.memfd_create(Path(path).name)
    with open(copy, "wb", closefd=False) as file:
        file.write(Path(path).read_bytes())
    return f"/proc/self/fd/{copy}"


def program_files() -> list[str]:
    """The paths that the program needs on the disk, now and at its next start."""
    packed = os.environ.get("STATICX_PROG_PATH") or _hidden.get("STATICX_PROG_PATH")
    unpacked = [getattr(sys, "_MEIPASS", None), packed] if is_frozen() else []
    return [sys.executable, *filter(None, unpacked)]


def without_bundle(environment: Mapping[str, str], frozen: bool) -> dict[str, str]:
    """The environment without what staticx and PyInstaller put into it, such as their library path."""
    if not frozen:
        return dict(environment)
    clean = {
        name: value
        for name, value in environment.items()
        if name not in _OURS and not name.startswith(("_PYI_", "_MEIPASS"))
    }
    original = environment.get("LD_LIBRARY_PATH_ORIG")
    return clean if original is None else clean | {"LD_LIBRARY_PATH": original}


def hide_bundle() -> None:
    """Give this process the environment that it would have without staticx and PyInstaller.

    For a process that starts other programs: the user's command, or the one that its AWS settings name as
    `credential_process`. A library path of the bundle would have them load the bundle's libraries.
    """
    if not is_frozen() or _hidden:
        return
    ours = dict(os.environ)
    clean = without_bundle(ours, frozen=True)
    _hidden.update({name: value for name, value in ours.items() if clean.get(name) != value})
    for name in _hidden:
        del os.environ[name]
    os.environ.update(clean)


@contextmanager
def folders_in_use() -> Iterator[None]:
    """Lock this worker's folders and remove those of dead workers.

    Within the context, this process gets SIGTERM if a process that unpacked it is killed.
    """
    if not is_frozen():
        yield
        return
    ours = _ours(Path(sys._MEIPASS), os.environ)  # type: ignore[attr-defined]
    locks = [_locked(unpacked.folder, shared=True) for unpacked in ours]
    remove_abandoned(ours)
    for task in (_end_with_unpackers, _remove_abandoned_later):
        threading.Thread(target=task, args=(ours,), daemon=True).start()
    try:
        yield
    finally:
        for unpacked in ours:
            if unpacked.unpacker is None or not is_alive(unpacked.unpacker):
                _remove(unpacked.folder)
        for lock in locks:
            if lock is not None:
                os.close(lock)


def _ours(pyinstallers: Path, environment: Mapping[str, str]) -> list[Unpacked]:
    inner = _unpacker(pyinstallers)
    folders = [Unpacked(pyinstallers, inner if inner is not None and is_alive(inner) else None)]
    if staticx := environment.get("STATICX_BUNDLE_DIR"):
        outer = _parent(inner) if inner is not None else None
        program = environment.get("STATICX_PROG_PATH", "")
        folders.append(Unpacked(Path(staticx), outer if outer and _may_run(outer, program) else None))
    return folders


def _may_run(pid: int, program: str) -> bool:
    """Whether a process may be running this program. The parent of an orphan (init) runs another one.

    Another user's process may not be inspected and is never ours, such as a root's init process that adopts a
    user's orphans. A process of our own user that cannot be inspected (its program file was replaced) may be
    ours.
    """
    try:
        return Path(f"/proc/{pid}/exe").samefile(program)
    except OSError:
        return _owner(pid) == os.geteuid()


def _owner(pid: int) -> int | None:
    """The user id of a process, from a file that every user may read.

    The owner of the folder /proc/PID is root instead for a process that must not be inspected.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return None
    return next((int(line.split()[2]) for line in status.splitlines() if line.startswith("Uid:")), None)


# --- the end of an unpacking process --------------------------------------------------------------------


def _end_with_unpackers(ours: Collection[Unpacked]) -> None:
    _wait_for_an_end([unpacked.unpacker for unpacked in ours])
    logs.warn("bundle_killed", detail="The process around the worker was killed, so the worker ends.")
    os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_an_end(pids: Collection[int | None]) -> None:
    """Wait until one of the processes ends; returns at once if one (None) has ended already."""
    alive = [pid for pid in pids if pid is not None]
    if len(alive) < len(pids):
        return
    try:
        ends = [os.pidfd_open(pid) for pid in alive]
    except ProcessLookupError:
        return
    except OSError:  # pidfd_open is forbidden here
        while all(is_alive(pid) for pid in alive):
            time.sleep(_POLL)
        return
    select.select(ends, [], [])


# --- folders of dead workers ----------------------------------------------------------------------------


def _remove_abandoned_later(ours: Collection[Unpacked]) -> None:
    """Remove also the folders that were too young when this worker started."""
    time.sleep(_QUIET)
    remove_abandoned(ours)


def remove_abandoned(ours: Collection[Unpacked], quiet: float = _QUIET) -> None:
    """Remove the folders beside ours that were unpacked for a worker and that no process uses any more.

    `quiet` is the age in seconds that a folder must have.
    """
    own = {unpacked.folder for unpacked in ours}
    unpackers = {unpacked.unpacker for unpacked in ours}
    names = {entry.name for folder in own if folder.name.startswith(_STATICX) for entry in folder.glob("*")}
    for parent in {folder.parent for folder in own}:
        for folder in {*parent.glob(f"{_PYINSTALLERS}*"), *parent.glob(f"{_STATICX}*")} - own:
            of_a_worker = _is_of_a_worker(folder, quiet) or _is_incomplete(folder, names)
            if of_a_worker and not _is_being_unpacked(folder, unpackers):
                _remove_if_free(folder)


def _is_of_a_worker(folder: Path, quiet: float) -> bool:
    """Whether it was unpacked for a worker of this user, at least `quiet` seconds ago."""
    return _is_mine(folder, quiet) and (folder / _MARK).is_file()


def _is_incomplete(folder: Path, names: Collection[str]) -> bool:
    """Whether its unpacking was interrupted long ago. The marking file is unpacked last, so it is missing then.

    A complete folder of another program contains that program, which is not among our `names`.
    """
    if not folder.name.startswith(_STATICX) or not _is_mine(folder, _UNPACKED_BY_THEN):
        return False
    return {entry.name for entry in folder.glob("*")} < set(names)


def _is_mine(folder: Path, quiet: float) -> bool:
    try:
        about = folder.lstat()
    except OSError:  # its own worker has just removed it
        return False
    mine = stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid()
    return mine and time.time() - about.st_mtime >= quiet


def _is_being_unpacked(folder: Path, unpackers: Collection[int | None]) -> bool:
    """Whether a living process unpacks it, or runs from it, whose worker will lock it soon."""
    if folder.name.startswith(_STATICX):
        return any(program.is_relative_to(folder) for program in _programs())
    unpacker = _unpacker(folder)
    if unpacker is None or unpacker in unpackers or _is_younger(unpacker, folder):  # the process id was reused
        return False
    return _program(unpacker).name == _program(os.getpid()).name


def _remove_if_free(folder: Path) -> None:
    lock = _locked(folder)
    if lock is not None:
        _remove(folder)
        os.close(lock)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:  # another worker is removing it too
        return
    except OSError as error:
        logs.warn("bundle_remains", folder=str(folder), detail=str(error))


def _locked(folder: Path, shared: bool = False) -> int | None:
    """A descriptor that holds the lock; None if the folder is gone or locked, or the file system has no locks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    with suppress(OSError):
        if try_lock(descriptor, shared):
            return descriptor
    os.close(descriptor)
    return None


# --- processes ------------------------------------------------------------------------------------------


def _unpacker(folder: Path) -> int | None:
    """The process id in the name of PyInstaller's folder: _MEI, eight hex digits, six random characters."""
    digits = folder.name.removeprefix(_PYINSTALLERS)[:8]
    with suppress(ValueError):
        return int(digits, 16) or None
    return None


def is_alive(pid: int) -> bool:
    """Whether the process runs. A zombie does not."""
    state = _stat(pid)
    return state is not None and state[0] not in (b"Z", b"X")


def _is_younger(pid: int, folder: Path) -> bool:
    """Whether a process started after a folder was filled: process ids repeat when a container is restarted."""
    state = _stat(pid)
    if state is None:
        return True
    age = boottime() - int(state[19]) / os.sysconf("SC_CLK_TCK")
    try:
        return age + _CLOCKS_DIFFER < time.time() - folder.stat().st_mtime
    except OSError:  # the folder is gone
        return True


def _parent(pid: int) -> int | None:
    state = _stat(pid)
    return int(state[1]) if state else None


def _stat(pid: int) -> list[bytes] | None:
    """As `stat_of`; None if the process ended."""
    try:
        return stat_of(pid)
    except OSError:
        return None


def _programs() -> Iterator[Path]:
    for process in Path("/proc").glob("[0-9]*"):
        yield _program(int(process.name))


def _program(pid: int) -> Path:
    """The program file of a process; Path() if the process ended or may not be inspected."""
    try:
        return (Path("/proc") / str(pid) / "exe").readlink()
    except OSError:
        return Path()
