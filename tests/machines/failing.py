"""Machines that fail jobs, and what is written of it."""

from __future__ import annotations

from datetime import timedelta

from kelpie_api.db import Database, Row
from kelpie_api.queue import jobs
from kelpie_api.queue.states import Report
from tests.helpers import Tenant, make_job


def fail_jobs(
    db: Database,
    tenant: Tenant,
    machine: str,
    group: str,
    times: int,
    reason: str | None = None,
    max_bans: int = 5,
    held_for: str | None = None,
    detail: str | None = None,
    max_machines: int = 0,
) -> None:
    """A machine fails so many jobs, each of which it holds for a group."""
    for _ in range(times):
        job_id = make_job(db, tenant, "held", machine=machine, group=group)
        if held_for:
            db.execute(
                "update queue set holder_group = %(group)s where job_id = %(id)s", group=held_for, id=job_id
            )
        failure = Report(machine, group, 1, 1, reason, detail)
        jobs.fail(db, tenant.caller, job_id, failure, max_bans, max_machines)


def reallocations(db: Database) -> list[Row]:
    return db.all("select * from reallocations order by id")


def reallocated(db: Database) -> list[str]:
    return [row["machine_id"] for row in reallocations(db)]


def make_due(db: Database, age: timedelta = timedelta()) -> None:
    db.execute(
        "update reallocations set next_try = now(), created = created - %(age)s where next_try is not null",
        age=age,
    )
