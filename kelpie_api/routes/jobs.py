"""Jobs as users see them: submit, list, read, cancel, and the history of one (docs/design/protocol.md, Routes)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, ParamSpec

from flask import Response, request

from kelpie_api.db import Row
from kelpie_api.errors import InvalidRequest
from kelpie_api.limits import LONGEST_NAME
from kelpie_api.machines import sightings
from kelpie_api.net.addresses import OwnAddresses, is_url
from kelpie_api.queue import checkpoints, jobs, listing, submissions, waiting_for_changes, wishes
from kelpie_api.queue.during_prefixes import SharedPlace, shared_places
from kelpie_api.queue.filters import Filters
from kelpie_api.queue.identity import IdempotencyKey
from kelpie_api.queue.submissions import OpenJobLimits
from kelpie_api.queue.waiting_for_changes import Mark
from kelpie_api.queue.why import why
from kelpie_api.routes.steering import answered
from kelpie_api.schemas.fields import Failure
from kelpie_api.schemas.filters import FILTER_NAMES, filters_of
from kelpie_api.schemas.jobs import (
    AttemptList,
    Checkpoint,
    Count,
    EventList,
    HistoryQuery,
    Job,
    JobPage,
    JobQuery,
    as_cursor,
)
from kelpie_api.schemas.reasons import Reason
from kelpie_api.schemas.steering import CancelQuery, Wished
from kelpie_api.schemas.submission import JobDefinition, SubmissionHeaders
from kelpie_api.schemas.submission_warnings import doubts
from kelpie_api.sealed import secrets
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.body import ignored, request_json, with_warnings
from kelpie_api.web.context import TEXT, caller, coordinator, db, identifier
from kelpie_api.web.idempotency import REPLAYED, digest_of_body
from kelpie_api.web.json import in_batch
from kelpie_api.web.narrowing import require_no_filters, require_no_parameters
from kelpie_api.web.pages import link_after

blueprint = Blueprint("jobs", __name__, description="Jobs, as users see them.")
DEFINITION = JobDefinition()
# By which a list of jobs could be narrowed; a removal cannot.
FILTERS = {*FILTER_NAMES, *JobQuery._declared_fields, *Job._declared_fields}
ONE_GROUP = (
    "DELETE /jobs/container-groups/{container_group_id} ends the jobs of one group, DELETE /jobs/{job_id} one job."
)
SAME_ON_EVERY_PAGE = (*FILTER_NAMES, "page_size", "asc")
QUERY = JobQuery()
CROWDED = "1"  # Retry-After, in seconds, for a reader that found no room to wait
P = ParamSpec("P")

# What a route returns: a value for its schema, the status, headers.
RouteResult = tuple[Row | list[Row], int, dict[str, str]]


def warned(job: Row, definition: Any, shared: list[SharedPlace]) -> Row:
    """A submitted job with warnings about its definition, which is here as it was sent."""
    allow_private = coordinator().config.webhook_allow_private
    warnings = ignored(DEFINITION, definition, "a field of a job")
    return with_warnings(job, [*warnings, *doubts(job, shared, allow_private)])


def accept(definitions: list[dict[str, Any]], key: str | None) -> tuple[list[Row], dict[str, str]]:
    """Submit jobs, at most once if there is a key; return the jobs and the headers of the answer."""
    try:
        return submitted(definitions, key)
    except InvalidRequest as error:
        if not isinstance(request_json(), list):
            error.index = None
        raise


def submitted(definitions: list[dict[str, Any]], key: str | None) -> tuple[list[Row], dict[str, str]]:
    """As `accept`; a refusal says the place of the job also where it is sent alone."""
    refuse_own_webhooks(definitions)
    refuse_unknown_secrets(definitions)
    config = coordinator().config
    environments = coordinator().environments
    limits = OpenJobLimits(config.max_open_jobs, config.max_open_mebibytes)
    if key is None:
        return submissions.submit(db(), caller(), definitions, limits, environments), {}
    created, replayed = submissions.submit_once(
        db(), caller(), definitions, IdempotencyKey(key, digest_of_body()), limits, environments
    )
    return created, {"Idempotent-Replayed": "true"} if replayed else {}


def refuse_own_webhooks(definitions: list[dict[str, Any]]) -> None:
    """Raise InvalidRequest for a webhook that leads back here: it brings a worker's key, and could be a report."""
    own = own_addresses()
    for place, definition in enumerate(definitions):
        if (url := definition.get("webhook")) and own.named_by(url):
            sentence = "A webhook goes to a receiver of yours; this address is the coordinator's own."
            index = place if isinstance(request_json(), list) else None
            raise InvalidRequest(f"{in_batch(index)}webhook: {sentence}", {"webhook": [sentence]}, index)


