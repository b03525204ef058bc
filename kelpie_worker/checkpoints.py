"""A directory that is sent while the command writes to it, as generations committed in two phases.

A *generation* is one scan of the quiet directory. All of its files are prepared first: their bytes are in the
bucket, or in memory if small, and nothing is visible. Then, while the lease is safe, they are committed in the
order in which they were written, the markers that name the others last. What the command has removed is
deleted after that. So whoever resumes finds one whole generation, but for the moment of a commit.
"""

import errno
import math
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from kelpie_worker import logs
from kelpie_worker.backoff import backoff
from kelpie_worker.config import WatchTimes
from kelpie_worker.fence import Fence
from kelpie_worker.job import Job, Manifest, StoredObject, SyncBlock
from kelpie_worker.lease import Cancelled, Lease
from kelpie_worker.linux import boottime
from kelpie_worker.objects import Stored, Target
from kelpie_worker.patience import Patience
from kelpie_worker.pattern import PatternTooSlow, matcher
from kelpie_worker.scan import Scanner, Signature, Snapshot, own_name, signature_of
from kelpie_worker.siblings import Siblings
from kelpie_worker.storage_errors import NotThere, StorageRefused, StorageUnreachable
from kelpie_worker.transfer import Prepared, Spoiled, Transfer

MOST_FILES = 1000  # of one generation; what is beyond it follows in the next
_COMMITS_AT_ONCE = 8
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_SMALL_MARKER = 1024 * 1024
_SPOILED_BEFORE_COPY = 2
_LARGEST_LOG = 8 * 1024 * 1024
_LOOK_AGAIN = 0.25
_LONGEST_REST = 2.5  # seconds without a change, until one that was being rewritten in place counts as whole
_WAITS_FOR_RESTLESS = 12  # times the longest wait for quiet
_SHORTEST_SCAN_PAUSE, _SCAN_PAUSE_FACTOR = 2.0, 20
_SHORTEST_STABILITY = 0.01  # below it a second write could bear the first one's time
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


@dataclass
class Ledger:
    """What is known of a directory's files and of their objects. Paths are relative."""

    sent: Snapshot = field(default_factory=dict)  # in the bucket in this version, or brought by the download
    had: set[str] = field(default_factory=set)  # seen here in this attempt, and not deleted from the bucket since
    previous: set[str] = field(default_factory=set)  # files of the generation before

    def is_settled(self, now: Snapshot) -> bool:
        """Whether nothing was written, and nothing removed, since the last generation."""
        return not self.changed(now) and set(now) == self.previous

    def changed(self, now: Snapshot) -> Snapshot:
        return {path: version for path, version in now.items() if self.sent.get(path) != version}

    def due_for_deletion(self, now: Snapshot, final: bool) -> list[str]:
        """Files the command has removed, and that neither this generation nor the one before it has.

        Only what this attempt had can be in it: absence at the start never deletes (contract section 7).
        """
        kept = set(now) if final else set(now) | self.previous
        return sorted(self.had - kept)


def commit_order(files: Snapshot) -> list[str]:
    """Oldest first; small files that tell a reader which others to use come after all of them."""
    return sorted(files, key=lambda path: (is_marker(path, files[path].size), files[path].mtime_ns, path))


def commit_steps(files: Snapshot) -> tuple[list[str], list[str]]:
    """Those that may be committed several at a time, begun in order, and those that come after them one by one.

    Alone are the markers, and the newest of the others: it may well be what a reader looks for first.
    """
    order = commit_order(files)
    names = [path for path in order if not is_marker(path, files[path].size)]
    together = max(0, len(names) - 1)
    return order[:together], order[together:]


def is_marker(path: str, size: int) -> bool:
    name = PurePosixPath(path)
    named_so = name.suffix in (".json", ".index") or name.name == "checkpoint" or name.name.startswith("latest")
    return named_so and size <= _SMALL_MARKER


