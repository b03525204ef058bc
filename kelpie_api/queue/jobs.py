"""The life of a job: one function per transition.

Each is one guarded statement. Zero rows from it is an answer: the caller does not hold the job, or the job is
final. Only then the job is read, to say which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from kelpie_api.auth.caller import Caller
from kelpie_api.config import Config
from kelpie_api.db import SQL, Database, Row, Transaction
from kelpie_api.errors import (
    ClaimIdTaken,
    Conflict,
    JobNotFound,
    NotTheHolder,
)
from kelpie_api.queue.listing import get
from kelpie_api.queue.states import Outcome, Report, Status

# Failures that say something of the job and nothing of the machine: five misspelt buckets must not send a healthy
# fleet away (docs/design/protocol.md, Bad machines).
JOBS_OWN_FAULTS = {"not_found", "not_started", "download", "pattern", "worker_broken"}

# So many jobs end in a fraction of a second, and no claim has to step over more rows that are locked.
PURGED_AT_ONCE = 2000


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
        "lines": caller.served_groups(container_group_id),
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


def purge(db: Database) -> None:
    """Remove all jobs of everybody."""
    db.execute(SQL.purge_jobs)
