"""Calls that may wait, and what comes in between."""

from __future__ import annotations

import json
import threading
from queue import Empty, SimpleQueue
from typing import cast

import pytest

from kelpie_worker.coordinator.calls import CoordinatorCalls
from kelpie_worker.coordinator.client import Api, ReportAnswer
from kelpie_worker.job import Job, Manifest, StoredObject, SyncBlock
from kelpie_worker.messages import (
    CeaseClaiming,
    Claim,
    Claimed,
    Ending,
    Message,
    Report,
    ReportCheckpoint,
    Reported,
    ReportResume,
    Verdict,
)
from kelpie_worker.system.linux import boottime
from local_stack.processes import wait_for

CLAIM = "5ab3a9b4-6fd1-4ef5-9a3e-0d6d3a0e9c11"
BLOCK = SyncBlock("b", "p/", "/out", "x$")
JOB = Job(CLAIM, "job", 3, 5.0, before=(BLOCK,), during=(BLOCK,), after=(BLOCK,))
COMPLETED = Ending(Verdict.COMPLETED, None, 0)
RELEASED = Ending(Verdict.RELEASED, "shutdown")
MANIFEST = (StoredObject("b", "p/state", 5, "etag"),)


class Held:
    """An API whose claim is held back until the test answers it; asked at once, it has what was `given`."""

    waits = knows_claims = True

    def __init__(self, given: Job | None = None) -> None:
        self.given = given
        self.asked, self.answered = threading.Event(), threading.Event()

    def claim(self, claim_id: str, until: float | None = None, at_once: bool = False) -> Claimed:
        self.asked.set()
        if at_once:
            return Claimed(claim_id, self.given)
        assert self.answered.wait(30)
        return Claimed(claim_id, JOB)


@pytest.mark.parametrize("given", [None, JOB])
def test_a_claim_that_the_server_holds_back_does_not_delay_the_end_and_its_job_is_told(given: Job | None) -> None:
    api, told = Held(given), SimpleQueue[Message]()
    coordinator = CoordinatorCalls(cast(Api, api), told.put)
    coordinator.carry_out(Claim(CLAIM))
    assert api.asked.wait(30)
    coordinator.carry_out(CeaseClaiming(boottime() + 25))
    assert told.get(timeout=30) == Claimed(CLAIM, given)
    api.answered.set()
    assert told.get(timeout=30) == Claimed(CLAIM, JOB)


def test_an_answer_that_comes_at_the_last_moment_is_the_only_one() -> None:
    api, told = Held(), SimpleQueue[Message]()
    coordinator = CoordinatorCalls(cast(Api, api), told.put)
    coordinator.carry_out(Claim(CLAIM))
    assert api.asked.wait(30)
    coordinator.carry_out(CeaseClaiming(boottime() + 25))
    api.answered.set()
    assert told.get(timeout=30) == Claimed(CLAIM, JOB)
    coordinator._ask_again(CLAIM)
    assert told.empty()


class Stumbling:
    """An API whose every call fails once with an unexpected exception."""

    waits = False

    def __init__(self) -> None:
        self.calls: list[str] = []

    def _stumble(self, name: str) -> None:
        self.calls.append(name)
        if self.calls.count(name) == 1:
            raise ZeroDivisionError(name)

    def claim(self, claim_id: str, until: float | None = None) -> Claimed:
        self._stumble("claim")
        return Claimed(claim_id, JOB)

    def report(
        self, job: Job, outcome: Ending, progress: object = None, output_bytes: int | None = None
    ) -> ReportAnswer:
        self._stumble("report")
        return ReportAnswer(accepted=True)


def test_an_unexpected_error_leaves_no_claim_and_no_report_unanswered(capfd: pytest.CaptureFixture[str]) -> None:
    told = SimpleQueue[Message]()
    coordinator = CoordinatorCalls(cast(Api, Stumbling()), told.put)
    coordinator.carry_out(Claim(CLAIM))
    assert told.get(timeout=30) == Claimed(CLAIM, JOB)
    coordinator.carry_out(Report(JOB, COMPLETED))
    assert told.get(timeout=30) == Reported(CLAIM)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["event"], line["detail"]) for line in lines] == [
        ("coordinator_failed", "ZeroDivisionError: claim"),
        ("coordinator_failed", "ZeroDivisionError: report"),
    ]


