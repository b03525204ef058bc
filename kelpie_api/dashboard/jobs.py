"""The list of jobs, and changes of all of them that match (docs/pages.md, The list)."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode
from uuid import UUID

from flask import Response, request
from werkzeug.wrappers import Response as AnyResponse

from kelpie_api.auth.caller import Caller
from kelpie_api.dashboard.live import live
from kelpie_api.dashboard.pages import blueprint, lead_to, once_of, page, read
from kelpie_api.db import Database
from kelpie_api.errors import Conflict, InvalidRequest, KelpieError, NotFound
from kelpie_api.queue import bulk, listing
from kelpie_api.queue.bulk import Changed
from kelpie_api.queue.filters import Filters
from kelpie_api.queue.identity import IdempotencyKey
from kelpie_api.queue.reruns import rerun
from kelpie_api.queue.states import Phase
from kelpie_api.queue.submissions import OpenJobLimits
from kelpie_api.schemas.filters import FILTER_NAMES, JobCountQuery, filters_of
from kelpie_api.schemas.jobs import JobQuery, as_cursor
from kelpie_api.web import sessions
from kelpie_api.web.body import whole_body
from kelpie_api.web.context import caller, coordinator, db, this_request

PAGE = 50  # jobs
REFRESHED = 6  # seconds between two looks at the list
LOOKED_AT = 10_001  # jobs that have ended, for the number of a page that asks before a change: a part of a second
QUERY, SELECTION = JobQuery(), JobCountQuery()
Change = Callable[[Database, Caller, Filters, int, IdempotencyKey | None], Changed]


@blueprint.get("/ui/jobs")
@live(REFRESHED)
def list_jobs() -> Response:
    """A page of the jobs that match the address, and how many there are."""
    refusal: KelpieError | None = None
    jobs, following, count = [], None, None
    try:
        query = read(QUERY)
        filters = filters_of(query)
        place = listing.place_of(page=1, page_size=PAGE, asc=query["asc"], cursor=query["cursor"])
        found = listing.list_page(db(), caller(), filters, place)
        jobs, following = found.jobs, found.following
        count = bulk.count_some(db(), caller(), filters)
    except InvalidRequest as error:
        refusal = error
    kept = asked()
    return page(
        "jobs.html",
        400 if refusal else 200,
        refreshed=None if refusal else REFRESHED,
        jobs=jobs,
        count=count,
        refusal=refusal and refusal.message,
        given=given(),
        phases=[*Phase],
        filtered=bool(kept),
        query=urlencode(kept),
        without_phase=urlencode([(name, value) for name, value in kept if name != "phase"]),
        following=following and urlencode([*kept, ("cursor", as_cursor(following))]),
        is_later="cursor" in request.args,
    )


def asked() -> list[tuple[str, str]]:
    """The filters of this address that say something, in their order."""
    return [(name, value) for name in FILTER_NAMES for value in request.args.getlist(name) if value]


def given() -> dict[str, str]:
    """What the form shows as it was given: of a filter that is repeated the first."""
    return {name: request.args.get(name, "") for name in FILTER_NAMES}


@blueprint.get("/ui/jobs/change/<verb>")
def get_change(verb: str) -> Response:
    """Ask whether all that match are meant, with their number."""
    change_of(verb)
    filters = filters_of(read(SELECTION))
    return confirm(verb, bulk.count(db(), caller(), concerned(verb, filters), LOOKED_AT))


def concerned(verb: str, filters: Filters) -> Filters:
    """Of the jobs that match those that a change is about: open ones, and to run again those that have ended.

    Raises InvalidRequest where no filter is given, or none of the jobs that are meant can be such.
    """
    if not filters.any:
        raise InvalidRequest("Filter the jobs first: this would be all of them.")
    found = filters.only(is_open=verb != "rerun")
    if found is None:
        raise InvalidRequest("None of these jobs can be changed so; look at the filters.")
    return found


def confirm(verb: str, count: bulk.Count, refusal: KelpieError | None = None) -> Response:
    return page(
        "change.html",
        refusal.status if refusal else 200,
        verb=verb,
        words=WORDS[verb],
        count=count,
        filters=asked(),
        selected=[value for name, value in asked() if name == "id"],
        query=urlencode(asked()),
        refusal=refusal and refusal.message,
    )


@blueprint.post("/ui/jobs/change/<verb>")
def change_jobs(verb: str) -> AnyResponse:
    """Change all that match, if they are as many as the form says."""
    whole_body()
    sessions.require_own_form(this_request())
    change = change_of(verb)
    filters = concerned(verb, filters_of(read(SELECTION)))
    expect = request.form.get("expect", "")
    if not (expect.isascii() and expect.isdigit() and len(expect) < 10):
        raise InvalidRequest("The form does not say how many jobs it means; load the page again.")
    try:
        once = once_of(request.form.get("once", ""), f"{verb} {expect} {urlencode(asked())}")
        changed = change(db(), caller(), filters, int(expect), once)
    except Conflict as refusal:
        return confirm(verb, bulk.count(db(), caller(), filters, LOOKED_AT), refusal)
    refused = f" {len(changed.refused)} were refused: {changed.refused[0].message}" if changed.refused else ""
    those = "1 job" if changed.count == 1 else f"{changed.count} jobs"
    return lead_to(f"/ui/jobs?{urlencode(asked())}", f"{those}: {WORDS[verb][1]}.{refused}")


def change_of(verb: str) -> Change:
    if verb not in CHANGES:
        raise NotFound("There is no such button.")
    return CHANGES[verb]


def rerun_all(db: Database, asking: Caller, filters: Filters, expect: int, once: IdempotencyKey | None) -> Changed:
    parts = coordinator()
    limits = OpenJobLimits(parts.config.max_open_jobs, parts.config.max_open_mebibytes)

    def again(job_id: UUID, key: IdempotencyKey | None) -> None:
        rerun(db, asking, job_id, parts.environments, limits, once=key)

    return bulk.rerun(db, asking, filters, expect, again, once)


CHANGES: dict[str, Change] = {
    "cancel": bulk.cancel,
    "hold": bulk.hold,
    "resume": bulk.resume,
    "rerun": rerun_all,
}
# What a button says, and what is told afterwards.
WORDS = {
    "cancel": ("Cancel", "canceled"),
    "hold": ("Hold", "held, or told to save first"),
    "resume": ("Resume", "resumed"),
    "rerun": ("Run again", "submitted once more"),
}
