"""Moving, copying and deleting whole directory trees, without following links.

A command may leave a tree that is deeper than Python's stack, or than a path may be long. So nothing here calls
itself.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.job import Job
from kelpie_worker.system.linux import mount_of
from kelpie_worker.system.open_files import FileId
from kelpie_worker.workspace.paths import Place, is_own_name, own_name, place_of

ASIDE = "aside"
_BLOCK = 512  # bytes; the unit of st_blocks
_ROOM_LEFT = 16 * 1024 * 1024  # bytes that a copy leaves free on the disk
_OF_DEPTH = (errno.EMFILE, errno.ENAMETOOLONG)  # shutil has one file open for each level


def _as_os_error(error: BaseException) -> OSError:
    return error if isinstance(error, OSError) else OSError(str(error))


def delete(path: str, job: Job, within: str | None = None) -> None:
    """Delete a file, a link or a whole tree, as far as possible; what remains is logged."""
    left = _deleted_but_for(path)
    if any(isinstance(error, PermissionError) for _, error in left):
        open_up(path)
        if within:
            open_up(within, deep=False)
        left = _deleted_but_for(path)
    if any(error.errno in _OF_DEPTH for _, error in left):
        _flatten(path)
        left = _deleted_but_for(path)
    causes = [item for item in left if item[1].errno != errno.ENOTEMPTY] or left
    for stays, error in causes:
        if not isinstance(error, FileNotFoundError):
            logs.warn("wipe_incomplete", job, path=stays, detail=str(error))


def _deleted_but_for(path: str) -> list[tuple[str, OSError]]:
    """Delete what can be deleted; returns the paths of the rest with their errors."""
    left: list[tuple[str, OSError]] = []
    try:
        if stat.S_ISDIR(Path(path).lstat().st_mode):
            shutil.rmtree(path, onerror=lambda _, stays, error: left.append((stays, _as_os_error(error[1]))))
        else:
            Path(path).unlink()
    except OSError as error:
        left.append((path, error))
    except RecursionError:
        left.append((path, OSError(errno.ENAMETOOLONG, "its directories are too deep")))
    return left


def _flatten(path: str) -> None:
    """Move all directories of a tree to its top, as far as possible, under names of Kelpie's own."""
    pending = _folders_in(path)
    while pending:
        folder = pending.pop()
        open_up(folder, deep=False)
        for inner in _folders_in(folder):
            top = str(Path(path, own_name("deep")))
            try:
                Path(inner).rename(top)
            except OSError:
                continue  # a mount point, for example: the deletion that follows meets it again
            pending.append(top)


def _folders_in(directory: str) -> list[str]:
    """The paths of the directories in it; none if it cannot be read."""
    return [entry.path for entry in _readable(directory) if entry.is_dir(follow_symlinks=False)]


def _readable(directory: str) -> list[os.DirEntry[str]]:
    """The entries of a directory; none if it cannot be read."""
    try:
        with os.scandir(directory) as opened:
            return list(opened)
    except OSError:
        return []


def _all_in(directory: str | Path) -> Iterator[os.DirEntry[str]]:
    """All entries of a tree, as far as it can be read."""
    pending = [str(directory)]
    while pending:
        for entry in _readable(pending.pop()):
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            yield entry


def open_up(path: str, deep: bool = True) -> None:
    """Make the directories of a tree accessible, as far as this user owns them: the job may have changed modes."""
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
            continue  # the caller's next operation meets the same error and reports it


def entries(directory: str) -> list[os.DirEntry[str]]:
    """The entries of a directory without outputs that were set aside; none if it is missing. Raises OSError."""
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
    """Whether the contents can be moved to `place` and leave room for other files, such as the state file.

    Nothing is renamed from one mount to another, even if both are of one disk.
    """
    same_disk = directory.stat().st_dev == place.stat().st_dev
    if same_disk and mount_of(directory) == mount_of(place):
        return True
    needed = sum(_taken(entry) for entry in _all_in(directory) if not entry.is_dir(follow_symlinks=False))
    return needed + _ROOM_LEFT < shutil.disk_usage(place).free


def _taken(file: os.DirEntry[str]) -> int:
    try:
        return file.stat(follow_symlinks=False).st_blocks * _BLOCK
    except OSError:
        return 0  # the file is gone


def move_contents(source: str, target: str, leave: frozenset[FileId] = frozenset()) -> None:
    """Move the entries one by one. The directory itself stays: it may be a mount point, or in an image's layer.

    Hard links to the files in `leave` are moved as links or not at all: a copy would be another file.
    """
    pending, moved = [(source, target)], []
    while pending:
        source, target = pending.pop()
        for entry in entries(source):
            destination = Path(target, entry.name)
            # Another job's outputs are looked for where they are, so they must stay.
            if not holds_aside(entry) and _is_renamed(Path(entry.path), destination):
                continue
            if entry.is_dir(follow_symlinks=False):
                destination.mkdir(parents=True, exist_ok=True)
                pending.append((entry.path, str(destination)))
                moved.append(Path(entry.path))
            else:
                _move_across(entry, destination, leave)
    for directory in reversed(moved):
        _remove_moved(directory)


def holds_aside(entry: os.DirEntry[str]) -> bool:
    """Whether outputs were set aside anywhere in this directory."""
    if not entry.is_dir(follow_symlinks=False):
        return False
    return any(_is_aside(inner.name) and inner.is_dir(follow_symlinks=False) for inner in _all_in(entry.path))


def _is_aside(name: str) -> bool:
    return is_own_name(name) and name.endswith(ASIDE)


def _is_renamed(source: Path, destination: Path) -> bool:
    """Rename, if that is possible; whether it was."""
    try:
        _rename(source, destination)
    except OSError:
        return False
    return True


def _rename(source: Path, destination: Path) -> None:
    try:
        source.rename(destination)
    except PermissionError:  # moving a directory needs write permission for it and for its parent
        open_up(str(source), deep=False)
        open_up(str(source.parent), deep=False)
        source.rename(destination)


def _move_across(entry: os.DirEntry[str], destination: Path, leave: frozenset[FileId]) -> None:
    """Move a file to another device. It is copied under another name first: a crash leaves no half file."""
    if entry.is_symlink() or (entry.is_file(follow_symlinks=False) and _id(entry) not in leave):
        _copy_whole(entry.path, destination)
        Path(entry.path).unlink()
    else:
        Path(entry.path).unlink()  # a pipe or a socket has no content; Kelpie's file has its own name besides


def _remove_moved(directory: Path) -> None:
    """Remove a directory whose contents were moved, unless it is a mount point or holds another job's outputs."""
    try:
        directory.rmdir()
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise


def copy_contents(
    source: str, target: str, leave: frozenset[Place], leave_files: frozenset[FileId] = frozenset()
) -> None:
    """Copy all but what is in the places `leave`, and hard links to `leave_files`."""

    def is_left(entry: os.DirEntry[str]) -> bool:
        return place_of(entry.path) in leave or _id(entry) in leave_files

    pending = [(source, target)]
    while pending:
        source, target = pending.pop()
        for entry in entries(source):
            destination = Path(target, entry.name)
            if entry.is_dir(follow_symlinks=False):
                destination.mkdir(parents=True, exist_ok=True)
                pending.append((entry.path, str(destination)))
            elif entry.is_symlink() or (entry.is_file(follow_symlinks=False) and not is_left(entry)):
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


def _id(entry: os.DirEntry[str]) -> FileId:
    status = entry.stat(follow_symlinks=False)
    return status.st_dev, status.st_ino
