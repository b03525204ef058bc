"""A directory that is sent while the command writes to it, as generations committed in two phases.

A *generation* is one scan of the quiet directory. All of its files are prepared first: their bytes are in the
bucket, or in memory if small, and nothing is visible. Then, while the lease is safe, they are committed in the
order in which they were written, the markers that name the others last. What the command has removed is
deleted after that. So a resume finds one whole generation, but for the moment of a commit.

Here is the loop: `observer` looks, `mirror` decides, and the loop carries the decision out.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from kelpie_worker import logs
from kelpie_worker.checkpoints.deletion import Deletions
from kelpie_worker.checkpoints.fence import Fence
from kelpie_worker.checkpoints.large_grown_files import AsideUpload, AsideUploads
from kelpie_worker.checkpoints.mirror import Look, Mirror, Send, UpToDate, Wait
from kelpie_worker.checkpoints.observer import DirectoryObserver
from kelpie_worker.checkpoints.overlaps import Overlaps
from kelpie_worker.checkpoints.pacing import Pacing
from kelpie_worker.checkpoints.stability import Stability
from kelpie_worker.checkpoints.tracked_files import DirectoryHistory, TrackedFile, TrackedFiles
from kelpie_worker.checkpoints.two_phase_commit import Generations, NotSent
from kelpie_worker.checkpoints.unseen_changes import Contents
from kelpie_worker.config import WatchTimes
from kelpie_worker.job import Job, Manifest, ObjectKey, StoredObject, SyncBlock
from kelpie_worker.lease import Cancelled, Lease
from kelpie_worker.s3.errors import (
    Misconfigured,
    NoBucket,
    NotThere,
    StorageRefused,
    StorageUnreachable,
    Unsaid,
)
from kelpie_worker.s3.objects import Version
from kelpie_worker.s3.whose_fault import LONGEST, When
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.linux import boottime
from kelpie_worker.system.retry import Failure, Interrupted, retry
from kelpie_worker.transfer.file_upload import Prepared, Rewritten, Transfer
from kelpie_worker.transfer.refusal_limit import Patience, RefusalsOnTheWay
from kelpie_worker.workspace.file_version import Signature, Snapshot, Spoiled
from kelpie_worker.workspace.pattern import PatternTooSlow, matcher
from kelpie_worker.workspace.scan import Scanner

_AFTER_TROUBLE = Backoff(first=1.0, longest=60.0)
_PAUSE_IF_UNSTEADY = 1.0  # seconds


@dataclass(frozen=True)
class WatchContext:
    """What the watches of one attempt share."""

    job: Job
    transfer: Transfer
    lease: Lease
    fence: Fence
    overlaps: Overlaps
    times: WatchTimes
    own_files: frozenset[str]


@dataclass(frozen=True)
class WatchCallbacks:
    """What a watch calls, from its own thread."""

    busy: Callable[[Iterable[str]], None]  # with the paths that are being uploaded
    # Once a generation is whole, with the time of the look that it is of; `whole` says then what it is.
    committed: Callable[[float], None]
    # Once, if storage keeps refusing before it took anything, or if matching the pattern takes too long.
    refused: Callable[[StorageRefused | PatternTooSlow], None]


class Checkpoints:
    """Watches one block of `sync.during` in a thread of its own, from `start` to `finish`."""

    def __init__(
        self,
        context: WatchContext,
        block: SyncBlock,
        real_path: str,
        history: DirectoryHistory,
        callbacks: WatchCallbacks,
    ) -> None:
        """`real_path` is that of the block's `local_path`."""
        job, fence, overlaps = context.job, context.fence, context.overlaps
        matches = matcher(block.pattern)
        self.block = block
        self._key_in = partial(context.transfer.key_in, block.prefix)
        self.files = TrackedFiles(history, matches, self._key_of)
        self.stability = Stability(context.times.max_wait)
        self.whole: Manifest = tuple(self.files.objects.values())  # of the last whole generation
        self.waits = False  # for files that are being written
        self._context = context
        self._callbacks = callbacks
        self._sent_before = history.sent
        self._told = False  # that storage refuses
        scanner = Scanner(block.local_path, matches, context.own_files, real_path, key_of=self._key_in)
        self._observer = DirectoryObserver(
            block, scanner, self.files, self.stability, context.times, fence, overlaps, self._key_of
        )
        self._generations = Generations(job, block, context.transfer, context.lease, fence, self.files)
        self._aside = AsideUploads(self._observer.file_events.set)
        pacing = Pacing(self._generations.may_copy, self._generations.seconds_for, lambda: self._aside.paths)
        self._mirror = Mirror(self.files, self.stability, pacing, block.mirrors_deletes)
        self._deletions = Deletions(job, block, fence, overlaps, self._key_of, history.sent)
        self._aside_transfer = context.transfer.slower()
        self._unsteady: Collection[str] = ()  # files that the last generation left out, for they move
        self._unsteady_since: float | None = None
        self._finishing = threading.Event()
        self._contents = Contents(
            job, block, self.files, history, context.lease, self._finishing, self._observer.file_events.set
        )
        self._thread = threading.Thread(target=self._watch, daemon=True, name="checkpoints")
        self._error: BaseException | None = None
        fence.know(history.objects.values())

    def start(self) -> None:
        """Start watching: every change after the return is noticed."""
        found = self._observer.look().found
        self._contents.begin(found)
        for path in found:
            self.files[path].was_here = True
        changed = self.files.changed(found)
        self._generations.read_tails({path: found[path] for path in found.keys() - changed.keys()})
        self._observer.file_events.listen(self.block.local_path)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, and wait until no upload is running; `finish` sends what is left."""
        self._finishing.set()
        self._observer.file_events.set()
        if self._thread.ident is not None:
            self._thread.join()

    def finish(self) -> None:
        """Upload the last state, retried without a limit. Raises StorageRefused, OSError, Cancelled."""
        self.stop()
        if self._error:
            raise self._error
        if self._thread.ident is None:  # an earlier uploader watched while the command ran
            self._contents.begin(self._observer.look().found)
        patience = Patience(When.AFTER)
        on_the_way = RefusalsOnTheWay(
            partial(self._context.transfer.storage.takes_uploads, self.block.bucket, self.block.prefix)
        )

        def note(failure: Failure[Exception]) -> None:
            on_the_way.note(failure.error)
            self._note_delay(failure)

        self._unsteady_since = None
        retry(
            self._send_the_rest,
            on=(StorageUnreachable, StorageRefused),
            backoff=_AFTER_TROUBLE,
            pause=self._context.lease.pause,
            until=lambda failure: patience.has_ended(failure) or self._is_told(failure),
            on_failure=note,
        )

    @property
    def behind_since(self) -> float | None:
        """CLOCK_BOOTTIME since when the bucket has not got all of the directory; None while it has."""
        return self._observer.behind_since

    @property
    def changed_at(self) -> float:
        """CLOCK_BOOTTIME of the last change that was seen in the directory, 0 before there was one."""
        return self._observer.changed_at

    @property
    def has_sent(self) -> bool:
        """Whether the bucket has taken anything."""
        return self._generations.has_sent

    def sent_objects(self) -> dict[ObjectKey, Signature]:
        """The versions that this watch has put into the bucket, and that are still there, by bucket and key."""
        return {
            file.stored.place: file.uploaded
            for file in self.files.values()
            if file.uploaded
            and not file.content.may_differ
            and file.stored
            and not self._is_overwritten(file.stored)
        }

    def _is_overwritten(self, stored: StoredObject) -> bool:
        return self._context.fence.is_overwritten(stored.place, Version(stored.etag))

    # --- while the command runs ---------------------------------------------------------------------

    def _watch(self) -> None:
        try:
            with suppress(Interrupted):
                self._send_changes()
        except BaseException as error:  # noqa: BLE001 - `finish` raises it in the caller's thread
            self._error = error
            if isinstance(error, PatternTooSlow):
                self._callbacks.refused(error)
        finally:
            self._observer.file_events.stop()

    def _send_changes(self) -> None:
        """Upload changes until the command has ended.

        Any error is retried: a defect must not end the checkpoints.
        """
        patience = Patience(When.WHILE)
        while not self._finishing.is_set():
            up_to_date = retry(
                partial(self.cycle, final=False),
                on=Exception,
                backoff=_AFTER_TROUBLE,
                pause=self._finishing.wait,
                until=lambda failure: isinstance(failure.error, Cancelled | PatternTooSlow),
                on_failure=partial(self._note_trouble, patience),
            )
            patience.renew()
            if up_to_date:
                self._observer.wait_for_change()
            self._context.lease.check()

    def _note_trouble(self, patience: Patience, failure: Failure[Exception]) -> None:
        error = failure.error
        if isinstance(error, StorageUnreachable | StorageRefused | OSError):
            self._note_delay(failure)
            self._tell_refusal(patience, failure)
        else:
            logs.error("checkpoint_failed", self._context.job, detail=f"{type(error).__name__}: {error}")

    def _note_delay(self, failure: Failure[Exception]) -> None:
        logs.warn("checkpoint_delayed", self._context.job, detail=str(failure.error))

    def _tell_refusal(self, patience: Patience, failure: Failure[Exception]) -> None:
        """Report the refusal once, if the bucket never took anything: the command must not run on in vain."""
        error = failure.error
        may_pass = self._told or self.has_sent or self._sent_before or isinstance(error, NotThere)
        if not may_pass and patience.has_ended(failure) and isinstance(error, StorageRefused):
            self._told = True
            self._callbacks.refused(error)

    def _is_told(self, failure: Failure[Exception]) -> bool:
        return self._told and isinstance(failure.error, StorageRefused)

    # --- when it has ended --------------------------------------------------------------------------

    def _send_the_rest(self) -> None:
        """Upload until the bucket has everything but files that are still being written after LONGEST seconds."""
        while True:
            self._unsteady = ()
            if self.cycle(final=True):
                return
            self._unsteady_since = (self._unsteady_since or boottime()) if self._unsteady else None
            if self._unsteady_since and boottime() - self._unsteady_since >= LONGEST:
                logs.warn("checkpoint_without_restless", self._context.job, files=sorted(self._unsteady))
                return
            self._context.lease.pause(_PAUSE_IF_UNSTEADY if self._unsteady else 0)

    # --- one iteration ------------------------------------------------------------------------------

    def cycle(self, final: bool) -> bool:
        """One iteration: scan, and carry out what `mirror` decides. True if nothing is left to do, or it may wait.

        With `final` the directory is taken as it is; there is no waiting for a quiet moment.
        """
        self._commit_aside()
        if final:
            self._give_up_aside()
        look = self._observer.look(final=True) if final else self._quiet_look()
        with self._generations.pinned(look.found):
            return self._decide(look)

    def _decide(self, look: Look) -> bool:
        self._contents.compare(look)
        self._generations.mark_rewritten(self.files.changed(look.found))
        decision = self._mirror.decide(look)
        self.waits = isinstance(decision, Wait)
        match decision:
            case UpToDate():
                if self._observer.is_unreported:
                    self._tell_whole(())
                    self._observer.note_lag(look.found)
                return True
            case Wait(seconds):
                self._finishing.wait(seconds)
                return False
            case Send():
                return self._carry_out(decision, look)

    def _quiet_look(self) -> Look:
        return self._observer.look_when_quiet(self._finishing, self._context.lease.check)

    def _carry_out(self, decision: Send, look: Look) -> bool:
        self._begin_aside(decision.aside)
        # Until it is reported: also where a part of it is committed and an error ends the rest.
        self._observer.is_unreported |= bool(decision.files)
        try:
            not_sent = self._send(decision, look) if decision.files else NotSent()
        except Spoiled as error:
            logs.debug("checkpoint_spoiled", self._context.job, path=str(error))
            return False
        look = look.without(not_sent.removed, is_one_state=not_sent.is_one_state)
        decision = replace(decision, held=decision.held | not_sent.held)
        sequel = self._mirror.after(decision, look, time.monotonic(), self._observer.is_unreported)
        if sequel is None:
            return False
        if sequel.is_whole:
            self._tell_whole(sequel.delete)
        self._deletions.delete(sequel.delete, self.files, look.final)
        self.files.end_generation(look.found)
        self._observer.note_lag(look.found)
        self._unsteady = sequel.unsteady
        return sequel.up_to_date

    # --- beside the generations ---------------------------------------------------------------------

    def _begin_aside(self, files: Snapshot) -> None:
        for path, version in files.items():
            file = self.files[path]
            prepare = self._generations.prepare_aside(path, version, self._aside_transfer)
            self._aside.begin(path, version, file.sent, prepare)

    def _commit_aside(self) -> None:
        """Commit what has been sent aside. A refusal is for one file. Raises storage's errors, Cancelled."""
        while upload := self._aside.ended():
            self._callbacks.busy(self._aside.paths)
            file = self.files[upload.path]
            try:
                prepared = upload.prepared.result()
            except Rewritten:
                file.movement.rewritten = True
            except (NoBucket, Misconfigured):
                raise
            except StorageRefused as refusal:
                self._note_refused({upload.path: refusal})
            except (Spoiled, OSError) as error:
                logs.debug("checkpoint_spoiled", self._context.job, path=str(error))
            else:
                self._commit_one(upload, file, prepared)

    def _commit_one(self, upload: AsideUpload, file: TrackedFile, prepared: Prepared) -> None:
        """Commit it, unless another version has been sent meanwhile, or the file is another one."""
        if file.sent != upload.over or not file.has_grown(upload.version):
            prepared.abort()
            return
        self._generations.commit_aside(upload.path, upload.version, prepared)
        self._observer.is_unreported = True

    def _give_up_aside(self) -> None:
        """Stop what is being sent aside: the last generation sends it, whole or as it is by now."""
        self._aside.forget()
        self._aside_transfer.close()

    def _send(self, decision: Send, look: Look) -> NotSent:
        """Upload a generation; returns the files left out. Raises Spoiled, storage's errors, Cancelled."""
        files = decision.files
        is_whole = decision.is_all and not decision.restless and look.is_one_state
        is_whole = is_whole and files.keys() == self.files.changed(look.found).keys()
        removed = [self._key_of(path)[1] for path in decision.removed]
        self._callbacks.busy([*files, *self._aside.paths])
        proven = self._contents.proven(files, look)
        try:
            grown_without = partial(self._observer.grown_without, look.found)
            not_sent = self._generations.send(files, grown_without, look.final, is_whole, removed)
            self._note_refused(not_sent.refused)
            if self._finishing.is_set() and not_sent.refused.keys() == files.keys():  # only they are left
                raise next(iter(not_sent.refused.values()))
        except StorageRefused:
            # All files were refused: that is no news about those that had not been refused before.
            self._put_off(path for path in files if self.files[path].refused)
            raise
        finally:
            self._contents.note_sent(files, proven)
            self._callbacks.busy(self._aside.paths)
        return not_sent

    def _note_refused(self, refused: Mapping[str, StorageRefused | Unsaid]) -> None:
        for path, refusal in refused.items():
            if not self.files[path].refused:
                logs.warn("checkpoint_file_refused", self._context.job, path=path, detail=str(refusal))
        self._put_off(refused)

    def _put_off(self, paths: Iterable[str]) -> None:
        now = time.monotonic()
        for path in paths:
            self.files[path].put_off(now)

    def _tell_whole(self, without: Collection[str]) -> None:
        """Report what the bucket has as a whole generation.

        Before anything is deleted, so that the bucket has every object that it names.
        """
        self._observer.is_unreported = False
        objects = self.files.objects
        self.whole = tuple(objects[path] for path in sorted(objects.keys() - set(without)))
        self._callbacks.committed(self._observer.looked)

    def _key_of(self, path: str) -> ObjectKey:
        return self.block.bucket, self._key_in(path)
