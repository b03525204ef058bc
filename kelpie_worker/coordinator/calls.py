"""Calls to the API that may wait: each in a thread of its own, repeated until it is answered."""

import threading
from collections.abc import Callable
from typing import TypeVar

from kelpie_worker import logs
from kelpie_worker.coordinator.checkpoint_reports import CheckpointReports
from kelpie_worker.coordinator.client import Api, ClaimRefused, ReportAnswer, Unreachable
from kelpie_worker.coordinator.output_pieces import OutputPieces
from kelpie_worker.messages import (
    CeaseClaiming,
    Claim,
    Claimed,
    LeaseLost,
    Message,
    Recall,
    Recalled,
    Refused,
    Report,
    ReportCheckpoint,
    Reported,
    ReportResume,
    SendOutput,
    Verdict,
)
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.linux import boottime
from kelpie_worker.system.retry import Failure, Interrupted, retry, sleep

_BACKOFF = Backoff(0.5, 30.0)
_LAST_MANIFEST = 5.0  # seconds for the answer to the last manifest before the end is reported
_LAST_PIECE = 2.0  # seconds for the answer to the last piece of output before the attempt's end is reported
_LAST_RELEASE = 2.0  # seconds of a shutdown's grace that are kept for the release; half of it where less is left
_LAST_CLAIM = 1.0  # seconds for the answer to a claim that is under way when claiming ends
Answer = TypeVar("Answer")


