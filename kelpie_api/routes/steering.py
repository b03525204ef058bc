"""Steering one job, and a container group (docs/design/steering.md, Wishes)."""

from __future__ import annotations

from typing import Any

from kelpie_api.db import Row
from kelpie_api.errors import InvalidRequest
from kelpie_api.limits import LONGEST_NAME
from kelpie_api.queue import changes, groups, listing, wishes
from kelpie_api.queue.reruns import rerun
from kelpie_api.queue.submissions import OpenJobLimits
from kelpie_api.queue.wishes import Answer
from kelpie_api.schemas.fields import Failure
from kelpie_api.schemas.jobs import Job
from kelpie_api.schemas.steering import Group, GroupChanges, Interrupt, JobChanges, Lifted, Rerun, Wished
from kelpie_api.schemas.submission import SubmissionHeaders
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.body import ignored, request_json, with_warnings
from kelpie_api.web.context import TEXT, caller, coordinator, db, identifier
from kelpie_api.web.idempotency import REPLAYED, key_of_request

blueprint = Blueprint("steering", __name__, description="Steering: what becomes of a job that waits or runs.")
CHANGES = JobChanges()
GROUP_CHANGES = GroupChanges()


@blueprint.post("/jobs/<job_id>/hold")
@blueprint.response(202, Wished)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def hold_job(job_id: str) -> Row:
    """Keep a job from being handed out until it is resumed; a worker that has it saves and gives it back."""
    return answered(wishes.hold(db(), caller(), identifier(job_id, "job")))


@blueprint.post("/jobs/<job_id>/resume")
@blueprint.response(202, Wished)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def resume_job(job_id: str) -> Row:
    """Let a held job be handed out again, and one that waits after a failure at once."""
    return answered(wishes.resume(db(), caller(), identifier(job_id, "job")))


@blueprint.post("/jobs/<job_id>/interrupt")
@blueprint.arguments(Interrupt, required=False)
@blueprint.response(202, Wished)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def interrupt_job(fields: dict[str, Any], job_id: str) -> Row:
    """Have the worker save and give the job back: the next one goes on, the same machine too but for `ban`."""
    return answered(wishes.interrupt(db(), caller(), identifier(job_id, "job"), fields["ban"]))


@blueprint.post("/jobs/<job_id>/rerun")
@blueprint.arguments(SubmissionHeaders, location="headers")
@blueprint.arguments(Rerun, required=False)
@blueprint.response(202, Job, headers=REPLAYED)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
@blueprint.alt_response(422, schema=Failure)
@blueprint.alt_response(429, schema=Failure, headers={"Retry-After": TEXT})
def rerun_job(headers: dict[str, Any], fields: dict[str, Any], job_id: str) -> tuple[Row, int, dict[str, str]]:
    """Submit a job that has ended once more, as a new one: once for each Idempotency-Key.

    `fresh`: without the downloads of its checkpoints; `sweep`: in its sweep.
    """
    parts = coordinator()
    made, existed = rerun(
        db(),
        caller(),
        identifier(job_id, "job"),
        parts.environments,
        OpenJobLimits(parts.config.max_open_jobs, parts.config.max_open_mebibytes),
        fresh=fields["fresh"],
        in_sweep=fields["sweep"],
        once=key_of_request(headers),
    )
    return made, 202, {"Idempotent-Replayed": "true"} if existed else {}


@blueprint.patch("/jobs/<job_id>")
@blueprint.arguments(CHANGES)
@blueprint.response(200, Job)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def change_job(fields: dict[str, Any], job_id: str) -> Row:
    """Change what is said of an open job: its name, labels, priority and limits."""
    job = identifier(job_id, "job")
    changes.change(db(), caller(), job, fields)
    found = listing.get(db(), caller(), job, coordinator().environments.seal)
    return with_warnings(found, ignored(CHANGES, request_json(), "a field of a job that can be changed"))


@blueprint.delete("/jobs/<job_id>/bans")
@blueprint.response(200, Lifted)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def lift_bans(job_id: str) -> Row:
    """Let all machines have a job again that they are banned from; `count` is their number."""
    return {"count": changes.lift_bans(db(), caller(), identifier(job_id, "job"))}


@blueprint.delete("/jobs/<job_id>/bans/<text:machine_id>")
@blueprint.response(200, Lifted)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def lift_ban(job_id: str, machine_id: str) -> Row:
    """Let one machine have a job again that it is banned from; `count` is 0 where it was not."""
    return {
        "count": changes.lift_bans(db(), caller(), identifier(job_id, "job"), storable(machine_id, "machine_id"))
    }


@blueprint.patch("/container-groups/<text:container_group_id>")
@blueprint.arguments(GROUP_CHANGES)
@blueprint.response(200, Group)
@blueprint.alt_response(400, schema=Failure)
def change_group(fields: dict[str, Any], container_group_id: str) -> Row:
    """Pause a container group, whose machines are then handed no job, and set the defaults of its jobs. An empty
    object answers what is set."""
    changed = groups.change(db(), caller(), storable(container_group_id, "container_group_id"), fields)
    return with_warnings(changed, ignored(GROUP_CHANGES, request_json(), "a field of a container group"))


def storable(text: str, name: str) -> str:
    """A name from a path. Raises InvalidRequest if there can be none like that."""
    if len(text) > LONGEST_NAME or "\0" in text or "\ufffd" in text:
        sentence = f"It is 1 to {LONGEST_NAME} characters in UTF-8, without a NUL."
        raise InvalidRequest(f"{name}: {sentence}", {name: [sentence]})
    return text


def answered(answer: Answer) -> Row:
    """The answer of a call; without a time where no worker is told."""
    return {"message": answer.message} | ({"heard_by": answer.heard_by} if answer.heard_by else {})
