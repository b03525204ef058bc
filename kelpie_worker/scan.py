"""What is in a directory right now. Events are hints; this is the truth."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kelpie_worker import logs

OWN_PREFIX = ".kelpie-"  # of names that Kelpie itself puts beside or into the directories of a job
_LONGEST_KEY = 1024


@dataclass(frozen=True)
class Signature:
    """A file's version: another content has another signature, renaming does not change it."""

    inode: int
    size: int
    mtime_ns: int


Snapshot = dict[str, Signature]  # by path relative to the directory, with `/`


def signature_of(status: os.stat_result) -> Signature:
    return Signature(status.st_ino, status.st_size, status.st_mtime_ns)


class Scanner:
    """Looks at one directory, again and again; warns of each file that can never be uploaded once."""

    def __init__(self, root: str, matches: Callable[[str], bool], own_files: frozenset[str]) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._matches = matches
        self._own_files = own_files
        self._warned: set[str] = set()

    def scan(self) -> Snapshot:
        """Every regular file at any depth that the pattern matches. A missing directory is empty."""
        found: Snapshot = {}
        self._walk(self._root, "", (os.path.realpath(self._root),), found)
        return found

    def _walk(self, directory: str, relative: str, above: tuple[str, ...], found: Snapshot) -> None:
        try:
            with os.scandir(directory) as opened:
                entries = sorted(opened, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return  # it went away since its parent was read
        for entry in entries:
            if not entry.name.startswith(OWN_PREFIX) and entry.path not in self._own_files:
                self._visit(entry, relative + entry.name, above, found)

    def _visit(self, entry: os.DirEntry[str], relative: str, above: tuple[str, ...], found: Snapshot) -> None:
        try:
            status = entry.stat()
        except OSError:
            return  # gone, or a link to nowhere
        if problem := self._problem(entry, relative, status):
            self._warn(relative, problem)
        elif stat.S_ISDIR(status.st_mode):
            real = os.path.realpath(entry.path)
            if real not in above:  # a link upwards would never end
                self._walk(entry.path, relative + "/", (*above, real), found)
        elif self._matches(relative):
            found[relative] = signature_of(status)

    def _problem(self, entry: os.DirEntry[str], relative: str, status: os.stat_result) -> str | None:
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            return "is no regular file"
        try:
            name = relative.encode()
        except UnicodeEncodeError:
            return "has a name that is not UTF-8"
        if len(name) > _LONGEST_KEY:
            return "has a name longer than a key may be"
        if entry.is_symlink() and not is_inside(os.path.realpath(entry.path), self._real_root):
            return "is a link that leads out of the directory"
        return None

    def _warn(self, relative: str, problem: str) -> None:
        if relative not in self._warned:
            self._warned.add(relative)
            shown = relative.encode(errors="backslashreplace").decode()
            logs.warn("file_skipped", path=str(Path(self._root) / shown), problem=problem)


def is_inside(path: str, directory: str) -> bool:
    """Whether a path is the directory or lies under it; both absolute and without links."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")