def refuse_unknown_secrets(definitions: list[dict[str, Any]]) -> None:
    """Raise InvalidRequest where a job names a secret that is not there."""
    named = [(definition["options"] or {}).get("secrets", ()) for definition in definitions]
    if caller().machine:
        return  # it names none
    missing = secrets.missing(db(), caller().tenant_id, set().union(*named))
    for place, names in enumerate(named):
        if unknown := sorted(missing.intersection(names)):
            sentence = f"There is no secret {unknown[0]}; set it with PUT /secrets/{unknown[0]}."
            index = place if isinstance(request_json(), list) else None
            raise InvalidRequest(f"{in_batch(index)}secrets: {sentence}", {"secrets": [sentence]}, index)


def own_addresses() -> OwnAddresses:
    """Where clients reach the coordinator: as its operator says, and as this request did."""
    urls = coordinator().config.public_urls
    host = f"http://{request.host}"
    return OwnAddresses([*urls, host] if is_url(host) else urls)


@blueprint.post("/jobs")
@blueprint.arguments(SubmissionHeaders, location="headers")
@blueprint.arguments(DEFINITION)
@blueprint.response(202, Job, headers=REPLAYED)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
@blueprint.alt_response(422, schema=Failure)
@blueprint.alt_response(429, schema=Failure, headers={"Retry-After": TEXT})
def submit_job(headers: dict[str, Any], definition: dict[str, Any]) -> RouteResult:
    """Submit a job."""
    [job], answered = accept([definition], headers["idempotency_key"])
    [shared] = shared_places([job])
    return warned(job, request_json(), shared), 202, answered


# The path of the oldest generation of clients.
blueprint.add_url_rule("/job", endpoint="submit_job_by_old_path", view_func=submit_job, methods=["POST"])


@blueprint.post("/jobs/batch")
@blueprint.arguments(SubmissionHeaders, location="headers")
@blueprint.arguments(JobDefinition(many=True))
@blueprint.response(202, Job(many=True), headers=REPLAYED)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
@blueprint.alt_response(422, schema=Failure)
@blueprint.alt_response(429, schema=Failure, headers={"Retry-After": TEXT})
def submit_batch(headers: dict[str, Any], definitions: list[dict[str, Any]]) -> RouteResult:
    """Submit up to 1000 jobs, all or none; they keep their order."""
    created, answered = accept(definitions, headers["idempotency_key"])
    jobs_of_batch = zip(created, request_json(), shared_places(created), strict=True)
    return [warned(*job) for job in jobs_of_batch], 202, answered


@blueprint.get("/jobs")
@blueprint.arguments(QUERY, location="query")
@blueprint.response(200, JobPage, headers={"Link": TEXT, "Retry-After": TEXT})
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(414, schema=Failure)  # more ids than an address can have
def list_jobs(query: dict[str, Any]) -> RouteResult:
    """List jobs, newest first unless `asc`; `_count` is the number on this page, `Link` leads to the next one."""
    filters = filters_of(query)
    answer = page_of(filters, query)
    answer = with_warnings(answer, ignored(QUERY, dict(request.args), "a parameter of a list of jobs"))
    following = answer.pop("following")
    headers = link_after(as_cursor(following) if following else None, SAME_ON_EVERY_PAGE)
    return answer, 200, headers | answer.pop("headers", {})


def page_of(filters: Filters, query: dict[str, Any]) -> Row:
    """The answer to a query, with the cursor of the next page as `following`, and `headers`."""
    place = listing.place_of(**{name: query[name] for name in ("page", "page_size", "asc", "cursor")})
    wait, since = query["wait"], query["changed_since"]
    if filters.plain and wait is None and since is None:
        return as_answer(listing.list_page(db(), caller(), filters, place, coordinator().authenticator.seal))
    parts, asking = coordinator(), caller()
    resolved = filters.resolved(parts.db, asking)

    def look(since: Mark | None) -> waiting_for_changes.Look:
        return waiting_for_changes.look(parts.db, asking, resolved, place, since)

    seen, had_room = waiting_for_changes.wait_for_change(look, since, wait or 0, lambda: parts.waiting.closed)
    answer = as_answer(
        listing.page_of(parts.db, asking, seen.found, seen.numbers, place, parts.authenticator.seal)
    )
    return answer | {"changed_since": str(seen.mark), "headers": {} if had_room else {"Retry-After": CROWDED}}


def as_answer(page: listing.Page) -> Row:
    partial = {"partial": True} if page.partial else {}
    return {"_count": len(page.jobs), "jobs": page.jobs, "following": page.following, **partial}


@blueprint.delete("/jobs")
@blueprint.response(204)
@blueprint.alt_response(403, schema=Failure)
def purge_jobs() -> None:
    """Remove all jobs of all users (administrator). It takes no parameters, and is refused with any."""
    require_no_parameters("all jobs of all users", ONE_GROUP)
    jobs.purge(db())


