"""The life of a job: one function per transition.

Each is one guarded statement. Zero rows from it is an answer: the caller does not hold the job, or the job is
final. Only then the job is read, to say which.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from kelpie_api.auth import Caller
from kelpie_api.config import Config
from kelpie_api.db import SQL, Database, Row, Transaction
from kelpie_api.errors import (
    ClaimIdTaken,
    Conflict,
    InvalidRequest,
    JobNotFound,
    KeyUsedOtherwise,
    NotTheHolder,
    SubmittedJobsGone,
)

LEGACY_FIELDS = (
    "input_bucket",
    "input_prefix",
    "checkpoint_bucket",
    "checkpoint_prefix",
    "output_bucket",
    "output_prefix",
)

PORTION = 250  # jobs of a page that are read at once, for each may have up to 256 KiB
LARGEST_PAGE = 64 * 2**20

# Failures that say something of the job and nothing of the machine: five misspelt buckets must not send a healthy
# fleet away (contract section 3).
JOBS_OWN_FAULTS = {"not_found", "not_started", "download", "pattern", "worker_broken"}

# So many jobs end in a fraction of a second, and no claim has to step over more rows that are locked.
PURGED_AT_ONCE = 2000


class Status(StrEnum):
    """The states of a job; sql/README.md draws the moves between them."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    RELEASED = "released"
    CANCELED = "canceled"


@dataclass(frozen=True)
class Report:
    """What a worker says about a job: who it is, and how the command ended.

    `attempt` is the fence; it is None from the original's worker, then the machine alone is compared. `reason` is
    one of a few classes, `detail` the worker's own sentence. `output` is the last of what the command printed,
    from a worker that was asked for it. `checkpoint_lag` is of a heartbeat.
    """

    machine_id: str
    container_group_id: str
    attempt: int | None = None
    exit_code: int | None = None
    reason: str | None = None
    detail: str | None = None
    output: str | None = None
    checkpoint_lag: int | None = None  # seconds


@dataclass(frozen=True)
class OnlyOnce:
    """What makes a submission safe to repeat: the caller's key, and a digest of what was sent with it."""

    key: str
    digest: bytes


@dataclass(frozen=True)
class Place:
    """A place in the list of jobs, just beyond the one with this number; jobs added later do not move it."""

    seq: int
    oldest_first: bool


def submit(db: Database, caller: Caller, definitions: Sequence[dict[str, Any]]) -> list[Row]:
    """Create all jobs or none, in the order given."""
    return db.unrepeatable(lambda tx: tx.all(SQL.submit_jobs, **_submission(caller, definitions)))


def submit_once(
    db: Database, caller: Caller, definitions: Sequence[dict[str, Any]], once: OnlyOnce
) -> tuple[list[Row], bool]:
    """Create all jobs or none, unless this key did so within a day; whether it did.

    A connection lost on the way does no harm: the second try finds what the first created, by its ids.
    Raises KeyUsedOtherwise, SubmittedJobsGone.
    """
    values = _submission(caller, definitions, once)
    while True:
        if created := db.all(SQL.submit_jobs, **values):
            return created, False
        earlier = db.one_or_none(SQL.find_submission, tenant_id=caller.tenant_id, key=once.key)
        if earlier:  # else it was forgotten in between, and the key is free
            return _submitted(db, caller, earlier, once), earlier["job_ids"] != values["job_ids"]


def _submission(
    caller: Caller, definitions: Sequence[dict[str, Any]], once: OnlyOnce | None = None
) -> dict[str, Any]:
    for definition in definitions:
        caller.require_own_group(definition["container_group"])
    caller.require_tenant()
    ids = [new_job_id() for _ in definitions]
    submitted = [{"id": str(job_id), **row} for job_id, row in zip(ids, definitions, strict=True)]
    return {
        "submitted": json.dumps(submitted),
        "tenant_id": caller.tenant_id,
        "user_id": caller.user_id,
        "actor": caller.actor,
        "key": once and once.key,
        "digest": once and once.digest,
        "job_ids": once and ids,
    }


def _submitted(db: Database, caller: Caller, earlier: Row, once: OnlyOnce) -> list[Row]:
    """The jobs of an earlier submission as they are now."""
    if bytes(earlier["digest"]) != once.digest:
        raise KeyUsedOtherwise
    found = db.all(SQL.get_submitted_jobs, **caller.scope, job_ids=earlier["job_ids"])
    if len(found) != len(earlier["job_ids"]):
        raise SubmittedJobsGone
    return found


def new_job_id() -> UUID:
    """A random id that begins with its time (version 7 of RFC 9562).

    What is written about a job goes to indexes by its id. With the time in front, jobs of one time lie side by
    side in them, and a claim beside millions of finished jobs finds its few pages in memory.
    """
    milliseconds = time.time_ns() // 1_000_000
    return UUID(int=milliseconds << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62))


