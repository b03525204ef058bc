"""What is in a directory right now. Events are hints; this is the truth."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.limits import LONGEST_KEY
from kelpie_worker.workspace.file_version import Snapshot, signature_of
from kelpie_worker.workspace.paths import Moved, is_inside, is_own_name

_LOST_AND_FOUND = "lost+found"  # root's, and closed to all others


@dataclass(frozen=True)
class _Folder:
    """A directory on the way of a scan: its real path, and the path relative to the root that leads to it."""

    real: str
    relative: str
    above: tuple[str, ...]  # the real paths of those it was reached through, and its own


class Scanner:
    """Looks at one directory, again and again; warns of each file that can never be uploaded once.

    `root` is where the directory was when its links were made; `real_root` where that really is. `key_of` says
    which key a file would be sent under.
    """

    def __init__(
        self,
        root: str,
        matches: Callable[[str], bool],
        own_files: frozenset[str],
        real_root: str | None = None,
        moved: Moved | None = None,
        key_of: Callable[[str], str] = str,
    ) -> None:
        self._root = root
        self._real_root = real_root or os.path.realpath(root)
        self._matches = matches
        self._own_files = own_files | {os.path.realpath(path) for path in own_files}
        self._moved = moved
        self._key_of = key_of
        self._follow = moved or Moved()
        self._warned: set[tuple[str, str]] = set()
        self.led_away = False  # in the last scan: something else is in the directory's place
        self.shut_out = False  # in the last scan: a folder below may not be looked into
        self.skipped: list[str] = []  # paths, as they can be shown, of what can never be uploaded
        self.locations: dict[str, str] = {}  # of the files of the last scan: paths that can be opened

    def scan(self) -> Snapshot:
        """Every regular file at any depth that the pattern matches. A missing directory is empty.

        So is one that was replaced by a link: what is behind it is somebody else's. OSError.
        """
        found: Snapshot = {}
        self.locations, self.shut_out = {}, False
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

    def _walk(self, folder: _Folder, found: Snapshot) -> None:
        try:
            with os.scandir(self._follow.now(folder.real)) as opened:
                entries = sorted(opened, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return  # it went away since its parent was read
        except PermissionError as error:
            self._leave_out(folder, error)
            return
        for entry in entries:
            of_the_disk = entry.name == _LOST_AND_FOUND and not folder.relative  # where the directory is a volume
            if not (of_the_disk or is_own_name(entry.name) or entry.path in self._own_files):
                self._visit(entry, folder, found)

    def _visit(self, entry: os.DirEntry[str], folder: _Folder, found: Snapshot) -> None:
        relative, real = folder.relative + entry.name, f"{folder.real.rstrip('/')}/{entry.name}"
        try:
            if entry.is_symlink():
                real = self._follow.real(real)
            status = Path(self._follow.now(real)).lstat()
        except OSError as error:
            if entry.is_symlink():
                self._warn(relative, "is a link to nothing")
            elif isinstance(error, PermissionError):
                self._leave_out(folder, error)
            return  # else it is gone
        if problem := self._problem(entry, relative, real, status):
            self._warn(relative, problem)
        elif stat.S_ISDIR(status.st_mode):
            if real not in folder.above:  # a link upwards would never end
                self._walk(_Folder(real, relative + "/", (*folder.above, real)), found)
        elif self._matches(relative):
            found[relative] = signature_of(status)
            self.locations[relative] = self._follow.now(real)

    def _leave_out(self, folder: _Folder, error: PermissionError) -> None:
        """A folder that is closed to us keeps nothing else of a checkpoint back. Outputs must be whole, though."""
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
        return None

    def _warn(self, relative: str, problem: str, event: str = "file_skipped") -> None:
        if (relative, event) not in self._warned:
            self._warned.add((relative, event))
            shown = relative.encode(errors="backslashreplace").decode()
            if relative:
                self.skipped.append(shown)
            logs.warn(event, path=str(Path(self._root) / shown), problem=problem)
