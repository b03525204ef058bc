"""Removing old history, in small steps beside a working queue."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from kelpie_api.db import SQL, Database, Row

SHORTEST_PAUSE = 0.05


@dataclass(frozen=True)
class Step:
    """What one transaction did: how many jobs it removed (or would have), and how long it took."""

    jobs: int
    seconds: float
    taken: bool = False  # another one was at work, and nothing was done

    @property
    def pause(self) -> float:
        """Seconds until the next: removing takes half of the time at most, claims have the rest for themselves."""
        return max(SHORTEST_PAUSE, self.seconds)


def prune(db: Database, kept_for: timedelta, batch: int, *, really: bool = True) -> Iterator[Step]:
    """Remove jobs that finished longer ago, from the oldest on; a batch is looked at for each step asked for.

    Each step is a transaction: whoever stops between two of them, or dies, leaves whole jobs.
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
