"""Telling the coordinator what is whole in the bucket, in the background and in order."""

import threading
from collections.abc import Callable
from functools import partial

from kelpie_worker import logs
from kelpie_worker.coordinator.client import Api, ManifestRefused, Unreachable
from kelpie_worker.job import Job, Manifest
from kelpie_worker.messages import ReportCheckpoint
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.retry import Failure, retry, sleep

_BACKOFF = Backoff(0.5, 30.0)


class CheckpointReports:
    """Sends the newest manifest of each attempt until it is answered; one that is overtaken is never sent."""

    def __init__(self, api: Api, pause: Callable[[float], object] = sleep) -> None:
        self._api = api
        self._pause = pause
        self._changed = threading.Condition()
        self._due: dict[str, ReportCheckpoint] = {}  # by claim id
        self._sending: set[str] = set()
        self._ahead: dict[str, int] = {}  # by how much the server's numbers are ahead of ours, by claim id

    def send(self, report: ReportCheckpoint) -> None:
        """Returns at once."""
        claim_id = report.job.claim_id
        with self._changed:
            self._due[claim_id] = report
            if claim_id in self._sending:
                return
            self._sending.add(claim_id)
        threading.Thread(target=self._send_all, args=(report.job,), daemon=True).start()

    def wait_for(self, claim_id: str, timeout: float) -> None:
        """Until everything is answered: what is told after the job is given back is refused."""
        with self._changed:
            self._changed.wait_for(lambda: claim_id not in self._sending, timeout)

    def _send_all(self, job: Job) -> None:
        while self._has_more(job.claim_id):
            retry(
                partial(self._send_newest, job.claim_id),
                on=Unreachable,
                backoff=_BACKOFF,
                pause=self._pause,
                on_failure=partial(_tell_failure, job),
            )

    def _has_more(self, claim_id: str) -> bool:
        with self._changed:
            if claim_id in self._due:
                return True
            self._sending.discard(claim_id)
            self._changed.notify_all()
            return False

    def _send_newest(self, claim_id: str) -> None:
        with self._changed:
            report = self._due.pop(claim_id)
        try:
            self._send_one(report)
        except Unreachable:
            with self._changed:
                self._due.setdefault(claim_id, report)  # unless a newer one has come meanwhile
            raise

    def _send_one(self, report: ReportCheckpoint) -> None:
        if not self._api.keeps_checkpoints(report.job):
            return
        try:
            self._keep(report.job, report.generation, report.manifest)
        except ManifestRefused as error:
            # Better nothing is known of the newest generation than that an old one passes for it.
            logs.warn("manifest_refused", report.job, files=len(report.manifest), detail=str(error))
            self._keep_nothing(report)

    def _keep_nothing(self, report: ReportCheckpoint) -> None:
        try:
            self._keep(report.job, report.generation, ())
        except ManifestRefused as error:
            logs.warn("manifest_refused", report.job, files=0, detail=str(error))

    def _keep(self, job: Job, generation: int, manifest: Manifest) -> None:
        """Numbers begin anew with each life of the worker; the server says how far an earlier one had come."""
        ahead = self._ahead.get(job.claim_id, 0)
        newest = self._api.report_checkpoint(job, generation + ahead, manifest)
        if newest is not None and newest > generation + ahead:
            self._ahead[job.claim_id] = newest + 1 - generation
            self._api.report_checkpoint(job, newest + 1, manifest)


def _tell_failure(job: Job, failure: Failure[Unreachable]) -> None:
    logs.warn("checkpoint_not_reported", job, detail=str(failure.error), failures=failure.number)