class Checkpoints:
    """Watches one block of `sync.during` in a thread of its own, from `start` to `finish`."""

    def __init__(
        self,
        job: Job,
        block: SyncBlock,
        transfer: Transfer,
        lease: Lease,
        times: WatchTimes,
        own_files: frozenset[str],
        brought: Snapshot,
        busy: Callable[[Iterable[str]], None],
        refused: Callable[[StorageRefused | PatternTooSlow], None] | None = None,
        real_path: str | None = None,
        objects: Mapping[str, StoredObject] | None = None,
        committed: Callable[[], None] = lambda: None,
        fence: Fence | None = None,
        siblings: Siblings | None = None,
    ) -> None:
        """`refused` is told once if storage keeps refusing before anything was sent, or a match never ends.

        `real_path` is that of `local_path`. `objects` are those of the files that the download brought.
        `committed` is called once a generation is whole; `whole` says then what it is. `fence` is the attempt's,
        and so are `siblings`: the watches of one job share them.
        """
        matches = matcher(block.pattern)
        brought = {path: version for path, version in brought.items() if matches(path)}
        self.block = block
        self.ledger = Ledger(sent=dict(brought), had=set(brought))
        self._job = job
        self._transfer = transfer
        self._lease = lease
        self._times = times
        self._busy = busy
        self._refused = refused
        self._told = False  # that storage refuses
        self._scanner = Scanner(block.local_path, matches, own_files, real_path)
        self._hint = Hint()
        self._uploaded: Snapshot = {}
        self._objects = self._own_objects(objects or {}, brought)
        self._committed = committed
        self._fence = fence or Fence(job, transfer.storage, lease)
        self._fence.know(self._objects.values())
        self._siblings = siblings or Siblings(job)
        self.whole: Manifest = tuple(self._objects.values())  # what the bucket has of the last whole generation
        self._number = 0
        self._looked = self._had_all = boottime()  # at the directory; when the bucket had all that was seen there
        self.behind_since: float | None = None  # CLOCK_BOOTTIME; None while the bucket has all
        self._spoiled: Counter[str] = Counter()  # how often, by path
        self._seen: Snapshot = {}  # in the last scan
        self._moved_at: dict[str, float] = {}  # when a file was seen to have changed, by the monotonic clock
        self._rewritten: set[str] = set()  # in place, since they were sent
        self._restless_since: float | None = None
        self._in_motion = False  # the directory, when the last wait for quiet ended
        self._scan_pause = _SHORTEST_SCAN_PAUSE
        self._finishing = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="checkpoints")
        self._error: BaseException | None = None

    def start(self) -> None:
        """Ready when it returns: whatever changes from now on is noticed."""
        self.ledger.had |= set(self._scan())
        self._hint.listen(self.block.local_path)
        self._thread.start()

    def stop(self) -> None:
        """Look no more, and wait until nothing is under way; `finish` sends what is left."""
        self._finishing.set()
        self._hint.set()
        if self._thread.ident is not None:
            self._thread.join()

    def finish(self) -> None:
        """Send the last state, however long it takes. Raises StorageRefused, OSError, Cancelled."""
        self.stop()
        if self._error:
            raise self._error
        failures, patience = 0, Patience()
        while True:
            try:
                if self.cycle(final=True):
                    return
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
            (stored.bucket, stored.key): version
            for path, version in self._uploaded.items()
            if not self._is_overwritten(path) and (stored := self._objects[path])
        }

    # --- while the command runs ---------------------------------------------------------------------

    def _watch(self) -> None:
        try:
            self._send_changes()
        except BaseException as error:  # noqa: BLE001 - `finish` raises it where it can be answered
            self._error = error
            if isinstance(error, PatternTooSlow) and self._refused:
                self._refused(error)
        finally:
            self._hint.stop()

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
                self._hint.wait(self._scan_pause)
            self._lease.check()

    def _tell_refusal(self, error: Exception, patience: Patience) -> None:
        """A command must not run for a week beside a bucket that never took anything."""
        nothing_to_tell = self._told or self._uploaded or isinstance(error, NotThere)
        if not isinstance(error, StorageRefused):
            patience.renew()
        elif not nothing_to_tell and self._refused and patience.has_ended(error):
            self._told = True
            self._refused(error)

    def cycle(self, final: bool) -> bool:
        """Send what has changed, if anything. True if nothing is left of what was seen."""
        now = self._scan() if final else self._quiet()
        self.ledger.had |= set(now)
        changed = self.ledger.changed(now)
        # A link in the directory's place removed nothing from the bucket: the checkpoint there stays.
        mirrored = self.block.mirrors_deletes and not self._scanner.led_away
        due = self.ledger.due_for_deletion(now, final) if mirrored else []
        if self.ledger.is_settled(now) and not due:
            return True
        restless = set() if final else self._restless(changed)
        if not restless:
            self._restless_since = None
        elif not self._waited_enough():
            self._finishing.wait(min(self._rest, _LOOK_AGAIN))
            return False
        due_now = {path: changed[path] for path in changed if path not in restless or self._is_log(path)}
        taken = {path: changed[path] for path in commit_order(due_now)[:MOST_FILES]}
        try:
            left_out = restless | self._send_generation(taken)
        except Spoiled as error:
            logs.debug("checkpoint_spoiled", self._job, path=str(error))
            return False
        if len(taken) < len(due_now):
            return False
        if left_out - self.ledger.sent.keys():
            due = []  # what takes the place of the old files may be among them
        if (taken or due) and not left_out:
            # Before anything is deleted: a reported generation must not lack what it names.
            self.whole = tuple(self._objects[path] for path in sorted(self._objects.keys() - set(due)))
            self._committed()
        self._delete(due, final)
        self.ledger.previous = set(now)
        self._note_lag(now)
        return final or not left_out

    def _scan(self) -> Snapshot:
        """Look, and leave a pause that keeps looking at a large tree from being all that is done."""
        self._looked, began = boottime(), time.monotonic()
        found = self._siblings.left_to(self.block, self._scanner.scan())
        for path in [path for path in found if path in self.ledger.sent and self._is_overwritten(path)]:
            del self.ledger.sent[path]  # by another directory of this job
        self._note_movement(found)
        took = time.monotonic() - began
        self._scan_pause = min(max(_SHORTEST_SCAN_PAUSE, _SCAN_PAUSE_FACTOR * took), _LONGEST_PAUSE)
        self._note_lag(found)
        return found

    def _note_movement(self, found: Snapshot) -> None:
        """Only of files written in place: what is renamed into place is whole."""
        now = time.monotonic()
        for path, version in found.items():
            before = self._seen.get(path)
            if before == version:
                continue
            if before and before.inode == version.inode:
                self._moved_at[path] = now
                if _is_rewritten(before, version):
                    self._rewritten.add(path)
            else:
                self._forget_movement(path)
        for path in self._seen.keys() - found.keys():
            self._forget_movement(path)
            del self._spoiled[path]
        self._seen = found

    def _forget_movement(self, path: str) -> None:
        self._moved_at.pop(path, None)
        self._rewritten.discard(path)

    @property
    def _rest(self) -> float:
        return min(_LONGEST_REST, (self._times.max_wait or 2 * _LONGEST_REST) / 2)

    def _restless(self, changed: Snapshot) -> set[str]:
        """Those that are being written: half of them must not take the place of a whole one.

        What only grows since it was sent is a log, and may go up as it is. Where the directory came to rest, only
        files that were rewritten in place have to rest for longer: their writers may just take breath.
        """
        now = time.monotonic()
        moving = {path for path in changed if now - self._moved_at.get(path, -math.inf) < self._rest}
        return {path for path in moving if path in self._rewritten or (self._in_motion and not self._grows(path))}

    def _grows(self, path: str) -> bool:
        """Whether it has become longer and nothing else since it was sent."""
        sent, seen = self.ledger.sent.get(path), self._seen.get(path)
        return bool(sent and seen and sent.inode == seen.inode and sent.size < seen.size)

    def _is_log(self, path: str) -> bool:
        """A small file that has only grown for so long is never at rest, and useful at any length."""
        return path not in self._rewritten and self._seen[path].size <= _LARGEST_LOG

    def _waited_enough(self) -> bool:
        """Whether the others need wait no longer for files that never rest."""
        now = time.monotonic()
        self._restless_since = self._restless_since or now
        longest = _WAITS_FOR_RESTLESS * (self._times.max_wait or 2 * _LONGEST_REST)
        return now - self._restless_since >= longest

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
            if now == before and self._hint.quiet_for() >= self._times.debounce:
                return now
            if self._times.max_wait is not None and waited >= self._times.max_wait:
                self._in_motion = True
                return now
            before = now
            self._lease.check()
        return self._scan()

    # --- one generation -----------------------------------------------------------------------------

    def _send_generation(self, files: Snapshot) -> set[str]:
        """Prepare all, then commit all but those that move even while they are copied, which are the answer.

        Raises Spoiled before anything is visible, and the storage's errors.
        """
        if not files:
            return set()
        self._number += 1
        self._busy(files)
        prepared: dict[str, Prepared] = {}
        try:
            self._prepare(files, prepared)
            for upload in prepared.values():
                upload.ready()
            self._tell("checkpoint_prepared", prepared.values())
            self._commit(prepared, files)
        finally:
            for upload in prepared.values():
                upload.abort()
            self._busy(())
        return files.keys() - prepared.keys()

    def _prepare(self, files: Snapshot, prepared: dict[str, Prepared]) -> None:
        for path in commit_order(files):
            self._lease.check()
            if self._spoiled[path] >= _SPOILED_BEFORE_COPY:
                self._prepare_copy(path, files[path], prepared)
                continue
            try:
                prepared[path] = self._transfer.prepare(
                    f"{self.block.local_path}/{path}", files[path], self._target(path)
                )
            except Spoiled:
                self._spoiled[path] += 1
                raise

    def _prepare_copy(self, path: str, version: Signature, prepared: dict[str, Prepared]) -> None:
        """From a copy made at the speed of the disk: a file that is rewritten all the time must not starve.

        One that is rewritten even while it is copied is left to the next generation.
        """
        with tempfile.TemporaryDirectory(
            prefix=own_name("copies-"), dir=Path(self.block.local_path).parent
        ) as copies:
            copy = Path(copies, "copy")
            try:
                copied = _quiet_copy(Path(self.block.local_path, path), version, copy)
            except OSError as error:
                if error.errno not in _DISK_FULL:
                    raise
                logs.warn("no_room_to_copy", self._job, path=path, detail=str(error))
                self._prepare_moving(path, version, prepared)
                return
            if copied:
                prepared[path] = self._transfer.prepare(str(copy), copied, self._target(path))

    def _prepare_moving(self, path: str, version: Signature, prepared: dict[str, Prepared]) -> None:
        """Without a copy, if it happens to rest: the others do not wait for it any more."""
        with suppress(Spoiled):
            source = f"{self.block.local_path}/{path}"
            prepared[path] = self._transfer.prepare(source, version, self._target(path))

    def _commit(self, prepared: dict[str, Prepared], files: Snapshot) -> None:
        """The fewer moments it takes, the less likely is a node to vanish in one of them."""
        sizes = list(prepared.values())
        targets = {path: self._target(path) for path in prepared}

        def commit(path: str) -> None:
            stored = self._fence.write(targets[path], prepared[path].commit, targets.values())
            self._took(path, files[path], targets[path], prepared[path].sent, stored)

        together, alone = commit_steps({path: files[path] for path in prepared})
        with ThreadPoolExecutor(_COMMITS_AT_ONCE, thread_name_prefix="commit") as pool:
            for _ in pool.map(commit, together):  # the first error keeps those from starting that have not yet
                pass
        for path in alone:
            commit(path)
        self._tell("checkpoint_committed", sizes)

    def _took(self, path: str, version: Signature, target: Target, sent: int, stored: Stored) -> None:
        self.ledger.sent[path] = self._uploaded[path] = version
        self._rewritten.discard(path)
        self._objects[path] = StoredObject(target.bucket, target.key, sent, stored.etag, stored.version_id)

    def _delete(self, due: list[str], final: bool) -> None:
        deleted = 0
        for path in due:
            target = self._target(path)
            try:
                deleted += self._fence.delete(target, partial(self._siblings.have, self.block, path, final))
                self._objects.pop(path, None)
            except StorageRefused as error:  # a bucket may allow writing only; nothing is lost by what stays
                logs.warn("delete_refused", self._job, key=target.key, detail=str(error))
            self.ledger.had.discard(path)
            self.ledger.sent.pop(path, None)
            self._uploaded.pop(path, None)
        if deleted:
            logs.info("checkpoint_deleted", self._job, files=deleted)

    def _is_overwritten(self, path: str) -> bool:
        target, stored = self._target(path), self._objects.get(path)
        return self._fence.is_overwritten((target.bucket, target.key), stored.etag if stored else None)

    def _own_objects(self, objects: Mapping[str, StoredObject], brought: Snapshot) -> dict[str, StoredObject]:
        """Those of the objects that lie where their files would be sent."""
        own = {}
        for path in objects.keys() & brought.keys():
            target = self._target(path)
            if (target.bucket, target.key) == (objects[path].bucket, objects[path].key):
                own[path] = objects[path]
        return own

    def _target(self, path: str) -> Target:
        return self._transfer.target(self.block.bucket, self.block.prefix + path)

    def _tell(self, event: str, uploads: Iterable[Prepared]) -> None:
        sizes = [upload.size for upload in uploads]
        logs.info(
            event,
            self._job,
            generation=self._number,
            files=len(sizes),
            bytes=sum(sizes),
            prefix=self.block.prefix,
        )


