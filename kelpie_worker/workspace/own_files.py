"""Kelpie's own files under other names: a command may make hard links to them in a directory that is uploaded.

A file is known by device and inode. One that Kelpie replaces is another one afterwards, so an old version that has
another link gets a name of Kelpie's own first: it is known for as long as that link is there, and no other file
gets its inode.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kelpie_worker.system.open_files import FileId
from kelpie_worker.workspace.paths import is_own_name, own_name

_REPLACED = "linked"  # the purpose in the name of an old version
_RECORDS = ("places", "uploads", _REPLACED)  # others are drafts of a job's files


def keep_linked(path: Path) -> None:
    """Give the file another name if it has another link; to be called before it is replaced.

    Where the file system refuses that, the other link is a file like any other from then on.
    """
    with suppress(OSError):
        if path.lstat().st_nlink > 1:
            os.link(path, path.with_name(own_name(_REPLACED)), follow_symlinks=False)


def ids_of(own_files: Iterable[str]) -> frozenset[FileId]:
    """The device and inode of Kelpie's own files, of the records beside them, and of old versions of them."""
    folders = {Path(file).parent for file in own_files}
    beside = (record for folder in folders for record in _records(folder, _RECORDS))
    return frozenset(which for path in (*map(Path, own_files), *beside) if (which := _id(path)))


def forget_unlinked(folder: Path) -> None:
    """Delete the old versions in a folder that have no other link any more."""
    for path in _records(folder, (_REPLACED,)):
        with suppress(OSError):
            if path.lstat().st_nlink == 1:
                path.unlink()


def _records(folder: Path, purposes: tuple[str, ...]) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if is_own_name(entry.name)]
    except OSError:
        return []
    return [folder / name for name in names if name.partition("~")[2] in purposes]


def _id(path: Path) -> FileId | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
