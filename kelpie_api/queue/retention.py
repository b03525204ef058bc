"""Removal of old history, in short transactions beside a working queue."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from kelpie_api.db import SQL, Database, Row

SHORTEST_PAUSE = 0.05  # seconds


@dataclass(frozen=True)
class Step:
    """The result of one transaction: the jobs that it removed (or would have), and the seconds it took."""

    jobs: int
    seconds: float
    taken: bool = False  # another process was pruning, so nothing was done

    @property
    def pause(self) -> float:
        """Seconds to wait before the next step, so that removing takes at most half of the time."""
        return max(SHORTEST_PAUSE, self.seconds)


def prune(db: Database, kept_for: timedelta, batch: int, *, really: bool = True) -> Iterator[Step]:
    """Remove jobs that finished longer ago than `kept_for`, oldest first; each step examines `batch` of them.

    Each step is a transaction, so a stop or a kill between two steps leaves whole jobs. With `really` false jobs
    are only counted.
    """
    after: int | None = 0
    while after is not None:
        began = time.monotonic()
        done = _next(db, after, kept_for, batch, really)
        yield Step(done["expired"], time.monotonic() - began, done["taken"])
        after = after if done["taken"] else done["reached"]


def _next(db: Database, after: int, kept_for: timedelta, batch: int, really: bool) -> Row:
    (done,) = db.all(SQL.prune_jobs, after=after, kept_for=kept_for, batch=batch, really=really)
    return done
