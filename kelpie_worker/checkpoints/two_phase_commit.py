"""The upload of one generation of a watched directory: all of it prepared invisibly, then committed in order."""

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from kelpie_worker import logs
from kelpie_worker.checkpoints.fence import Fence
from kelpie_worker.checkpoints.plan import commit_steps, prepare_order
from kelpie_worker.checkpoints.tracked_files import TrackedFiles
from kelpie_worker.job import Job, StoredObject, SyncBlock
from kelpie_worker.lease import Lease
from kelpie_worker.s3.errors import Misconfigured, NoBucket, NotBegun, StorageRefused
from kelpie_worker.s3.objects import Target
from kelpie_worker.transfer.file_upload import WHOLE_SIZE, Prepared, Transfer
from kelpie_worker.workspace.file_version import NoCopy, Signature, Snapshot, Spoiled, tail_of

_COMMITS_AT_ONCE = 8
_MOST_REFUSALS = 16  # without anything being taken: then it is not for the keys
_MOST_PROBES = 3
_SPOILED_BEFORE_COPY = 2


class Unreadable(StorageRefused):
    """This worker has no permission to read a file. Nothing was sent to storage."""


@dataclass
class NotSent:
    """The files of a generation that were not uploaded, and why."""

    refused: dict[str, StorageRefused] = field(default_factory=dict)  # while others were taken; or Unreadable
    removed: set[str] = field(default_factory=set)  # deleted together with their directories


