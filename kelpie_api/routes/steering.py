"""Steering one job: hold, resume, interrupt (docs/design/steering.md, Wishes)."""

from __future__ import annotations

from typing import Any

from flask_smorest import Blueprint

from kelpie_api.db import Row
from kelpie_api.queue import wishes
from kelpie_api.queue.wishes import Answer
from kelpie_api.schemas.fields import Failure
from kelpie_api.schemas.steering import Interrupt, Wished
from kelpie_api.web.body import BodyParser
from kelpie_api.web.context import caller, db, identifier

blueprint = Blueprint("steering", __name__, description="Steering: what becomes of a job that waits or runs.")
blueprint.ARGUMENTS_PARSER = BodyParser()


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
@blueprint.arguments(Interrupt)
@blueprint.response(202, Wished)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def interrupt_job(fields: dict[str, Any], job_id: str) -> Row:
    """Have the worker save and give the job back: the next one goes on, the same machine too but for `ban`."""
    return answered(wishes.interrupt(db(), caller(), identifier(job_id, "job"), fields["ban"]))


def answered(answer: Answer) -> Row:
    """The answer of a call; without a time where no worker is told."""
    return {"message": answer.message} | ({"heard_by": answer.heard_by} if answer.heard_by else {})
