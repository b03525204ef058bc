"""A final job again, as a new one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from kelpie_api.auth.caller import Caller
from kelpie_api.db import Database, Row
from kelpie_api.errors import Conflict, DefaultsDoNotFit
from kelpie_api.queue import submissions
from kelpie_api.queue.identity import IdempotencyKey
from kelpie_api.queue.listing import get
from kelpie_api.queue.states import LEGACY_FIELDS, Status
from kelpie_api.queue.submissions import OpenJobLimits
from kelpie_api.queue.wishes import require_own_group
from kelpie_api.sealed.environments import Environments

REPEATED = (
    "command",
    "arguments",
    "environment",
    "sync",
    *LEGACY_FIELDS,
    "compression",
    "max_failures",
    "heartbeat_interval",
    "webhook",
    "name",
    "labels",
    "priority",
    "options",
)


def rerun(
    db: Database,
    caller: Caller,
    job_id: UUID,
    environments: Environments,
    limits: OpenJobLimits,
    *,
    fresh: bool = False,
    in_sweep: bool = False,
    once: IdempotencyKey | None = None,
) -> tuple[Row, bool]:
    """Submit a final job once more, as a new one of the same tenant, once for each key.

    `fresh`: without its checkpoints. `in_sweep`: in the same sweep. Returns the job and whether it existed.
    Raises JobNotFound, TooManyOpenJobs, SecretNamed, IdempotencyKeyReused, SubmittedJobsGone; InvalidRequest where
    its sweep is closed; Conflict where the job is open, its environment cannot be opened, the defaults of its
    group do not fit it, or `fresh` is asked of one with the legacy fields.
    """
    require_own_group(db, caller, job_id)
    job = get(db, caller, job_id, environments.seal)
    if job["status"] in (Status.PENDING, Status.RUNNING):
        raise Conflict(f"Job {job_id} is {job['status']}; only a job that has ended can be run again.")
    if job["environment"] is None:
        raise Conflict(f"The environment of job {job_id} cannot be opened with the keys of this coordinator.")
    definition = {name: job[name] for name in REPEATED}
    definition |= {"container_group": job["container_group_id"], "rerun_of": str(job_id)}
    if fresh:
        definition["sync"] = without_own_checkpoints(job)
    if in_sweep and job["sweep_id"] is not None:
        definition["sweep_id"] = str(job["sweep_id"])
    owner = replace(caller, tenant_id=job["tenant_id"], user_id=job["user_id"])  # not the administrator
    try:
        if once is None:
            [again] = submissions.submit(db, owner, [definition], limits, environments)
            return again, False
        [again], existed = submissions.submit_once(db, owner, [definition], once, limits, environments)
    except DefaultsDoNotFit as error:
        raise Conflict(str(error)) from None
    return again, existed


def without_own_checkpoints(job: Row) -> dict[str, Any]:
    """The sync blocks of a job without the downloads of what it uploads while it runs. Raises Conflict."""
    if job["sync"] is None:
        raise Conflict(
            f"Job {job['id']} has the legacy fields, by which its checkpoints are downloaded in any case; submit"
            " it anew with another checkpoint_prefix."
        )
    own = {(block["bucket"], block["prefix"]) for block in job["sync"].get("during") or []}
    before = [block for block in job["sync"].get("before") or [] if (block["bucket"], block["prefix"]) not in own]
    return {**job["sync"], "before": before}
