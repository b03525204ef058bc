"""What was recorded of one run of a command, over all of its attempts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

APART = 0.1  # seconds: changes that follow each other more closely belong to one checkpoint


@dataclass
class Attempt:
    """One start of the command. Times are seconds since the epoch; `ended` is None while it runs."""

    started: float
    restored: int  # files in the checkpoint directory when the command began, without empty ones
    status: str | None = None  # KELPIE_CHECKPOINT_STATUS
    ended: float | None = None
    code: int | None = None  # None if the machine was killed
    reads: list[str] = field(default_factory=list)
    in_place: list[str] = field(default_factory=list)
    frozen: bool = False
    writes: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return (self.ended or self.started) - self.started

    @property
    def saves(self) -> list[tuple[float, float]]:
        """Begin and end of each checkpoint's writing."""
        found: list[tuple[float, float]] = []
        for at in self.writes:
            if found and at - found[-1][1] < APART:
                found[-1] = (found[-1][0], at)
            else:
                found.append((at, at))
        return found

    @property
    def saved(self) -> float:
        """The seconds of work that its last checkpoint holds; 0 without one."""
        return self.writes[-1] - self.started if self.writes else 0.0

    @property
    def gaps(self) -> list[float]:
        """The times without a new checkpoint, in seconds."""
        marks = [self.started, *(end for _, end in self.saves), self.ended or self.started]
        return [later - earlier for earlier, later in pairwise(marks)]


class Record:
    """The file that the recorders of one job write."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.kills: list[float] = []

    def attempts(self) -> list[Attempt]:
        """All starts until now; one that was killed has ended at the kill that followed."""
        found: list[Attempt] = []
        for event in self._events():
            if event["event"] == "start":
                found.append(Attempt(event["at"], event["restored"], event["status"]))
            else:
                enter(found[-1], event)
        for attempt in found:
            if attempt.ended is None:
                attempt.ended = next((at for at in self.kills if at >= attempt.started), None)
        return found

    def _events(self) -> Iterator[dict[str, Any]]:
        if not self.file.exists():
            return
        for line in self.file.read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue  # the kill came in the middle of a line


def enter(attempt: Attempt, event: dict[str, Any]) -> None:
    match event["event"]:
        case "read":
            attempt.reads.append(event["name"])
        case "in_place":
            attempt.in_place.append(event["name"])
        case "frozen":
            attempt.frozen = True
        case "write":
            attempt.writes.append(event["at"])
        case "end":
            attempt.ended, attempt.code = event["at"], event["code"]