class SlowToKeep:
    """An API that answers a manifest when the test lets it; `calls` has what it was told, in order."""

    waits = False

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.may_keep = threading.Event()

    def keeps_checkpoints(self, job: Job) -> bool:
        return True

    def report_checkpoint(self, job: Job, generation: int, manifest: Manifest) -> int:
        self.calls.append("manifest")
        assert self.may_keep.wait(30)
        self.calls.append("kept")
        return generation

    def report_resume(self, job: Job, checkpoint: str, detail: str) -> None:
        self.calls.append("resumed")
        assert self.may_keep.wait(30)
        self.calls.append("kept")

    def report(
        self, job: Job, outcome: Ending, progress: object = None, output_bytes: int | None = None
    ) -> ReportAnswer:
        self.calls.append(str(outcome.verdict))
        return ReportAnswer(accepted=True)


def give_back(api: SlowToKeep, grace: float) -> SimpleQueue[Message]:
    """A worker that is told to go while its last manifest is on its way; its messages."""
    told = SimpleQueue[Message]()
    coordinator = CoordinatorCalls(cast(Api, api), told.put)
    coordinator.carry_out(ReportCheckpoint(JOB, 1, MANIFEST))
    wait_for(lambda: api.calls, "the manifest to be sent")
    coordinator.carry_out(CeaseClaiming(boottime() + grace))
    coordinator.carry_out(Report(JOB, RELEASED))
    return told


def test_a_release_waits_for_the_answer_to_the_last_manifest_as_long_as_the_grace_allows() -> None:
    api = SlowToKeep()
    told = give_back(api, grace=25)
    threading.Timer(1.0, api.may_keep.set).start()  # a server that takes its time
    assert told.get(timeout=30) == Reported(CLAIM)
    assert api.calls == ["manifest", "kept", "released"]


def test_the_report_of_a_completed_job_waits_for_the_answer_to_the_last_manifest() -> None:
    """Without it the checkpoint that a person takes would lack what was saved at the command's end."""
    api, told = SlowToKeep(), SimpleQueue[Message]()
    coordinator = CoordinatorCalls(cast(Api, api), told.put)
    coordinator.carry_out(ReportCheckpoint(JOB, 1, MANIFEST))
    wait_for(lambda: api.calls, "the manifest to be sent")
    coordinator.carry_out(Report(JOB, COMPLETED))
    with pytest.raises(Empty):
        told.get(timeout=0.3)
    api.may_keep.set()
    assert told.get(timeout=30) == Reported(CLAIM)
    assert api.calls == ["manifest", "kept", "completed"]


@pytest.mark.parametrize("grace", [0.0, 1.0])
def test_a_release_is_sent_within_the_grace_though_the_last_manifest_is_never_answered(grace: float) -> None:
    api = SlowToKeep()
    began = boottime()
    told = give_back(api, grace)
    assert told.get(timeout=30) == Reported(CLAIM)
    assert api.calls == ["manifest", "released"]
    assert boottime() - began < grace + 5
    api.may_keep.set()


def test_the_end_of_a_short_attempt_waits_for_what_is_told_of_its_resume() -> None:
    """Of an attempt that is over the server takes it no more."""
    api, told = SlowToKeep(), SimpleQueue[Message]()
    coordinator = CoordinatorCalls(cast(Api, api), told.put)
    coordinator.carry_out(ReportResume(JOB, "clean", ""))
    wait_for(lambda: api.calls, "the resume to be told")
    coordinator.carry_out(Report(JOB, COMPLETED))
    api.may_keep.set()
    assert told.get(timeout=30) == Reported(CLAIM)
    assert api.calls == ["resumed", "kept", "completed"]
