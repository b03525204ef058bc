"""What is drawn of a job for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kelpie.meter import Meter
from kelpie.models import Attempt, JobData
from kelpie.show import timeline

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: int) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def test_the_line_of_time_shows_each_end_also_where_the_next_attempt_begins_at_once() -> None:
    job = JobData(id="job", created=BEGIN, completed=at(9), status="completed")
    attempts = [
        Attempt(number=1, claimed=at(1), ended=at(4), outcome="interrupted"),
        Attempt(number=2, claimed=at(4), ended=at(6), outcome="released"),
        Attempt(number=3, claimed=at(8), ended=at(9), outcome="completed"),
    ]
    assert timeline(job, attempts, columns=10) == ".===I=R.=C"


def test_a_meter_says_how_much_is_done_how_fast_and_when_it_will_be_over() -> None:
    files, jobs = Meter(4_000_000), Meter(40, "jobs")
    assert files.text(0.0) == "░" * 20 + "   0 %  0 B of 4.0 MB"
    files.advance(1_500_000)
    files.advance(-500_000)  # begun again
    assert files.text(2.0) == "█" * 5 + "░" * 15 + "  25 %  1.0 MB of 4.0 MB  500.0 kB/s  6s left"
    jobs.reach(40)
    assert jobs.text(9.0) == "█" * 20 + " 100 %  40 of 40 jobs"
