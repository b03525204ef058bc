"""The upload of one generation of a watched directory: all of it prepared invisibly, then committed in order."""

import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath

from kelpie_worker import logs
from kelpie_worker.checkpoints.commit_order import commit_steps, prepare_order
from kelpie_worker.checkpoints.fence import Fence
from kelpie_worker.checkpoints.generation_mark import Mark, removals
from kelpie_worker.checkpoints.tracked_files import Sendings, TrackedFile, TrackedFiles
from kelpie_worker.job import Job, StoredObject, SyncBlock
from kelpie_worker.lease import Lease
from kelpie_worker.s3.errors import Misconfigured, NoBucket, NotBegun, NotCopied, StorageRefused, Unsaid
from kelpie_worker.s3.objects import Target
from kelpie_worker.transfer.file_upload import Beginning, Prepared, Rewritten, Transfer
from kelpie_worker.transfer.part_sizes import WHOLE_SIZE
from kelpie_worker.workspace.file_version import (
    NoCopy,
    PinnedFile,
    Signature,
    Snapshot,
    Spoiled,
    begins_with,
    signature_of,
    tail_of,
)

_COMMITS_AT_ONCE = 8
_MOST_REFUSALS = 16  # without anything being taken: then it is not for the keys
_MOST_PROBES = 3
_SPOILED_BEFORE_COPY = 2
_MOST_PINNED = 256
_USUAL_RATE = 1_000_000.0  # bytes a second of an uplink of which nothing is known yet
_READ_EACH_TIME = 1024 * 1024  # bytes, to compare a file with what was sent of it
_PROOF_PAUSE_FACTOR = 20  # times as long as it takes to compare a file with what was sent of it


# Without these files, those that became longer since the look; None if anything else has changed.
GrownWithout = Callable[[Collection[str]], Collection[str] | None]


class Unreadable(StorageRefused):
    """This worker has no permission to read a file. Nothing was sent to storage."""


