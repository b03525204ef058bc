"""Small drawings of a job's progress and of the numbers that its command tells, over all attempts.

Each is a path that needs no script, with the same numbers in JSON, of which charts.js makes a chart.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 300.0, 60.0
MOST = 12  # drawings
PROGRESS = "progress"


@dataclass(frozen=True)
class Spark:
    """The course of one number: a path in a field of WIDTH by HEIGHT, which a browser stretches.

    `values` is JSON: a number or null for each time of the drawings.
    """

    name: str
    path: str
    last: float
    least: float
    most: float
    values: str
    is_share: bool = False


@dataclass(frozen=True)
class Sparks:
    """Drawings over the same times.

    JSON: `at`, the times in seconds since 1970, and `begins`, where attempts begin: a time and a number for each.
    """

    drawings: list[Spark]
    at: str
    begins: str


def sparks_of(points: Sequence[Mapping[str, Any]]) -> Sparks | None:
    """One drawing for each number that was told at least twice, progress first; None if there is none."""
    at = [point["at"].timestamp() for point in points]
    found: dict[str, list[float | None]] = {}
    for place, point in enumerate(points):
        for name, value in (point["metrics"] or {}).items():
            if value is not None and math.isfinite(value):
                found.setdefault(name, [None] * len(points))[place] = value
    named = [(name, found[name], False) for name in sorted(found)]
    shares = [point["fraction"] for point in points]
    drawings = [
        spark(name, at, values, is_share)
        for name, values, is_share in [(PROGRESS, shares, True), *named]
        if sum(value is not None for value in values) > 1
    ]
    if not drawings:
        return None
    times = json.dumps([round(one, 1) for one in at])
    return Sparks(drawings[:MOST], times, json.dumps(begins_of(points)))


def begins_of(points: Sequence[Mapping[str, Any]]) -> list[tuple[float, int]]:
    """Where the points of each attempt begin that follows another one."""
    return [
        (round(after["at"].timestamp(), 1), after["attempt"])
        for before, after in itertools.pairwise(points)
        if after["attempt"] != before["attempt"]
    ]


def spark(name: str, at: Sequence[float], values: Sequence[float | None], is_share: bool = False) -> Spark:
    told = [(when, value) for when, value in zip(at, values, strict=True) if value is not None]
    begin, end = told[0][0], told[-1][0]
    numbers = [value for _, value in told]
    least, most = min(numbers), max(numbers)
    across, high = (end - begin) or 1.0, (most - least) or 1.0
    if not math.isfinite(high):
        high = 1.0  # farther apart than numbers can be: a flat line
    path = "L".join(
        f"{WIDTH * (when - begin) / across:.1f} {HEIGHT * (1 - min(1.0, max(0.0, (value - least) / high))):.1f}"
        for when, value in told
    )
    rounded = json.dumps([None if value is None else float(f"{value:.6g}") for value in values], allow_nan=False)
    return Spark(name, f"M{path}", numbers[-1], least, most, rounded, is_share)
