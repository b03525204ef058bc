"""The frozen worker among the programs that unpacked it: it ends with them, and leaves no folder of theirs behind.

One file is three processes. staticx's unpacks a C library and PyInstaller's program into one folder and starts
that; PyInstaller's unpacks Python into a second folder and starts the worker. Each passes signals on, waits for
what it started, and removes its folder then. What none of them sees to, the SIGKILL of one of them, is seen to
here. A folder is in use as long as somebody has a lock on it; the kernel takes it from the dead.
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
from kelpie_worker.system.linux import boottime
from kelpie_worker.system.locks import try_lock

_MARK = "kelpie"  # is in each of our folders; other programs are packed the same way
_PYINSTALLERS, _STATICX = "_MEI", "staticx-"
_QUIET = 5.0  # seconds; who unpacks into a folder has no lock on it yet
_UNPACKED_BY_THEN = 600.0  # seconds; what is not whole after so long was cut short
_CLOCKS_DIFFER = 1.0  # seconds, at most, between what a file and a process say of the same moment
_LOOK_AGAIN = 1.0  # seconds, where a container forbids to wait for the end of a process
_OURS = ("LD_LIBRARY_PATH", "LD_LIBRARY_PATH_ORIG", "STATICX_BUNDLE_DIR", "STATICX_PROG_PATH")


@dataclass(frozen=True)
class Unpacked:
    """A folder of this worker, and the process that removes it at the end. None: it was killed already."""

    folder: Path
    keeper: int | None


def is_frozen() -> bool:
    return bool(getattr(sys, "frozen", False))


def missing() -> Path | None:
    """The folder that was unpacked for this process, if somebody removed it. Its first file stands for all."""
    if not is_frozen():
        return None
    folder = Path(sys._MEIPASS)  # type: ignore[attr-defined]
    try:
        (folder / _MARK).stat()
    except FileNotFoundError:
        return folder
    except OSError:  # of the disk, say, which may pass
        return None
    return None


@cache
def kept(path: str) -> str:
    """Where to read a file of ours. Of a frozen program's it is a copy in memory, which nobody can remove."""
    if not is_frozen():
        return path
    copy = os.memfd_create(Path(path).name)
    with open(copy, "wb", closefd=False) as file:
        file.write(Path(path).read_bytes())
    return f"/proc/self/fd/{copy}"


def program_files() -> list[str]:
    """What the program needs to be on the disk, now and for its next start."""
    unpacked = [getattr(sys, "_MEIPASS", None), os.environ.get("STATICX_PROG_PATH")] if is_frozen() else []
    return [sys.executable, *filter(None, unpacked)]


def without_bundle(environment: Mapping[str, str], frozen: bool) -> dict[str, str]:
    """The environment as it was before a frozen Kelpie put its own libraries first."""
    if not frozen:
        return dict(environment)
    clean = {
        name: value
        for name, value in environment.items()
        if name not in _OURS and not name.startswith(("_PYI_", "_MEIPASS"))
    }
    original = environment.get("LD_LIBRARY_PATH_ORIG")
    return clean if original is None else clean | {"LD_LIBRARY_PATH": original}


@contextmanager
def held() -> Iterator[None]:
    """Hold our folders and remove those of the dead; as long as this lasts, SIGTERM if a keeper is killed."""
    if not is_frozen():
        yield
        return
    ours = _ours(Path(sys._MEIPASS), os.environ)  # type: ignore[attr-defined]
    locks = [_locked(unpacked.folder, shared=True) for unpacked in ours]
    remove_abandoned(ours)
    for task in (_end_with_keepers, _look_again):
        threading.Thread(target=task, args=(ours,), daemon=True).start()
    try:
        yield
    finally:
        for unpacked in ours:
            if unpacked.keeper is None or not is_alive(unpacked.keeper):
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
    """Whether a process runs a program, as far as can be seen; the parent of an orphan runs another.

    Which program somebody else's process runs cannot be seen, and none of ours is somebody else's: a first process
    of root adopts the orphans of a user. What is ours and cannot be seen (a program file that was replaced) may.
    """
    try:
        return Path(f"/proc/{pid}/exe").samefile(program)
    except OSError:
        return _owner(pid) == os.geteuid()


