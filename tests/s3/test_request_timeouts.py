"""How long a request may wait for storage, as tables with a clock of the test's own."""

from __future__ import annotations

import math

import pytest

from kelpie_worker.s3.request_timeouts import Limits, Line, current_limits, limited

KIB, MIB = 1024, 1024 * 1024


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def sent(line: Line, size: int, seconds: float) -> None:
    """A request that was answered after that time."""
    clock = Clock()
    with line.carrying(size, clock):
        clock.now = seconds


# What was sent before, as bytes and seconds; what is under way; for how long that is waited for.
PATIENCE = [
    ("a request without content", [], [0], 30),
    ("a small file", [], [64 * KIB], 31),
    ("a part, on a line of which nothing is known", [], [8 * MIB], 30 + 128),
    ("all that is under way, which may leave in any order", [], [0, 8 * MIB, 8 * MIB], 30 + 256),
    ("a part on a fast line", [(8 * MIB, 1.0)], [8 * MIB], 30 + 3),
    ("a part on a slow line", [(8 * MIB, 60.0)], [8 * MIB], 30 + 180),
    ("never for ever", [(8 * MIB, 1e6)], [8 * MIB], 30 + 512),
    ("a small file says nothing of the line", [(1, 1.0)], [8 * MIB], 30 + 128),
    ("a line that became faster is believed in by and by", [(8 * MIB, 8.0), (8 * MIB, 0.0)], [8 * MIB], 30 + 12),
]


@pytest.mark.parametrize(
    ("before", "under_way", "seconds"), [row[1:] for row in PATIENCE], ids=[row[0] for row in PATIENCE]
)
def test_a_request_is_waited_for_the_longer_the_more_is_under_way_and_the_slower_the_line_was_seen(
    before: list[tuple[int, float]], under_way: list[int], seconds: float
) -> None:
    line = Line(30)
    for size, took in before:
        sent(line, size, took)
    with line.carrying(under_way[0]):
        if under_way[1:]:
            with line.carrying(sum(under_way[1:])):
                assert line.patience == pytest.approx(seconds)
        else:
            assert line.patience == pytest.approx(seconds)
    assert line.patience == 30


def test_what_fails_shows_no_pace_and_a_time_out_makes_the_next_requests_wait_longer() -> None:
    line = Line(30)
    with pytest.raises(OSError), line.carrying(8 * MIB):
        raise OSError
    with line.carrying(8 * MIB):
        assert line.patience == 30 + 128
        line.note_time_out()
        assert line.patience == 30 + 256
    sent(line, 8 * MIB, 1.0)
    with line.carrying(8 * MIB):
        assert line.patience == pytest.approx(30 + 3), "what was only feared gives way to what was seen"


def test_a_time_out_while_little_is_under_way_says_nothing_of_the_line() -> None:
    line = Line(30)
    with line.carrying(100):
        line.note_time_out()
    with line.carrying(8 * MIB):
        assert line.patience == 30 + 128


# Seconds that the lease lasts, and that are waited for at most.
@pytest.mark.parametrize(("lease", "at_most"), [(math.inf, 10.0), (100.0, 10.0), (3.0, 3.0)])
def test_no_time_out_reaches_past_the_lease(lease: float, at_most: float) -> None:
    assert Limits(Line(30), lambda: lease).at_most(10.0) == pytest.approx(at_most, abs=0.1)


def test_past_the_lease_a_request_has_to_end_and_a_renewed_lease_lets_it_go_on() -> None:
    left = 5.0
    limits = Limits(Line(30), lambda: left)
    assert limits.pause() == 1.0
    left = 0.0
    with pytest.raises(TimeoutError):
        limits.pause()
    left = 5.0
    assert limits.pause() == 1.0


def test_without_patience_left_a_request_has_to_end() -> None:
    with pytest.raises(TimeoutError):
        Limits(Line(0), lambda: math.inf).pause()


def test_limits_are_for_one_request() -> None:
    line = Line(30)
    with limited(line, 8 * MIB, lambda: math.inf):
        assert current_limits() is not None and line.patience > 30
    assert current_limits() is None and line.patience == 30
