"""The files of one attempt in all stages: download, watch, flush, set aside, upload, wipe."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from kelpie_worker import logs
from kelpie_worker.checkpoints.fence import Fence
from kelpie_worker.checkpoints.manifest import JobManifest
from kelpie_worker.checkpoints.overlaps import Overlaps
from kelpie_worker.checkpoints.tracked_files import DirectoryHistory
from kelpie_worker.checkpoints.watch import Checkpoints, WatchCallbacks, WatchContext
from kelpie_worker.config import Config
from kelpie_worker.job import Job, ObjectKey, StoredObject, SyncBlock
from kelpie_worker.lease import Cancelled, Lease
from kelpie_worker.messages import (
    Aside,
    Doubted,
    Download,
    Downloaded,
    FilesChanged,
    Flush,
    Flushed,
    Lagging,
    Message,
    Refused,
    Stage,
    Staged,
    Troubled,
    Upload,
    Uploaded,
    Watch,
    Watching,
    Wipe,
    Wiped,
)
from kelpie_worker.processes.child import Tell
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.s3.errors import Misconfigured, StorageRefused
from kelpie_worker.s3.whose_fault import When
from kelpie_worker.sync.destinations import Destinations
from kelpie_worker.sync.download import download
from kelpie_worker.sync.failures import Work, WorkFailed, answer_to, last_answer, may_be_repeated
from kelpie_worker.sync.outputs import Outputs
from kelpie_worker.sync.progress import TransfersUnderWay
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.retry import Failure, retry
from kelpie_worker.transfer.file_upload import Transfer
from kelpie_worker.transfer.refusal_limit import Patience
from kelpie_worker.workspace import before_command, directories, progress_folder, set_aside
from kelpie_worker.workspace.file_version import Signature
from kelpie_worker.workspace.own_files import forget_unlinked
from kelpie_worker.workspace.paths import is_inside
from kelpie_worker.workspace.pattern import PatternTooSlow, matcher

Known = TypeVar("Known")
_BETWEEN_TRIES = Backoff(first=1.0, longest=60.0)


class JobFiles:
    """The files of one attempt: carries out its commands, each in a thread of its own, and answers each."""

    def __init__(self, claim_id: str, config: Config, client: SharedClient, tell: Tell) -> None:
        self.lease = Lease()
        self.moving = TransfersUnderWay(claim_id)
        self.wiped = False
        self._claim_id = claim_id
        self._config = config
        self._tell = tell
        self._storage = Storage(client, self.lease, config.max_retries)
        self._transfer: Transfer | None = None
        self._fence: Fence | None = None
        self._destinations: Destinations | None = None
        self._own_files = directories.own_files(config.state_file)
        self._places_file = before_command.file_of(config.state_file, claim_id)
        known = before_command.load(self._places_file)
        self._places = known or before_command.DirectoryRecord()
        self._remembering = threading.Lock()
        self._brought_objects: dict[str, StoredObject] = {}
        self._watches: list[Checkpoints] | None = None
        self._lag: Lagging | None = None  # as it was told last
        self._changed_at = 0.0  # CLOCK_BOOTTIME of the last change of a file that was told of
        self._threads: dict[type[Work], threading.Thread] = {}

    def begin(self, command: Work) -> None:
        """Start a command in a thread of its own, unless it is under way already."""
        under_way = self._threads.get(type(command))
        if under_way and under_way.is_alive():
            return
        self.moving.job = command.job
        work: dict[type[Any], Callable[[Any], Message]] = {
            Download: self._download,
            Watch: self._watch,
            Flush: self._flush,
            Stage: self._stage,
            Upload: self._upload,
            Wipe: self._wipe,
        }
        thread = threading.Thread(
            target=self._carry_out, args=(command, work[type(command)]), daemon=True, name=type(command).__name__
        )
        self._threads[type(command)] = thread
        thread.start()

    def abandon(self) -> None:
        """Send nothing more, and abort open uploads in the background."""
        self.lease.cancel()
        if self._transfer:
            threading.Thread(target=self._transfer.close, daemon=True, name="Abandon").start()

    def remember_what_was_taken(self) -> None:
        """Note on disk which directories were sent from, for the uploader that replaces this one if it dies."""
        with self._remembering:
            taken = {watch.block.local_path for watch in self._watches or () if watch.has_sent}
            if taken - self._places.taken and not self.lease.cancelled:
                self._places.taken |= taken
                before_command.save(self._places, self._places_file)

    def tell_lag(self) -> None:
        """Report how far the bucket is behind the directories, if that has changed; nothing if none is watched."""
        if not self._watches:
            return
        behind = [since for watch in self._watches if (since := watch.behind_since) is not None]
        lag = Lagging(self._claim_id, min(behind, default=None))
        if lag != self._lag:
            self._lag = lag
            self._tell(lag)

    def tell_changes(self) -> None:
        """Report that files have changed, where the job wants to know of a stall."""
        job = self.moving.job
        if not self._watches or job is None or job.steering.stall_after is None:
            return
        changed_at = max(watch.changed_at for watch in self._watches)
        if changed_at > self._changed_at:
            self._changed_at = changed_at
            self._tell(FilesChanged(self._claim_id))

    def _carry_out(self, command: Work, work: Callable[[Any], Message]) -> None:
        """Answer the command by a message, unless the attempt is over."""
        try:
            self._tell(self._answer(command, work))
        except Cancelled:
            return

    def _answer(self, command: Work, work: Callable[[Any], Message]) -> Message:
        """The command's result. Once the job's command has ended, failures are retried: its files cost hours."""

        def note(failure: Failure[WorkFailed]) -> None:
            logs.warn(
                "files_delayed", command.job, command=type(command).__name__, detail=failure.error.answer.detail
            )

        patience = Patience(When.BEFORE)

        def carry_out() -> Message:
            try:
                return work(command)
            except Cancelled:
                raise
            except Exception as error:  # any error is answered, or the job would wait for ever
                self.lease.check()
                raise WorkFailed(answer_to(error, command), patience.fault_of(error)) from error

        try:
            return retry(
                carry_out,
                on=WorkFailed,
                backoff=_BETWEEN_TRIES,
                pause=self.lease.pause,
                until=lambda failure: not may_be_repeated(failure, command),
                on_failure=note,
            )
        except WorkFailed as failed:
            return last_answer(failed.answer, command)

    # --- what the commands do -----------------------------------------------------------------------

    def _download(self, command: Download) -> Message:
        job = command.job
        if job.directories:
            self._storage.check_settings()  # now, though the first file to transfer may be an output hours later
        for block in (*job.before, *job.during, *job.after):
            matcher(block.pattern)  # so that one that does not compile is found before hours of work
        self._destinations_of(job).look()
        self._places = directories.make(job, self._config.state_file)
        before_command.write(self._places, self._places_file)  # before there is a file that a crash could leave
        brought = download(job, self._storage, self.moving.downloads, self._own_files, self.lease.pause)
        if job.before:  # storage has answered meanwhile
            self._destinations_of(job).look()
        self._places.brought, self._places.origins = brought.versions, brought.origins
        before_command.save(self._places, self._places_file)  # before the command can run
        self._brought_objects = brought.objects
        found = brought.checkpoint
        return Downloaded(
            self._claim_id, len(brought.versions), brought.bytes, found.status, found.detail, found.whole
        )

    def _watch(self, command: Watch) -> Message:
        if self._watches is None:
            if command.again:
                self._demand_earlier_files(command.job)
            directories.make_missing(command.job)
            watches = self._all_watches(command.job, is_untouched=not command.again)
            for watch in watches:
                watch.start()
            self._watches = watches
            self._await_destinations(command.job)
        return Watching(self._claim_id)

    def _await_destinations(self, job: Job) -> None:
        """Look at the buckets to upload to that storage did not answer for before the command, in a thread."""
        destinations = self._destinations_of(job)

        def look() -> None:
            try:
                destinations.await_all()
            except StorageRefused as refusal:
                self._tell_refusal(refusal)
            except Cancelled:
                return

        if not destinations.all_seen:
            threading.Thread(target=look, daemon=True, name="Destinations").start()

    def _demand_earlier_files(self, job: Job) -> None:
        """Raises OSError if a directory of an earlier run is gone: the bucket still has its files."""
        if lost := self._places.lost(job.directories):
            raise FileNotFoundError(errno.ENOENT, "the files of an earlier run of the worker are gone", lost)

    def _demand_commands_files(self, job: Job, directories_of: Iterable[str], aside: Aside = ()) -> None:
        """Once the command has ended: note which directories have files. Raises FilesLost if one has none later.

        Else a later run of the worker would take a directory that was lost for an empty one. Raises OSError.
        """
        if self._places.filled is None:
            left = {block.local_path for block in (*job.during, *job.after)}
            self._remember_filled({directory for directory in left if not before_command.is_empty(directory)})
            return
        for directory in self._places.filled.intersection(directories_of):
            moved = set_aside.moved_path(directory, aside)
            if before_command.is_empty(directory) and (moved == directory or not Path(moved).is_dir()):
                raise directories.FilesLost(f"what the command left in {directory} is gone")

    def _remember_filled(self, filled: set[str]) -> None:
        self._places.filled = filled
        before_command.save(self._places, self._places_file)

    def _flush(self, command: Flush) -> Message:
        if Watch in self._threads:  # after a restart both commands come at once
            self._threads[Watch].join()
        self._demand_commands_files(command.job, [block.local_path for block in command.job.during])
        if self._watches is None:  # an earlier uploader ended with its watches
            self._watches = self._all_watches(command.job)
        # All are stopped first: what one leaves to another, because their prefixes overlap, that one sends at its
        # end.
        for watch in self._watches:
            watch.stop()
        for watch in self._watches:
            watch.finish()
        return Flushed(self._claim_id)

    def _stage(self, command: Stage) -> Message:
        aside = self._set_aside(command.job)
        directories.wipe(command.job, self._config.state_file, self._places)
        return Staged(self._claim_id, aside)

    def _set_aside(self, job: Job) -> Aside:
        """Set the outputs aside; returns where they are.

        Without room to move them, they are uploaded right now.
        """
        state_file = self._config.state_file
        try:
            meant = set_aside.places_aside(job, state_file, self._places)
            self._demand_commands_files(job, [block.local_path for block in job.after], meant)
            return set_aside.set_aside(job, state_file, self._places)
        except OSError as error:
            logs.warn("outputs_sent_in_place", job, detail=str(error))
        moved = set_aside.places_aside(job, state_file, self._places)
        set_aside.bring_back(moved, job, state_file, self._places)
        self._outputs(job).upload((), self.moving.uploads)
        self._remember_filled(set())
        set_aside.remove_aside(moved, job)
        return ()

    def _upload(self, command: Upload) -> Message:
        if not command.aside:  # they were uploaded in place by Stage; the next job's files are there by now
            return Uploaded(self._claim_id)
        files, size = self._outputs(command.job).upload(command.aside, self.moving.uploads)
        return Uploaded(self._claim_id, files, size)

    def _outputs(self, job: Job) -> Outputs:
        return Outputs(
            job,
            self._transfers(job),
            self.lease,
            self._fence_of(job),
            self._sent_objects(),
            self._places,
            self._own_files,
        )

    def _wipe(self, command: Wipe) -> Message:
        """Delete the job's files, once no thread writes them; threads that read them may find them gone."""
        self.lease.cancel()
        for kind in (Download, Stage):
            if kind in self._threads:
                self._threads[kind].join()
        try:
            self._delete_all(command)
        except Exception as error:  # noqa: BLE001 - files that remain are better than a worker that waits for ever
            logs.error("wipe_incomplete", command.job, detail=f"{type(error).__name__}: {error}")
        self.wiped = True
        return Wiped(self._claim_id)

    def _delete_all(self, command: Wipe) -> None:
        if self._transfer:
            self._transfer.close()
        if command.aside is None:
            meant = set_aside.places_aside(command.job, self._config.state_file, self._places)
            set_aside.remove_aside(meant, command.job)
            directories.wipe(command.job, self._config.state_file, self._places)
        else:
            set_aside.remove_aside(command.aside, command.job)
        progress_folder.remove(self._config.state_file, command.job)
        self._places_file.unlink(missing_ok=True)
        forget_unlinked(Path(self._config.state_file).parent)

    # --- the objects that the commands use ----------------------------------------------------------

    def _transfers(self, job: Job) -> Transfer:
        if self._transfer is None:
            self._transfer = Transfer(self._storage, job.compression)
        return self._transfer

    def _destinations_of(self, job: Job) -> Destinations:
        if self._destinations is None:
            self._destinations = Destinations(job, self._storage, self.lease)
        return self._destinations

    def _fence_of(self, job: Job) -> Fence:
        """One fence for checkpoints and outputs of all directories: two blocks may send to one key."""
        with self._remembering:
            if self._fence is None:
                self._fence = Fence(job, self._storage, self.lease, lambda: self._tell(Doubted(self._claim_id)))
                self._fence.know(self._brought_objects.values())
            return self._fence

    def _all_watches(self, job: Job, is_untouched: bool = False) -> list[Checkpoints]:
        fence = self._fence_of(job)
        context = WatchContext(
            job, self._transfers(job), self.lease, fence, Overlaps(job), self._config.watch, self._own_files
        )
        manifests = JobManifest(self._claim_id, self._tell, fence)

        def committed(looked: float) -> None:
            self.remember_what_was_taken()  # before it is reported
            manifests.tell(looked)

        manifests.watches = [self._checkpoints(context, block, committed, is_untouched) for block in job.during]
        return manifests.watches

    def _checkpoints(
        self, context: WatchContext, block: SyncBlock, committed: Callable[[float], None], is_untouched: bool
    ) -> Checkpoints:
        directory = block.local_path
        history = DirectoryHistory(
            brought=_below(directory, self._places.brought),
            objects=_below(directory, self._brought_objects),
            origins=_below(directory, self._places.origins),
            sent=directory in self._places.taken,
            is_untouched=is_untouched,
            is_of_another_boot=self._places.is_of_another_boot,
        )
        callbacks = WatchCallbacks(
            busy=lambda paths: self.moving.uploads(f"{directory}/{path}" for path in paths),
            committed=committed,
            refused=self._tell_refusal,
        )
        return Checkpoints(context, block, self._places.real_path(directory), history, callbacks)

    def _tell_refusal(self, refusal: StorageRefused | PatternTooSlow) -> None:
        if isinstance(refusal, Misconfigured):
            self._tell(Troubled(self._claim_id, "configuration", str(refusal)))
            return
        reason = "pattern" if isinstance(refusal, PatternTooSlow) else "upload"
        self._tell(Refused(self._claim_id, reason, str(refusal)))

    def _sent_objects(self) -> dict[ObjectKey, Signature]:
        """What is in the bucket already, by bucket and key."""
        objects: dict[ObjectKey, Signature] = {}
        for watch in self._watches or ():
            objects |= watch.sent_objects()
        return objects


def _below(directory: str, known: Mapping[str, Known]) -> dict[str, Known]:
    """What is known of files in a directory, by relative paths instead of absolute ones."""
    return {os.path.relpath(path, directory): fact for path, fact in known.items() if is_inside(path, directory)}
