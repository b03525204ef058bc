"""The transitions of a job, one function each.

Each is one guarded statement. No row from it means that the caller does not hold the job or that the job is final;
only then the job is read, to say which of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from kelpie_api.queue import progress, sweeps
from kelpie_api.queue.bans import counts_against_machine
from kelpie_api.queue.listing import get
from kelpie_api.queue.states import Outcome, Report, Status

# Jobs that one statement of a purge ends: a fraction of a second, so claims step over few locked rows meanwhile.
PURGED_AT_ONCE = 2000
SLOTS_AT_ONCE = 100  # of a sweep, that are filled beside a report


def claim(
    db: Database,
    caller: Caller,
    machine_id: str,
    container_group_id: str,
    claim_id: UUID | None,
    gone: Callable[[], bool] = lambda: False,
    speaks: Sequence[str] = (),
) -> Row | None:
    """Hand out the next job for this machine, or None. The same claim_id gives the same answer again.

    `speaks` are the parts of the protocol that its worker speaks. `gone` says whether the client has closed its
    connection: then nothing is claimed. Raises ClaimIdTaken.
    """
    values = {
        "tenant_id": caller.tenant_id,
        "user_id": caller.user_id,
        "machine_id": machine_id,
        "container_group": container_group_id,
        "claim_id": claim_id,
        "speaks": list(speaks),
        "actor": f"machine:{machine_id}",
        "sealed_key": caller.sealed_key,
        "lines": caller.served_groups(container_group_id),
    }

    def take(tx: Transaction) -> Row | None:
        # As late as possible: the client may have given up while this waited for a thread and a connection.
        return None if gone() else tx.one_or_none(SQL.claim_job, **values)

    if claim_id is None:
        return db.unrepeatable(take)
    try:
        return db.repeatable(take)
    except psycopg.errors.UniqueViolation:
        # A repetition of this request was committed first; its row is the answer to both.
        return _claim_again(db, take)


def _claim_again(db: Database, take: Callable[[Transaction], Row | None]) -> Row | None:
    try:
        return db.repeatable(take)
    except psycopg.errors.UniqueViolation:
        raise ClaimIdTaken from None


def heartbeat(db: Database, caller: Caller, job_id: UUID, report: Report) -> Row:
    """Renew the lease, keep what was told with it, and return the answer.

    Its `status` is `running`; for any other reporter, the status that its worker must act on. A holder that speaks
    `steer` hears what is wished of it (`stop`), and the seconds until its time is over (`deadline`).
    Raises JobNotFound.
    """
    held = db.one_or_none(
        SQL.renew_lease,
        job_id=job_id,
        **caller.scope,
        machine_id=report.machine_id,
        attempt=report.attempt,
        checkpoint_lag=report.checkpoint_lag,
        **progress.told(report),
    )
    if held:
        answer = {"status": Status.RUNNING} | ({"watched": True} if held["watched"] else {})
        return answer | (_steering(held) if held["steers"] else {})
    status = str(_standing(db, caller, job_id, report)["status"])
    # Running, but not held by the caller, which must drop the job: `canceled` is the status that every worker
    # obeys.
    return {"status": Status.CANCELED if status == Status.RUNNING else status}


def _steering(held: Row) -> Row:
    """What the answer to a heartbeat says besides: only what there is to say."""
    stop = {"stop": {"why": held["wish"]}} if held["wish"] else {}
    deadline = {"deadline": max(0.0, round(held["seconds_left"], 1))} if held["seconds_left"] is not None else {}
    return stop | deadline


def complete(db: Database, caller: Caller, job_id: UUID, report: Report) -> None:
    _report(db, caller, job_id, report, SQL.complete_job, Outcome.COMPLETED)


def fail(
    db: Database,
    caller: Caller,
    job_id: UUID,
    report: Report,
    max_bans: int = Config.max_bans,
    max_machines: int = Config.max_machines,
) -> bool | None:
    """Count one failure and ban the machine from the job; at `max_failures` the job becomes `failed`.

    The job's retry rules may say otherwise; returns whether the failure was counted, None where it has none.

    Once the machine has `max_bans` bans in its group that may be its own fault, its reallocation is written
    (0: never). Where the tenant has `max_machines` machines (0: no limit), no count is kept of a further one.
    Raises NotTheHolder, JobNotFound.
    """
    counting = {
        "max_bans": max_bans,
        "max_machines": max_machines,
        "counts": int(counts_against_machine(report)),
        "stalled": int(report.stop == "stalled"),
    }
    return _report(db, caller, job_id, report, SQL.fail_job, Outcome.FAILED, **counting)


def release(db: Database, caller: Caller, job_id: UUID, report: Report) -> None:
    """Take a job back from a worker that is being shut down, without a failure and without a ban.

    Raises NotTheHolder, JobNotFound.
    """
    stalled = {"stalled": int(report.stop == "stalled")}
    _report(db, caller, job_id, report, SQL.release_job, Outcome.RELEASED, **stalled)


def _report(
    db: Database,
    caller: Caller,
    job_id: UUID,
    report: Report,
    statement: LiteralString,
    outcome: Outcome,
    **counting: int,
) -> bool | None:
    """Carry out a report by its holder; returns whether it counts where a retry rule says so.

    A repeated one is accepted and changes nothing.

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
        **progress.told(report),
        **counting,
    )
    if written:
        if written.get("is_to_be_ended"):
            # Nothing hands the job out until then; should this process end here, maintenance does it.
            db.one_or_none(SQL.end_attempts, job_id=job_id, most=1)
        fill_sweep_of(db, written)
        return written.get("counted")
    standing = _standing(db, caller, job_id, report)
    if not _said_before(standing, report, outcome):
        raise NotTheHolder(_refusal(standing, job_id, report))
    counted: bool | None = standing["counted"]
    return counted


