"""Submission of jobs: a batch whole or not at all, and one with an Idempotency-Key only once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

from kelpie_api.auth.caller import Caller
from kelpie_api.config import Config
from kelpie_api.db import SQL, Database, Row
from kelpie_api.errors import (
    DefaultsDoNotFit,
    IdempotencyKeyReused,
    InvalidRequest,
    SubmittedJobsGone,
    TooManyOpenJobs,
)
from kelpie_api.json_text import json_text, read_json
from kelpie_api.queue import dependencies, sweeps
from kelpie_api.queue.during_prefixes import places
from kelpie_api.queue.identity import IdempotencyKey, new_id
from kelpie_api.sealed.environments import Environments, opened, without_seal

DEFAULTS_DO_NOT_FIT = "KL004"  # sql/functions/refuse_default_secrets.sql
TRIES = 3  # of a submission whose Idempotency-Key was in use and then was not


@dataclass(frozen=True)
class OpenJobLimits:
    """How many jobs of a tenant may be open, and how many MiB their definitions may have; 0: no limit."""

    jobs: int = Config.max_open_jobs
    mebibytes: int = Config.max_open_mebibytes


def submit(
    db: Database,
    caller: Caller,
    definitions: Sequence[dict[str, Any]],
    limits: OpenJobLimits = OpenJobLimits(),
    environments: Environments | None = None,
) -> list[Row]:
    """Create all jobs or none; return them in the order given.

    `environments` seals those of the jobs, if they are to be sealed. Raises TooManyOpenJobs, SecretNamed,
    InvalidRequest.
    """
    values = _submission(caller, definitions, limits=limits, environments=environments)
    if created := _create(db, caller, definitions, values):
        return _as_given(created, definitions)
    raise _no_room(db, caller, len(definitions), limits)


def submit_once(
    db: Database,
    caller: Caller,
    definitions: Sequence[dict[str, Any]],
    once: IdempotencyKey,
    limits: OpenJobLimits = OpenJobLimits(),
    environments: Environments | None = None,
) -> tuple[list[Row], bool]:
    """Create all jobs or none, unless this key did so within a day; return the jobs, and whether they existed.

    The try may be repeated after a lost connection: the second one finds by its ids what the first created.
    Raises IdempotencyKeyReused, SubmittedJobsGone, TooManyOpenJobs, SecretNamed.
    """
    values = _submission(caller, definitions, once, limits, environments)
    refusal: InvalidRequest | None = None
    for _ in range(TRIES):
        try:
            if created := _create(db, caller, definitions, values, may_repeat=True):
                return _as_given(created, definitions), False
        except InvalidRequest as error:  # perhaps only now: the sweep may have been closed since the first time
            refusal = error
        earlier = db.one_or_none(SQL.find_submission, tenant_id=caller.tenant_id, key=once.key)
        if earlier:  # else it was removed in between, and the key is free, or there is no room
            found = _submitted(db, caller, earlier, once)
            submitted = [opened(environments.seal if environments else None, job) for job in found]
            return submitted, earlier["job_ids"] != values["job_ids"]
        if refusal:
            raise refusal
    raise _no_room(db, caller, len(definitions), limits)


def _create(
    db: Database,
    caller: Caller,
    definitions: Sequence[dict[str, Any]],
    values: dict[str, Any],
    may_repeat: bool = False,
) -> list[Row]:
    """The created jobs; none where the key was used or there is no room. Raises InvalidRequest."""
    try:
        if any(one.get("sweep_id") or one.get("depends_on") for one in definitions):
            created = _create_with_relations(db, caller, definitions, values)
        else:
            do = db.repeatable if may_repeat else db.unrepeatable
            created = do(lambda tx: tx.all(SQL.submit_jobs, **values))
    except psycopg.DatabaseError as error:
        if error.sqlstate != DEFAULTS_DO_NOT_FIT:
            raise
        raise _of_default_secret(**json.loads(error.diag.message_detail or "{}")) from None
    for sweep_id in sweeps.ids_of(definitions):
        sweeps.fill(db, sweep_id)
    return created


def _of_default_secret(index: int, group: str, name: str, is_given: bool) -> DefaultsDoNotFit:
    """The error for a job that leaves its secrets to its group, whose default secret does not fit it."""
    what = (
        f"{name} is in environment, and a secret that the defaults of container group {group} name; a variable"
        " comes from one of the two."
        if is_given
        else f"The defaults of container group {group} name the secret {name}, which is not there; PUT"
        f" /secrets/{name} sets it."
    )
    sentence = (
        f'{what} Or change the defaults (PATCH /container-groups/{group}), or send "secrets": [] with the job.'
    )
    return DefaultsDoNotFit(f"secrets: {sentence}", {"secrets": [sentence]}, index)


def _create_with_relations(
    db: Database, caller: Caller, definitions: Sequence[dict[str, Any]], values: dict[str, Any]
) -> list[Row]:
    """Create jobs that belong to sweeps or wait for others, which cannot end or be closed meanwhile."""
    submitted = read_json(values["submitted"])
    job_ids = [UUID(row["id"]) for row in submitted]
    with db.transaction() as tx:
        dependencies.take_turn(tx, caller, definitions)
        sweeps.require_open(tx, caller, sweeps.ids_of(definitions))
        found = dependencies.resolve(tx, caller, definitions, job_ids)
        for row, waits_for in zip(submitted, found.waits_for, strict=True):
            row["waits_for"] = waits_for
        created = tx.all(SQL.submit_jobs, **{**values, "submitted": json_text(submitted)})
        if created:
            dependencies.add(tx, found)
            dependencies.refuse_circles(tx, definitions, job_ids)
        return created


def _no_room(db: Database, caller: Caller, new: int, limits: OpenJobLimits) -> TooManyOpenJobs:
    """The error for a submission of so many jobs that was refused for one of the limits."""
    found = db.one_or_none(SQL.count_open_jobs, tenant_id=caller.tenant_id)
    open_jobs = int(found["jobs"]) if found else 0
    if limits.jobs and open_jobs + new > limits.jobs:
        return TooManyOpenJobs(
            f"Your project has {open_jobs} open jobs, and {new} more would exceed the {limits.jobs} that the"
            " operator allows (KELPIE_MAX_OPEN_JOBS); submit them again when jobs have ended."
        )
    return TooManyOpenJobs(
        f"The definitions of your project's {open_jobs} open jobs and of these {new} would take more than the"
        f" {limits.mebibytes} MiB that the operator allows (KELPIE_MAX_OPEN_MIB); keep large data in a bucket, or"
        " submit them again when jobs have ended."
    )


def _submission(
    caller: Caller,
    definitions: Sequence[dict[str, Any]],
    once: IdempotencyKey | None = None,
    limits: OpenJobLimits = OpenJobLimits(),
    environments: Environments | None = None,
) -> dict[str, Any]:
    for definition in definitions:
        caller.require_own_group(definition["container_group"])
        named = {
            "secrets": (definition.get("options") or {}).get("secrets"),
            "sweep": definition.get("sweep_id"),
            "dependencies": definition.get("depends_on"),
        }
        for what in filter(named.get, named):
            caller.require_key(what)
    caller.require_tenant()
    ids = [new_id() for _ in definitions]
    sealed = [
        environments.sealed(job_id, row["environment"]) if environments else None
        for job_id, row in zip(ids, definitions, strict=True)
    ]
    submitted = [
        {"id": str(job_id), "places": list(places(row)), **_as_stored(row, environment)}
        for job_id, row, environment in zip(ids, definitions, sealed, strict=True)
    ]
    return {
        "submitted": json_text(submitted),
        "sealed": sealed if any(sealed) else None,
        "tenant_id": caller.tenant_id,
        "user_id": caller.user_id,
        "actor": caller.actor,
        "key": once and once.key,
        "digest": once and once.digest,
        "job_ids": once and ids,
        "most_jobs": limits.jobs,
        "most_bytes": limits.mebibytes * 2**20,
    }


def _as_stored(definition: dict[str, Any], sealed: bytes | None) -> dict[str, Any]:
    """The columns of a job; of an environment that is sealed the names of its variables alone."""
    if sealed is None:
        return definition
    return definition | {"environment": {}, "environment_names": list(definition["environment"])}


def _as_given(created: list[Row], definitions: Sequence[dict[str, Any]]) -> list[Row]:
    """Jobs that were just created, in the order of their definitions, with their environments: none is opened."""
    return [
        job if job["sealed_environment"] is None else without_seal(job) | {"environment": given["environment"]}
        for job, given in zip(created, definitions, strict=True)
    ]


def _submitted(db: Database, caller: Caller, earlier: Row, once: IdempotencyKey) -> list[Row]:
    """The jobs of an earlier submission as they are now. Raises IdempotencyKeyReused, SubmittedJobsGone."""
    if bytes(earlier["digest"]) != once.digest:
        raise IdempotencyKeyReused
    found = db.all(SQL.get_submitted_jobs, **caller.scope, job_ids=earlier["job_ids"])
    if len(found) != len(earlier["job_ids"]):
        raise SubmittedJobsGone
    return found
