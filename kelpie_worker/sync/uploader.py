"""The child that moves files: one thread for each command, so that a stuck upload delays no other job."""

import os
import threading
from multiprocessing.connection import Connection

from kelpie_worker.config import Config
from kelpie_worker.lease import Lease
from kelpie_worker.messages import (
    Abandon,
    Download,
    Renew,
)
from kelpie_worker.processes.child import ChildWork, Tell, run_child
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.s3.open_uploads import OpenUploads, journal_of
from kelpie_worker.sync.failures import Work
from kelpie_worker.sync.job_files import JobFiles
from kelpie_worker.system.linux import boottime, die_with

_TELL_TRANSFERS_EVERY = 1.0
_LONGEST_IDLE = 60.0  # seconds without a job until the process ends: boto3 takes half of the worker's memory


def main(commands: Connection, messages: Connection, config: Config) -> None:
    die_with(os.getppid())
    run_child(commands, messages, config, lambda tell: Uploader(config, tell))


class Uploader(ChildWork):
    """Passes commands on to the files of their attempt."""

    def __init__(self, config: Config, tell: Tell) -> None:
        self._config = config
        self._tell = tell
        self._client = SharedClient(config.aws_region, OpenUploads(journal_of(config.state_file)))
        self._files: dict[str, JobFiles] = {}
        self._rests_at: float | None = None
        self._clear_up()

    def carry_out(self, command: Work | Renew | Abandon) -> None:
        match command:
            case Renew():
                self._of(command.claim_id).lease.renew(command.until)
            case Abandon():
                self._of(command.claim_id).abandon()
            case _:
                if isinstance(command, Download):
                    self._clear_up()
                self._of(command.job.claim_id).begin(command)

    def tick(self) -> float | None:
        """Report which paths are being transferred and how far checkpoints are behind.

        Returns the seconds until the next call.
        """
        for claim_id, files in list(self._files.items()):
            if files.wiped:
                del self._files[claim_id]
                continue
            files.remember_what_was_taken()
            if (moving := files.moving.changed()) is not None:
                self._tell(moving)
            files.tell_lag()
            files.tell_changes()
        if self._files:
            self._rests_at = boottime() + _LONGEST_IDLE
            return _TELL_TRANSFERS_EVERY
        return None if self._rests_at is None else max(0.0, self._rests_at - boottime())

    def is_spent(self) -> bool:
        """Whether it has been idle for long enough to end. It is started again for the next job.

        A command that arrives just then is not lost: for a new child the supervisor enters every job's phase
        again.
        """
        return not self._files and self._rests_at is not None and boottime() >= self._rests_at

    def _clear_up(self) -> None:
        """Abort, in the background, multipart uploads that an earlier run left open."""
        if self._client.open_uploads.any_left:
            storage = Storage(self._client, Lease(), max_retries=0)
            threading.Thread(target=storage.abort_left, daemon=True, name="ClearUp").start()

    def _of(self, claim_id: str) -> "JobFiles":
        if claim_id not in self._files:
            self._files[claim_id] = JobFiles(claim_id, self._config, self._client, self._tell)
        return self._files[claim_id]
