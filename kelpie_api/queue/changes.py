"""Changes of a job that is open: what is said of it, its limits, and which machines are banned from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from kelpie_api.auth.caller import Caller
from kelpie_api.db import SQL, Database, Row, Transaction
from kelpie_api.errors import Conflict
from kelpie_api.queue.wishes import is_final, require_own_group

COLUMNS = ("name", "labels", "priority", "max_failures")  # the other fields that can be changed are options


def change(db: Database, caller: Caller, job_id: UUID, changes: Mapping[str, Any]) -> None:
    """Change fields of a job; null removes one. A limit that is reached already ends a job that no machine holds.

    Raises JobNotFound, Conflict for a final job, and where as many failures as `max_failures` happened already.
    """
    require_own_group(db, caller, job_id)
    if not db.repeatable(lambda tx: _change(tx, caller, job_id, changes)):
        raise is_final(db, caller, job_id)


def _change(tx: Transaction, caller: Caller, job_id: UUID, changes: Mapping[str, Any]) -> bool:
    job = tx.one_or_none(SQL.lock_job, job_id=job_id, **caller.scope)
    if job is None:
        return False
    most = changes.get("max_failures")
    if most is not None and most <= job["num_failures"]:
        raise Conflict(
            f"Job {job_id} has failed {job['num_failures']} times already; max_failures must be greater than that."
        )
    if changes:
        # A statement of its own: the one before waited for the lock, and this one sees what was committed by then.
        attempt = tx.one_or_none(SQL.attempt_of_job, job_id=job_id) or {}
        tx.execute(SQL.change_job, job_id=job_id, **attempt, **_changed(job, changes), actor=caller.actor)
        tx.one_or_none(SQL.end_attempts, job_id=job_id, most=1)
    return True


def _changed(job: Row, changes: Mapping[str, Any]) -> Row:
    options = (job["options"] or {}) | {name: value for name, value in changes.items() if name not in COLUMNS}
    left = {name: value for name, value in options.items() if value is not None}
    columns = {name: changes.get(name, job[name]) for name in COLUMNS}
    return columns | {
        "labels": Jsonb(columns["labels"]) if columns["labels"] else None,
        "old_labels": json.dumps(job["labels"] or {}),
        "priority": columns["priority"] or 0,
        "options": Jsonb(left) if left else None,
        "fields": sorted(changes),
    }


def lift_bans(db: Database, caller: Caller, job_id: UUID, machine_id: str | None = None) -> int:
    """Let machines have a job again that they are banned from, one or all of them; their number.

    Raises JobNotFound, Conflict for a final job.
    """
    require_own_group(db, caller, job_id)
    lifted = db.one_or_none(
        SQL.unban_machines, job_id=job_id, machine_id=machine_id, **caller.scope, actor=caller.actor
    )
    if lifted is None:
        raise is_final(db, caller, job_id)
    return int(lifted["count"])
