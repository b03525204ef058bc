"""A directory that is sent while the command writes to it, as generations committed in two phases.

A *generation* is one scan of the quiet directory. All of its files are prepared first: their bytes are in the
bucket, or in memory if small, and nothing is visible. Then, while the lease is safe, they are committed in the
order in which they were written, the markers that name the others last. What the command has removed is
deleted after that. So whoever resumes finds one whole generation, but for the moment of a commit.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from kelpie_worker import logs
from kelpie_worker.checkpoints.fence import Fence
from kelpie_worker.checkpoints.file_events import FileEvents
from kelpie_worker.checkpoints.generation import Generations
from kelpie_worker.checkpoints.overlaps import Overlaps
from kelpie_worker.checkpoints.plan import commit_order
from kelpie_worker.checkpoints.stability import Stability
from kelpie_worker.checkpoints.tracked_files import Ledger, Refusals
from kelpie_worker.config import WatchTimes
from kelpie_worker.job import Job, Manifest, ObjectKey, StoredObject, SyncBlock
from kelpie_worker.lease import Cancelled, Lease
from kelpie_worker.s3.errors import NotThere, StorageRefused, StorageUnreachable
from kelpie_worker.s3.objects import Absent, Version
from kelpie_worker.system.backoff import backoff
from kelpie_worker.system.linux import boottime
from kelpie_worker.transfer.retry import LONGEST, Patience
from kelpie_worker.transfer.two_phase_upload import Transfer
from kelpie_worker.workspace.file_version import Signature, Snapshot, Spoiled
from kelpie_worker.workspace.pattern import PatternTooSlow, matcher
from kelpie_worker.workspace.scan import Scanner

MOST_FILES = 1000  # of one generation; what is beyond it follows in the next
_SHORTEST_SCAN_PAUSE, _SCAN_PAUSE_FACTOR = 2.0, 20
_SHORTEST_STABILITY = 0.01  # below it a second write could bear the first one's time
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_PAUSE_IF_SPOILED = 1.0


@dataclass(frozen=True)
class Attempt:
    """What the watches of one attempt share."""

    job: Job
    transfer: Transfer
    lease: Lease
    fence: Fence
    overlaps: Overlaps
    times: WatchTimes
    own_files: frozenset[str]


@dataclass(frozen=True)
class Past:
    """What happened to a directory before its watch began, by relative path.

    `brought` are the files of the download, `objects` what they are still in the bucket, as far as that is known,
    `origins` where all of them came from. `sent`: an earlier uploader of this attempt sent from the directory.
    """

    brought: Snapshot
    objects: Mapping[str, StoredObject]
    origins: Mapping[str, ObjectKey]
    sent: bool


@dataclass(frozen=True)
class Listener:
    """Who is told what a watch does.

    `busy`: of the paths that are on their way. `committed`: once a generation is whole; `whole` says then what it
    is. `refused`: once, if storage keeps refusing before anything was sent, or a match never ends.
    """

    busy: Callable[[Iterable[str]], None]
    committed: Callable[[], None]
    refused: Callable[[StorageRefused | PatternTooSlow], None]


class Checkpoints:
    """Watches one block of `sync.during` in a thread of its own, from `start` to `finish`."""

    def __init__(self, attempt: Attempt, block: SyncBlock, real_path: str, past: Past, listener: Listener) -> None:
        """`real_path` is that of the block's `local_path`."""
        job, lease, transfer = attempt.job, attempt.lease, attempt.transfer
        matches = matcher(block.pattern)
        brought = {path: version for path, version in past.brought.items() if matches(path)}
        self.block = block
        # What was brought and is not here any more, nobody saw the command remove.
        self.ledger = Ledger(sent=dict(brought))
        self._job = job
        self._lease = lease
        self._times = attempt.times
        self._listener = listener
        self._told = False  # that storage refuses
        self._key_of = partial(transfer.key_in, block.prefix)
        self._scanner = Scanner(block.local_path, matches, attempt.own_files, real_path, key_of=self._key_of)
        self._file_events = FileEvents()
        self._stability = Stability(attempt.times.max_wait)
        self._refusals = Refusals(job)
        self._uploaded: Snapshot = {}
        self._fence = attempt.fence
        self._generations = Generations(job, block, transfer, lease, self._fence, self._took)
        self._past = past
        self._objects = self._own_objects(past.objects, brought)
        self._fence.know(past.objects.values())
        self._overlaps = attempt.overlaps
        self.whole: Manifest = tuple(self._objects.values())  # what the bucket has of the last whole generation
        self._looked = self._had_all = boottime()  # at the directory; when the bucket had all that was seen there
        self.behind_since: float | None = None  # CLOCK_BOOTTIME; None while the bucket has all
        self._spoiled: set[str] = set()  # left out of the last generation, as somebody writes to them all the time
        self._in_motion = False  # the directory, when the last wait for quiet ended
        self._scan_pause = _SHORTEST_SCAN_PAUSE
        self._finishing = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="checkpoints")
        self._error: BaseException | None = None

    def start(self) -> None:
        """Ready when it returns: whatever changes from now on is noticed."""
        found = self._scan()
        self.ledger.had |= set(found)
        self._generations.know(
            {path: version for path, version in found.items() if self.ledger.sent.get(path) == version}
        )
        self._file_events.listen(self.block.local_path)
        self._thread.start()

    def stop(self) -> None:
        """Look no more, and wait until nothing is under way; `finish` sends what is left."""
        self._finishing.set()
        self._file_events.set()
        if self._thread.ident is not None:
            self._thread.join()

    def finish(self) -> None:
        """Send the last state, however long it takes. Raises StorageRefused, OSError, Cancelled."""
        self.stop()
        if self._error:
            raise self._error
        failures, patience = 0, Patience()
        spoiled_since: float | None = None
        while True:
            try:
                self._spoiled = set()
                if self.cycle(final=True):
                    return
                spoiled_since = (spoiled_since or boottime()) if self._spoiled else None
                if spoiled_since and boottime() - spoiled_since >= LONGEST:
                    logs.warn("checkpoint_without_restless", self._job, files=sorted(self._spoiled))
                    return
                self._lease.pause(_PAUSE_IF_SPOILED if self._spoiled else 0)
                continue
            except (StorageUnreachable, StorageRefused) as error:
                failures += 1
                if isinstance(error, StorageUnreachable):
                    patience.renew()
                elif self._told or patience.has_ended(error):
                    raise
                logs.warn("checkpoint_delayed", self._job, detail=str(error))
            self._lease.pause(backoff(failures, _FIRST_PAUSE, _LONGEST_PAUSE))

    @property
    def has_sent(self) -> bool:
        """Whether the bucket has taken anything."""
        return bool(self._uploaded)

    def sent_objects(self) -> dict[tuple[str, str], Signature]:
        """The versions that this watch has put into the bucket, and that are still there, by bucket and key."""
        return {
            stored.place: version
            for path, version in self._uploaded.items()
            if not self._is_overwritten(path) and (stored := self._objects[path])
        }

    # --- while the command runs ---------------------------------------------------------------------

    def _watch(self) -> None:
        try:
            self._send_changes()
        except BaseException as error:  # noqa: BLE001 - `finish` raises it where it can be answered
            self._error = error
            if isinstance(error, PatternTooSlow):
                self._listener.refused(error)
        finally:
            self._file_events.stop()

    def _send_changes(self) -> None:
        failures, patience = 0, Patience()
        while not self._finishing.is_set():
            try:
                up_to_date = self.cycle(final=False)
                failures = 0
                patience.renew()
            except (StorageUnreachable, StorageRefused, OSError) as error:
                failures += 1
                logs.warn("checkpoint_delayed", self._job, detail=str(error))
                self._tell_refusal(error, patience)
                self._finishing.wait(backoff(failures, _FIRST_PAUSE, _LONGEST_PAUSE))
                continue
            except (Cancelled, PatternTooSlow):
                raise
            except Exception as error:  # noqa: BLE001 - no defect of ours may end the checkpoints of a week
                failures += 1
                logs.error("checkpoint_failed", self._job, detail=f"{type(error).__name__}: {error}")
                self._finishing.wait(backoff(failures, _FIRST_PAUSE, _LONGEST_PAUSE))
                continue
            if up_to_date:
                self._file_events.wait(self._scan_pause)
            self._lease.check()

    def _tell_refusal(self, error: Exception, patience: Patience) -> None:
        """A command must not run for a week beside a bucket that never took anything."""
        nothing_to_tell = self._told or self._uploaded or self._past.sent or isinstance(error, NotThere)
        if not isinstance(error, StorageRefused):
            patience.renew()
        elif not nothing_to_tell and patience.has_ended(error):
            self._told = True
            self._listener.refused(error)

    def cycle(self, final: bool) -> bool:
        """Send what has changed, if anything. True if nothing is left of what was seen, or it may wait."""
        now = self._scan() if final else self._quiet()
        self.ledger.had |= set(now)
        changed = self.ledger.changed(now)
        self._refusals.forget_all_but(changed)
        due = self._due_for_deletion(now, final)
        if self.ledger.is_settled(now) and not due:
            return True
        self._tell_rewritten(changed)
        restless = set() if final else self._stability.restless(changed, self.ledger.sent, not self._in_motion)
        if restless and not self._stability.waited_enough():
            self._finishing.wait(self._stability.pause)
            return False
        ready = self._ready(changed, restless, final)
        taken = commit_order(ready)[:MOST_FILES]
        try:
            self._send_generation({path: ready[path] for path in taken})
        except Spoiled as error:
            logs.debug("checkpoint_spoiled", self._job, path=str(error))
            return False
        if taken:
            now = {path: version for path, version in now.items() if path not in self._generations.removed}
        if len(taken) < len(ready):
            return False
        left_out = restless | self.ledger.changed(now).keys()
        if left_out - self.ledger.sent.keys():
            due = []  # what takes the place of the old files may be among them
        if (taken or due) and not left_out:
            self._tell_whole(due)
        self._delete(due, final)
        self.ledger.previous = set(now)
        self._note_lag(now)
        self._spoiled = left_out - self._refusals.known
        return not left_out if final else left_out <= self._refusals.resting

    def _tell_rewritten(self, changed: Snapshot) -> None:
        """A file that was longer again before anybody looked passes for a log, and half of it for a whole one."""
        for path, version in changed.items():
            sent = self.ledger.sent.get(path)
            has_grown = sent and sent.inode == version.inode and sent.size < version.size
            if sent and has_grown and not self._generations.begins_as_sent(path, sent):
                self._stability.rewritten(path)

    def _due_for_deletion(self, now: Snapshot, final: bool) -> list[str]:
        """What cannot be seen is not removed: behind a link in the directory's place, or in a closed folder."""
        mirrored = self.block.mirrors_deletes and not (self._scanner.led_away or self._scanner.shut_out)
        return self.ledger.due_for_deletion(now, final) if mirrored else []

    def _ready(self, changed: Snapshot, restless: set[str], final: bool) -> Snapshot:
        """What goes up now. In the end also what was refused, but after all the others are safe."""
        ready = {path for path in changed if path not in restless or self._stability.is_log(path)}
        others = ready - (self._refusals.known if final else self._refusals.resting)
        return {path: changed[path] for path in (ready if final and not others else others)}

    def _tell_whole(self, due: list[str]) -> None:
        """Before anything is deleted: a reported generation must not lack what it names."""
        self.whole = tuple(self._objects[path] for path in sorted(self._objects.keys() - set(due)))
        self._listener.committed()

    def _scan(self) -> Snapshot:
        """Look, and leave a pause that keeps looking at a large tree from being all that is done."""
        self._looked, began = boottime(), time.monotonic()
        found = self._overlaps.left_to(self.block, self._scanner.scan())
        for path in [path for path in found if path in self.ledger.sent and self._is_overwritten(path)]:
            del self.ledger.sent[path]  # by another directory of this job
        self._stability.see(found)
        self._generations.forget_all_but(found)
        took = time.monotonic() - began
        self._scan_pause = min(max(_SHORTEST_SCAN_PAUSE, _SCAN_PAUSE_FACTOR * took), _LONGEST_PAUSE)
        self._note_lag(found)
        return found

    def _note_lag(self, seen: Snapshot) -> None:
        """A change that is seen counts from the look before: by a pause too long rather than too short.

        Only what the bucket lacks: that a file is removed waits for another generation on purpose.
        """
        if self.ledger.changed(seen):
            self.behind_since = self._had_all
        else:
            self._had_all, self.behind_since = self._looked, None

    def _quiet(self) -> Snapshot:
        """The directory, once two scans in a row agree (FILE_WATCHER_*) or the wait has been long enough."""
        self._in_motion = False
        before = self._scan()
        if self.ledger.is_settled(before):
            return before
        began = time.monotonic()
        while not self._finishing.wait(max(self._times.stability, _SHORTEST_STABILITY)):
            now = self._scan()
            waited = time.monotonic() - began
            if now == before and self._file_events.quiet_for() >= self._times.debounce:
                return now
            if self._times.max_wait is not None and waited >= self._times.max_wait:
                self._in_motion = True
                return now
            before = now
            self._lease.check()
        return self._scan()

    # --- one generation -----------------------------------------------------------------------------

    def _send_generation(self, files: Snapshot) -> None:
        """As `Generations.send`, told to whoever shows what is on its way."""
        if not files:
            return
        self._listener.busy(files)
        try:
            refused = self._generations.send(files)
            self._refusals.note(refused)
            if self._finishing.is_set() and refused.keys() == files.keys():  # closed ones, and only they are left
                raise next(iter(refused.values()))
        except StorageRefused:
            self._refusals.note_again(files)
            raise
        finally:
            self._listener.busy(())

    def _took(self, path: str, version: Signature, stored: StoredObject) -> None:
        self.ledger.sent[path] = self._uploaded[path] = version
        self._stability.sent(path)
        self._objects[path] = stored

    def _delete(self, due: list[str], final: bool) -> None:
        deleted = 0
        for path in due:
            is_needed = partial(self._overlaps.have, self.block, path, final)
            for bucket, key in self._had_as(path):
                try:
                    deleted += self._fence.delete((bucket, key), is_needed)
                    self._objects.pop(path, None)
                except StorageRefused as error:  # a bucket may allow writing only; nothing is lost by what stays
                    logs.warn("delete_refused", self._job, key=key, detail=str(error))
            self.ledger.had.discard(path)
            self.ledger.sent.pop(path, None)
            self._uploaded.pop(path, None)
        if deleted:
            logs.info("checkpoint_deleted", self._job, files=deleted)

    def _had_as(self, path: str) -> set[ObjectKey]:
        """The objects that this attempt brought the file from, or sent it to; all others are somebody else's.

        A file `a` may come from `a`, where `a.gz` would be sent, and `x/y` from `x//y`. What an earlier uploader
        sent is not known here: in a directory that it sent from, that is whatever nobody brought.
        """
        bucket, key = origin = self._past.origins.get(path, ("", ""))
        brought = bucket == self.block.bucket and key.startswith(self.block.prefix)
        sent = path in self._uploaded or (self._past.sent and path not in self._past.origins)
        return ({origin} if brought else set()) | ({self._place(path)} if sent else set())

    def _is_overwritten(self, path: str) -> bool:
        stored = self._objects.get(path)
        return self._fence.is_overwritten(self._place(path), Version(stored.etag) if stored else Absent())

    def _place(self, path: str) -> ObjectKey:
        return self.block.bucket, self._key_of(path)

    def _own_objects(self, objects: Mapping[str, StoredObject], brought: Snapshot) -> dict[str, StoredObject]:
        """Those of the objects that lie where their files would be sent."""
        return {
            path: objects[path]
            for path in objects.keys() & brought.keys()
            if self._place(path) == objects[path].place
        }