class CoordinatorCalls:
    """Carries out what `CARRIED_OUT_BY` leads to it; `tell` takes the messages, from any thread."""

    def __init__(self, api: Api, tell: Callable[[Message], None]) -> None:
        self._api = api
        self._tell = tell
        self._ceased = threading.Event()
        self._grace_ends: float | None = None  # CLOCK_BOOTTIME, while the worker is shutting down
        self._claiming: set[str] = set()
        self._reporting: set[str] = set()
        self._resumes: dict[str, threading.Thread] = {}  # by claim id
        self._manifests = CheckpointReports(api)
        self._pieces = OutputPieces(api, tell)

    def carry_out(
        self, command: Claim | Report | ReportCheckpoint | ReportResume | SendOutput | Recall | CeaseClaiming
    ) -> None:
        match command:
            case Claim():
                self._claiming.add(command.claim_id)
                self._begin(self._claim, command)
            case Recall():
                self._begin(self._recall, command)
            case ReportCheckpoint():
                self._manifests.send(command)
            case SendOutput():
                self._pieces.send(command)
            case ReportResume():
                self._resumes[command.job.claim_id] = self._begin(self._tell_resume, command)
            case Report():
                if command.job.claim_id not in self._reporting:
                    self._reporting.add(command.job.claim_id)
                    self._begin(self._report, command)
            case CeaseClaiming():
                self._grace_ends = command.grace_ends
                self._ceased.set()
                self._give_up_waiting()

    def _begin(
        self, call: Callable[..., None], command: Claim | Report | ReportResume | Recall
    ) -> threading.Thread:
        thread = threading.Thread(target=call, args=(command,), daemon=True)
        thread.start()
        return thread

    def _claim(self, claim: Claim) -> None:
        message = self._answer_to(claim)
        self._claiming.discard(claim.claim_id)  # before the message: the next claim may have the same id
        self._tell(message)

    def _answer_to(self, claim: Claim) -> Message:
        wanted, since = _Deadline(claim.until, self._ceased.wait), boottime()
        if wanted.pause(claim.after):
            return Claimed(claim.claim_id, pause=max(0.0, claim.after - (boottime() - since)))
        try:
            return _until_answered(lambda: self._api.claim(claim.claim_id, claim.until), wanted.pause)
        except Interrupted:
            return Claimed(claim.claim_id)
        except ClaimRefused as error:
            logs.warn("claim_refused", claim_id=claim.claim_id, detail=str(error))
            return Refused(claim.claim_id, "claim", str(error))

    def _give_up_waiting(self) -> None:
        """Answer the open claims soon, instead of waiting for the end of their long polls.

        If a job comes after all, it is passed on, and released. The call ends with the process at the latest, and
        the server hands no job to a closed connection.
        """
        for claim_id in self._claiming.copy() if self._api.waits else ():
            timer = threading.Timer(_LAST_CLAIM, self._ask_again, args=(claim_id,))
            timer.daemon = True
            timer.start()

    def _ask_again(self, claim_id: str) -> None:
        """Repeat the claim without a wait.

        If the open call was answered with a job that is slow to arrive, this one gets it; else that job would wait
        until its lease lapses.
        """
        if claim_id not in self._claiming:
            return
        answer = Claimed(claim_id)
        try:
            if self._api.knows_claims:
                answer = self._api.claim(claim_id, until=boottime(), at_once=True)
        except (Unreachable, ClaimRefused) as error:
            logs.warn("claim_given_up", claim_id=claim_id, detail=str(error))
        if claim_id in self._claiming:
            self._tell(answer)

    def _recall(self, recall: Recall) -> None:
        job = _until_answered(lambda: self._api.recall(recall.job))
        claim_id = recall.job.claim_id
        self._tell(Recalled(claim_id, job) if job else LeaseLost(claim_id, "unknown"))

    def _tell_resume(self, resume: ReportResume) -> None:
        def once() -> None:
            if self._api.keeps_checkpoints(resume.job):
                self._api.report_resume(resume.job, resume.checkpoint, resume.detail)

        _until_answered(once)

    def _report(self, report: Report) -> None:
        tries = 1 if report.again else 0
        if resume := self._resumes.pop(report.job.claim_id, None):  # of an attempt that is over none is taken
            resume.join(self._time_for_manifests())
        # The next attempt needs the last manifest, or the person that takes a completed job's checkpoint. Once the
        # attempt is over the server takes none.
        self._manifests.wait_for(report.job.claim_id, self._time_for_manifests())

        def once() -> ReportAnswer:
            nonlocal tries
            tries += 1
            # Each time: once a coordinator that was away is back, the piece is to come before the report.
            self._pieces.wait_for(report.job.claim_id, min(_LAST_PIECE, self._time_for_manifests()))
            if tries > 1 and self._counts_twice(report) and self._api.failure_is_counted(report.job):
                return ReportAnswer(accepted=True)
            return self._api.report(report.job, report.outcome, report.progress, report.output_bytes)

        answer = _until_answered(once)
        self._tell(Reported(report.job.claim_id, answer.accepted, answer.counted))
        self._manifests.forget(report.job.claim_id)
        self._pieces.forget(report.job.claim_id)
        self._reporting.discard(report.job.claim_id)

    def _time_for_manifests(self) -> float:
        """Seconds to wait for the answer to the last manifest; in a shutdown, as long as its grace allows.

        The release is sent last and always: without it the job would wait until its lease lapses.
        """
        if self._grace_ends is None:
            return _LAST_MANIFEST
        left = max(0.0, self._grace_ends - boottime())
        return left - min(_LAST_RELEASE, left / 2)

    def _counts_twice(self, report: Report) -> bool:
        """Whether the server would count a repeated failure as a second one, because it knows no attempts."""
        return report.job.attempt is None and report.outcome.verdict is Verdict.FAILED


class _Deadline:
    """Pauses that end early when claiming ends, or when the claim's deadline passes."""

    def __init__(self, until: float | None, wait: Callable[[float], bool]) -> None:
        self._until = until
        self._wait = wait

    def pause(self, seconds: float) -> bool:
        """Sleep. True if the pause ended early."""
        if self._until is None:
            return self._wait(seconds)
        left = max(0.0, self._until - boottime())
        return self._wait(min(seconds, left)) or left < seconds


def _until_answered(call: Callable[[], Answer], pause: Callable[[float], bool] = sleep) -> Answer:
    """Repeat the call until it is answered. Raises ClaimRefused; Interrupted if a pause ends early."""
    return retry(
        call,
        on=Exception,  # a defect too: a claim or a report that is not repeated would hold its job for ever
        backoff=_BACKOFF,
        pause=pause,
        until=lambda failure: isinstance(failure.error, ClaimRefused),
        on_failure=_tell_failure,
    )


def _tell_failure(failure: Failure[Exception]) -> None:
    if isinstance(failure.error, Unreachable):
        logs.warn("api_unreachable", detail=str(failure.error), failures=failure.number)
    else:
        detail = f"{type(failure.error).__name__}: {failure.error}"
        logs.error("coordinator_failed", detail=detail, failures=failure.number)
