"""The page of one job, and its buttons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from flask import Response, request
from werkzeug.wrappers import Response as AnyResponse

from kelpie_api.auth.caller import Role
from kelpie_api.dashboard.live import is_asked_for, live
from kelpie_api.dashboard.output import Piece, piece_of
from kelpie_api.dashboard.pages import blueprint, lead_to, once_of, page
from kelpie_api.dashboard.sparks import sparks_of
from kelpie_api.dashboard.states import FINAL
from kelpie_api.dashboard.timeline import Picture, picture, spans
from kelpie_api.db import SQL, Row
from kelpie_api.errors import NotFound
from kelpie_api.queue import jobs, listing, output, wishes
from kelpie_api.queue.reruns import rerun
from kelpie_api.queue.states import Phase
from kelpie_api.queue.submissions import OpenJobLimits
from kelpie_api.queue.why import why
from kelpie_api.web import sessions
from kelpie_api.web.body import whole_body
from kelpie_api.web.context import caller, coordinator, db, identifier, this_request
from kelpie_api.webhooks import log

MOST_ATTEMPTS = 300  # in the picture and the table
MOST_EVENTS = 60
MOST_WEBHOOKS, MOST_TRIES = 20, 10  # the newest, and of each the newest tries
TAIL = 16_384  # bytes of output
REFRESHED = 4  # seconds between two looks at the live part of the page
IN_HAND = (Phase.RUNNING, Phase.STALLED, Phase.DOWNLOADING, Phase.UPLOADING)


@dataclass(frozen=True)
class Attempts:
    """The newest attempts of a job, what all of them add up to, and their picture, if there was one."""

    newest: list[Row]
    total: Row
    picture: Picture | None
    begin: datetime

    @property
    def left_out(self) -> int:
        return int(self.total["attempts"]) - len(self.newest)


@blueprint.get("/ui/jobs/<job_id>")
@live(REFRESHED)
def get_job(job_id: str) -> Response:
    """One job: its attempts on a line of time, why it waits, how far it is, and the end of what it printed."""
    the_id = identifier(job_id, "job")
    job = listing.get(db(), caller(), the_id, coordinator().authenticator.seal)
    attempts = attempts_of(job)
    is_final = job["phase"] in FINAL
    shows_values = request.args.get("environment") == "shown"
    return page(
        "job.html",
        refreshed=None if is_final or shows_values else REFRESHED,
        job=job,
        attempts=attempts,
        now=attempts.total["at"],
        reasons=[] if is_final else why(db(), caller(), the_id),
        is_final=is_final,
        is_in_hand=job["phase"] in IN_HAND,
        is_held="hold" in (job["parked"] or ()) or "backoff" in (job["parked"] or ()),
        progress=job.get("progress"),
        sparks=sparks_of(db().all(SQL.list_progress_points, job_id=the_id)),
        **output_of(job, is_live=not (is_final or shows_values)),
        events=db().all(SQL.newest_events, job_id=the_id, most=MOST_EVENTS),
        webhooks=webhooks_of(the_id),
        environment=environment_of(job, shows_values),
        shows_values=shows_values,
    )


def attempts_of(job: Row) -> Attempts:
    """The attempts of a job that the caller may see."""
    newest = db().all(SQL.newest_attempts, job_id=job["id"], most=MOST_ATTEMPTS)
    total = db().one_or_none(SQL.sum_attempts, job_id=job["id"])
    assert total is not None, "a sum has a row"
    begin = job["created"] if len(newest) == total["attempts"] else newest[-1]["claimed"]
    if not newest:
        return Attempts([], total, None, begin)
    marks = db().all(SQL.list_checkpoint_marks, job_id=job["id"], attempt=newest[-1]["number"])
    now = job["completed"] or job["failed"] or job["canceled"] or total["at"]
    found = spans(newest[::-1], marks, begin, now)
    return Attempts(newest, total, picture(found, (now - begin).total_seconds()), begin)


def output_of(job: Row, is_live: bool) -> dict[str, Any]:
    """What the page shows of the output: `printed`, its end, or `piece`, the first of those that a page gets."""
    attempt = job["attempt"]
    if not (is_live and attempt and (job["options"] or {}).get("keep_output")):
        return {"printed": tail_of(job["id"], attempt)}
    if is_asked_for():  # the output that the page has stays as it is; one that has none begins here
        return {"piece": Piece.first(attempt)}
    return {"piece": piece_of(job, attempt, output.tail(db(), job["id"], attempt, TAIL))}


def tail_of(job_id: UUID, attempt: int) -> bytes:
    """The end of what the newest attempt printed: what is kept, or what came with the report of its end."""
    if not attempt:
        return b""
    if kept := output.tail(db(), job_id, attempt, TAIL).content:
        return kept
    found = db().one_or_none(SQL.reported_output, job_id=job_id, attempt=attempt, most=TAIL)
    return ((found and found["output"]) or "").encode(errors="replace")


def webhooks_of(job_id: UUID) -> list[Row]:
    """The newest webhooks of a job, each with its newest tries, the last first, and its URL for this caller."""
    found = db().all(SQL.newest_webhooks, job_id=job_id, most=MOST_WEBHOOKS)
    tries: dict[UUID, list[Row]] = defaultdict(list)
    for row in db().all(SQL.list_deliveries, webhook_ids=[one["id"] for one in found], most=MOST_TRIES):
        tries[row["webhook_id"]].insert(0, row)
    is_viewer = caller().role == Role.VIEWER
    return [
        one
        | {"attempts": tries[one["id"]], "url": listing.without_user_part(one["url"]) if is_viewer else one["url"]}
        for one in found
    ]


def environment_of(job: Row, shows_values: bool) -> list[tuple[str, str | None]] | None:
    """Names of the environment, with their values where they are asked for; None if it cannot be opened."""
    if job["environment"] is None:
        return None
    return [(name, value if shows_values else None) for name, value in sorted(job["environment"].items())]


@blueprint.post("/ui/jobs/<job_id>/<verb>")
def steer_job(job_id: str, verb: str) -> AnyResponse:
    """A button of a job: hold, resume, interrupt, cancel, rerun."""
    whole_body()
    sessions.require_own_form(this_request())
    the_id = identifier(job_id, "job")
    if verb == "rerun":
        return rerun_job(the_id)
    if verb not in VERBS:
        raise NotFound("There is no such button.")
    return lead_to(f"/ui/jobs/{the_id}", VERBS[verb](the_id))


@blueprint.post("/ui/jobs/<job_id>/webhooks/<webhook_id>")
def redeliver_webhook(job_id: str, webhook_id: str) -> AnyResponse:
    """Send a webhook again."""
    whole_body()
    sessions.require_own_form(this_request())
    job = listing.get(db(), caller(), identifier(job_id, "job"))
    log.redeliver(db(), job["id"], identifier(webhook_id, "webhook"), caller().sealed_key)
    return lead_to(f"/ui/jobs/{job['id']}#webhooks", "The webhook will be delivered again.")


def rerun_job(job_id: UUID) -> AnyResponse:
    parts = coordinator()
    limits = OpenJobLimits(parts.config.max_open_jobs, parts.config.max_open_mebibytes)
    fresh = "fresh" in request.form
    once = once_of(request.form.get("once", ""), f"rerun {job_id} {fresh}")
    again, _ = rerun(db(), caller(), job_id, parts.environments, limits, fresh=fresh, once=once)
    return lead_to(f"/ui/jobs/{again['id']}", "This is the new job, which repeats the other one.")


def cancel(job_id: UUID) -> str:
    if "gracefully" in request.form:
        return wishes.cancel_gracefully(db(), caller(), job_id).message
    jobs.cancel(db(), caller(), job_id)
    return "Job canceled"


VERBS: dict[str, Callable[[UUID], str]] = {
    "hold": lambda job_id: wishes.hold(db(), caller(), job_id).message,
    "resume": lambda job_id: wishes.resume(db(), caller(), job_id).message,
    "interrupt": lambda job_id: wishes.interrupt(db(), caller(), job_id, "ban" in request.form).message,
    "cancel": cancel,
}
