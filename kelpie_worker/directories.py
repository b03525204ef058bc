"""The job's directories: made, moved aside, emptied, and never more than that."""

import contextlib
import errno
import glob
import os
import pwd
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from kelpie_worker import bundle, logs
from kelpie_worker.job import Job
from kelpie_worker.messages import Aside
from kelpie_worker.places import Places
from kelpie_worker.scan import is_inside, is_own_name, own_name

_ASIDE = "aside"
_BLOCK = 512  # bytes, of which the system says how many a file takes
_ROOM_LEFT = 16 * 1024 * 1024


class OutputReplaced(Exception):
    """An output directory is none any more: nothing of it can be sent, and that must not pass for success."""


class FilesLost(Exception):
    """What the command left is gone, though nobody of this worker took it away."""


def own_files(state_file: str) -> frozenset[str]:
    """Kelpie's files that may lie in a job's directory: neither sent nor deleted."""
    file = Path(state_file)
    set_aside = file.parent.glob(f"{glob.escape(file.name)}.*-[0-9]*")  # damaged or copied, when the worker began
    return frozenset((state_file, f"{state_file}.lock", f"{state_file}.tmp", *map(str, set_aside)))


def make(job: Job, state_file: str) -> Places:
    """Make the directories before the command runs, whatever an earlier job left in their place. OSError."""
    for directory in job.directories:
        if os.path.lexists(directory) and not Path(directory).is_dir():
            _clear_the_place(directory, job, state_file)
        Path(directory).mkdir(parents=True, exist_ok=True)
    places = Places()
    places.remember(job.directories)
    return places


def make_missing(job: Job) -> None:
    """Once the command may have run, what is in a directory's place is its business. OSError."""
    for directory in job.directories:
        if not os.path.lexists(directory):
            Path(directory).mkdir(parents=True, exist_ok=True)


def wipe(job: Job, state_file: str, places: Places) -> None:
    """Empty the job's directories. What cannot or must not be deleted stays, and is told (contract section 7)."""
    for directory in job.directories:
        try:
            _wipe_one(directory, job, state_file, places)
        except FileNotFoundError:
            continue
        except OSError as error:
            logs.warn("wipe_incomplete", job, path=directory, detail=str(error))


def _wipe_one(directory: str, job: Job, state_file: str, places: Places) -> None:
    if intruder := places.intruder(directory):
        logs.warn("directory_replaced", job, directory=directory, link=intruder)
        Path(intruder).unlink()
    elif not places.may_be_emptied(directory):
        logs.warn("wipe_refused", job, directory=directory, because="it leads elsewhere than before the command")
    elif danger := why_not_to_wipe(directory, state_file):
        logs.warn("wipe_refused", job, directory=directory, because=danger)
    elif stat.S_ISDIR(Path(directory).stat().st_mode):
        _wipe_contents(directory, job)
    elif places.is_known(directory):  # it was a directory when it was remembered
        _delete(directory, job)


def _wipe_contents(directory: str, job: Job) -> None:
    """All but outputs that were set aside somewhere in it, and are on their way still."""
    for entry in _entries(directory):
        if _holds_aside(entry):
            _wipe_contents(entry.path, job)
        else:
            _delete(entry.path, job, within=directory)


def why_not_to_wipe(directory: str, state_file: str) -> str | None:
    """What would be lost with this directory's contents; None if only the job's own files would.

    Whatever holds something precious is as precious. Links are followed: the danger is where they lead.
    """
    real = os.path.realpath(directory)
    if real == "/":
        return "it is the root"
    for precious, meaning in _precious(state_file):
        if is_inside(os.path.realpath(precious), real):
            return f"it is or holds {meaning}"
    return None


def set_aside(job: Job, state_file: str, places: Places) -> Aside:
    """Move the contents of the output directories away, so that the next job finds them empty. OSError.

    May be repeated: what was moved already stays moved. A directory that is gone counts as empty; if something
    else is in its place, OutputReplaced is raised before anything is moved.
    """
    _demand_directories(job, places)
    pairs = places_aside(job, state_file, places)
    for directory, aside in pairs:
        Path(aside).mkdir(parents=True, exist_ok=True)
        if _must_stay(directory, state_file, places):
            _copy_contents(directory, aside, own_files(state_file))
        else:
            _move_contents(directory, aside)
    return pairs


def _must_stay(directory: str, state_file: str, places: Places) -> bool:
    return bool(why_not_to_wipe(directory, state_file)) or not places.may_be_emptied(directory)


