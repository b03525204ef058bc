"""Machines with their jobs, bans and reallocations (docs/design/protocol.md, Bad machines)."""

from __future__ import annotations

from typing import Any

from flask_smorest import Blueprint

from kelpie_api.db import Row
from kelpie_api.machines import sightings
from kelpie_api.schemas.fields import Failure
from kelpie_api.schemas.machines import MachineList, MachineQuery
from kelpie_api.web.body import BodyParser
from kelpie_api.web.context import caller, db

blueprint = Blueprint("machines", __name__, description="Machines, as their requests made them known.")
blueprint.ARGUMENTS_PARSER = BodyParser()


@blueprint.get("/machines")
@blueprint.arguments(MachineQuery, location="query")
@blueprint.response(200, MachineList)
@blueprint.alt_response(400, schema=Failure)
def list_machines(query: dict[str, Any]) -> Row:
    """List machines by group and id: when each was last seen (to within a minute), the jobs that it holds, its
    bans, and its reallocations, the newest first."""
    page = sightings.list_page(
        db(),
        caller(),
        container_group_id=query.get("container_group_id"),
        page=query["page"],
        page_size=query["page_size"],
    )
    return {"_count": len(page), "machines": page}
