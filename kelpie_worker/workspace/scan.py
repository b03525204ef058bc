"""Scans of a directory. What is uploaded is decided by scans; file events only make them run sooner."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.limits import LONGEST_KEY
from kelpie_worker.system.open_files import FileId
from kelpie_worker.workspace.file_version import Snapshot, signature_of
from kelpie_worker.workspace.own_files import ids_of
from kelpie_worker.workspace.paths import (
    MovedDirectories,
    is_inside,
    is_kelpies,
    is_own_name,
    place_of,
    places_of,
)

_LOST_AND_FOUND = "lost+found"  # of a volume's file system: only root may read it
_MOST_LINKED = 1000  # folders of a scan that were reached through several links, one in the other


@dataclass(frozen=True)
class _Folder:
    """A directory that a scan visits: its real path, and its path relative to the root."""

    real: str
    relative: str
    above: tuple[str, ...]  # the real paths of the directories that it was reached through, and its own
    links: int = 0  # that it was reached through


class Scanner:
    """Scans one directory repeatedly; logs each file that can never be uploaded once.

    `root` is the directory's path before it was moved, if it was; `real_root` is that path without links. `key_of`
    returns the key that a file would be uploaded to.
    """

    def __init__(
        self,
        root: str,
        matches: Callable[[str], bool],
        own_files: frozenset[str],
        real_root: str | None = None,
        moved: MovedDirectories | None = None,
        key_of: Callable[[str], str] = str,
    ) -> None:
        self._root = root
        self._real_root = real_root or os.path.realpath(root)
        self._matches = matches
        self._own_files = own_files
        self._own_places = places_of(own_files)
        self._own_names = {name for _, _, name in self._own_places}
        self._moved = moved
        self._key_of = key_of
        self._follow = moved or MovedDirectories()
        self._warned: set[tuple[str, str]] = set()
        self._own_ids: frozenset[FileId] | None = None  # of this scan, once a file has several links
        self.led_away = False  # last scan: something else was in the directory's place
        self.shut_out = False  # last scan: a folder could not be read for want of permission
        self._linked = 0  # folders of this scan that were reached through several links
        self.skipped: list[str] = []  # printable paths of the files that can never be uploaded
        self.locations: dict[str, str] = {}  # last scan: the paths under which its files can be opened

    def scan(self) -> Snapshot:
        """Every regular file at any depth that the pattern matches. Raises OSError.

        A missing directory counts as empty, and so does one that was replaced by a link: the files that the link
        leads to are not the job's.
        """
        found: Snapshot = {}
        self.locations, self.shut_out, self._own_ids, self._linked = {}, False, None, 0
        self.led_away = self._moved is None and self._is_replaced()
        if not self.led_away:
            self._walk(_Folder(self._real_root, "", (self._real_root,)), found)
        return found

    def _is_replaced(self) -> bool:
        if os.path.realpath(self._root) != self._real_root:
            self._warn("", "was replaced by a link that leads elsewhere", "directory_replaced")
            return True
        if os.path.lexists(self._root) and not Path(self._root).is_dir():
            self._warn("", "is no directory any more", "output_is_no_directory")
            return True
        return False

    def _walk(self, root: _Folder, found: Snapshot) -> None:
        """Visit a tree. It may be deeper than Python's stack: no method calls itself."""
        pending = [root]
        while pending:
            folder = pending.pop()
            below = [self._visit(entry, folder, found) for entry in self._entries(folder)]
            pending += [inner for inner in reversed(below) if inner and self._is_to_be_entered(inner, folder)]

    def _entries(self, folder: _Folder) -> list[os.DirEntry[str]]:
        """What may be looked at in a folder, sorted by name. Raises OSError."""
        try:
            with os.scandir(self._follow.now(folder.real)) as opened:
                entries = sorted(opened, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return []  # it was deleted after its parent was read
        except PermissionError as error:
            self._leave_out(folder, error)
            return []
        of_the_volume = "" if folder.relative else _LOST_AND_FOUND
        return [
            entry
            for entry in entries
            if not (entry.name == of_the_volume or is_own_name(entry.name) or self._is_kelpies(entry))
        ]

    def _is_kelpies(self, entry: os.DirEntry[str]) -> bool:
        return entry.name in self._own_names and place_of(entry.path) in self._own_places

    def _visit(self, entry: os.DirEntry[str], folder: _Folder, found: Snapshot) -> _Folder | None:
        """Look at an entry; returns the folder that it is, or that it leads to."""
        relative, real = folder.relative + entry.name, f"{folder.real.rstrip('/')}/{entry.name}"
        is_link = entry.is_symlink()
        try:
            if is_link:
                real = self._follow.real(real)
            status = Path(self._follow.now(real)).lstat()
        except OSError as error:
            if is_link:
                self._warn(relative, "is a link to nothing")
            elif isinstance(error, PermissionError):
                self._leave_out(folder, error)
            return None  # in all other cases the file is gone
        if problem := self._problem(entry, relative, real, status):
            self._warn(relative, problem)
        elif stat.S_ISDIR(status.st_mode):
            return _Folder(real, relative + "/", (*folder.above, real), folder.links + is_link)
        elif self._matches(relative):
            found[relative] = signature_of(status)
            self.locations[relative] = self._follow.now(real)
        return None

    def _is_to_be_entered(self, folder: _Folder, parent: _Folder) -> bool:
        """False where the scan would not end: for a link upwards, and for links all of which lead to all."""
        if folder.real in parent.above:
            return False
        self._linked += folder.links > 1
        if self._linked == _MOST_LINKED + 1:
            self._warn(
                folder.relative.rstrip("/"), "is left out, as others are: links lead to it in too many ways"
            )
        return folder.links < 2 or self._linked <= _MOST_LINKED

    def _leave_out(self, folder: _Folder, error: PermissionError) -> None:
        """Skip a folder that may not be read, so that the rest of a checkpoint is uploaded.

        Of outputs (moved), and of the directory itself, the error is raised: they must be complete.
        """
        if self._moved is not None or not folder.relative:
            raise error
        self.shut_out = True
        self._warn(folder.relative.rstrip("/"), "may not be looked into")

    def _problem(self, entry: os.DirEntry[str], relative: str, real: str, status: os.stat_result) -> str | None:
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            return "is no regular file"
        try:
            key = self._key_of(relative).encode()
        except UnicodeEncodeError:
            return "has a name that is not UTF-8"
        if len(key) > LONGEST_KEY:
            return f"would have a key of more than {LONGEST_KEY} bytes"
        if entry.is_symlink() and not is_inside(real, self._real_root):
            return "is a link that leads out of the directory"
        if entry.is_symlink() and is_kelpies(real, self._real_root, self._own_places):
            return "is a link to a file of Kelpie's own"
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and self._is_another_name_of_kelpies(status):
            return "is a hard link to a file of Kelpie's own"
        return None

    def _is_another_name_of_kelpies(self, status: os.stat_result) -> bool:
        if self._own_ids is None:
            self._own_ids = ids_of(self._own_files)
        return (status.st_dev, status.st_ino) in self._own_ids

    def _warn(self, relative: str, problem: str, event: str = "file_skipped") -> None:
        if (relative, event) not in self._warned:
            self._warned.add((relative, event))
            shown = relative.encode(errors="backslashreplace").decode()
            if relative:
                self.skipped.append(shown)
            logs.warn(event, path=str(Path(self._root) / shown), problem=problem)