def _demand_directories(job: Job, places: Places) -> None:
    for directory in _outermost(block.local_path for block in job.after):
        if places.leads_away(directory):
            raise OutputReplaced(f"the command replaced {directory} by a link to {os.path.realpath(directory)}")
        if os.path.lexists(directory) and not Path(directory).is_dir():
            raise OutputReplaced(f"the command replaced the directory {directory} by something else")


def places_aside(job: Job, state_file: str, places: Places) -> Aside:
    """The output directories and where each is, or would be, moved to."""
    name = own_name(_ASIDE, job.claim_id)
    outputs = _outermost(block.local_path for block in job.after)
    return tuple(
        (directory, str(_place_for(directory, Path(name, str(number)), state_file, places)))
        for number, directory in enumerate(outputs)
    )


def bring_back(aside: Aside, job: Job, state_file: str, places: Places) -> None:
    """As it was before `set_aside`, which failed half-way; copies are deleted instead. OSError."""
    for directory, target in aside:
        if _must_stay(directory, state_file, places):
            remove_aside(((directory, target),), job)
        elif Path(target).is_dir():
            _move_contents(target, directory)


def moved_path(directory: str, aside: Aside) -> str:
    """Where a directory's contents are now."""
    for source, target in aside:
        if is_inside(directory, source):
            return os.path.normpath(Path(target, os.path.relpath(directory, source)))
    return directory


def remove_aside(aside: Aside, job: Job) -> None:
    for _, target in aside:
        _delete(target, job)
        with contextlib.suppress(OSError):
            Path(target).parent.rmdir()  # another of the job's directories may still lie beside it


def _precious(state_file: str) -> Iterator[tuple[str, str]]:
    yield str(Path.cwd()), "the working directory"
    yield state_file, "the state file"
    for path in bundle.program_files():
        yield path, "the program itself"
    yield str(Path(__file__).parent), "the program itself"
    if home := os.environ.get("HOME"):
        yield home, "a home directory"
    for account in pwd.getpwall():
        if account.pw_dir not in ("", "/"):
            yield account.pw_dir, "a home directory"


def _clear_the_place(directory: str, job: Job, state_file: str) -> None:
    """Before `make`: a link to nowhere holds nothing; a file may be somebody's, and is kept beside. OSError."""
    if why_not_to_wipe(directory, state_file):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
    place = Path(directory)
    if place.is_symlink():
        logs.warn("directory_replaced", job, directory=directory, link=directory)
        place.unlink()
    else:
        kept = place.with_name(own_name("replaced"))
        place.rename(kept)
        logs.warn("directory_replaced", job, directory=directory, moved_to=str(kept))


def _as_os_error(error: BaseException) -> OSError:
    return error if isinstance(error, OSError) else OSError(str(error))


def _delete(path: str, job: Job, within: str | None = None) -> None:
    """A file, a link or a whole tree, as much of it as can be; what stays is named in the log."""
    left = _deleted_but_for(path)
    if any(isinstance(error, PermissionError) for _, error in left):
        open_up(path)
        if within:
            open_up(within, deep=False)
        left = _deleted_but_for(path)
    causes = [item for item in left if item[1].errno != errno.ENOTEMPTY] or left
    for stays, error in causes:
        if not isinstance(error, FileNotFoundError):
            logs.warn("wipe_incomplete", job, path=stays, detail=str(error))


def _deleted_but_for(path: str) -> list[tuple[str, OSError]]:
    """Delete what can be deleted; the rest and why."""
    left: list[tuple[str, OSError]] = []
    try:
        if stat.S_ISDIR(Path(path).lstat().st_mode):
            shutil.rmtree(path, onerror=lambda _, stays, error: left.append((stays, _as_os_error(error[1]))))
        else:
            Path(path).unlink()
    except OSError as error:
        left.append((path, error))
    return left