def fill_sweep_of(db: Database, job: Row) -> None:
    """Give the slots of a job's sweep that have come free, by its end or since it is held, to the next jobs.

    Should this process end here, maintenance does it.
    """
    if job["sweep_id"] is not None:
        db.one_or_none(SQL.fill_slots, id=job["sweep_id"], most=SLOTS_AT_ONCE)


def why_refused(db: Database, caller: Caller, job_id: UUID, report: Report) -> str:
    """The sentence for a reporter that is not the holder. Raises JobNotFound."""
    return _refusal(_standing(db, caller, job_id, report), job_id, report)


def _refusal(standing: Row, job_id: UUID, report: Report) -> str:
    return (
        f"Job {job_id} is {standing['status']} and not held by machine {report.machine_id}"
        f"{'' if report.attempt is None else f' in attempt {report.attempt}'}; nothing was written."
    )


def _said_before(standing: Row, report: Report, outcome: Outcome) -> bool:
    """Whether this report was accepted before, so that it is a repetition after a lost answer."""
    if standing["outcome"] == outcome:
        return True
    # A job that was still pending has no attempt in which the report could be recorded.
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
    """Cancel a job; a canceled one stays canceled.

    Raises JobNotFound, Conflict if it has completed or failed, Forbidden if a token may only read it.
    """
    if caller.machine:
        caller.require_own_group(get(db, caller, job_id)["container_group_id"])
    if canceled := db.one_or_none(
        SQL.cancel_job, job_id=job_id, **caller.scope, actor=caller.actor, sealed_key=caller.sealed_key
    ):
        fill_sweep_of(db, canceled)
        return
    status = get(db, caller, job_id)["status"]
    if status != Status.CANCELED:
        raise Conflict(f"Job {job_id} has {status} already and cannot be canceled.")


def purge_group(db: Database, caller: Caller, container_group_id: str) -> int:
    """Remove the pending jobs of a container group, cancel the running ones, and return the number of both.

    Works in rounds of one statement each: a million jobs take minutes, and claims go on in between. Slots that
    came free in sweeps are given on at the end.
    """
    lines = db.all(SQL.lines_of_group, **caller.scope, container_group=container_group_id)
    with_slots: set[UUID] = set()
    ended = sum(
        _purge_line(db, caller, {"container_group": container_group_id, **line}, with_slots) for line in lines
    )
    sweeps.fill_freed(db, with_slots)
    return ended


def _purge_line(db: Database, caller: Caller, line: Row, with_slots: set[UUID]) -> int:
    """Pending jobs first, then those that were handed out, so that a job claimed in between is canceled too.

    Adds to `with_slots` the sweeps in which slots came free; returns the number of jobs.
    """
    ended, after = 0, -1
    while (removed := _round(db, SQL.remove_pending_jobs, **line, after_seq=after))["count"]:
        ended, after = ended + removed["count"], removed["last_seq"]
        with_slots.update(removed["sweeps"])
    values = {"actor": caller.actor, "sealed_key": caller.sealed_key}
    while (canceled := _round(db, SQL.cancel_jobs, **line, **values))["count"]:
        ended += canceled["count"]
        with_slots.update(canceled["sweeps"])
    return ended


def _round(db: Database, statement: LiteralString, **values: Any) -> Row:
    done = db.one_or_none(statement, most=PURGED_AT_ONCE, **values)
    assert done is not None, "an aggregate without groups has a row"
    return done


def purge(db: Database) -> None:
    """Remove the jobs of all tenants."""
    db.execute(SQL.purge_jobs)
