"""Probes: whether the process lives, and whether it can serve."""

from __future__ import annotations

from kelpie_api.schemas.fields import Failure, Message
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.context import coordinator

blueprint = Blueprint("health", __name__, description="For probes; no key needed.")


@blueprint.get("/healthz")
@blueprint.response(200, Message)
def healthz() -> dict[str, str]:
    """The process lives."""
    return {"message": "alive"}


@blueprint.get("/readyz")
@blueprint.response(200, Message)
@blueprint.alt_response(503, schema=Failure)
def readyz() -> dict[str, str]:
    """The database answers and its schema is current."""
    parts = coordinator()
    parts.schema_is_current = False
    parts.require_current_schema()
    return {"message": "ready"}
