"""Small drawings of the numbers that a command tells with its progress, over all attempts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 300.0, 60.0
MOST = 12  # drawings


@dataclass(frozen=True)
class Spark:
    """The course of one number: a path in a field of WIDTH by HEIGHT, which a browser stretches."""

    name: str
    path: str
    last: float
    least: float
    most: float


def sparks_of(points: Sequence[Mapping[str, Any]]) -> list[Spark]:
    """One drawing for each number that was told at least twice."""
    found: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        for name, value in (point["metrics"] or {}).items():
            if value is not None and math.isfinite(value):
                found.setdefault(name, []).append((point["at"].timestamp(), value))
    return [spark(name, values) for name, values in sorted(found.items()) if len(values) > 1][:MOST]


def spark(name: str, values: Sequence[tuple[float, float]]) -> Spark:
    begin, end = values[0][0], values[-1][0]
    numbers = [value for _, value in values]
    least, most = min(numbers), max(numbers)
    across, high = (end - begin) or 1.0, (most - least) or 1.0
    if not math.isfinite(high):
        high = 1.0  # farther apart than numbers can be: a flat line
    path = "L".join(
        f"{WIDTH * (at - begin) / across:.1f} {HEIGHT * (1 - min(1.0, max(0.0, (value - least) / high))):.1f}"
        for at, value in values
    )
    return Spark(name, f"M{path}", numbers[-1], least, most)
