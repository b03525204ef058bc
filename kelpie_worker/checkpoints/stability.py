"""Which files of a watched directory are being written: a half-written file must not replace a whole object.

Only a file that is written in place can be half-written; one that is renamed into place is whole.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from kelpie_worker.checkpoints.tracked_files import Movement, TrackedFile, TrackedFiles
from kelpie_worker.system.open_files import FileId, FilesInUse, files_in_use
from kelpie_worker.workspace.file_version import Signature, Snapshot

_LARGEST_LOG = 8 * 1024 * 1024  # bytes
_LOOK_AGAIN, _PAUSE_FACTOR = 0.25, 10  # seconds; times as long as it takes to look for open files
_LONGEST_REST = 2.5  # seconds without a change, until one that was being rewritten in place counts as whole
_WAITS_FOR_RESTLESS = 12  # times the longest wait for quiet
_WAITS_FOR_OPEN = 5 * _WAITS_FOR_RESTLESS


class OpenFiles:
    """The files that any process has open for writing, or mapped. /proc is read once, at the first question."""

    def __init__(
        self, read: Callable[[], FilesInUse] = files_in_use, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._clock = clock
        self.took: float | None = None  # seconds; None: the system was not asked

    @cached_property
    def in_use(self) -> FilesInUse:
        began = self._clock()
        found = self._read()
        self.took = self._clock() - began
        return found

    def __contains__(self, file: object) -> bool:
        return file in self.in_use.written

    def may_write(self, file: FileId) -> bool:
        """Whether a process may write to the file without opening it, as far as it was looked."""
        return not self.in_use.is_all or file in self.in_use.written or file in self.in_use.mapped

    def is_mapped(self, file: FileId) -> bool:
        return not self.in_use.is_all or file in self.in_use.mapped


@dataclass(frozen=True)
class Restless:
    """The files that are being written. `logs` are those of them that are useful at any length."""

    paths: frozenset[str] = frozenset()
    logs: frozenset[str] = frozenset()


class Stability:
    """How long files that are being written are waited for. It reads no clock: the time is an argument."""

    def __init__(self, max_wait: float | None) -> None:
        """`max_wait` is the longest wait for quiet in seconds; None: there is none."""
        longest = max_wait or 2 * _LONGEST_REST
        self._rest = min(_LONGEST_REST, longest / 2)
        self.longest_wait = _WAITS_FOR_RESTLESS * longest
        self._longest_open = _WAITS_FOR_OPEN * longest
        self._waits_since: float | None = None
        self._look_took = 0.0  # seconds, for all open files

    def see(self, files: TrackedFiles, found: Snapshot, now: float) -> None:
        """Note what a scan found."""
        files.forget_absent(found)
        for path, version in found.items():
            file = files[path]
            if file.seen == version:
                self._note_stillness(file.movement, now)
            elif file.seen and file.seen.file == version.file:
                _note_move(file.movement, file.seen, version, now)
            else:
                file.movement = Movement(appeared=now)
            file.seen = version

    def _note_stillness(self, movement: Movement, now: float) -> None:
        if movement.moves_since is not None and now - movement.moved_at >= self._rest:
            movement.moves_since = movement.open_since = None

    def restless(self, changed: dict[str, TrackedFile], now: float, at_rest: bool, opened: OpenFiles) -> Restless:
        """Those of the `changed` files that are being written; all of them were seen.

        A file that only grew since it was uploaded is a log, and may be uploaded at any length. When the
        directory came to rest (`at_rest`), only files that were rewritten in place, and new files that are open,
        have to rest for longer: their writers may have paused.
        """
        moving = {path for path, file in changed.items() if not self._is_whole(file, now, at_rest, opened)}
        made = {path for path, file in changed.items() if self._is_being_made(file, now, opened)}
        held = {path for path, file in changed.items() if self._is_held_open(file, now, opened)}
        if opened.took is not None:
            self._look_took = opened.took
        paths = frozenset(moving | made | held)
        self._waits_since = (now if self._waits_since is None else self._waits_since) if paths else None
        return Restless(paths, frozenset(path for path in paths - made if _is_log(changed[path])))

    def _is_whole(self, file: TrackedFile, now: float, at_rest: bool, opened: OpenFiles) -> bool:
        if now - file.movement.moved_at >= self._rest:
            return True
        if file.movement.rewritten:
            return self._never_rests(file, now, at_rest, opened)
        return at_rest or _has_grown(file)

    def _never_rests(self, file: TrackedFile, now: float, at_rest: bool, opened: OpenFiles) -> bool:
        """Whether a file is rewritten so often that it would be waited for for ever, and may be uploaded now.

        That is when no process has it open and the directory is at rest; after the longest wait, at any moment.
        """
        movement = file.movement
        moves_for = 0.0 if movement.moves_since is None else now - movement.moves_since
        if moves_for < self.longest_wait:
            return False
        if _id(file) in opened:
            movement.open_since = now if movement.open_since is None else movement.open_since
            return now - movement.open_since >= self._longest_open
        movement.open_since = None
        return at_rest or moves_for >= self._longest_open

    def _is_being_made(self, file: TrackedFile, now: float, opened: OpenFiles) -> bool:
        """Whether it is new and open for writing. Limited in time, because logs and databases are always open."""
        is_known = file.sent is not None and file.sent.file == _id(file)
        is_new = now - file.movement.appeared < self.longest_wait and not is_known
        return is_new and _id(file) in opened

    def _is_held_open(self, file: TrackedFile, now: float, opened: OpenFiles) -> bool:
        """Whether it was rewritten and is still open, even if it is at rest.

        A file that stayed open for the longest wait is not waited for again.
        """
        movement = file.movement
        if not movement.rewritten:
            return False
        if _id(file) not in opened:
            movement.held_since, movement.always_open = None, False
            return False
        if movement.always_open:
            return False
        movement.held_since = now if movement.held_since is None else movement.held_since
        movement.always_open = now - movement.held_since >= self.longest_wait
        return not movement.always_open

    @property
    def pause(self) -> float:
        """Seconds until the next look; more if thousands of files are open, since /proc is read slowly then."""
        return max(min(self._rest, _LOOK_AGAIN), _PAUSE_FACTOR * self._look_took)

    def waited_enough(self, now: float) -> bool:
        """Whether the other files have waited long enough for those that are being written."""
        return self._waits_since is None or now - self._waits_since >= self.longest_wait


def _note_move(movement: Movement, before: Signature, after: Signature, now: float) -> None:
    movement.moved_at = now
    movement.moves_since = now if movement.moves_since is None else movement.moves_since
    only_grown = after.size > before.size or after.mtime_ns == before.mtime_ns
    movement.rewritten = movement.rewritten or not only_grown


def _is_log(file: TrackedFile) -> bool:
    """Whether a file is a log: small, and only appended to. It is never at rest, and useful at any length."""
    return not file.movement.rewritten and file.seen is not None and file.seen.size <= _LARGEST_LOG


def _has_grown(file: TrackedFile) -> bool:
    """Whether it has only become longer since it was uploaded."""
    return bool(file.sent and file.seen and file.seen.is_longer(file.sent))


def _id(file: TrackedFile) -> FileId | None:
    return file.seen.file if file.seen else None
