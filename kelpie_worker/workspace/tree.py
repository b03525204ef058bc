"""Moving, copying and deleting whole directory trees, without following links."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.job import Job
from kelpie_worker.workspace.paths import is_own_name, own_name

ASIDE = "aside"
_BLOCK = 512  # bytes, of which the system says how many a file takes
_ROOM_LEFT = 16 * 1024 * 1024  # bytes that stay free beside a copy


def _as_os_error(error: BaseException) -> OSError:
    return error if isinstance(error, OSError) else OSError(str(error))


def delete(path: str, job: Job, within: str | None = None) -> None:
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


def entries(directory: str) -> list[os.DirEntry[str]]:
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


def fits(directory: Path, place: Path) -> bool:
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


def move_contents(source: str, target: str) -> None:
    """Entry by entry: the directory itself stays, be it a mount point or a layer of a container's image."""
    for entry in entries(source):
        destination = Path(target, entry.name)
        if holds_aside(entry):  # of another job: that is found where it is
            _move_across(entry, destination)
            continue
        try:
            _rename(Path(entry.path), destination)
        except OSError:
            _move_across(entry, destination)


def holds_aside(entry: os.DirEntry[str]) -> bool:
    """Whether outputs were set aside anywhere in it."""
    return entry.is_dir(follow_symlinks=False) and any(
        _is_aside(name) for _, names, _ in os.walk(entry.path) for name in names
    )


def _is_aside(name: str) -> bool:
    return is_own_name(name) and name.endswith(ASIDE)


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
        move_contents(entry.path, str(destination))
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


def copy_contents(source: str, target: str, leave: frozenset[str]) -> None:
    for entry in entries(source):
        destination = Path(target, entry.name)
        if entry.is_dir(follow_symlinks=False):
            destination.mkdir(parents=True, exist_ok=True)
            copy_contents(entry.path, str(destination), leave)
        elif entry.is_symlink() or (entry.is_file(follow_symlinks=False) and entry.path not in leave):
            _copy_whole(entry.path, destination)


def _copy_whole(source: str, destination: Path) -> None:
    draft = destination.with_name(own_name("copy", "copy"))
    draft.unlink(missing_ok=True)  # left by a crash; if it were a link, it would be followed
    try:
        shutil.copy2(source, draft, follow_symlinks=False)
    except OSError:
        draft.unlink(missing_ok=True)  # half a file takes room that others need
        raise
    draft.replace(destination)
