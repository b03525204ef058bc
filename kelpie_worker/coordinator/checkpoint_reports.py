"""Telling the coordinator what is whole in the bucket, in the background and in order."""

import threading
from collections.abc import Callable

from kelpie_worker import logs
from kelpie_worker.coordinator.client import Api, ManifestRefused, Unreachable
from kelpie_worker.job import Job, Manifest
from kelpie_worker.messages import ReportCheckpoint
from kelpie_worker.system.backoff import backoff

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


class CheckpointReports:
    """Sends the newest manifest of each attempt until it is answered; one that is overtaken is never sent."""

    def __init__(self, api: Api, pause: Callable[[float], object]) -> None:
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
        threading.Thread(target=self._send_all, args=(claim_id,), daemon=True).start()

    def wait_for(self, claim_id: str, timeout: float) -> None:
        """Until everything is answered: what is told after the job is given back is refused."""
        with self._changed:
            self._changed.wait_for(lambda: claim_id not in self._sending, timeout)

    def _send_all(self, claim_id: str) -> None:
        failures = 0
        while report := self._next(claim_id):
            try:
                self._send_one(report)
                failures = 0
            except Unreachable as error:
                failures += 1
                logs.warn("checkpoint_not_reported", report.job, detail=str(error), failures=failures)
                with self._changed:
                    self._due.setdefault(claim_id, report)
                self._pause(backoff(failures, _FIRST_PAUSE, _LONGEST_PAUSE))

    def _next(self, claim_id: str) -> ReportCheckpoint | None:
        with self._changed:
            report = self._due.pop(claim_id, None)
            if report is None:
                self._sending.discard(claim_id)
                self._changed.notify_all()
            return report

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
