"""Uploads all outputs of a finished job from where they were set aside.

An output replaces what the fence permits (`checkpoints/fence.py`): what this attempt found when it began or wrote
itself, else nothing. Of anything else that is there (the output of an earlier attempt, a file of the user's) the
fence learns first, by a heartbeat, that no newer attempt can have written it. So a job that another machine has
completed keeps that one's outputs.
"""

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.checkpoints.fence import Fence
from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.lease import Lease
from kelpie_worker.messages import Aside
from kelpie_worker.s3.errors import StorageRefused, StorageUnreachable
from kelpie_worker.s3.objects import Target
from kelpie_worker.s3.whose_fault import When
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.retry import Failure, retry
from kelpie_worker.transfer.file_upload import Transfer
from kelpie_worker.transfer.refusal_limit import Patience, RefusalsOnTheWay
from kelpie_worker.workspace.before_command import DirectoryRecord
from kelpie_worker.workspace.file_version import Signature, Spoiled, signature_of
from kelpie_worker.workspace.paths import MovedDirectories
from kelpie_worker.workspace.pattern import matcher
from kelpie_worker.workspace.scan import Scanner
from kelpie_worker.workspace.set_aside import moved_path
from kelpie_worker.workspace.tree import open_up

_FILES_AT_ONCE = 8
_LOOKED_AT_TOGETHER = 200  # outputs: once one of them meets another object, the fence looks at all of them
_SKIPPED_NAMED = 10
_BETWEEN_TRIES = Backoff(first=1.0, longest=60.0)


@dataclass(frozen=True)
class Output:
    path: str
    version: Signature
    target: Target


class Outputs:
    """Uploads until every output is stored. `sent` has the versions uploaded while the command ran, by object."""

    def __init__(
        self,
        job: Job,
        transfer: Transfer,
        lease: Lease,
        fence: Fence,
        sent: Mapping[tuple[str, str], Signature],
        places: DirectoryRecord,
        own_files: frozenset[str] = frozenset(),
    ) -> None:
        self._job = job
        self._transfer = transfer
        self._lease = lease
        self._fence = fence
        self._sent = sent
        self._places = places
        self._own_files = own_files

    def upload(self, aside: Aside, busy: Callable[[Iterable[str]], None]) -> tuple[int, int]:
        """Upload every output from `aside`, or in place if that is empty; returns the number of files and bytes.

        Raises StorageRefused, OSError, Cancelled.
        """
        outputs = self._outputs(aside)
        missing = [output for output in outputs if not self._is_sent(output)]
        busy(output.path for output in missing)
        # The others of each output are those that are sent at about the same time.
        groups = [missing[at : at + _LOOKED_AT_TOGETHER] for at in range(0, len(missing), _LOOKED_AT_TOGETHER)]
        others = [[output.target for output in group] for group in groups for _ in group]
        with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="outputs") as pool:
            try:
                for _ in pool.map(self._send, missing, others):
                    pass
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                busy(())
        return len(outputs), sum(output.version.size for output in outputs)

    def _is_sent(self, output: Output) -> bool:
        """Whether the last checkpoint, taken after the command's end, has this version; setting aside renamed it.

        `sent` lacks versions that another directory of the job has overwritten or deleted since.
        """
        sent = self._sent.get(output.target.place)
        return sent is not None and output.version.is_but_renamed(sent)

    def _outputs(self, aside: Aside) -> list[Output]:
        for _, target in aside:
            if not Path(target).is_dir():  # it was created when they were set aside, so its files are lost
                raise FileNotFoundError(errno.ENOENT, "the outputs set aside are gone", target)
        skipped: dict[str, None] = {}  # an ordered set: two blocks may share a directory
        found = [output for block in self._job.after for output in self._outputs_of(block, aside, skipped)]
        if skipped:
            names = list(skipped)[:_SKIPPED_NAMED]
            logs.warn("outputs_skipped", self._job, count=len(skipped), first=names)
        return self._newest(found)

    def _newest(self, outputs: Iterable[Output]) -> list[Output]:
        """Of several files for one object the newest, or the last in the job's order."""
        chosen: dict[tuple[str, str], Output] = {}
        for output in outputs:
            other = chosen.setdefault(output.target.place, output)
            if other.path != output.path:
                logs.warn("outputs_collide", self._job, key=output.target.key)
                if output.version.mtime_ns >= other.version.mtime_ns:
                    chosen[output.target.place] = output
        return list(chosen.values())

    def _outputs_of(self, block: SyncBlock, aside: Aside, skipped: dict[str, None]) -> list[Output]:
        moved = MovedDirectories(tuple((self._places.real_path(source), target) for source, target in aside))
        real_root = self._places.real_path(block.local_path)
        key_of = partial(self._transfer.key_in, block.prefix)
        scanner = Scanner(block.local_path, matcher(block.pattern), self._own_files, real_root, moved, key_of)
        try:
            found = scanner.scan()
        except PermissionError:
            open_up(moved_path(block.local_path, aside))
            found = scanner.scan()
        skipped.update(dict.fromkeys(str(Path(block.local_path, name)) for name in scanner.skipped))
        return [
            Output(scanner.locations[path], version, self._transfer.target(block.bucket, block.prefix, path))
            for path, version in found.items()
        ]

    def _send(self, output: Output, others: Sequence[Target]) -> None:
        """Upload one output, retried until it succeeds or storage keeps refusing (see transfer/refusal_limit.py).

        `others` as for `Fence.write`. Raises StorageRefused, OSError, Cancelled.
        """
        patience = Patience(When.AFTER)
        on_the_way = RefusalsOnTheWay(lambda: self._takes_uploads(output.target))

        def note(failure: Failure[Exception]) -> None:
            nonlocal output
            on_the_way.note(failure.error)
            match failure.error:
                case StorageUnreachable() as error:
                    logs.warn("upload_delayed", self._job, key=output.target.key, detail=str(error))
                case StorageRefused() as error:
                    logs.warn("upload_refused", self._job, key=output.target.key, detail=str(error))
                case Spoiled():  # changed through another hard link; even adding a link changes the ctime
                    output = replace(output, version=signature_of(Path(output.path).stat()))

        retry(
            lambda: self._send_once(output, others),
            on=(StorageUnreachable, StorageRefused, Spoiled),
            backoff=_BETWEEN_TRIES,
            pause=self._lease.pause,
            until=lambda failure: not isinstance(failure.error, Spoiled) and patience.has_ended(failure),
            on_failure=note,
        )

    def _takes_uploads(self, beside: Target) -> bool:
        folder, slash, _ = beside.key.rpartition("/")
        return self._transfer.storage.takes_uploads(beside.bucket, folder + slash)

    def _send_once(self, output: Output, others: Sequence[Target]) -> None:
        upload = self._transfer.prepare(output.path, output.version, output.target)
        try:
            upload.ready()
            self._fence.write(output.target, upload.commit, others)
        finally:
            upload.abort()
