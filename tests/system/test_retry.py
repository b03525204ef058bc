"""The one loop that calls again what has failed, against a clock of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kelpie_worker.lease import Cancelled, Lease
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.retry import Failure, Interrupted, never, retry, tries, within

BACKOFF = Backoff(0.5, 10.0)


@dataclass
class Clock:
    """Seconds that pass only in pauses, each of which is noted."""

    now: float = 1000.0
    pauses: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@dataclass
class Flaky:
    """Fails so many times, then answers with the number of calls."""

    failing: int
    calls: int = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.failing:
            raise ConnectionError(f"call {self.calls}")
        return self.calls


@given(st.integers(1, 10_000), st.floats(0.01, 100), st.floats(100, 1000), st.floats(0, 1))
def test_backoff_doubles_up_to_its_limit_and_is_never_less_than_half(
    failures: int, first: float, longest: float, jitter: float
) -> None:
    pause = Backoff(first, longest).after(failures, lambda: jitter)
    full = min(longest, first * 2.0 ** min(failures - 1, 40))
    assert full / 2 <= pause <= full <= longest


@given(st.integers(0, 60))
def test_it_calls_until_a_call_succeeds_with_a_pause_of_the_backoff_after_each_failure(failing: int) -> None:
    operation, clock = Flaky(failing), Clock()
    assert retry(operation, on=ConnectionError, backoff=BACKOFF, pause=clock.pause) == failing + 1
    assert len(clock.pauses) == failing
    for number, pause in enumerate(clock.pauses, 1):
        full = min(BACKOFF.longest, BACKOFF.first * 2.0 ** (number - 1))
        assert full / 2 <= pause <= full


@given(st.integers(0, 30), st.integers(1, 30))
def test_tries_says_how_many_calls_may_fail(failing: int, most: int) -> None:
    operation, clock = Flaky(failing), Clock()
    if failing < most:
        assert retry(operation, on=OSError, backoff=BACKOFF, pause=clock.pause, until=tries(most)) == failing + 1
    else:
        with pytest.raises(ConnectionError, match=f"call {most}$"):
            retry(operation, on=OSError, backoff=BACKOFF, pause=clock.pause, until=tries(most))
        assert (operation.calls, len(clock.pauses)) == (most, most - 1)


@given(st.floats(0, 1000))
def test_within_ends_the_row_at_the_first_failure_after_its_time(seconds: float) -> None:
    clock, told = Clock(), list[Failure[Exception]]()
    with pytest.raises(ConnectionError):
        retry(
            Flaky(10_000),
            on=ConnectionError,
            backoff=BACKOFF,
            pause=clock.pause,
            until=within(seconds),
            on_failure=told.append,
            clock=clock,
        )
    assert all(failure.waited < seconds for failure in told)
    assert clock.now - 1000.0 >= seconds


def test_every_failure_that_another_call_follows_is_told_and_no_other() -> None:
    told = list[Failure[Exception]]()
    with pytest.raises(ConnectionError, match="call 3"):
        retry(Flaky(9), on=OSError, backoff=BACKOFF, pause=Clock().pause, until=tries(3), on_failure=told.append)
    assert [(str(failure.error), failure.number) for failure in told] == [("call 1", 1), ("call 2", 2)]


def test_what_is_not_repeated_is_raised_at_once() -> None:
    operation, clock = Flaky(9), Clock()
    with pytest.raises(ConnectionError, match="call 1"):
        retry(operation, on=(TimeoutError, KeyError), backoff=BACKOFF, pause=clock.pause)
    assert clock.pauses == []


def test_what_is_raised_when_a_failure_is_told_ends_the_row() -> None:
    def unbearable(failure: Failure[Exception]) -> None:
        raise KeyError(failure.number) from failure.error

    operation = Flaky(9)
    with pytest.raises(KeyError):
        retry(operation, on=OSError, backoff=BACKOFF, pause=Clock().pause, on_failure=unbearable)
    assert operation.calls == 1


def _lease_that_is_cancelled() -> Callable[[float], object]:
    lease = Lease()
    lease.cancel()
    return lease.pause


def _event_that_is_set() -> Callable[[float], object]:
    event = threading.Event()
    event.set()
    return event.wait


@pytest.mark.parametrize(
    ("pause", "ended_by"),
    [(_lease_that_is_cancelled(), Cancelled), (_event_that_is_set(), Interrupted)],
    ids=["the lease is cancelled", "the event is set"],
)
def test_a_pause_that_is_cut_short_ends_the_row(
    pause: Callable[[float], object], ended_by: type[Exception]
) -> None:
    operation = Flaky(9)
    with pytest.raises(ended_by):
        retry(operation, on=ConnectionError, backoff=BACKOFF, pause=pause, until=never)
    assert operation.calls == 1


def test_a_first_call_that_succeeds_is_neither_told_nor_paused_after() -> None:
    assert retry(Flaky(0), on=OSError, backoff=BACKOFF, pause=_event_that_is_set()) == 1
