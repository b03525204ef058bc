"""When a child counts as broken."""

from __future__ import annotations

import pytest

from kelpie_worker.job import Job
from kelpie_worker.job_in_hand import JobInHand, Times
from kelpie_worker.messages import (
    ChildStarted,
    Ending,
    LeaseRenewed,
    LeaseUnanswered,
    Message,
    Responded,
    Verdict,
)
from kelpie_worker.pipeline import JobState, Phase
from kelpie_worker.processes.watchdog import Watchdog

HELD = JobState(Job("claim", "1", heartbeat_interval=30), Phase.RUNNING)


def in_hand(*states: JobState) -> dict[str, JobInHand]:
    return {state.job.claim_id: JobInHand(state, Times("2026-01-01T00:00:00Z")) for state in states}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def broken_at(job: JobState, news: Message | None = None, pause: float = 1.0) -> float | None:
    """After how many seconds; `news` come every 25 seconds."""
    clock, jobs = Clock(), in_hand(job)
    watchdog = Watchdog(lambda name: None, clock)
    while clock.now < 200:
        clock.now += pause
        if news and clock.now % 25 == 0:
            watchdog.hear(news, jobs)
        if "heartbeat" in watchdog.broken(jobs):
            return clock.now
    return None


def test_silence_about_a_held_lease_is_noticed_before_it_lapses() -> None:
    noticed = broken_at(HELD)
    assert noticed and 30 < noticed < 60


@pytest.mark.parametrize("news", [LeaseRenewed("claim", 1e9), LeaseUnanswered("claim")])
def test_a_child_that_sends_news_works_whatever_the_news(news: Message) -> None:
    assert broken_at(HELD, news) is None


@pytest.mark.parametrize(
    "job",
    [
        JobState(HELD.job, Phase.WIPING, Ending(Verdict.COMPLETED)),
        JobState(HELD.job, Phase.STOPPING, Ending(Verdict.DROPPED, "canceled")),
    ],
)
def test_of_a_lease_that_is_not_held_nothing_is_expected(job: JobState) -> None:
    assert broken_at(job) is None


def test_a_worker_that_was_suspended_replaces_no_child() -> None:
    assert broken_at(HELD, pause=150) is None


class Children:
    """They respond to what they were asked, but for the `stopped`."""

    def __init__(self, *stopped: str) -> None:
        self.stopped = stopped
        self.clock = Clock()
        self.asked: list[str] = []
        self.watchdog = Watchdog(self.asked.append, self.clock)

    def broken_in(self, seconds: float, jobs: dict[str, JobInHand], pause: float = 1.0) -> list[tuple[str, float]]:
        found = []
        for _ in range(round(seconds / pause)):
            self.clock.now += pause
            found += [(name, self.clock.now) for name in self.watchdog.broken(jobs) if name != "heartbeat"]
            while self.asked:
                if (name := self.asked.pop()) not in self.stopped:
                    self.watchdog.hear(Responded(name), jobs)
        return found


@pytest.mark.parametrize("stopped", ["runner", "uploader"])
def test_a_child_that_does_not_respond_is_noticed_again_and_again_and_the_other_is_left_alone(
    stopped: str,
) -> None:
    children = Children(stopped)
    (first, at), (second, then) = children.broken_in(750, in_hand(HELD))
    assert first == second == stopped
    assert 300 < at < 340 and 300 < then - at < 340


def test_children_that_respond_are_left_alone_for_however_long_they_work() -> None:
    assert Children().broken_in(100_000, in_hand(HELD)) == []


def test_a_child_that_was_replaced_meanwhile_owes_no_answer() -> None:
    children = Children("runner")
    assert children.broken_in(200, in_hand(HELD)) == []
    children.watchdog.hear(ChildStarted("runner"), in_hand(HELD))
    children.stopped = ()
    assert children.broken_in(500, in_hand(HELD)) == []


def test_an_idle_worker_asks_no_child_and_one_that_was_suspended_waits_on() -> None:
    assert Children("runner").broken_in(1000, {}) == []
    assert Children("runner").broken_in(2000, in_hand(HELD), pause=100) == []
