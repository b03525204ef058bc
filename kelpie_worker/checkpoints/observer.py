"""Looks at a watched directory: scans it, waits until it is quiet, and says how far the bucket is behind it."""

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from kelpie_worker.checkpoints.fence import Fence
from kelpie_worker.checkpoints.file_events import FileEvents
from kelpie_worker.checkpoints.mirror import Look
from kelpie_worker.checkpoints.overlaps import Overlaps
from kelpie_worker.checkpoints.stability import Stability
from kelpie_worker.checkpoints.tracked_files import TrackedFiles
from kelpie_worker.config import WatchTimes
from kelpie_worker.job import ObjectKey, SyncBlock
from kelpie_worker.s3.objects import Absent, Version
from kelpie_worker.system.linux import boottime
from kelpie_worker.workspace.file_version import Snapshot
from kelpie_worker.workspace.scan import Scanner

_SHORTEST_SCAN_PAUSE, _LONGEST_SCAN_PAUSE = 2.0, 60.0  # seconds
_SCAN_PAUSE_FACTOR = 20  # times as long as a scan takes
_LONGEST_TRY = 0.5  # seconds of scans one right after the other, of a directory that does not hold still
_SHORTEST_STABILITY = 0.01  # seconds; below it a second write could bear the first one's time


class DirectoryObserver:
    """Notes in `files`, and in `stability`, what it sees of the directory of one block."""

    def __init__(
        self,
        block: SyncBlock,
        scanner: Scanner,
        files: TrackedFiles,
        stability: Stability,
        times: WatchTimes,
        fence: Fence,
        overlaps: Overlaps,
        key_of: Callable[[str], ObjectKey],
    ) -> None:
        """`key_of` says where a file is sent."""
        self.file_events = FileEvents()
        self.behind_since: float | None = None  # CLOCK_BOOTTIME; None while the bucket has all, as a whole
        self.is_unreported = False  # what the bucket took, or may have taken, was not reported as whole yet
        self._block = block
        self._scanner = scanner
        self._files = files
        self._stability = stability
        self._times = times
        self._fence = fence
        self._overlaps = overlaps
        self._key_of = key_of
        self.looked = self._had_all = boottime()  # at the directory; when the bucket had all that was seen there
        self._found: Snapshot | None = None  # at the last look
        self._changed_at = 0.0
        self._scan_pause = _SHORTEST_SCAN_PAUSE

    @property
    def changed_at(self) -> float:
        """CLOCK_BOOTTIME of the last change that a look showed, or that the file system told of since; 0: none."""
        return max(self._changed_at, self.file_events.last_at)

    def look(self, final: bool = False) -> Look:
        """Scan the directory, and set the pause until the next scan in proportion to how long this one took."""
        self.looked, began = boottime(), time.monotonic()
        found = self._overlaps.left_to(self._block, self._scanner.scan())
        self._forget_what_others_replaced(found)
        now = time.monotonic()
        self._stability.see(self._files, found, now)
        self._scan_pause = min(
            max(_SHORTEST_SCAN_PAUSE, _SCAN_PAUSE_FACTOR * (now - began)),
            _LONGEST_SCAN_PAUSE,
        )
        self.note_lag(found)
        if self._found is not None and found != self._found:
            self._changed_at = self.looked
        self._found = found
        return Look(
            found,
            now,
            final,
            shows_removals=not (self._scanner.led_away or self._scanner.shut_out),
        )

    def look_when_quiet(self, finishing: threading.Event, check: Callable[[], None]) -> Look:
        """The directory, once two scans in a row agree (FILE_WATCHER_*) or the wait has been long enough.

        It waits no longer once `finishing` is set. `check` is called between scans, and may raise.
        """
        before = self.look()
        if self._files.is_settled(before.found):
            return before
        began = time.monotonic()
        while not finishing.wait(max(self._times.stability, _SHORTEST_STABILITY)):
            look = self.look()
            if look.found == before.found and self.file_events.quiet_for() >= self._times.debounce:
                return look
            if self._times.max_wait is not None and time.monotonic() - began >= self._times.max_wait:
                return replace(self._look_in_motion(look), at_rest=False)
            before = look
            check()
        return self._both_show(before, self.look())

    def _look_in_motion(self, before: Look) -> Look:
        """A look at a directory that does not hold still, if possible at one state of it.

        What one scan finds may never have been there together: it saw `latest` after a change, and the files that
        `latest` names before it. What two scans find was there together after the first and before the second.
        """
        until = time.monotonic() + _LONGEST_TRY
        while True:
            look = self._both_show(before, self.look())
            if look.is_one_state or time.monotonic() >= until:
                return look
            before = look

    def _both_show(self, before: Look, look: Look) -> Look:
        """What both looks show: of a file that grows, its length at the first one; else the second one as it is.

        What was appended between may name a file that the second scan had passed before it was there.
        """
        if self._grown(before.found, look.found) is None:
            return replace(look, is_one_state=False)
        # One that was never sent cannot be sent but as it is. It counts as half, as long as it moves.
        found = {
            path: before.found[path] if self._files[path].sent else version for path, version in look.found.items()
        }
        return replace(look, found=found)

    def grown_without(self, found: Snapshot, without: Collection[str]) -> Collection[str] | None:
        """The files that another scan finds longer than they were; None if it differs by more than these.

        The files `without` are not expected. If the others still are as they were, they were so without these.
        """
        left = {path: version for path, version in found.items() if path not in without}
        return self._grown(left, self._overlaps.left_to(self._block, self._scanner.scan()))

    def _grown(self, before: Snapshot, after: Snapshot) -> Collection[str] | None:
        """Of two scans that find the same files, those that became longer: a log never rests. Else None."""
        if before.keys() != after.keys():
            return None
        moved = [path for path, version in after.items() if version != before[path]]
        has_grown = all(
            after[path].is_longer(before[path]) and not self._files[path].movement.rewritten for path in moved
        )
        return moved if has_grown else None

    def wait_for_change(self) -> None:
        """Sleep until something happens in the directory, or for the usual pause between scans."""
        self.file_events.wait(self._scan_pause)

    def note_lag(self, found: Snapshot) -> None:
        """Record since when the bucket lacks a change: counted from the last scan that did not show it.

        Deleted files do not count: their objects are kept for another generation on purpose.
        """
        if self.is_unreported or self._files.changed(found):
            self.behind_since = self._had_all
        else:
            self._had_all, self.behind_since = self.looked, None

    def _forget_what_others_replaced(self, found: Snapshot) -> None:
        """Count a file as not uploaded if another directory of the job has replaced its object."""
        for path in found:
            file = self._files[path]
            state = Version(file.stored.etag) if file.stored else Absent()
            if file.sent and self._fence.is_overwritten(self._key_of(path), state):
                file.sent = None
