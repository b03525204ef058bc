"""Reading jobs: one, a page of them by cursor, their attempts and events."""

from __future__ import annotations

import re
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
from kelpie_api.sealed.environments import opened

PORTION = 250  # jobs of a page that are read at a time, since each may have 256 KiB
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
    """Jobs as this caller may see them: for a worker's credentials the secrets only of those that it holds, for a
    viewer none.

    The owner of a node can read its credentials. A worker's key names no machine, so it holds none here: it gets a
    job whole in the answer to its claim.
    """
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


def list_page(
    db: Database,
    caller: Caller,
    *,
    status: str | None,
    container_group_id: str | None,
    page: int,
    page_size: int,
    oldest_first: bool,
    cursor: Cursor | None = None,
    seal: Seal | None = None,
) -> tuple[list[Row], Cursor | None]:
    """One page of the caller's jobs, newest first unless `oldest_first`, and the cursor of the next, if any.

    The order is total. A `cursor` has its own order and takes precedence over `page`. Raises InvalidRequest where
    the jobs of the page are too large together.
    """
    if cursor:
        page, oldest_first = 1, cursor.oldest_first
    filters = {
        **caller.scope,
        "status": status,
        "container_group": container_group_id,
        "oldest_first": oldest_first,
    }
    found: list[Row] = []
    beyond, skipped = cursor and cursor.seq, (page - 1) * page_size
    while (left := page_size + 1 - len(found)) > 0:
        portion = db.all(SQL.list_jobs, **filters, beyond=beyond, most=min(left, PORTION), skipped=skipped)
        found += portion
        _refuse_too_large(found)
        if len(portion) < min(left, PORTION):
            break
        beyond, skipped = portion[-1]["seq"], 0
    shown = found[:page_size]
    with_environments = [opened(seal, job) for job in shown]
    return shown_to(db, caller, with_environments), Cursor(shown[-1]["seq"], oldest_first) if len(
        found
    ) > page_size else None


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


def events(db: Database, caller: Caller, job_id: UUID, after: int, page_size: int) -> history.HistoryPage:
    """A page of a job's changes with their actors, and the id to go on after. Raises JobNotFound."""
    get(db, caller, job_id)
    return history.page_of(db, SQL.list_events, "id", job_id, after, page_size)
