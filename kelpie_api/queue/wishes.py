"""What people wish of a job that a machine holds, or that waits: hold, resume, interrupt, cancel gracefully.

A wish stands in the row of the queue until the attempt ends; docs/design/steering.md has the rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from kelpie_api.auth.caller import Caller
from kelpie_api.db import SQL, Database, Row
from kelpie_api.errors import Conflict
from kelpie_api.queue import jobs
from kelpie_api.queue.listing import get
from kelpie_api.queue.states import Status

ENDED_AT_ONCE = 200  # attempts that one statement sees to
UNPARKED_AT_ONCE = 1000
PAUSE = 2.0  # seconds between two looks of maintenance


@dataclass(frozen=True)
class Answer:
    """What came of a wish, in a sentence, and the latest time at which the worker can have heard of it.

    `heard_by` is None where nothing waits for a worker.
    """

    message: str
    heard_by: datetime | None = None


def hold(db: Database, caller: Caller, job_id: UUID) -> Answer:
    """Keep a job from being handed out; its holder saves and gives it back. Raises JobNotFound, Conflict."""
    wished = _wish(db, caller, job_id, "hold")
    if wished["holder"] is None:
        jobs.fill_sweep_of(db, wished)
        return Answer("Job held")
    if wished["heard_by"]:
        return Answer("The worker is told to save and to give the job back; then it is held.", wished["heard_by"])
    return Answer(_at_the_end(wished, "held"))


def cancel_gracefully(db: Database, caller: Caller, job_id: UUID) -> Answer:
    """Have the holder save before the job is canceled; without one it is canceled at once.

    Raises JobNotFound, Conflict if it has completed or failed.
    """
    if get(db, caller, job_id)["status"] != Status.CANCELED:
        wished = _wish(db, caller, job_id, "cancel")
        if wished["holder"] is not None and wished["heard_by"]:
            return Answer("The worker is told to save; then the job is canceled.", wished["heard_by"])
        if wished["holder"] is not None:
            return Answer(_at_the_end(wished, "canceled"))
    jobs.cancel(db, caller, job_id)
    return Answer("Job canceled")


def interrupt(db: Database, caller: Caller, job_id: UUID, ban_too: bool) -> Answer:
    """Have the holder save and give the job back, for another machine or, without a ban, the same.

    Raises JobNotFound, Conflict where no machine holds it or the holder cannot be told.
    """
    wished = _wish(db, caller, job_id, "interrupt", ban_too)
    if wished["holder"] is None:
        raise Conflict(f"No machine holds job {job_id}, so there is nothing to interrupt.")
    if wished["holder"] == "silent":
        raise Conflict(f"The machine of job {job_id} is silent; the next one that asks for work gets the job.")
    if not wished["steers"]:
        raise Conflict(
            f"The worker that holds job {job_id} cannot be told to save and stop: it is of an older release or the"
            " original's. Cancel the job, or hold it: that acts when the attempt ends."
        )
    return Answer("The worker is told to save and to give the job back.", wished["heard_by"])


def resume(db: Database, caller: Caller, job_id: UUID) -> Answer:
    """Let a held job be handed out again; a job that is not held stays as it is. Raises JobNotFound, Conflict."""
    require_own_group(db, caller, job_id)
    resumed = db.one_or_none(SQL.resume_job, job_id=job_id, **caller.scope, actor=caller.actor)
    if resumed is None:
        raise is_final(db, caller, job_id)
    jobs.fill_sweep_of(db, resumed)
    return Answer(
        {
            "unparked": "Job resumed",
            "withdrawn": "The job is not held any more once the worker has given it back.",
            None: "The job was not held.",
        }[resumed["did"]]
    )


def end_due(db: Database) -> float:
    """See to attempts that a wish or a limit ends, and to pauses that are over; the seconds until then."""
    while _ended(db) == ENDED_AT_ONCE:
        pass
    while db.execute(SQL.end_backoffs, most=UNPARKED_AT_ONCE) == UNPARKED_AT_ONCE:
        pass
    return PAUSE


def _ended(db: Database) -> int:
    found = db.one_or_none(SQL.end_attempts, job_id=None, most=ENDED_AT_ONCE)
    return int(found["count"]) if found else 0


def _wish(db: Database, caller: Caller, job_id: UUID, wish: str, ban_too: bool = False) -> Row:
    """Note a wish. Raises JobNotFound, Conflict where the job is final."""
    require_own_group(db, caller, job_id)
    values: dict[str, Any] = {"wish": wish, "ban_too": ban_too, "sealed_key": caller.sealed_key}
    wished = db.one_or_none(SQL.wish_for_job, job_id=job_id, **caller.scope, actor=caller.actor, **values)
    if wished is None:
        raise is_final(db, caller, job_id)
    return wished


def require_own_group(db: Database, caller: Caller, job_id: UUID) -> None:
    """Raise Forbidden if a token steers a job of another group than its own."""
    if caller.machine:
        caller.require_own_group(get(db, caller, job_id)["container_group_id"])


def is_final(db: Database, caller: Caller, job_id: UUID) -> Conflict:
    """The error for a job that is not in the queue. Raises JobNotFound."""
    status = get(db, caller, job_id)["status"]
    verb = "was" if status == Status.CANCELED else "has"
    return Conflict(f"Job {job_id} {verb} {status} already; POST /jobs/{job_id}/rerun repeats it.")


def _at_the_end(wished: Row, what: str) -> str:
    if wished["holder"] == "silent":
        return f"The machine that has the job is silent; the job is {what} within seconds."
    return f"The worker cannot be told to save and stop; the job is {what} when its attempt ends."
