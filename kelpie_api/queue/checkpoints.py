"""Manifests of committed checkpoints: accepted from the holder only, handed to the next attempt."""

from __future__ import annotations

import json
from typing import Any, LiteralString
from uuid import UUID

from kelpie_api.auth.caller import Caller
from kelpie_api.db import SQL, Database, Row
from kelpie_api.errors import NotFound, NotTheHolder
from kelpie_api.queue import jobs
from kelpie_api.queue.listing import get
from kelpie_api.queue.states import Report

LARGEST_SUM = 2**63 - 1  # bytes, which the database can keep; what is claimed beyond is no real size


def keep(
    db: Database, caller: Caller, job_id: UUID, report: Report, generation: int, files: list[dict[str, Any]]
) -> int:
    """Store the manifest of a generation; return the number of the newest generation stored for this attempt.

    A lower number than that one is not stored: a report that was delayed must not replace a later one.
    Raises NotTheHolder, JobNotFound.
    """
    kept = _by_holder(
        db,
        caller,
        job_id,
        report,
        SQL.keep_checkpoint,
        generation=generation,
        files=json.dumps(files),
        bytes=min(sum(file["size"] for file in files), LARGEST_SUM),
    )
    newest: int = kept["generation"]
    return newest


def tell_resumed(
    db: Database, caller: Caller, job_id: UUID, report: Report, checkpoint: str, detail: str | None
) -> None:
    """Record once whether the checkpoint that an attempt began with was clean or torn.

    Raises NotTheHolder, JobNotFound.
    """
    _by_holder(db, caller, job_id, report, SQL.tell_resumed, checkpoint=checkpoint, detail=detail)


def newest(db: Database, caller: Caller, job_id: UUID) -> Row:
    """The newest manifest of a job. Raises JobNotFound, NotFound if it has none."""
    get(db, caller, job_id)
    found = db.one_or_none(SQL.newest_checkpoint, job_id=job_id)
    if found is None:
        raise NotFound(f"Job {job_id} has no checkpoint yet.")
    return found


def with_newest(db: Database, job: Row) -> Row:
    """The job as a claim answers it: with its newest manifest, if there is one."""
    if job["attempt"] < 2:  # no earlier attempt could report one
        return job
    newest = db.one_or_none(SQL.newest_checkpoint, job_id=job["id"])
    return job | {"checkpoint": newest} if newest else job


def _by_holder(
    db: Database, caller: Caller, job_id: UUID, report: Report, statement: LiteralString, **values: Any
) -> Row:
    written = db.one_or_none(
        statement,
        job_id=job_id,
        **caller.scope,
        machine_id=report.machine_id,
        attempt=report.attempt,
        actor=f"machine:{report.machine_id}",
        **values,
    )
    if written is None:
        raise NotTheHolder(jobs.why_refused(db, caller, job_id, report))
    return written
