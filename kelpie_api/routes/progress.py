"""How far jobs are (docs/design/protocol.md, Progress)."""

from __future__ import annotations

from kelpie_api.db import Row
from kelpie_api.queue import listing
from kelpie_api.schemas.fields import Failure
from kelpie_api.schemas.progress import ProgressCourse
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.context import caller, db, identifier

blueprint = Blueprint("progress", __name__, description="How far jobs are.")


@blueprint.get("/jobs/<job_id>/progress")
@blueprint.response(200, ProgressCourse)
@blueprint.alt_response(404, schema=Failure)
def get_progress(job_id: str) -> Row:
    """Read how far a job is, as its command tells it, from where to where the last resume went, and its course in
    up to 500 points: when there are so many, each second one goes."""
    return listing.progress(db(), caller(), identifier(job_id, "job"))
