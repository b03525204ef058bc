"""When heartbeats are due."""

from __future__ import annotations

from dataclasses import replace
from queue import SimpleQueue
from typing import cast

from kelpie_worker.coordinator.client import Api, HeartbeatAnswer, News, Unreachable
from kelpie_worker.coordinator.heartbeat import HeldLease
from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.messages import Message, Steered, TellOutput, TellProgress, TellStall
from kelpie_worker.system.linux import boottime
from local_stack.processes import wait_for

CLAIM = "5ab3a9b4-6fd1-4ef5-9a3e-0d6d3a0e9c11"
BLOCK = SyncBlock("b", "p/", "/out", "x$")
JOB = Job(CLAIM, "job", 3, 5.0, before=(BLOCK,), during=(BLOCK,), after=(BLOCK,))
LONG = replace(JOB, heartbeat_interval=600.0)


class Renewing:
    """An API that records every heartbeat."""

    def __init__(self) -> None:
        self.heard = SimpleQueue[Job]()

    def heartbeat(self, job: Job, timeout: float, news: News) -> HeartbeatAnswer:
        self.heard.put(job)
        return HeartbeatAnswer("canceled")


def test_the_first_heartbeat_is_due_an_interval_after_the_claim_however_late_its_child_starts() -> None:
    api, job = Renewing(), replace(JOB, heartbeat_interval=600.0)
    late, fresh = (HeldLease(job, cast(Api, api), lambda message: None) for _ in range(2))
    fresh.start(due=boottime() + 600)
    late.start(due=boottime() - 1)
    assert api.heard.get(timeout=30) == job and late.dropped.wait(30)
    assert api.heard.empty() and not fresh.dropped.is_set()
    fresh.drop()


class Answering:
    """An API that takes every heartbeat; `heard` has what each told."""

    def __init__(self, *answers: HeartbeatAnswer | Unreachable) -> None:
        self.answers = list(answers)
        self.heard: list[News] = []

    def heartbeat(self, job: Job, timeout: float, news: News) -> HeartbeatAnswer:
        self.heard.append(news)
        answer = self.answers.pop(0) if self.answers else HeartbeatAnswer("running")
        if isinstance(answer, Unreachable):
            raise answer
        return answer


STEERED = replace(JOB, heartbeat_interval=600.0, speaks=("output", "phase", "progress", "steer"))


def test_progress_goes_once_and_again_only_if_it_was_not_answered() -> None:
    api = Answering(HeartbeatAnswer("running"), Unreachable("away"))
    held = HeldLease(STEERED, cast(Api, api), lambda message: None)
    held.hear(TellProgress(CLAIM, {"fraction": 0.1}))
    held.beat()
    held.hear(TellProgress(CLAIM, {"fraction": 0.2}))
    held.hear(TellOutput(CLAIM, 7))
    for _ in range(3):
        held.beat()
    assert [news.progress for news in api.heard] == [{"fraction": 0.1}, *[{"fraction": 0.2}] * 2, None]
    assert [news.output_bytes for news in api.heard] == [None, 7, 7, 7]


def test_where_answers_steer_they_are_asked_for_every_ten_seconds() -> None:
    held, plain = (HeldLease(job, cast(Api, Answering()), lambda message: None) for job in (STEERED, LONG))
    assert 9 < held.beat() <= 10 and 590 < plain.beat() <= 600


def test_what_an_answer_wants_is_told_with_the_time_at_which_it_is_due() -> None:
    told: list[Message] = []
    api = Answering(HeartbeatAnswer("running", "hold", is_followed=True, deadline=50))
    before = boottime()
    HeldLease(STEERED, cast(Api, api), told.append).beat()
    (steered,) = (message for message in told if isinstance(message, Steered))
    assert (steered.stop, steered.is_followed) == ("hold", True)
    assert steered.deadline and before + 50 <= steered.deadline <= boottime() + 50


def test_a_new_phase_and_a_stall_do_not_wait_for_the_next_heartbeat() -> None:
    api = Answering()
    held = HeldLease(STEERED, cast(Api, api), lambda message: None)
    held.start(due=boottime() + 600)
    held.enter("downloading")
    wait_for(lambda: len(api.heard) == 1, "the heartbeat of the phase")
    held.hear(TellStall(CLAIM, is_stalled=True))
    wait_for(lambda: len(api.heard) == 2, "the heartbeat of the stall")
    held.enter("downloading")
    held.drop()
    assert [(news.phase, news.stalled) for news in api.heard] == [("downloading", None), ("downloading", True)]
