"""The decisions of the autoscaler for a group as a picture: replicas that were wanted and there, over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

WIDTH, HEIGHT = 1000.0, 100.0  # which a browser stretches


@dataclass(frozen=True)
class Course:
    """Paths of steps in a field of WIDTH by HEIGHT, the most replicas in them, and the time that they are of."""

    wanted: str
    there: str
    most: int
    begin: datetime
    end: datetime


def course(decisions: Sequence[Mapping[str, Any]]) -> Course | None:
    """The picture of decisions that follow each other; None of fewer than two, or if nothing is known of them."""
    wanted = [(row["at"], row["desired_replicas"]) for row in decisions if row["desired_replicas"] is not None]
    there = [(row["at"], row["observed_replicas"]) for row in decisions if row["observed_replicas"] is not None]
    most = max((number for _, number in (*wanted, *there)), default=None)
    if len(decisions) < 2 or most is None:
        return None
    begin, end = decisions[0]["at"], decisions[-1]["at"]
    return Course(steps(wanted, begin, end, most or 1), steps(there, begin, end, most or 1), most, begin, end)


def steps(line: Sequence[tuple[datetime, int]], begin: datetime, end: datetime, most: int) -> str:
    """A path that keeps each number until the next one."""
    length = (end - begin).total_seconds() or 1.0
    path = ""
    for at, number in line:
        x, y = WIDTH * (at - begin).total_seconds() / length, HEIGHT * (1 - number / most)
        path += f"H{x:.1f}V{y:.1f}" if path else f"M{x:.1f} {y:.1f}"
    return f"{path}H{WIDTH:.0f}" if path else ""
