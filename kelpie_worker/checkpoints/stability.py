"""Which files of a watched directory are being written: half of them must not take the place of a whole one.

Only what is written in place can be half; what is renamed into place is whole.
"""

import math
import time
from collections.abc import Callable
from functools import cache

from kelpie_worker.system.linux import files_being_written
from kelpie_worker.workspace.file_version import Signature, Snapshot

_LARGEST_LOG = 8 * 1024 * 1024
_LOOK_AGAIN, _PAUSE_FACTOR = 0.25, 10
_LONGEST_REST = 2.5  # seconds without a change, until one that was being rewritten in place counts as whole
_WAITS_FOR_RESTLESS = 12  # times the longest wait for quiet
_WAITS_FOR_OPEN = 5 * _WAITS_FOR_RESTLESS


class Stability:
    """Of one directory, as its scans show it. `max_wait` is the longest wait for quiet; None: there is none."""

    def __init__(
        self, max_wait: float | None, being_written: Callable[[], set[int]] = files_being_written
    ) -> None:
        """`being_written` names the inodes of files that somebody has open for writing."""
        longest = max_wait or 2 * _LONGEST_REST
        self._rest = min(_LONGEST_REST, longest / 2)
        self._longest_wait = _WAITS_FOR_RESTLESS * longest
        self._longest_open = _WAITS_FOR_OPEN * longest
        self._being_written = being_written
        self._look_took = 0.0  # for all open files
        self._waits_since: float | None = None
        self._seen: Snapshot = {}  # in the last scan
        self._appeared: dict[str, float] = {}  # when a file was seen first, by the monotonic clock
        self._moved_at: dict[str, float] = {}  # when it was seen to have changed
        self._moves_since: dict[str, float] = {}  # without a rest
        self._open_since: dict[str, float] = {}  # those of them that are seen open each time
        self._rewritten: set[str] = set()  # in place, since they were sent
        self._held_since: dict[str, float] = {}  # since when one of them has been open, as far as it was looked
        self._always_open: set[str] = set()  # those of them that were waited for in vain
        self._open_uploads: set[str] = set()  # when it was asked last

    def see(self, found: Snapshot) -> None:
        now = time.monotonic()
        for path, version in found.items():
            before = self._seen.get(path)
            if before == version:
                self._note_stillness(path, now)
                continue
            if before and before.inode == version.inode:
                self._note_move(path, now)
                if _is_rewritten(before, version):
                    self._rewritten.add(path)
            else:
                self._forget(path)
                self._appeared[path] = now
        for path in self._seen.keys() - found.keys():
            self._forget(path)
        self._seen = found

    def _note_move(self, path: str, now: float) -> None:
        self._moved_at[path] = now
        self._moves_since.setdefault(path, now)

    def _note_stillness(self, path: str, now: float) -> None:
        if path in self._moves_since and now - self._moved_at[path] >= self._rest:
            del self._moves_since[path]
            self._open_since.pop(path, None)

    def _forget(self, path: str) -> None:
        for times in (self._appeared, self._moved_at, self._moves_since, self._open_since, self._held_since):
            times.pop(path, None)
        for known in (self._rewritten, self._always_open):
            known.discard(path)

    def rewritten(self, path: str) -> None:
        """It was, in place, whatever the scans show."""
        self._rewritten.add(path)

    def sent(self, path: str) -> None:
        """The bucket has taken it as it is."""
        self._rewritten.discard(path)
        self._held_since.pop(path, None)

    def restless(self, changed: Snapshot, sent: Snapshot, came_to_rest: bool) -> set[str]:
        """Those of the `changed` files that are being written. `sent` is what the bucket has.

        What only grows since it was sent is a log, and may go up as it is. Where the directory came to rest, only
        files that were rewritten in place have to rest for longer: their writers may just take breath. So may the
        writers of new files.
        """
        now = time.monotonic()
        open_files = cache(self._look_at_open_files)
        moving = {path for path in changed if now - self._moved_at.get(path, -math.inf) < self._rest}
        found = set()
        for path in moving:
            if path in self._rewritten:
                whole = self._never_rests(path, changed[path].inode, open_files, came_to_rest)
            else:
                whole = came_to_rest or self._grows(path, sent.get(path))
            if not whole:
                found.add(path)
        self._open_uploads = self._made_just_now(changed, sent, open_files)
        found |= self._open_uploads | self._held_open(changed, open_files)
        self._waits_since = (self._waits_since or now) if found else None
        return found

    def _never_rests(self, path: str, inode: int, open_files: Callable[[], set[int]], came_to_rest: bool) -> bool:
        """Whether a file is rewritten so often that waiting for its rest would be for ever.

        Then a quiet moment in which nobody has it open must do, and in the end any moment.
        """
        now = time.monotonic()
        moves_for = now - self._moves_since.get(path, now)
        if moves_for < self._longest_wait:
            return False
        if inode in open_files():
            return now - self._open_since.setdefault(path, now) >= self._longest_open
        self._open_since.pop(path, None)
        return came_to_rest or moves_for >= self._longest_open

    def _made_just_now(self, changed: Snapshot, sent: Snapshot, open_files: Callable[[], set[int]]) -> set[str]:
        """New files that somebody has open for writing; not for ever, for logs and databases are always open."""
        now = time.monotonic()
        new = {
            path
            for path, version in changed.items()
            if now - self._appeared.get(path, -math.inf) < self._longest_wait
            and not (path in sent and sent[path].inode == version.inode)
        }
        written = open_files() if new else set()
        return {path for path in new if changed[path].inode in written}

    def _held_open(self, changed: Snapshot, open_files: Callable[[], set[int]]) -> set[str]:
        """Rewritten files that somebody still has open, however long they rest; of each in vain but once."""
        now, found = time.monotonic(), set()
        for path in self._rewritten & changed.keys():
            if changed[path].inode not in open_files():
                self._held_since.pop(path, None)
                self._always_open.discard(path)
            elif path not in self._always_open:
                if now - self._held_since.setdefault(path, now) < self._longest_wait:
                    found.add(path)
                else:
                    self._always_open.add(path)
        return found

    def _look_at_open_files(self) -> set[int]:
        began = time.monotonic()
        found = self._being_written()
        self._look_took = time.monotonic() - began
        return found

    @property
    def pause(self) -> float:
        """Seconds until it is worth asking again: where thousands of files are open the answer takes a while."""
        return max(min(self._rest, _LOOK_AGAIN), _PAUSE_FACTOR * self._look_took)

    @property
    def waits(self) -> bool:
        """Whether some were restless when it was asked last."""
        return self._waits_since is not None

    def waited_enough(self) -> bool:
        """Whether the others need wait no longer for files that never rest."""
        return self._waits_since is None or time.monotonic() - self._waits_since >= self._longest_wait

    def is_log(self, path: str) -> bool:
        """A small file that has only grown for so long is never at rest, and useful at any length."""
        if path in self._rewritten or path in self._open_uploads:
            return False
        return self._seen[path].size <= _LARGEST_LOG

    def _grows(self, path: str, sent: Signature | None) -> bool:
        """Whether it has become longer and nothing else since it was sent."""
        seen = self._seen.get(path)
        return bool(sent and seen and sent.inode == seen.inode and sent.size < seen.size)


def _is_rewritten(before: Signature, after: Signature) -> bool:
    """Whether the same file was not only appended to."""
    return after.size <= before.size and after.mtime_ns != before.mtime_ns