def _owner(pid: int) -> int | None:
    """By what everybody may read; the folder's owner is another for a process that must not be looked into."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return None
    return next((int(line.split()[2]) for line in status.splitlines() if line.startswith("Uid:")), None)


# --- the end of a keeper --------------------------------------------------------------------------------


def _end_with_keepers(ours: Collection[Unpacked]) -> None:
    _wait_for_an_end([unpacked.keeper for unpacked in ours])
    logs.warn("bundle_killed", detail="The process around the worker was killed, so the worker ends.")
    os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_an_end(pids: Collection[int | None]) -> None:
    alive = [pid for pid in pids if pid is not None]
    if len(alive) < len(pids):
        return
    try:
        ends = [os.pidfd_open(pid) for pid in alive]
    except ProcessLookupError:
        return
    except OSError:  # forbidden here
        while all(is_alive(pid) for pid in alive):
            time.sleep(_LOOK_AGAIN)
        return
    select.select(ends, [], [])


# --- what the dead left ---------------------------------------------------------------------------------


def _look_again(ours: Collection[Unpacked]) -> None:
    time.sleep(_QUIET)
    remove_abandoned(ours)


def remove_abandoned(ours: Collection[Unpacked], quiet: float = _QUIET) -> None:
    """Remove the folders beside ours that a worker unpacked and nobody uses any more."""
    own = {unpacked.folder for unpacked in ours}
    keepers = {unpacked.keeper for unpacked in ours}
    names = {entry.name for folder in own if folder.name.startswith(_STATICX) for entry in folder.glob("*")}
    for place in {folder.parent for folder in own}:
        for folder in {*place.glob(f"{_PYINSTALLERS}*"), *place.glob(f"{_STATICX}*")} - own:
            workers = _is_a_workers(folder, quiet) or _is_cut_short(folder, names)
            if workers and not _is_unpacked_now(folder, keepers):
                _remove_if_free(folder)


def _is_a_workers(folder: Path, quiet: float) -> bool:
    """Whether it was unpacked for a worker of this user, and not just now."""
    return _is_mine(folder, quiet) and (folder / _MARK).is_file()


def _is_cut_short(folder: Path, names: Collection[str]) -> bool:
    """Whether its unpacking was ended long ago: the worker itself, which marks it, comes behind its libraries.

    A whole folder of another program has that program in it, which is none of our `names`.
    """
    if not folder.name.startswith(_STATICX) or not _is_mine(folder, _UNPACKED_BY_THEN):
        return False
    return {entry.name for entry in folder.glob("*")} < set(names)


def _is_mine(folder: Path, quiet: float) -> bool:
    try:
        about = folder.lstat()
    except OSError:  # its worker has removed it meanwhile
        return False
    mine = stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid()
    return mine and time.time() - about.st_mtime >= quiet


def _is_unpacked_now(folder: Path, keepers: Collection[int | None]) -> bool:
    """Whether somebody lives who unpacks it, or runs from it, and will have the lock in a moment."""
    if folder.name.startswith(_STATICX):
        return any(program.is_relative_to(folder) for program in _programs())
    unpacker = _unpacker(folder)
    if unpacker is None or unpacker in keepers or _is_younger(unpacker, folder):  # the number was given anew
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
    except FileNotFoundError:  # somebody else was about it too
        return
    except OSError as error:
        logs.warn("bundle_remains", folder=str(folder), detail=str(error))


def _locked(folder: Path, shared: bool = False) -> int | None:
    """A descriptor with the lock; None if it is gone, somebody has it, or the file system knows no locks."""
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
    """The process that PyInstaller's folder is named after: _MEI, eight hexadecimal digits, and six of chance."""
    digits = folder.name.removeprefix(_PYINSTALLERS)[:8]
    with suppress(ValueError):
        return int(digits, 16) or None
    return None


def is_alive(pid: int) -> bool:
    """Whether it runs; the dead that nobody has reaped do not."""
    state = _stat(pid)
    return state is not None and state[0] not in "ZX"


def _is_younger(pid: int, folder: Path) -> bool:
    """Whether a process started after a folder was filled: numbers repeat when a container is started again."""
    state = _stat(pid)
    if state is None:
        return True
    age = boottime() - int(state[19]) / os.sysconf("SC_CLK_TCK")
    try:
        return age + _CLOCKS_DIFFER < time.time() - folder.stat().st_mtime
    except OSError:  # it is gone
        return True


def _parent(pid: int) -> int | None:
    state = _stat(pid)
    return int(state[1]) if state else None


def _stat(pid: int) -> list[str] | None:
    """The fields behind the name in /proc/PID/stat: state, parent, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _programs() -> Iterator[Path]:
    for process in Path("/proc").glob("[0-9]*"):
        yield _program(int(process.name))


def _program(pid: int) -> Path:
    """The file that a process runs; the path . if it ended or is somebody else's."""
    try:
        return (Path("/proc") / str(pid) / "exe").readlink()
    except OSError:
        return Path()