class Hint:
    """Something may have changed in a directory. Only a hint: events get lost, so a scan decides."""

    def __init__(self) -> None:
        self._changed = threading.Event()
        self._last = 0.0
        self._stop: Callable[[], None] = lambda: None

    def listen(self, directory: str) -> None:
        from watchdog.events import (
            EVENT_TYPE_CLOSED_NO_WRITE,
            EVENT_TYPE_OPENED,
            FileSystemEvent,
            FileSystemEventHandler,
        )
        from watchdog.observers import Observer

        reading = (EVENT_TYPE_OPENED, EVENT_TYPE_CLOSED_NO_WRITE)  # as the scans and uploads themselves do
        hint = self

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                if event.event_type not in reading:
                    hint.set()

        observer = Observer()
        try:
            observer.schedule(Handler(), directory, recursive=True)
            observer.start()
        except OSError as error:  # no watches left: the periodic scan finds everything too
            logs.warn("watching_by_scans_only", directory=directory, detail=str(error))
            return
        self._stop = observer.stop

    def set(self) -> None:
        self._last = time.monotonic()
        self._changed.set()

    def wait(self, timeout: float) -> None:
        self._changed.wait(timeout)
        self._changed.clear()

    def quiet_for(self) -> float:
        return time.monotonic() - self._last

    def stop(self) -> None:
        self._stop()


def _is_rewritten(before: Signature, after: Signature) -> bool:
    """Whether the same file was not only appended to."""
    return after.size <= before.size and after.mtime_ns != before.mtime_ns


def _quiet_copy(source: Path, version: Signature, copy: Path) -> Signature | None:
    """Copy a file if it stays as it is meanwhile; the copy's signature."""
    try:
        shutil.copyfile(source, copy)
        if signature_of(source.stat()) != version:
            return None
    except FileNotFoundError:
        return None
    return signature_of(copy.stat())