def claim(
    db: Database,
    caller: Caller,
    machine_id: str,
    container_group_id: str,
    claim_id: UUID | None,
    gone: Callable[[], bool] = lambda: False,
) -> Row | None:
    """The next job for this machine, or None. Repeating it with the same claim_id gives the same answer.

    `gone` tells whether the client hung up: nothing is claimed for nobody.
    """
    values = {
        "tenant_id": caller.tenant_id,
        "machine_id": machine_id,
        "container_group": container_group_id,
        "claim_id": claim_id,
        "actor": f"machine:{machine_id}",
        "sealed_key": caller.sealed_key,
        "lines": caller.lines(container_group_id),
    }

    def take(tx: Transaction) -> Row | None:
        # Only now: it may have stood in line, for a thread and for a connection, until its client gave up.
        return None if gone() else tx.one_or_none(SQL.claim_job, **values)

    if claim_id is None:
        return db.unrepeatable(take)
    try:
        return db.repeatable(take)
    except psycopg.errors.UniqueViolation:
        # The same request raced with itself. The winner's row is there now and answers both.
        return _claim_again(db, take)


def _claim_again(db: Database, take: Callable[[Transaction], Row | None]) -> Row | None:
    try:
        return db.repeatable(take)
    except psycopg.errors.UniqueViolation:
        raise ClaimIdTaken from None


def heartbeat(db: Database, caller: Caller, job_id: UUID, report: Report) -> str:
    """Renew a lease its holder still has; tell anyone else what became of the job."""
    held = db.one_or_none(
        SQL.renew_lease,
        job_id=job_id,
        **caller.scope,
        machine_id=report.machine_id,
        attempt=report.attempt,
        checkpoint_lag=report.checkpoint_lag,
    )
    if held:
        return Status.RUNNING
    status = str(_standing(db, caller, job_id, report)["status"])
    # Running, but not by the caller: it must drop the job, and `canceled` is the word every worker obeys.
    return Status.CANCELED if status == Status.RUNNING else status


def complete(db: Database, caller: Caller, job_id: UUID, report: Report) -> None:
    _report(db, caller, job_id, report, SQL.complete_job, Outcome.COMPLETED)


def fail(db: Database, caller: Caller, job_id: UUID, report: Report, max_bans: int = Config.max_bans) -> None:
    """Count one failure and ban the machine from the job; the job fails for good at `max_failures`.

    The ban that makes `max_bans` of the machine in its group, by its own fault, has it reallocated (0: never).
    """
    counting = {"max_bans": max_bans, "counts": int(report.reason not in JOBS_OWN_FAULTS)}
    _report(db, caller, job_id, report, SQL.fail_job, Outcome.FAILED, **counting)


def release(db: Database, caller: Caller, job_id: UUID, report: Report) -> None:
    """Take a job back from a worker that is being shut down: no failure, no ban."""
    _report(db, caller, job_id, report, SQL.release_job, Outcome.RELEASED)


def _report(
    db: Database,
    caller: Caller,
    job_id: UUID,
    report: Report,
    statement: LiteralString,
    outcome: Outcome,
    **counting: int,
) -> None:
    """Carry out a report by its holder. A repeated one is accepted and changes nothing.

    Raises NotTheHolder, JobNotFound.
    """
    written = db.one_or_none(
        statement,
        job_id=job_id,
        **caller.scope,
        machine_id=report.machine_id,
        container_group=report.container_group_id,
        attempt=report.attempt,
        exit_code=report.exit_code,
        reason=report.reason,
        detail=report.detail,
        output=report.output,
        actor=f"machine:{report.machine_id}",
        sealed_key=caller.sealed_key,
        organization=caller.organization,
        **counting,
    )
    if written:
        return
    standing = _standing(db, caller, job_id, report)
    if not _said_before(standing, report, outcome):
        raise NotTheHolder(_refusal(standing, job_id, report))


def why_refused(db: Database, caller: Caller, job_id: UUID, report: Report) -> str:
    """What to tell somebody who is not the holder. Raises JobNotFound."""
    return _refusal(_standing(db, caller, job_id, report), job_id, report)


def _refusal(standing: Row, job_id: UUID, report: Report) -> str:
    return (
        f"Job {job_id} is {standing['status']} and not held by machine {report.machine_id}"
        f"{'' if report.attempt is None else f' in attempt {report.attempt}'}; nothing was written."
    )


def _said_before(standing: Row, report: Report, outcome: Outcome) -> bool:
    """Was this very report accepted already, so that only its answer was lost?"""
    if standing["outcome"] == outcome:
        return True
    # A job that was pending has no attempt to remember the report by.
    match outcome:
        case Outcome.COMPLETED:
            accepted = standing["status"] == Status.COMPLETED and standing["touched_last"]
        case Outcome.FAILED:
            accepted = standing["banned"]
        case _:
            accepted = False
    return report.attempt is None and bool(accepted)


