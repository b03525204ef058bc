"""Reading jobs: one, a page of them by cursor, their attempts and events."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from kelpie_api import history
from kelpie_api.auth.caller import Caller, Role
from kelpie_api.db import SQL, Database, Row
from kelpie_api.encryption import Seal
from kelpie_api.errors import (
    InvalidRequest,
    JobNotFound,
)
from kelpie_api.queue.filters import Filters
from kelpie_api.queue.progress import course, with_progress
from kelpie_api.sealed.environments import opened

FURTHEST = 1_000_000  # jobs that a page of a search leaves out; it looks at fewer, so the page is empty then
PORTION = 250  # jobs of a page that are read at a time, since each may have 256 KiB
TO_LOOK_AT = 10_000  # jobs that are looked at for one page, before it is answered as it is
LARGEST_PAGE = 64 * 2**20  # bytes
HIDDEN = "***"
USER_PART = re.compile(r"^(\w+://)[^/?#]*@")


@dataclass(frozen=True)
class Cursor:
    """A place in the list of jobs, just after the job with this number; later jobs do not move it."""

    seq: int
    oldest_first: bool


def get(db: Database, caller: Caller, job_id: UUID, seal: Seal | None = None) -> Row:
    """A job as this caller may see it; without its environment if that is sealed and `seal` does not open it.
    Raises JobNotFound."""
    job = db.one_or_none(SQL.get_job, job_id=job_id, **caller.scope)
    if job is None:
        raise JobNotFound(job_id)
    if caller.role == Role.WORKER and not job["attempt"]:
        raise JobNotFound(job_id)  # it reads what was handed out
    job = {name: value for name, value in job.items() if name != "checkpoint_lag" or value is not None}
    return shown_to(db, caller, [opened(seal, job)])[0]


def shown_to(db: Database, caller: Caller, jobs: list[Row]) -> list[Row]:
    """Jobs as this caller may see them, with their progress: for a worker's credentials the secrets only of those
    that it holds, for a viewer none.

    The owner of a node can read its credentials. A worker's key names no machine, so it holds none here: it gets a
    job whole in the answer to its claim.
    """
    jobs = [with_progress(job) for job in jobs]
    if caller.role == Role.VIEWER:
        return [without_secrets(job, None) for job in jobs]
    if not caller.is_worker:
        return jobs
    held = held_by(db, caller, [job["id"] for job in jobs])
    return [job if job["id"] in held else without_secrets(job, HIDDEN) for job in jobs]


def held_by(db: Database, caller: Caller, job_ids: list[UUID]) -> set[UUID]:
    """Which of these jobs the machine of a token holds."""
    if caller.machine is None:
        return set()
    machine = {"machine_id": caller.machine.machine_id, "container_group": caller.machine.workload_id}
    held = db.all(SQL.jobs_held_by, job_ids=job_ids, scope=caller.scope["scope"], **machine)
    return {row["job_id"] for row in held}


def without_secrets(job: Row, value: str | None) -> Row:
    """The job without the user part of its webhook, and with this value in place of those of its environment."""
    webhook = job["webhook"] and without_user_part(job["webhook"])
    environment = job["environment"]
    hidden = None if environment is None else dict.fromkeys(environment, value)
    return job | {"environment": hidden, "webhook": webhook}


def without_user_part(url: str) -> str:
    return USER_PART.sub(rf"\1{HIDDEN}@", url)


@dataclass(frozen=True)
class Place:
    """Which of the jobs that match are asked for: a page of `size`, after the first `skipped` of those beyond a
    number (None: from the beginning)."""

    size: int
    beyond: int | None = None
    skipped: int = 0
    oldest_first: bool = False


def place_of(*, page: int, page_size: int, asc: bool, cursor: Cursor | None) -> Place:
    """The place that a query asks for; a cursor has its own order and takes precedence over `page`."""
    if cursor:
        return Place(page_size, cursor.seq, 0, cursor.oldest_first)
    return Place(page_size, None, (page - 1) * page_size, asc)


@dataclass(frozen=True)
class Page:
    """One page of jobs. `following` is the cursor of the next, if there may be one; `partial`: the search ended
    before the page was full, and goes on there."""

    jobs: list[Row]
    following: Cursor | None = None
    partial: bool = False


def list_page(db: Database, caller: Caller, filters: Filters, place: Place, seal: Seal | None = None) -> Page:
    """One page of the caller's jobs; their order is total.

    Raises InvalidRequest where the jobs of the page are too large together, or a reference means several.
    """
    if filters.plain:
        return _plain_page(db, caller, filters, place, seal)
    found = search(db, caller, filters.resolved(db, caller), place)
    return page_of(db, caller, found, found.numbers, place, seal)


def _plain_page(db: Database, caller: Caller, filters: Filters, place: Place, seal: Seal | None) -> Page:
    """A page of the jobs of a status and a group, or of all: each entry that an index answers is on it."""
    filtered = {
        **caller.scope,
        "status": filters.status,
        "container_group": filters.container_group_id,
        "oldest_first": place.oldest_first,
    }
    found: list[Row] = []
    beyond, skipped = place.beyond, place.skipped
    while (left := place.size + 1 - len(found)) > 0:
        portion = db.all(SQL.list_jobs, **filtered, beyond=beyond, most=min(left, PORTION), skipped=skipped)
        found += portion
        _refuse_too_large(found)
        if len(portion) < min(left, PORTION):
            break
        beyond, skipped = portion[-1]["seq"], 0
    shown = found[: place.size]
    following = Cursor(shown[-1]["seq"], place.oldest_first) if len(found) > place.size else None
    return Page(shown_to(db, caller, [opened(seal, job) for job in shown]), following)


@dataclass(frozen=True)
class Found:
    """The numbers of jobs that match, one more than the page has where there are more, and how far was looked."""

    numbers: list[int]
    looked: int
    reached: int
    is_partial: bool


def search(
    db: Database,
    caller: Caller,
    filters: Filters,
    place: Place,
    to_look_at: int = TO_LOOK_AT,
    *,
    in_any_order: bool = False,
) -> Found:
    """The numbers of the jobs of a page and one more, after a look at `to_look_at` entries at most.

    `in_any_order`: some that match, not the next ones, as for a count; then a beginning of names finds them by
    itself, however many jobs have it. The filters have no reference any more (`resolved`).
    """
    found = db.one_or_none(
        SQL.find_jobs,
        **caller.scope,
        wanted=json.dumps(filters.wanted() | ({"any_order": True} if in_any_order else {})),
        beyond=place.beyond,
        oldest_first=place.oldest_first,
        most=place.size + 1,
        skipped=min(place.skipped, FURTHEST),
        to_look_at=to_look_at,
    )
    assert found is not None, "the function answers one row"
    return Found(**found)


def page_of(
    db: Database, caller: Caller, found: Found, numbers: Collection[int], place: Place, seal: Seal | None = None
) -> Page:
    """The page of what was found, on which only the jobs of these numbers are shown.

    Raises InvalidRequest where they are too large together.
    """
    wanted = {*numbers}
    jobs = by_number(db, [number for number in found.numbers[: place.size] if number in wanted])
    last = found.numbers[place.size - 1] if len(found.numbers) > place.size else None
    if last is None and found.is_partial:
        last = found.reached
    following = None if last is None else Cursor(last, place.oldest_first)
    return Page(shown_to(db, caller, [opened(seal, job) for job in jobs]), following, found.is_partial)


def by_number(db: Database, numbers: Sequence[int]) -> list[Row]:
    """Jobs by their numbers, in the order of these. Raises InvalidRequest where they are too large together."""
    found: list[Row] = []
    for first in range(0, len(numbers), PORTION):
        found += db.all(SQL.show_jobs, numbers=numbers[first : first + PORTION])
        _refuse_too_large(found)
    return found


def _refuse_too_large(page: list[Row]) -> None:
    """Raise InvalidRequest before a page uses too much memory."""
    if sum(row["bytes"] for row in page) > LARGEST_PAGE:
        raise InvalidRequest(
            f"A page may have at most {LARGEST_PAGE // 2**20} MiB, this one has more; take a smaller page_size.",
            {"page_size": ["The jobs are too large for so many on one page."]},
        )


def attempts(db: Database, caller: Caller, job_id: UUID, after: int, page_size: int) -> history.HistoryPage:
    """A page of a job's attempts and how they ended, and the number to go on after. Raises JobNotFound."""
    get(db, caller, job_id)
    found, following = history.page_of(db, SQL.list_attempts, "number", job_id, after, page_size)
    if caller.is_worker and not held_by(db, caller, [job_id]):
        found = [attempt | {"output": None} for attempt in found]
    return found, following


def progress(db: Database, caller: Caller, job_id: UUID) -> Row:
    """How far a job is, and how it came there. Raises JobNotFound."""
    get(db, caller, job_id)
    return course(db.one_or_none(SQL.get_progress, job_id=job_id), db.all(SQL.list_progress_points, job_id=job_id))


def events(db: Database, caller: Caller, job_id: UUID, after: int, page_size: int) -> history.HistoryPage:
    """A page of a job's changes with their actors, and the id to go on after. Raises JobNotFound."""
    get(db, caller, job_id)
    return history.page_of(db, SQL.list_events, "id", job_id, after, page_size)