def open_up(path: str, deep: bool = True) -> None:
    """Give ourselves access to the directories of a tree as far as they are ours: the job's mode bits are over."""
    pending = [path]
    while pending:
        directory = Path(pending.pop())
        try:
            status = directory.lstat()
            if not stat.S_ISDIR(status.st_mode):
                continue
            if status.st_uid == os.geteuid():
                directory.chmod(stat.S_IMODE(status.st_mode) | stat.S_IRWXU)
            if deep:
                with os.scandir(directory) as opened:
                    pending += [entry.path for entry in opened if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue  # whoever goes on meets the same error, and tells it


def _entries(directory: str) -> list[os.DirEntry[str]]:
    """What is in a directory, but for what Kelpie itself put there; a missing one is empty. OSError."""
    try:
        return _listed(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        open_up(directory, deep=False)
        return _listed(directory)


def _listed(directory: str) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as opened:
        return [entry for entry in opened if not _is_aside(entry.name)]


def _outermost(directories: Iterable[str]) -> list[str]:
    """Each directory once, and none that lies in another."""
    outer: list[str] = []
    for directory in sorted(set(directories)):
        if not any(is_inside(directory, other) for other in outer):
            outer.append(directory)
    return outer


def _place_for(directory: str, name: Path, state_file: str, places: Places) -> Path:
    """Beside it, so that moving is renaming; where that may not be written, beside the state file.

    A mount point has no place of its own device beside it: if a copy does not fit there, within it. Once there is
    one of the two, it stays that one.
    """
    real = Path(places.real_path(directory))
    beside = real.parent if os.access(real.parent, os.W_OK) else Path(state_file).parent
    within = real / name
    if os.path.exists(within):  # noqa: PTH110 - false where the command closed the directory
        return within
    if (beside / name).exists() or not real.is_dir() or why_not_to_wipe(directory, state_file):
        return beside / name
    return beside / name if _fits(real, beside) or not os.access(real, os.W_OK) else within


def _fits(directory: Path, place: Path) -> bool:
    """Whether its contents can be moved there, and leave room for others, such as the state file."""
    if directory.stat().st_dev == place.stat().st_dev:
        return True
    needed = sum(_taken(Path(folder, name)) for folder, _, names in os.walk(directory) for name in names)
    return needed + _ROOM_LEFT < shutil.disk_usage(place).free


def _taken(file: Path) -> int:
    try:
        return file.lstat().st_blocks * _BLOCK
    except OSError:
        return 0  # it is gone since


def _move_contents(source: str, target: str) -> None:
    """Entry by entry: the directory itself stays, be it a mount point or a layer of a container's image."""
    for entry in _entries(source):
        destination = Path(target, entry.name)
        if _holds_aside(entry):  # of another job: that is found where it is
            _move_across(entry, destination)
            continue
        try:
            _rename(Path(entry.path), destination)
        except OSError:
            _move_across(entry, destination)


def _holds_aside(entry: os.DirEntry[str]) -> bool:
    """Whether outputs were set aside anywhere in it."""
    return entry.is_dir(follow_symlinks=False) and any(
        _is_aside(name) for _, names, _ in os.walk(entry.path) for name in names
    )


def _is_aside(name: str) -> bool:
    return is_own_name(name) and name.endswith(_ASIDE)


def _rename(source: Path, destination: Path) -> None:
    try:
        source.rename(destination)
    except PermissionError:  # a directory that moves must be writable itself, and so must the one it lies in
        open_up(str(source), deep=False)
        open_up(str(source.parent), deep=False)
        source.rename(destination)


def _move_across(entry: os.DirEntry[str], destination: Path) -> None:
    """To another device: copied whole under another name first, so that a crash leaves no half file behind."""
    if entry.is_dir(follow_symlinks=False):
        destination.mkdir(parents=True, exist_ok=True)
        _move_contents(entry.path, str(destination))
        _remove_moved(Path(entry.path))
    elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
        _copy_whole(entry.path, destination)
        Path(entry.path).unlink()
    else:
        Path(entry.path).unlink()  # a pipe or a socket holds nothing to keep


def _remove_moved(directory: Path) -> None:
    """A directory whose contents were moved; a mount point stays, and one that holds another job's outputs."""
    try:
        directory.rmdir()
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise


def _copy_contents(source: str, target: str, leave: frozenset[str]) -> None:
    for entry in _entries(source):
        destination = Path(target, entry.name)
        if entry.is_dir(follow_symlinks=False):
            destination.mkdir(parents=True, exist_ok=True)
            _copy_contents(entry.path, str(destination), leave)
        elif entry.is_symlink() or (entry.is_file(follow_symlinks=False) and entry.path not in leave):
            _copy_whole(entry.path, destination)


def _copy_whole(source: str, destination: Path) -> None:
    unfinished = destination.with_name(own_name("copy", "copy"))
    unfinished.unlink(missing_ok=True)  # of a crash; a link there would be followed
    try:
        shutil.copy2(source, unfinished, follow_symlinks=False)
    except OSError:
        unfinished.unlink(missing_ok=True)  # half a file takes room that others need
        raise
    unfinished.replace(destination)
