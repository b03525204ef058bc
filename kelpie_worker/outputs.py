"""The outputs of a finished job, from where they were set aside into the bucket, every one of them."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kelpie_worker import logs
from kelpie_worker.backoff import backoff
from kelpie_worker.directories import moved_path
from kelpie_worker.job import Job
from kelpie_worker.lease import Lease
from kelpie_worker.messages import Aside
from kelpie_worker.pattern import matcher
from kelpie_worker.scan import Scanner, Signature
from kelpie_worker.storage import StorageUnreachable, Target
from kelpie_worker.transfer import Transfer

_FILES_AT_ONCE = 8
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


@dataclass(frozen=True)
class Output:
    path: str
    version: Signature
    target: Target


class Outputs:
    """Uploads until everything is there. `sent` holds what went up while the command ran, by bucket and key."""

    def __init__(
        self, job: Job, transfer: Transfer, lease: Lease, sent: Mapping[tuple[str, str], Signature]
    ) -> None:
        self._job = job
        self._transfer = transfer
        self._lease = lease
        self._sent = sent

    def upload(self, aside: Aside, busy: Callable[[Iterable[str]], None]) -> tuple[int, int]:
        """Send every output; number of files and bytes. StorageRefused, OSError, Cancelled."""
        outputs = self._outputs(aside)
        missing = [output for output in outputs if self._sent.get(_place(output.target)) != output.version]
        busy(output.path for output in missing)
        with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="outputs") as pool:
            try:
                for _ in pool.map(self._send, missing):
                    pass
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                busy(())
        return len(outputs), sum(output.version.size for output in outputs)

    def _outputs(self, aside: Aside) -> list[Output]:
        found = []
        for block in self._job.after:
            root = moved_path(block.local_path, aside)
            for path, version in Scanner(root, matcher(block.pattern), frozenset()).scan().items():
                target = self._transfer.target(block.bucket, block.prefix + path)
                found.append(Output(f"{root}/{path}", version, target))
        return found

    def _send(self, output: Output) -> None:
        """As often as it takes: the job is finished, only storage is missing."""
        failures = 0
        while True:
            try:
                self._send_once(output)
                return
            except StorageUnreachable as error:
                failures += 1
                logs.warn("upload_delayed", self._job, key=output.target.key, detail=str(error))
            self._lease.pause(backoff(failures, _FIRST_PAUSE, _LONGEST_PAUSE))

    def _send_once(self, output: Output) -> None:
        upload = self._transfer.prepare(output.path, output.version, output.target)
        try:
            upload.ready()
            self._lease.wait_until_safe()
            upload.commit()
        finally:
            upload.abort()


def _place(target: Target) -> tuple[str, str]:
    return target.bucket, target.key
