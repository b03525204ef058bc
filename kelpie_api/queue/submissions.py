"""Submission of jobs: a batch whole or not at all, and one with an Idempotency-Key only once."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from kelpie_api.auth.caller import Caller
from kelpie_api.db import SQL, Database, Row
from kelpie_api.errors import (
    IdempotencyKeyReused,
    SubmittedJobsGone,
)
from kelpie_api.queue.during_prefixes import places


@dataclass(frozen=True)
class IdempotencyKey:
    """The Idempotency-Key of a submission, and a digest of the body that it came with."""

    key: str
    digest: bytes


def submit(db: Database, caller: Caller, definitions: Sequence[dict[str, Any]]) -> list[Row]:
    """Create all jobs or none; return them in the order given."""
    return db.unrepeatable(lambda tx: tx.all(SQL.submit_jobs, **_submission(caller, definitions)))


def submit_once(
    db: Database, caller: Caller, definitions: Sequence[dict[str, Any]], once: IdempotencyKey
) -> tuple[list[Row], bool]:
    """Create all jobs or none, unless this key did so within a day; return the jobs, and whether they existed.

    The try may be repeated after a lost connection: the second one finds by its ids what the first created.
    Raises IdempotencyKeyReused, SubmittedJobsGone.
    """
    values = _submission(caller, definitions, once)
    while True:
        if created := db.all(SQL.submit_jobs, **values):
            return created, False
        earlier = db.one_or_none(SQL.find_submission, tenant_id=caller.tenant_id, key=once.key)
        if earlier:  # else it was removed in between, and the key is free
            return _submitted(db, caller, earlier, once), earlier["job_ids"] != values["job_ids"]


def _submission(
    caller: Caller, definitions: Sequence[dict[str, Any]], once: IdempotencyKey | None = None
) -> dict[str, Any]:
    for definition in definitions:
        caller.require_own_group(definition["container_group"])
    caller.require_tenant()
    ids = [new_job_id() for _ in definitions]
    submitted = [
        {"id": str(job_id), "places": list(places(row)), **row}
        for job_id, row in zip(ids, definitions, strict=True)
    ]
    return {
        "submitted": json.dumps(submitted),
        "tenant_id": caller.tenant_id,
        "user_id": caller.user_id,
        "actor": caller.actor,
        "key": once and once.key,
        "digest": once and once.digest,
        "job_ids": once and ids,
    }


def _submitted(db: Database, caller: Caller, earlier: Row, once: IdempotencyKey) -> list[Row]:
    """The jobs of an earlier submission as they are now. Raises IdempotencyKeyReused, SubmittedJobsGone."""
    if bytes(earlier["digest"]) != once.digest:
        raise IdempotencyKeyReused
    found = db.all(SQL.get_submitted_jobs, **caller.scope, job_ids=earlier["job_ids"])
    if len(found) != len(earlier["job_ids"]):
        raise SubmittedJobsGone
    return found


def new_job_id() -> UUID:
    """A random id that begins with the current time (version 7 of RFC 9562).

    Indexes on the id then keep jobs of one time side by side, so that a claim among millions of finished jobs
    touches few pages, which are in memory (bench/README.md, claim).
    """
    milliseconds = time.time_ns() // 1_000_000
    return UUID(int=milliseconds << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62))