@dataclass
class NotSent:
    """The files of a generation that were not uploaded, and why."""

    # While others were taken; or Unreadable.
    refused: dict[str, StorageRefused | Unsaid] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)  # deleted together with their directories
    held: set[str] = field(default_factory=set)  # files that grew, and turned out to cost too much
    is_one_state: bool = True  # the directory is known to have been as the others are, without the removed ones


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
        self._mark: Mark | None = None  # of the generation under way
        self._spoiled_in_a_row = 0  # generations
        self._pins_all = False  # since a file was gone before its turn, until a generation needs no pin
        self._needed_pins = False  # the generation under way
        self._pinned: dict[str, PinnedFile] = {}
        self._rate = _USUAL_RATE
        self.has_sent = False  # whether the bucket has taken anything

    def target(self, path: str) -> Target:
        """Where a file is sent, with the mark of the generation under way."""
        target = self._transfer.target(self._block.bucket, self._block.prefix, path)
        return replace(target, metadata=self._mark.metadata) if self._mark else target

    def read_tails(self, files: Snapshot) -> None:
        """Note the last bytes of files that are in the bucket as they are here."""
        for path, version in files.items():
            self._files[path].tail = tail_of(self._source(path), version.size)

    def mark_rewritten(self, changed: Snapshot) -> None:
        """Mark those that were written anew and became longer than what was sent: they only look like logs."""
        for path, version in changed.items():
            file = self._files[path]
            if file.sent and file.has_grown(version) and not self._begins_as_sent(path, file, file.sent.size):
                file.movement.rewritten = True

    def _begins_as_sent(self, path: str, file: TrackedFile, size: int) -> bool:
        """Whether a file that became longer was only appended to.

        Its last bytes then are looked at each time; all that was sent too, if that is little, else as often as its
        reading allows.
        """
        began = time.monotonic()
        if file.tail is not None and tail_of(self._source(path), size) != file.tail:
            return False
        if file.content.digest is None or (size > _READ_EACH_TIME and began < file.sendings.proven_until):
            return True
        is_prefix = begins_with(self._source(path), size, file.content.digest)
        now = time.monotonic()
        file.sendings.proven_until = now + _PROOF_PAUSE_FACTOR * (now - began)
        return is_prefix

    def may_copy(self, file: TrackedFile) -> bool:
        """Whether storage is likely to copy what it has of this file."""
        beginning = None if file.sendings.is_not_copied else _beginning(file)
        return beginning is not None and self._transfer.may_copy(self._block.bucket, beginning.size)

    def seconds_for(self, size: int) -> float:
        """How long it takes to send so many bytes, as far as earlier ones tell."""
        return size / self._rate

    def send(
        self,
        files: Snapshot,
        grown_without: GrownWithout,
        final: bool = False,
        is_whole: bool = False,
        removed: Iterable[str] = (),
    ) -> NotSent:
        """Prepare all files, then commit them, without those that are rewritten even while they are copied.

        `grown_without` looks at the directory again, if files were removed. With `final` no file is left out for
        what it costs. `is_whole` says whether the bucket lacks only these of the directory's files, and `removed`
        which keys are to be deleted next: the objects' marks have both.

        Raises Spoiled before anything is visible; the storage's errors; a refusal only if all files were refused.
        """
        self._number += 1
        is_whole = is_whole and not any(self._goes_while_it_grows(path, files[path]) for path in files)
        self._mark = self._mark_of(len(files) if is_whole else 0, removed)
        began = time.monotonic()
        prepared: dict[str, Prepared] = {}
        try:
            not_sent = self._prepare(files, prepared, final, grown_without)
            if not prepared:
                return not_sent
            for upload in prepared.values():
                upload.ready()
            self._note_rate(prepared.values(), time.monotonic() - began)
            self._tell("checkpoint_prepared", prepared.values())
            not_sent.refused |= self._commit(prepared, files)
        finally:
            for upload in prepared.values():
                upload.abort()
        return not_sent

    @contextmanager
    def pinned(self, found: Snapshot) -> Iterator[None]:
        """Keep open, from right after a look on, what was gone or replaced before it could be read the last times.

        What is done between, such as to see which files are open, may take longer than the command takes from one
        version to the next; and so may the upload of the others, where old checkpoints are removed all the time.
        """
        with ExitStack() as stack:
            for path in self._to_be_pinned(found):
                with suppress(Spoiled, OSError):
                    self._pinned[path] = stack.enter_context(PinnedFile.of(self._source(path), found[path]))
            try:
                yield
            finally:
                self._pinned = {}

    def _to_be_pinned(self, found: Snapshot) -> list[str]:
        often = [path for path in found if path in self._files and self._is_spoiled_often(path)]
        changed = self._files.changed(found) if self._pins_all else {}
        if changed and sum(version.size for version in changed.values()) > self._room_for_removed():
            changed = {}
        last_first = prepare_order(changed, WHOLE_SIZE)[::-1]  # what is read last is most likely to be gone
        return list(dict.fromkeys([*often, *last_first]))[:_MOST_PINNED]

    def _room_for_removed(self) -> int:
        """How many bytes of files that the command has removed may stay on its disk while they are pinned."""
        with suppress(OSError):
            # The command may write as much again meanwhile.
            return shutil.disk_usage(self._block.local_path).free // 2
        return 0

    def _is_spoiled_often(self, path: str) -> bool:
        return self._files[path].spoiled >= _SPOILED_BEFORE_COPY

    def _mark_of(self, files: int, removed: Iterable[str]) -> Mark | None:
        """The mark of a generation that begins now; none where attempts have no numbers, nor manifests then."""
        if self._job.attempt is None:
            return None
        block = self._job.during.index(self._block) if self._block in self._job.during else 0
        # By the machine's clock, for an uploader that was restarted counts its generations anew.
        return Mark(self._job.attempt, block, time.time_ns() // 1_000_000, files, removals(removed))

    def _note_rate(self, uploads: Iterable[Prepared], took: float) -> None:
        """Learn how fast the uplink is. Small files are sent by their commit, and do not count."""
        if size := sum(upload.read for upload in uploads if upload.read > WHOLE_SIZE):
            self._rate = size / max(took, 0.001)

    def prepare_aside(self, path: str, version: Signature, transfer: Transfer) -> Callable[[], Prepared]:
        """What prepares all of a file that has grown, in any thread. See `Transfer.prepare_growth`."""
        self._mark = self._mark_of(0, ())  # it belongs to no generation
        where = self._source(path), version, self.target(path)
        if beginning := _beginning(self._files[path]):
            return partial(transfer.prepare_growth, *where, beginning, copied=False)
        return partial(transfer.prepare, *where)

    def commit_aside(self, path: str, version: Signature, upload: Prepared) -> None:
        """Commit one file that was prepared beside the generations. Raises the storage's errors, Cancelled."""
        try:
            self._commit({path: upload}, {path: version})
        finally:
            upload.abort()

    def _prepare(
        self, files: Snapshot, prepared: dict[str, Prepared], final: bool, grown_without: GrownWithout
    ) -> NotSent:
        left = NotSent()
        spoiled = False
        self._needed_pins = False
        for path in prepare_order(files, WHOLE_SIZE):
            self._lease.check()
            try:
                left.is_one_state &= self._prepare_file(path, files[path], prepared, final)
            except NotCopied:
                left.held.add(path)
            except NotBegun as refusal:
                if not left.refused and not self._takes_another(files.keys() - {path}):
                    raise
                left.refused[path] = refusal
            except PermissionError as error:
                left.refused[path] = Unreadable(f"{self._source(path)} cannot be read: {error.strerror}")
            except Spoiled:
                self._pins_all = True
                if self._is_removed(path):
                    left.removed.add(path)
                elif self._spoiled_in_a_row < _SPOILED_BEFORE_COPY:
                    self._spoiled_in_a_row += 1
                    raise
                # where files are created and deleted all the time, the others do not wait for a quiet moment
                else:
                    spoiled = True
        self._drop_halves(prepared, left.removed)
        # Old checkpoints may go, but not together with a change of what names them: `latest` was read before it.
        if left.removed and not self._is_as_found_without(left.removed, prepared, grown_without):
            if self._spoiled_in_a_row < _SPOILED_BEFORE_COPY:
                self._spoiled_in_a_row += 1
                raise Spoiled(f"{sorted(left.removed)[0]} was removed, and other files changed")
            left.is_one_state, spoiled = False, True
        if not spoiled:
            self._spoiled_in_a_row = 0
            self._pins_all = self._needed_pins
        return left

    def _is_as_found_without(
        self, removed: Collection[str], prepared: Mapping[str, Prepared], grown_without: GrownWithout
    ) -> bool:
        """Whether the directory, without what was removed, still begins with what was read of each file.

        A file that became longer may have been written anew: `step9` in it is `step10` now.
        """
        grown = grown_without(removed)
        return grown is not None and all(self._was_appended_to(path, prepared.get(path)) for path in grown)

    def _was_appended_to(self, path: str, upload: Prepared | None) -> bool:
        file = self._files[path]
        if upload:
            return begins_with(self._source(path), upload.size, upload.digest)
        return file.sent is None or self._begins_as_sent(path, file, file.sent.size)

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

    def _prepare_file(self, path: str, version: Signature, prepared: dict[str, Prepared], final: bool) -> bool:
        """Prepare one file; returns whether it is known that the file has been like that.

        Where that version is gone, it is read through the descriptor that has been open since the look.
        """
        may_be_half = False
        try:
            if self._files[path].has_grown(version):
                self._prepare_growth(path, version, prepared, final)
            elif not self._is_spoiled_often(path):
                self._prepare_one(path, version, prepared)
            elif self._goes_while_it_grows(path, version):
                self._prepare_one(path, version, prepared, may_have_grown=True)
                may_be_half = not self._is_still(path, version)  # it may have been written anew, and longer
            else:
                self._prepare_copy(path, version, prepared)
        except Spoiled:
            if not self._prepare_pinned(path, prepared):
                raise
        return not may_be_half

    def _goes_while_it_grows(self, path: str, version: Signature) -> bool:
        """Whether the beginning of what is there by now is sent: nothing was sent before to compare it with."""
        file = self._files[path]
        return self._is_spoiled_often(path) and file.movement.only_grows and not file.has_grown(version)

    def _is_still(self, path: str, version: Signature) -> bool:
        with suppress(OSError):
            return signature_of(Path(self._source(path)).stat()) == version
        return False

    def _prepare_pinned(self, path: str, prepared: dict[str, Prepared]) -> bool:
        """Prepare a version that has been kept open, though the file was removed or replaced."""
        if pinned := self._pinned.get(path):
            with suppress(Spoiled):
                prepared[path] = self._transfer.prepare_pinned(pinned, self._source(path), self.target(path))
                self._needed_pins = True
        return path in prepared

    def _prepare_growth(self, path: str, version: Signature, prepared: dict[str, Prepared], final: bool) -> None:
        """Prepare a file that has become longer: only what is new of it, if storage copies the rest.

        Raises NotCopied if it does not, except with `final`: what all of the file costs is to be decided anew.
        """
        began = time.monotonic()
        file = self._files[path]
        try:
            prepared[path] = self._grown(path, version, file, final)
        except Rewritten:
            file.movement.rewritten = True
            self._prepare_one(path, version, prepared)
        prepared[path].ready()
        file.preparing_took = time.monotonic() - began

    def _grown(self, path: str, version: Signature, file: TrackedFile, final: bool) -> Prepared:
        where = self._source(path), version, self.target(path)
        if (beginning := _beginning(file)) is None:
            return self._transfer.prepare(*where)
        if not self.may_copy(file):
            return self._transfer.prepare_growth(*where, beginning, copied=False)
        try:
            return self._transfer.prepare_growth(*where, beginning, copied=True)
        except Rewritten:
            raise
        except NotCopied as error:
            logs.debug("checkpoint_not_copied", self._job, path=path, detail=str(error))
            file.sendings.is_not_copied = True
            if not final:
                raise
            return self._transfer.prepare_growth(*where, beginning, copied=False)

    def _prepare_one(
        self, path: str, version: Signature, prepared: dict[str, Prepared], may_have_grown: bool = False
    ) -> None:
        try:
            prepared[path] = self._transfer.prepare(self._source(path), version, self.target(path), may_have_grown)
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
        if path not in prepared:
            self._prepare_pinned(path, prepared)

    def _source(self, path: str) -> str:
        return f"{self._block.local_path}/{path}"

    def _commit(self, prepared: dict[str, Prepared], files: Snapshot) -> dict[str, StorageRefused | Unsaid]:
        """Commit all files, several at a time: a machine that vanishes meanwhile leaves a torn checkpoint.

        Returns the files that were refused while others were taken. If all are refused, a refusal is raised.
        """
        targets = {path: self.target(path) for path in prepared}
        taken: list[str] = []
        refused: dict[str, StorageRefused | Unsaid] = {}

        def commit(path: str) -> None:
            target = targets[path]
            try:
                stored = self._fence.write(target, prepared[path].commit, targets.values())
            except (NoBucket, Misconfigured):
                raise
            except (StorageRefused, Unsaid) as refusal:
                refused[path] = refusal
                if not taken and len(refused) >= _MOST_REFUSALS:
                    raise
                return
            taken.append(path)
            size = prepared[path].sent
            there = StoredObject(target.bucket, target.key, size, stored.etag, stored.version_id)
            self._take(path, files[path], there, prepared[path])
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

    def _take(self, path: str, version: Signature, stored: StoredObject, upload: Prepared) -> None:
        file = self._files[path]
        sending = Sendings(upload.read, time.monotonic(), file.preparing_took)
        file.preparing_took = None
        file.take(version, stored, upload.tail, upload.digest, sending)

    def _tell(self, event: str, uploads: Collection[Prepared]) -> None:
        sizes = [upload.size for upload in uploads]
        logs.info(
            event,
            self._job,
            generation=self._number,
            files=len(sizes),
            bytes=sum(sizes),
            sent=sum(upload.read for upload in uploads),
            prefix=self._block.prefix,
        )


def _beginning(file: TrackedFile) -> Beginning | None:
    """What the bucket has of the file, if that is known and was stored byte for byte."""
    sent, stored = file.sent, file.stored
    if sent is None or stored is None or not stored.etag or stored.size != sent.size:
        return None
    return Beginning(stored.etag, sent.size, file.content.digest)
