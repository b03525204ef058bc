"""The picture of a job: bars, checkpoints, gaps, and the line of the work that is kept."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kelpie_api.dashboard.timeline import APART, MOST_TICKS, Span, labels, picture, spans, thinned, ticks

BEGIN = datetime(2026, 1, 31, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def attempt(number: int, claimed: float, ended: float | None, **more: Any) -> dict[str, Any]:
    row = {"number": number, "claimed": at(claimed), "ended": None if ended is None else at(ended)}
    held = None if ended is None else ended - claimed
    return {**row, "outcome": None, "machine_id": "m1", "held": held, "lost": None, **more}


INTERRUPTED = Span(1, 10, 50, 10, "interrupted", "m1", (20.0, 40.0))
COMPLETED = Span(2, 60, 100, 0, "completed", "m2")


def test_a_bar_is_as_long_as_its_attempt_and_its_lost_end_hatched() -> None:
    [first, second] = picture([INTERRUPTED, COMPLETED], 100).bars
    assert (first.x, first.width, first.lost_x, first.lost_width) == (10, 40, 40, 10)
    assert (second.x, second.width, second.lost_width) == (60, 40, 0)
    assert first.marks == [20, 40]


def test_gaps_between_bars_are_times_of_waiting() -> None:
    assert picture([INTERRUPTED, COMPLETED], 120).waits == [
        (pytest.approx(0), pytest.approx(100 / 12)),
        (pytest.approx(500 / 12), pytest.approx(50)),
        (pytest.approx(1000 / 12), pytest.approx(100)),
    ]


def test_the_line_rises_with_work_and_falls_by_what_was_lost() -> None:
    drawn = picture([INTERRUPTED, COMPLETED], 100)
    assert drawn.most == 70  # 30 of the first attempt and 40 of the second
    [fall] = drawn.falls
    assert (fall.begin, fall.x) == (400, 500)  # from the last checkpoint to the end
    assert fall.bottom - fall.top == pytest.approx(100 * 10 / 70)
    assert drawn.line.endswith("L1000.00 0.00L1000.00 0.00")


def test_an_attempt_whose_loss_is_not_known_keeps_all_in_the_picture() -> None:
    drawn = picture([Span(1, 0, 100, None, "failed", "m1")], 100)
    assert drawn.falls == [] and drawn.bars[0].lost_width == 0


def test_of_an_attempt_that_goes_on_what_came_after_its_last_mark_is_at_risk() -> None:
    rows = [attempt(1, 0, 50, outcome="released", lost=5.0), attempt(2, 60, None)]
    marks = [{"attempt": 2, "at": at(70)}, {"attempt": 2, "at": at(90)}, {"attempt": 1, "at": at(99)}]
    [first, second] = spans(rows, marks, BEGIN, at(100))
    assert (first.marks, first.lost) == ((), 5)  # a mark after its end is none of it
    assert (second.end, second.lost, second.marks) == (100, 10, (70, 90))
    drawn = picture([first, second], 100)
    assert len(drawn.falls) == 1  # it may still be saved


def test_an_interrupted_attempt_ends_with_its_last_sign_of_life() -> None:
    [span] = spans([attempt(1, 10, 100, outcome="interrupted", held=30.0, lost=1.0)], [], BEGIN, at(100))
    assert (span.begin, span.end) == (10, 40)


def test_the_last_checkpoint_is_known_by_the_loss_also_without_a_mark() -> None:
    [bar] = picture([Span(1, 0, 100, 25, "interrupted", "m1")], 100).bars
    assert bar.marks == [75]


def test_nothing_saved_is_a_fall_to_where_the_attempt_began() -> None:
    drawn = picture([Span(1, 0, 100, 100, "failed", "m1")], 100)
    assert (drawn.bars[0].lost_x, drawn.bars[0].lost_width, drawn.bars[0].marks) == (0, 100, [])
    assert (drawn.falls[0].top, drawn.falls[0].bottom) == (0, 100)


def test_marks_that_cannot_be_told_apart_are_left_out_but_not_the_last() -> None:
    kept = thinned([n / 100 for n in range(1000)])
    assert kept[-1] == 9.99 and len(kept) == 20
    assert all(b - a >= APART for a, b in itertools.pairwise(kept))


@pytest.mark.parametrize("length", [1, 7, 59, 3600, 57_000, 86_400, 10_000_000, 10**9])
def test_the_axis_has_a_few_round_times(length: float) -> None:
    found = ticks(length)
    assert found[0] == 0 and 2 <= len(found) <= MOST_TICKS and found[-1] <= length


def test_the_largest_losses_are_labelled_where_there_is_room() -> None:
    found = labels([(10, 5), (12, 50), (30, 7), (80, 1)])
    assert [(label.x, label.seconds, label.everywhere) for label in found] == [
        (12, 50, True),
        (30, 7, False),
        (80, 1, True),
    ]


def test_an_attempt_without_length_is_drawn() -> None:
    assert len(picture([Span(1, 0, 0, None, None, "m1")], 0).bars) == 1
