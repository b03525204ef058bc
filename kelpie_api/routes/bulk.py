"""Counts and changes of all jobs that match (docs/design/protocol.md, Filters)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any
from uuid import UUID

from flask import request

from kelpie_api.db import Row
from kelpie_api.errors import InvalidRequest
from kelpie_api.queue import bulk
from kelpie_api.queue.bulk import Changed
from kelpie_api.queue.identity import IdempotencyKey
from kelpie_api.queue.reruns import rerun
from kelpie_api.queue.submissions import OpenJobLimits
from kelpie_api.schemas.fields import Failure, unknown_fields
from kelpie_api.schemas.filters import ChangedJobs, JobCount, JobCountQuery, JobSelection, filters_of
from kelpie_api.schemas.submission import SubmissionHeaders
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.body import guess, ignored, request_json, with_warnings
from kelpie_api.web.context import caller, coordinator, db
from kelpie_api.web.idempotency import REPLAYED, key_of_request

blueprint = Blueprint("bulk", __name__, description="Many jobs at once: counts and changes of all that match.")
QUERY = JobCountQuery()
SELECTION = JobSelection()


@blueprint.get("/jobs/counts")
@blueprint.arguments(QUERY, location="query")
@blueprint.response(200, JobCount)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(414, schema=Failure)  # more ids than an address can have
def count_jobs(query: dict[str, Any]) -> Row:
    """Count the jobs that match: exactly those that are open, up to 10,000 final ones; `more` says that there may
    be more."""
    found = bulk.count(db(), caller(), filters_of(query))
    answer = {"count": found.count} | ({"more": True} if found.more else {})
    return with_warnings(answer, ignored(QUERY, dict(request.args), "a filter of jobs"))


@blueprint.post("/jobs/cancel")
@blueprint.arguments(SubmissionHeaders, location="headers")
@blueprint.arguments(SELECTION)
@blueprint.response(200, ChangedJobs, headers=REPLAYED)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
@blueprint.alt_response(422, schema=Failure)
def cancel_jobs(headers: dict[str, Any], selection: dict[str, Any]) -> tuple[Row, int, dict[str, str]]:
    """Cancel the open jobs that match."""
    return changed(bulk.cancel, headers, selection)


@blueprint.post("/jobs/hold")
@blueprint.arguments(SubmissionHeaders, location="headers")
@blueprint.arguments(SELECTION)
@blueprint.response(200, ChangedJobs, headers=REPLAYED)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
@blueprint.alt_response(422, schema=Failure)
def hold_jobs(headers: dict[str, Any], selection: dict[str, Any]) -> tuple[Row, int, dict[str, str]]:
    """Keep the open jobs that match from being handed out; workers that have one save and give it back."""
    return changed(bulk.hold, headers, selection)


@blueprint.post("/jobs/resume")
@blueprint.arguments(SubmissionHeaders, location="headers")
@blueprint.arguments(SELECTION)
@blueprint.response(200, ChangedJobs, headers=REPLAYED)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
@blueprint.alt_response(422, schema=Failure)
def resume_jobs(headers: dict[str, Any], selection: dict[str, Any]) -> tuple[Row, int, dict[str, str]]:
    """Let the held jobs that match be handed out again; `count` is their number."""
    return changed(bulk.resume, headers, selection)


@blueprint.post("/jobs/rerun")
@blueprint.arguments(SubmissionHeaders, location="headers")
@blueprint.arguments(SELECTION)
@blueprint.response(200, ChangedJobs, headers=REPLAYED)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
@blueprint.alt_response(422, schema=Failure)
@blueprint.alt_response(429, schema=Failure)
def rerun_jobs(headers: dict[str, Any], selection: dict[str, Any]) -> tuple[Row, int, dict[str, str]]:
    """Submit the jobs that match and have ended once more, each as a new one."""
    parts, asking = coordinator(), caller()
    limits = OpenJobLimits(parts.config.max_open_jobs, parts.config.max_open_mebibytes)

    def again(job_id: UUID, once: IdempotencyKey | None) -> None:
        rerun(parts.db, asking, job_id, parts.environments, limits, once=once)

    return changed(partial(bulk.rerun, again=again), headers, selection)


def changed(
    change: Callable[..., Changed], headers: dict[str, Any], selection: dict[str, Any]
) -> tuple[Row, int, dict[str, str]]:
    """Make a change of the jobs that match, once if there is a key; what is answered."""
    require_known_fields()
    once = key_of_request(headers)
    done = change(db(), caller(), filters_of(selection), selection["expect"], once=once)
    answer = {"count": done.count, "refused": [asdict(one) for one in done.refused]}
    return answer, 200, {"Idempotent-Replayed": "true"} if done.is_replayed else {}


def require_known_fields() -> None:
    """Raise InvalidRequest for a field that is no filter: ignored, it would change more jobs than were meant."""
    unknown = {
        field.path: [f"This is no filter{guess(field)}."] for field in unknown_fields(SELECTION, request_json())
    }
    if unknown:
        name, [sentence] = next(iter(unknown.items()))
        raise InvalidRequest(f"{name}: {sentence} Nothing was changed.", unknown)
