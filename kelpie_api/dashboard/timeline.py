"""The picture of a job: its attempts on a line of time, and the work that was kept and lost.

Two drawings share one axis of time. In the upper one a line rises while a machine works and falls where an attempt
ends without what it did after its last checkpoint: the height of a fall is what was lost. In the lower one each
attempt is a bar with its checkpoints as marks, its lost end hatched. Everything here is pure; a template draws it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

WIDTH = 1000.0  # of the upper drawing, which a browser stretches
HEIGHT = 100.0
MOST_TICKS = 6
APART = 0.5  # percent, between two marks
# Percent that a bar has for its sign, and for its number beside it on a wide screen, and on a narrow one.
SIGNED, ROOMY, NUMBERED = 5.0, 6.0, 16.0
LABELS_APART, LABELS_FAR_APART = 5.0, 24.0  # percent, between two labels on a wide screen, and on a narrow one
STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400]


@dataclass(frozen=True)
class Span:
    """An attempt in seconds since the first moment of the picture. `lost` is None where that is not known."""

    number: int
    begin: float
    end: float
    lost: float | None
    outcome: str | None  # None: it goes on
    machine: str
    marks: tuple[float, ...] = ()

    @property
    def held(self) -> float:
        return self.end - self.begin

    @property
    def saved(self) -> float:
        """When the last checkpoint was whole; the end where all was kept, the beginning where nothing was."""
        return self.end - min(self.lost or 0.0, self.held)


@dataclass(frozen=True)
class Bar:
    """An attempt, in percent of the width."""

    span: Span
    x: float
    width: float
    lost_x: float
    lost_width: float
    marks: list[float]

    @property
    def has_sign(self) -> bool:
        return self.width >= SIGNED

    @property
    def has_number(self) -> bool:
        """Whether there is room for its number on a wide screen."""
        return self.width >= ROOMY

    @property
    def has_number_everywhere(self) -> bool:
        return self.width >= NUMBERED


@dataclass(frozen=True)
class Fall:
    """A loss: where it is in the upper drawing, and between which heights the line falls.

    `begin`: where the work that was lost began, at the last checkpoint.
    """

    begin: float
    x: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Label:
    """How much was lost, at the end of a bar; `everywhere`: there is room for it also on a narrow screen."""

    x: float  # percent
    seconds: float
    everywhere: bool


@dataclass(frozen=True)
class Tick:
    x: float  # percent
    seconds: float


@dataclass(frozen=True)
class Picture:
    """`line` and `area` are paths of the upper drawing; `waits` are gaps between bars, in percent: x and end."""

    bars: list[Bar]
    waits: list[tuple[float, float]]
    line: str
    area: str
    falls: list[Fall]
    labels: list[Label]
    ticks: list[Tick]
    seconds: float
    most: float  # seconds of work at the top of the upper drawing


def spans(
    attempts: Sequence[Mapping[str, Any]], marks: Sequence[Mapping[str, Any]], begin: datetime, now: datetime
) -> list[Span]:
    """Attempts as the database has them, the first one first. Of one that goes on all after its last mark is at
    risk."""
    by_attempt: dict[int, list[float]] = {}
    for mark in marks:
        by_attempt.setdefault(mark["attempt"], []).append((mark["at"] - begin).total_seconds())
    found = []
    for row in attempts:
        start = (row["claimed"] - begin).total_seconds()
        until = ((row["ended"] or now) - begin).total_seconds()
        end = until if row["held"] is None else start + row["held"]
        own = [at for at in by_attempt.get(row["number"], []) if start <= at <= end]
        if row["ended"] is None and own:
            lost: float | None = end - own[-1]
        else:
            lost = row["lost"]
        found.append(
            Span(row["number"], start, max(start, end), lost, row["outcome"], row["machine_id"], tuple(own))
        )
    return found


def picture(found: Sequence[Span], seconds: float) -> Picture:
    """The picture of attempts that follow each other, over so many seconds."""
    length = max(seconds, *(span.end for span in found), 1.0)

    def percent(at: float) -> float:
        return 100.0 * at / length

    bars = [
        Bar(
            span,
            percent(span.begin),
            percent(span.held),
            percent(span.saved),
            percent(span.end - span.saved),
            thinned([percent(at) for at in [*span.marks, *last_mark(span)]]),
        )
        for span in found
    ]
    line, falls, most = course(found, length)
    path = "L".join(f"{x:.2f} {y:.2f}" for x, y in line)
    return Picture(
        bars=bars,
        waits=[(percent(begin), percent(end)) for begin, end in waits(found, length)],
        line=f"M{path}",
        area=f"M0 {HEIGHT:.0f}L{path}L{line[-1][0]:.2f} {HEIGHT:.0f}Z",
        falls=falls,
        labels=labels([(percent(span.end), span.lost) for span in found if span.outcome and span.lost]),
        ticks=[Tick(percent(at), at) for at in ticks(length)],
        seconds=length,
        most=most,
    )


def last_mark(span: Span) -> list[float]:
    """The last checkpoint of an attempt that lost something: known by what was lost, also without a mark."""
    return [span.saved] if span.lost and span.begin < span.saved < span.end else []


def thinned(marks: Sequence[float]) -> list[float]:
    """Marks that can be told apart, with the last one, which says where the next attempt went on."""
    kept: list[float] = []
    for mark in sorted(marks, reverse=True):
        if not kept or kept[-1] - mark >= APART:
            kept.append(mark)
    return kept[::-1]


def labels(losses: Sequence[tuple[float, float]]) -> list[Label]:
    """Labels of the largest losses for which there is room."""
    wide: list[float] = []
    narrow: list[float] = []
    found: list[Label] = []
    for x, seconds in sorted(losses, key=lambda loss: -loss[1]):
        if all(abs(x - other) >= LABELS_APART for other in wide):
            everywhere = all(abs(x - other) >= LABELS_FAR_APART for other in narrow)
            wide.append(x)
            narrow += [x] if everywhere else []
            found.append(Label(x, seconds, everywhere))
    return sorted(found, key=lambda label: label.x)


def waits(found: Sequence[Span], length: float) -> list[tuple[float, float]]:
    """The times in which no machine worked, up to the end of the picture."""
    edges = [0.0, *(edge for span in found for edge in (span.begin, span.end)), length]
    return [(begin, end) for begin, end in zip(edges[::2], edges[1::2], strict=True) if end > begin]


def course(found: Sequence[Span], length: float) -> tuple[list[tuple[float, float]], list[Fall], float]:
    """The line of the work that is kept, its falls, and the most work there was, in seconds."""
    points, kept, most = [(0.0, 0.0)], 0.0, 0.0
    dropped: list[tuple[float, float, float, float]] = []
    for span in found:
        points += [(span.begin, kept), (span.end, kept + span.held)]
        most = max(most, kept + span.held)
        after = kept + span.saved - span.begin
        if span.outcome is None:
            after = kept + span.held  # it may still be saved
        elif span.lost:
            dropped.append((span.saved, span.end, kept + span.held, after))
            points.append((span.end, after))
        kept = after
    points.append((length, kept))
    top = most or 1.0

    def x(at: float) -> float:
        return WIDTH * at / length

    def y(work: float) -> float:
        return HEIGHT * (1 - work / top)

    line = [(x(at), y(work)) for at, work in points]
    return line, [Fall(x(begin), x(at), y(before), y(after)) for begin, at, before, after in dropped], most


def ticks(length: float) -> list[float]:
    """Round times for the axis, MOST_TICKS at most."""
    days = [86_400.0 * number for number in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)]
    step = next((step for step in [*map(float, STEPS), *days] if length / step < MOST_TICKS), length)
    return [step * number for number in range(int(length / step) + 1)]