@blueprint.delete("/jobs/container-groups/<text:container_group_id>")
@blueprint.response(200, Count)
@blueprint.alt_response(400, schema=Failure)
def purge_group(container_group_id: str) -> Row:
    """Remove a container group's pending jobs and cancel its running ones; `count` is the number of both."""
    require_no_filters(
        FILTERS, "all jobs of the group that are not final", "DELETE /jobs/{job_id} cancels one job."
    )
    return {"count": jobs.purge_group(db(), caller(), group_name(container_group_id))}


def group_name(text: str) -> str:
    """A container group from a path. Raises InvalidRequest if no job can have that group."""
    if len(text) > LONGEST_NAME or "\0" in text or "\ufffd" in text:
        sentence = f"The id of a container group is 1 to {LONGEST_NAME} characters in UTF-8, without a NUL."
        raise InvalidRequest(sentence, {"container_group_id": [sentence]})
    return text


def revalidated(answer: Callable[P, Response]) -> Callable[P, Response]:
    """Give the answers of a route an ETag, and answer 304 to a caller that has that version already.

    Caches may store an answer for its caller only, and must ask here before they use it.
    """

    @functools.wraps(answer)
    def conditional(*args: P.args, **kwargs: P.kwargs) -> Response:
        response = answer(*args, **kwargs)
        response.headers["Cache-Control"] = "private, no-cache"
        response.add_etag()
        # If-None-Match only: the library would answer a failed If-Match with 412 and the job.
        response.make_conditional({**request.environ, "HTTP_IF_MATCH": "", "HTTP_RANGE": ""})
        return response

    return conditional


@blueprint.get("/jobs/<job_id>")
@revalidated
@blueprint.response(200, Job, headers={"ETag": TEXT, "Cache-Control": TEXT})
@blueprint.alt_response(304, description="The job is as the If-None-Match of the request says.", success=True)
@blueprint.alt_response(404, schema=Failure)
def get_job(job_id: str) -> Row:
    """Read a job. `blocked_on_machines` is there if all live machines that it waits for are banned from it."""
    job = listing.get(db(), caller(), identifier(job_id, "job"), coordinator().authenticator.seal)
    blocking = sightings.blocking(db(), job)
    return job | ({"blocked_on_machines": blocking} if blocking else {})


@blueprint.delete("/jobs/<job_id>")
@blueprint.arguments(CancelQuery, location="query")
@blueprint.response(202, Wished)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def cancel_job(query: dict[str, Any], job_id: str) -> Row:
    """Cancel a job; its worker drops it with its next heartbeat, or saves it first (`graceful`)."""
    if query["graceful"]:
        return answered(wishes.cancel_gracefully(db(), caller(), identifier(job_id, "job")))
    jobs.cancel(db(), caller(), identifier(job_id, "job"))
    return {"message": "Job canceled"}


@blueprint.get("/jobs/<job_id>/why")
@blueprint.response(200, Reason(many=True))
@blueprint.alt_response(404, schema=Failure)
def why_job(job_id: str) -> list[Row]:
    """Why a job is not running: all that stands against it, the most important first."""
    return [asdict(reason) for reason in why(db(), caller(), identifier(job_id, "job"))]


@blueprint.get("/jobs/<job_id>/attempts")
@blueprint.arguments(HistoryQuery, location="query")
@blueprint.response(200, AttemptList, headers={"Link": TEXT})
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
def list_attempts(query: dict[str, Any], job_id: str) -> RouteResult:
    """Attempts of a job and how they ended, first to last; `Link` leads to the next page, if there is one."""
    found, following = listing.attempts(db(), caller(), identifier(job_id, "job"), **query)
    return {"_count": len(found), "attempts": found}, 200, link_after(following)


@blueprint.get("/jobs/<job_id>/checkpoint")
@blueprint.response(200, Checkpoint)
@blueprint.alt_response(404, schema=Failure)
def get_checkpoint(job_id: str) -> Row:
    """The newest checkpoint of a job that is whole in the bucket, with its objects; a 404 where there is none."""
    return checkpoints.newest(db(), caller(), identifier(job_id, "job"))


@blueprint.get("/jobs/<job_id>/events")
@blueprint.arguments(HistoryQuery, location="query")
@blueprint.response(200, EventList, headers={"Link": TEXT})
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
def list_events(query: dict[str, Any], job_id: str) -> RouteResult:
    """Changes of a job with their actors, first to last; `Link` leads to the next page, if there is one."""
    found, following = listing.events(db(), caller(), identifier(job_id, "job"), **query)
    return {"_count": len(found), "events": found}, 200, link_after(following)
