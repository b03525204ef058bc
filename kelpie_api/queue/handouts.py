"""Claims, whole: the job that is handed out with its environment opened and the values of its secrets in it.

What cannot be opened (sealed with a KELPIE_SECRET_KEY that this process has not) is never handed out as if it were
empty: the job is parked, as `unsealable`, and the next one claimed. Each process looks from time to time which of
the parked ones it can open, and has those claimable again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from kelpie_api import logs
from kelpie_api.auth.caller import Caller
from kelpie_api.db import SQL, Database, Row
from kelpie_api.encryption import Seal
from kelpie_api.queue import jobs
from kelpie_api.sealed import secrets
from kelpie_api.sealed.environments import opened

MOST_PARKED = 20  # jobs that one claim may park
LOOK_PAUSE = 5.0  # seconds between two looks at what is parked
LOOKED_AT = 200  # parked jobs of one look


def claim(
    db: Database,
    seal: Seal,
    caller: Caller,
    machine_id: str,
    container_group_id: str,
    claim_id: UUID | None,
    gone: Callable[[], bool] = lambda: False,
    speaks: Sequence[str] = (),
) -> Row | None:
    """As jobs.claim, with the environment opened and the secrets that the job names in it."""
    for _ in range(MOST_PARKED):
        job = jobs.claim(db, caller, machine_id, container_group_id, claim_id, gone, speaks)
        if job is None:
            return None
        if whole := with_secrets(db, seal, job):
            return whole
        park(db, caller, job, machine_id)
    return None


def with_secrets(db: Database, seal: Seal, job: Row) -> Row | None:
    """The job as its command gets it; None where these keys do not open all of it."""
    job = opened(seal, job)
    named = (job["options"] or {}).get("secrets") or []
    values = secrets.values_of(db, seal, job["tenant_id"], named)
    if job["environment"] is None or values is None:
        return None
    return job | {"environment": job["environment"] | values} if named else job


def park(db: Database, caller: Caller, job: Row, machine_id: str) -> None:
    """Take a job back whose environment cannot be opened, without a failure and without a ban."""
    logs.warning("environment_unreadable", job_id=str(job["id"]), attempt=job["attempt"])
    held = {"job_id": job["id"], "machine_id": machine_id, "attempt": job["attempt"]}
    db.execute(SQL.park_unsealable, **held, **caller.scope)


class Unsealable:
    """Has jobs that were parked as unsealable claimable again once this process can open them."""

    def __init__(self, db: Database, seal: Seal) -> None:
        self.db = db
        self.seal = seal
        self.seen = 0  # the number of the job after which the next look begins

    def unpark_what_opens(self) -> float:
        """Look at some of the parked jobs, the next time at further ones; the seconds until then."""
        found = self.db.all(SQL.list_unsealable, after=self.seen, most=LOOKED_AT)
        self.seen = found[-1]["seq"] if len(found) == LOOKED_AT else 0
        good = [job["id"] for job in found if with_secrets(self.db, self.seal, job)]
        if good:
            self.db.execute(SQL.unpark_unsealable, job_ids=good)
        return LOOK_PAUSE
