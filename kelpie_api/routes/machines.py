"""Machines with their jobs, bans and reallocations (docs/design/protocol.md, Bad machines)."""

from __future__ import annotations

from typing import Any

from kelpie_api.db import Row
from kelpie_api.machines import sightings
from kelpie_api.schemas.fields import Failure
from kelpie_api.schemas.machines import MachineList, MachineQuery, as_cursor
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.context import TEXT, caller, db
from kelpie_api.web.pages import link_after

blueprint = Blueprint("machines", __name__, description="Machines, as their requests made them known.")


@blueprint.get("/machines")
@blueprint.arguments(MachineQuery, location="query")
@blueprint.response(200, MachineList, headers={"Link": TEXT})
@blueprint.alt_response(400, schema=Failure)
def list_machines(query: dict[str, Any]) -> tuple[Row, int, dict[str, str]]:
    """List machines by group and id: when each was last seen (to within a minute), the jobs that it holds (1000 at
    most), its bans, and its 20 newest reallocations; `Link` leads to the next page, if there is one."""
    page, following = sightings.list_page(
        db(),
        caller(),
        container_group_id=query.get("container_group_id"),
        page=query["page"],
        page_size=query["page_size"],
        after=query["cursor"],
    )
    link = link_after(as_cursor(following) if following else None, ("container_group_id", "page_size"))
    return {"_count": len(page), "machines": page}, 200, link