class Generations:
    """Uploads the generations of one block, one at a time, and records in `files` what was committed."""

    def __init__(
        self, job: Job, block: SyncBlock, transfer: Transfer, lease: Lease, fence: Fence, files: TrackedFiles
    ) -> None:
        self._job = job
        self._block = block
        self._transfer = transfer
        self._lease = lease
        self._fence = fence
        self._files = files
        self._number = 0
        self._spoiled_in_a_row = 0  # generations
        self.has_sent = False  # whether the bucket has taken anything

    def target(self, path: str) -> Target:
        """Where a file is sent."""
        return self._transfer.target(self._block.bucket, self._block.prefix, path)

    def read_tails(self, files: Snapshot) -> None:
        """Note the last bytes of files that are in the bucket as they are here."""
        for path, version in files.items():
            self._files[path].tail = tail_of(self._source(path), version.size)

    def mark_rewritten(self, changed: Snapshot) -> None:
        """Mark those that were written anew and became longer than what was sent: they only look like logs."""
        for path, version in changed.items():
            file = self._files[path]
            has_grown = file.sent and file.sent.inode == version.inode and file.sent.size < version.size
            if file.sent and has_grown and not self._begins_as_sent(path, file.sent, file.tail):
                file.movement.rewritten = True

    def _begins_as_sent(self, path: str, sent: Signature, tail: bytes | None) -> bool:
        """Whether a file that became longer was only appended to, as far as its last bytes then can tell."""
        return tail is None or tail_of(self._source(path), sent.size) == tail

    def send(self, files: Snapshot) -> NotSent:
        """Prepare all files, then commit them, without those that are rewritten even while they are copied.

        Raises Spoiled before anything is visible; the storage's errors; a refusal only if all files were refused.
        """
        self._number += 1
        prepared: dict[str, Prepared] = {}
        try:
            not_sent = self._prepare(files, prepared)
            if not prepared:
                return not_sent
            for upload in prepared.values():
                upload.ready()
            self._tell("checkpoint_prepared", prepared.values())
            not_sent.refused |= self._commit(prepared, files)
        finally:
            for upload in prepared.values():
                upload.abort()
        return not_sent

    def _prepare(self, files: Snapshot, prepared: dict[str, Prepared]) -> NotSent:
        left = NotSent()
        spoiled = False
        for path in prepare_order(files, WHOLE_SIZE):
            self._lease.check()
            prepare = (
                self._prepare_copy if self._files[path].spoiled >= _SPOILED_BEFORE_COPY else self._prepare_one
            )
            try:
                prepare(path, files[path], prepared)
            except NotBegun as refusal:
                if not left.refused and not self._takes_another(files.keys() - {path}):
                    raise
                left.refused[path] = refusal
            except PermissionError as error:
                left.refused[path] = Unreadable(f"{self._source(path)} cannot be read: {error.strerror}")
            except Spoiled:
                if self._is_removed(path):
                    left.removed.add(path)
                elif self._spoiled_in_a_row < _SPOILED_BEFORE_COPY:
                    self._spoiled_in_a_row += 1
                    raise
                # where files are created and deleted all the time, the others do not wait for a quiet moment
                else:
                    spoiled = True
        if not spoiled:
            self._spoiled_in_a_row = 0
        self._drop_halves(prepared, left.removed)
        return left

    def _is_removed(self, path: str) -> bool:
        """Whether the file was deleted with its whole directory, as old checkpoints are, and not only replaced."""
        return self._removed_directory(path) is not None

    def _removed_directory(self, path: str) -> PurePosixPath | None:
        """The outermost parent directory of the file, below the watched one, that is gone; None if none is."""
        gone = [parent for parent in PurePosixPath(path).parents if not Path(self._source(str(parent))).exists()]
        return gone[-1] if gone and gone[-1].name else None

    def _drop_halves(self, prepared: dict[str, Prepared], removed: set[str]) -> None:
        """Abort the uploads of files whose directory was deleted before the rest of it was read."""
        halves = {self._removed_directory(path) for path in removed}
        for path in [path for path in prepared if halves.intersection(PurePosixPath(path).parents)]:
            prepared.pop(path).abort()
            removed.add(path)

    def _takes_another(self, paths: Collection[str]) -> bool:
        """Whether the bucket takes any of these. If not, a refusal is not for one key, and none is committed."""
        return any(self._transfer.may_begin(self.target(path)) for path in sorted(paths)[:_MOST_PROBES])

    def _prepare_one(self, path: str, version: Signature, prepared: dict[str, Prepared]) -> None:
        try:
            prepared[path] = self._transfer.prepare(self._source(path), version, self.target(path))
        except Spoiled:
            self._files[path].spoiled += 1
            raise

    def _prepare_copy(self, path: str, version: Signature, prepared: dict[str, Prepared]) -> None:
        """Prepare from a copy, so that a file that is rewritten all the time is uploaded some time.

        If it is rewritten even while it is copied, it is left to the next generation. If it cannot be copied, it
        is read in place, and left to the next generation if it is rewritten meanwhile.
        """
        with suppress(Spoiled):
            try:
                prepared[path] = self._transfer.prepare_copy(self._source(path), version, self.target(path))
            except NoCopy as error:
                logs.warn("no_room_to_copy", self._job, path=path, detail=str(error))
                prepared[path] = self._transfer.prepare(self._source(path), version, self.target(path))

    def _source(self, path: str) -> str:
        return f"{self._block.local_path}/{path}"

    def _commit(self, prepared: dict[str, Prepared], files: Snapshot) -> dict[str, StorageRefused]:
        """Commit all files, several at a time: a machine that vanishes meanwhile leaves a torn checkpoint.

        Returns the files that were refused while others were taken. If all are refused, a refusal is raised.
        """
        targets = {path: self.target(path) for path in prepared}
        taken: list[str] = []
        refused: dict[str, StorageRefused] = {}

        def commit(path: str) -> None:
            target = targets[path]
            try:
                stored = self._fence.write(target, prepared[path].commit, targets.values())
            except (NoBucket, Misconfigured):
                raise
            except StorageRefused as refusal:
                refused[path] = refusal
                if not taken and len(refused) >= _MOST_REFUSALS:
                    raise
                return
            taken.append(path)
            size = prepared[path].sent
            there = StoredObject(target.bucket, target.key, size, stored.etag, stored.version_id)
            self._files[path].take(files[path], there, prepared[path].tail)
            self.has_sent = True

        together, alone = commit_steps({path: files[path] for path in prepared})
        with ThreadPoolExecutor(_COMMITS_AT_ONCE, thread_name_prefix="commit") as pool:
            for _ in pool.map(commit, together):  # the first error keeps those from starting that have not yet
                pass
        for path in alone:
            commit(path)
        if refused and not taken:
            raise next(iter(refused.values()))
        self._tell("checkpoint_committed", [prepared[path] for path in taken])
        return refused

    def _tell(self, event: str, uploads: Iterable[Prepared]) -> None:
        sizes = [upload.size for upload in uploads]
        logs.info(
            event,
            self._job,
            generation=self._number,
            files=len(sizes),
            bytes=sum(sizes),
            prefix=self._block.prefix,
        )