def _standing(db: Database, caller: Caller, job_id: UUID, report: Report) -> Row:
    standing = db.one_or_none(
        SQL.standing_of_reporter,
        job_id=job_id,
        **caller.scope,
        machine_id=report.machine_id,
        attempt=report.attempt,
    )
    if standing is None:
        raise JobNotFound(job_id)
    return standing


def cancel(db: Database, caller: Caller, job_id: UUID) -> None:
    """End a job; canceling it again is fine. Raises JobNotFound, or Conflict if it completed or failed, and
    Forbidden if a token may read it only."""
    if caller.machine:
        caller.require_own_group(get(db, caller, job_id)["container_group_id"])
    if db.one_or_none(SQL.cancel_job, job_id=job_id, **caller.scope, actor=caller.actor):
        return
    status = get(db, caller, job_id)["status"]
    if status != Status.CANCELED:
        raise Conflict(f"Job {job_id} has {status} already and cannot be canceled.")


def purge_group(db: Database, caller: Caller, container_group_id: str) -> int:
    """Remove the pending jobs of a container group and cancel the running ones; how many there were.

    In rounds of a statement each: a million jobs take minutes, and claims go on meanwhile.
    """
    lines = db.all(SQL.lines_of_group, **caller.scope, container_group=container_group_id)
    return sum(_purge_line(db, caller, {"container_group": container_group_id, **line}) for line in lines)


def _purge_line(db: Database, caller: Caller, line: Row) -> int:
    """First what was never handed out, then what was, so that a job claimed meanwhile is canceled."""
    ended, after = 0, -1
    while (removed := _round(db, SQL.remove_pending_jobs, **line, after_seq=after))["count"]:
        ended, after = ended + removed["count"], removed["last_seq"]
    while (canceled := _round(db, SQL.cancel_jobs, **line, actor=caller.actor))["count"]:
        ended += canceled["count"]
    return ended


def _round(db: Database, statement: LiteralString, **values: Any) -> Row:
    done = db.one_or_none(statement, most=PURGED_AT_ONCE, **values)
    assert done is not None, "an aggregate without groups has a row"
    return done


def get(db: Database, caller: Caller, job_id: UUID) -> Row:
    job = db.one_or_none(SQL.get_job, job_id=job_id, **caller.scope)
    if job is None:
        raise JobNotFound(job_id)
    return {name: value for name, value in job.items() if name != "checkpoint_lag" or value is not None}


def list_page(
    db: Database,
    caller: Caller,
    *,
    status: str | None,
    container_group_id: str | None,
    page: int,
    page_size: int,
    oldest_first: bool,
    place: Place | None = None,
) -> tuple[list[Row], Place | None]:
    """One page of the caller's jobs, newest first unless `oldest_first`, and where the next one begins if there
    is more. The order is total. A `place` brings its own order and wins over `page`."""
    if place:
        page, oldest_first = 1, place.oldest_first
    statement = SQL.list_jobs_oldest_first if oldest_first else SQL.list_jobs_newest_first
    filters = {**caller.scope, "status": status, "container_group": container_group_id}
    found: list[Row] = []
    beyond, skipped = place and place.seq, (page - 1) * page_size
    while (left := page_size + 1 - len(found)) > 0:
        portion = db.all(statement, **filters, beyond=beyond, most=min(left, PORTION), skipped=skipped)
        found += portion
        _refuse_too_large(found)
        if len(portion) < min(left, PORTION):
            break
        beyond, skipped = portion[-1]["seq"], 0
    shown = found[:page_size]
    return shown, Place(shown[-1]["seq"], oldest_first) if len(found) > page_size else None


def _refuse_too_large(page: list[Row]) -> None:
    """Raise InvalidRequest before a page takes all of the memory."""
    if sum(row["bytes"] for row in page) > LARGEST_PAGE:
        raise InvalidRequest(
            f"A page may have at most {LARGEST_PAGE // 2**20} MiB, this one has more; take a smaller page_size.",
            {"page_size": ["The jobs are too large for so many on one page."]},
        )


def attempts(db: Database, caller: Caller, job_id: UUID) -> list[Row]:
    """Every handout of a job and how it ended."""
    get(db, caller, job_id)
    return db.all(SQL.list_attempts, job_id=job_id)


def events(db: Database, caller: Caller, job_id: UUID) -> list[Row]:
    """Every change of a job and who made it."""
    get(db, caller, job_id)
    return db.all(SQL.list_events, job_id=job_id)


def purge(db: Database) -> None:
    """Remove all jobs of everybody."""
    db.execute(SQL.purge_jobs)
