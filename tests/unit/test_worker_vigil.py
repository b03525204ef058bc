"""When a heartbeat child counts as broken."""

from __future__ import annotations

import pytest

from kelpie_worker.job import Job
from kelpie_worker.messages import LeaseRenewed, LeaseUnanswered, Message, Outcome, Verdict
from kelpie_worker.pipeline import JobState, Phase
from kelpie_worker.vigil import Vigil

HELD = JobState(Job("claim", "1", heartbeat_interval=30), Phase.RUNNING)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def broken_at(job: JobState, news: Message | None = None, pause: float = 1.0) -> float | None:
    """After how many seconds; `news` come every 25 seconds."""
    clock = Clock()
    vigil = Vigil(clock)
    while clock.now < 200:
        clock.now += pause
        if news and clock.now % 25 == 0:
            vigil.hear(news)
        if vigil.is_broken({"claim": job}):
            return clock.now
    return None


def test_silence_about_a_held_lease_is_noticed_before_it_lapses() -> None:
    noticed = broken_at(HELD)
    assert noticed and 30 < noticed < 60


@pytest.mark.parametrize("news", [LeaseRenewed("claim", 1e9), LeaseUnanswered("claim")])
def test_who_speaks_works_whatever_it_says(news: Message) -> None:
    assert broken_at(HELD, news) is None


@pytest.mark.parametrize(
    "job",
    [
        JobState(HELD.job, Phase.WIPING, Outcome(Verdict.COMPLETED)),
        JobState(HELD.job, Phase.STOPPING, Outcome(Verdict.DROPPED, "canceled")),
    ],
)
def test_of_a_lease_that_is_not_held_nothing_is_expected(job: JobState) -> None:
    assert broken_at(job) is None


def test_a_worker_that_slept_itself_blames_nobody() -> None:
    assert broken_at(HELD, pause=150) is None
