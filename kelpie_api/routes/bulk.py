"""Counts and changes of all jobs that match (docs/design/protocol.md, Filters)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from uuid import UUID

from flask import request

from kelpie_api.db import Row
from kelpie_api.errors import InvalidRequest
from kelpie_api.queue import bulk
from kelpie_api.queue.reruns import rerun
from kelpie_api.queue.submissions import OpenJobLimits
from kelpie_api.schemas.fields import Failure, unknown_fields
from kelpie_api.schemas.filters import ChangedJobs, JobCount, JobCountQuery, JobSelection, filters_of
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.body import guess, ignored, request_json, with_warnings
from kelpie_api.web.context import caller, coordinator, db

blueprint = Blueprint("bulk", __name__, description="Many jobs at once: counts and changes of all that match.")
QUERY = JobCountQuery()
SELECTION = JobSelection()


@blueprint.get("/jobs/counts")
@blueprint.arguments(QUERY, location="query")
@blueprint.response(200, JobCount)
@blueprint.alt_response(400, schema=Failure)
def count_jobs(query: dict[str, Any]) -> Row:
    """Count the jobs that match: exactly those that are open, up to 10,000 final ones; `more` says that there are
    more."""
    found = bulk.count(db(), caller(), filters_of(query))
    answer = {"count": found.count} | ({"more": True} if found.more else {})
    return with_warnings(answer, ignored(QUERY, dict(request.args), "a filter of jobs"))


@blueprint.post("/jobs/cancel")
@blueprint.arguments(SELECTION)
@blueprint.response(200, ChangedJobs)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def cancel_jobs(selection: dict[str, Any]) -> Row:
    """Cancel the open jobs that match."""
    require_known_fields()
    return asdict(bulk.cancel(db(), caller(), filters_of(selection), selection["expect"]))


@blueprint.post("/jobs/hold")
@blueprint.arguments(SELECTION)
@blueprint.response(200, ChangedJobs)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def hold_jobs(selection: dict[str, Any]) -> Row:
    """Keep the open jobs that match from being handed out; workers that have one save and give it back."""
    require_known_fields()
    return asdict(bulk.hold(db(), caller(), filters_of(selection), selection["expect"]))


@blueprint.post("/jobs/resume")
@blueprint.arguments(SELECTION)
@blueprint.response(200, ChangedJobs)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def resume_jobs(selection: dict[str, Any]) -> Row:
    """Let the held jobs that match be handed out again; `count` is their number."""
    require_known_fields()
    return asdict(bulk.resume(db(), caller(), filters_of(selection), selection["expect"]))


@blueprint.post("/jobs/rerun")
@blueprint.arguments(SELECTION)
@blueprint.response(200, ChangedJobs)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
@blueprint.alt_response(429, schema=Failure)
def rerun_jobs(selection: dict[str, Any]) -> Row:
    """Submit the jobs that match and have ended once more, each as a new one."""
    require_known_fields()
    parts, asking = coordinator(), caller()
    limits = OpenJobLimits(parts.config.max_open_jobs, parts.config.max_open_mebibytes)

    def again(job_id: UUID) -> None:
        rerun(parts.db, asking, job_id, parts.environments, limits, fresh=False)

    return asdict(bulk.rerun(parts.db, asking, filters_of(selection), selection["expect"], again))


def require_known_fields() -> None:
    """Raise InvalidRequest for a field that is no filter: ignored, it would change more jobs than were meant."""
    unknown = {
        field.path: [f"This is no filter{guess(field)}."] for field in unknown_fields(SELECTION, request_json())
    }
    if unknown:
        name, [sentence] = next(iter(unknown.items()))
        raise InvalidRequest(f"{name}: {sentence} Nothing was changed.", unknown)
