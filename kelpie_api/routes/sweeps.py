"""Sweeps: jobs that belong together (docs/design/protocol.md, Sweeps)."""

from __future__ import annotations

from typing import Any

from kelpie_api.db import Row
from kelpie_api.queue import sweeps
from kelpie_api.queue.identity import IdempotencyKey
from kelpie_api.routes.jobs import refuse_own_webhooks
from kelpie_api.schemas.fields import Failure
from kelpie_api.schemas.jobs import Count
from kelpie_api.schemas.submission import SubmissionHeaders
from kelpie_api.schemas.sweeps import NewSweep, Sweep, SweepChanges, SweepList, SweepQuery
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.context import TEXT, caller, db, identifier
from kelpie_api.web.idempotency import REPLAYED, digest_of_body
from kelpie_api.web.pages import link_after

blueprint = Blueprint("sweeps", __name__, description="Sweeps: jobs that belong together, so many at a time.")


@blueprint.post("/sweeps")
@blueprint.arguments(SubmissionHeaders, location="headers")
@blueprint.arguments(NewSweep)
@blueprint.response(201, Sweep, headers=REPLAYED)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(422, schema=Failure)
def create_sweep(headers: dict[str, Any], new: dict[str, Any]) -> tuple[Row, int, dict[str, str]]:
    """Make a sweep; its jobs are submitted with `"sweep": id`. With an Idempotency-Key it is made once."""
    refuse_own_webhooks([new])
    key = headers["idempotency_key"]
    once = IdempotencyKey(key, digest_of_body()) if key else None
    made, existed = sweeps.create(db(), caller(), new, once)
    return made, 201, {"Idempotent-Replayed": "true"} if existed else {}


@blueprint.get("/sweeps")
@blueprint.arguments(SweepQuery, location="query")
@blueprint.response(200, SweepList, headers={"Link": TEXT})
@blueprint.alt_response(400, schema=Failure)
def list_sweeps(query: dict[str, Any]) -> tuple[Row, int, dict[str, str]]:
    """List the sweeps of your project, newest first."""
    found, before = sweeps.list_page(db(), caller(), query["page_size"], query["before"])
    return {"_count": len(found), "sweeps": found}, 200, link_after(before, ("page_size",))


@blueprint.get("/sweeps/<sweep_id>")
@blueprint.response(200, Sweep)
@blueprint.alt_response(404, schema=Failure)
def get_sweep(sweep_id: str) -> Row:
    """Read a sweep, with its jobs by phase."""
    return sweeps.get(db(), caller(), identifier(sweep_id, "sweep"))


@blueprint.patch("/sweeps/<sweep_id>")
@blueprint.arguments(SweepChanges)
@blueprint.response(200, Sweep)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def change_sweep(changes: dict[str, Any], sweep_id: str) -> Row:
    """Change name, labels, the limit, or close it. A lowered limit stops no job.

    Those that run go on to their end. A closed sweep can be opened again until it has ended (409).
    """
    return sweeps.change(db(), caller(), identifier(sweep_id, "sweep"), changes)


@blueprint.delete("/sweeps/<sweep_id>")
@blueprint.response(200, Count)
@blueprint.alt_response(404, schema=Failure)
def cancel_sweep(sweep_id: str) -> Row:
    """Close a sweep and cancel its open jobs."""
    return {"count": sweeps.cancel(db(), caller(), identifier(sweep_id, "sweep"))}
