"""Requests that wait until one of some jobs changes.

A mark says how jobs were when they were answered: a time, and a digest of all that can change but heartbeats and
progress. So nothing that happens between two requests is missed, and nothing wakes a request that has seen it: a
mark is compared with what is there, not with a number that a transaction may have drawn long before it commits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from kelpie_api.auth.caller import Caller
from kelpie_api.db import SQL, Database
from kelpie_api.queue.filters import Filters
from kelpie_api.queue.listing import Found, Place, search
from kelpie_api.serving_threads import aside

PAUSE = 1.0  # seconds between two looks
LONGEST_COMMIT = timedelta(minutes=1)  # an event says when its transaction began
MOST_WAITING = 32  # requests of one process; they take a thread each, which claims that wait do not lack
NOTHING = "0" * 32  # the digest of no job
_room = threading.BoundedSemaphore(MOST_WAITING)


@dataclass(frozen=True)
class Mark:
    """How jobs were at a time; without a digest it is that time alone."""

    at: datetime
    digest: str | None = None

    def __str__(self) -> str:
        return f"{self.at.astimezone(UTC).isoformat(timespec='milliseconds').replace('+00:00', 'Z')}~{self.digest}"


@dataclass(frozen=True)
class Look:
    """What was found, the mark of it, and the numbers of the jobs to answer."""

    found: Found
    mark: Mark
    numbers: list[int]


def look(db: Database, caller: Caller, filters: Filters, place: Place, since: Mark | None) -> Look:
    """The jobs of a page as they are now; with `since` only those that changed after it."""
    if since and since.digest is None:
        filters = replace(filters, changed_since=since.at)
    found = search(db, caller, filters, place)
    seen = db.one_or_none(SQL.digest_of_jobs, numbers=found.numbers)
    assert seen is not None, "an aggregate without groups has a row"
    mark = Mark(seen["at"], seen["digest"] or NOTHING)
    if since is None or since.digest is None:
        return Look(found, mark, found.numbers)
    if since.digest == mark.digest:
        return Look(found, mark, [])
    changed = db.all(SQL.changed_jobs, numbers=found.numbers, since=since.at - LONGEST_COMMIT)
    return Look(found, mark, [row["seq"] for row in changed] or found.numbers)


def wait_for_change(
    look_now: Callable[[Mark | None], Look], since: Mark | None, seconds: float, over: Callable[[], bool]
) -> tuple[Look, bool]:
    """What a look finds as soon as a job changed after `since` (None: after the first look), and whether there was
    room to wait; after so many seconds, or once it is `over`, what there is."""
    first = look_now(since)
    is_new = since is not None and (first.mark.digest != since.digest if since.digest else bool(first.numbers))
    if not seconds or is_new:
        return first, True
    if not _room.acquire(blocking=False):
        return first, False
    try:
        return _waited(look_now, since, first, time.monotonic() + seconds, over), True
    finally:
        _room.release()


def _waited(
    look_now: Callable[[Mark | None], Look],
    since: Mark | None,
    first: Look,
    until: float,
    over: Callable[[], bool],
) -> Look:
    found = first
    while (left := until - time.monotonic()) > 0 and not over():
        with aside():
            time.sleep(min(PAUSE, left))
        found = look_now(since)
        if found.mark.digest != first.mark.digest:
            break
    return found
