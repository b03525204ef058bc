"""Reports the manifests of committed generations to the coordinator, in the background and in order."""

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from kelpie_worker import logs
from kelpie_worker.coordinator.client import Api, ManifestRefused, Unreachable
from kelpie_worker.job import Job, Manifest
from kelpie_worker.messages import ReportCheckpoint
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.retry import Failure, retry, sleep

_BACKOFF = Backoff(0.5, 30.0)


@dataclass
class _Attempt:
    """The manifest to be reported for one attempt, and the offset of the server's generation numbers."""

    due: ReportCheckpoint | None = None  # the newest manifest that is not sent yet
    is_sending: bool = False
    ahead: int = 0  # by how much the server's numbers are ahead of ours


class CheckpointReports:
    """Sends the newest manifest of each attempt until it is answered; older ones that are waiting are skipped."""

    def __init__(self, api: Api, pause: Callable[[float], object] = sleep) -> None:
        self._api = api
        self._pause = pause
        self._changed = threading.Condition()
        self._attempts: dict[str, _Attempt] = defaultdict(_Attempt)  # by claim id

    def send(self, report: ReportCheckpoint) -> None:
        """Returns at once."""
        with self._changed:
            attempt = self._attempts[report.job.claim_id]
            attempt.due = report
            if attempt.is_sending:
                return
            attempt.is_sending = True
        threading.Thread(target=self._send_all, args=(report.job, attempt), daemon=True).start()

    def wait_for(self, claim_id: str, timeout: float) -> None:
        """Wait until every manifest is answered: the server refuses one after the job was given back."""
        with self._changed:
            if attempt := self._attempts.get(claim_id):
                self._changed.wait_for(lambda: not attempt.is_sending, timeout)

    def forget(self, claim_id: str) -> None:
        """The attempt is over."""
        with self._changed:
            self._attempts.pop(claim_id, None)

    def _send_all(self, job: Job, attempt: _Attempt) -> None:
        while self._has_more(attempt):
            retry(
                partial(self._send_newest, attempt),
                on=Unreachable,
                backoff=_BACKOFF,
                pause=self._pause,
                on_failure=partial(_tell_failure, job),
            )

    def _has_more(self, attempt: _Attempt) -> bool:
        with self._changed:
            if attempt.due:
                return True
            attempt.is_sending = False
            self._changed.notify_all()
            return False

    def _send_newest(self, attempt: _Attempt) -> None:
        with self._changed:
            report, attempt.due = attempt.due, None
        assert report is not None
        try:
            self._send_one(attempt, report)
        except Unreachable:
            with self._changed:
                attempt.due = attempt.due or report  # unless a newer one has come meanwhile
            raise

    def _send_one(self, attempt: _Attempt, report: ReportCheckpoint) -> None:
        if not self._api.keeps_checkpoints(report.job):
            return
        try:
            self._keep(attempt, report, report.manifest)
        except ManifestRefused as error:
            # An empty manifest (nothing is known) is better than an old one that passes for the newest.
            logs.warn("manifest_refused", report.job, files=len(report.manifest), detail=str(error))
            self._keep_nothing(attempt, report)

    def _keep_nothing(self, attempt: _Attempt, report: ReportCheckpoint) -> None:
        try:
            self._keep(attempt, report, ())
        except ManifestRefused as error:
            logs.warn("manifest_refused", report.job, files=0, detail=str(error))

    def _keep(self, attempt: _Attempt, report: ReportCheckpoint, manifest: Manifest) -> None:
        """Report a manifest.

        Numbers begin at 1 with each run of the worker; the server answers its newest number.
        """
        generation = report.generation + attempt.ahead
        newest = self._api.report_checkpoint(report.job, generation, manifest)
        if newest is not None and newest > generation:
            attempt.ahead = newest + 1 - report.generation
            self._api.report_checkpoint(report.job, newest + 1, manifest)


def _tell_failure(job: Job, failure: Failure[Unreachable]) -> None:
    logs.warn("checkpoint_not_reported", job, detail=str(failure.error), failures=failure.number)
