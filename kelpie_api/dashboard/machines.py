"""Machines: when each was last heard of, what it holds, and how its attempts end."""

from __future__ import annotations

from urllib.parse import urlencode

from flask import Response, request

from kelpie_api.dashboard.pages import blueprint, now, page, read
from kelpie_api.errors import InvalidRequest
from kelpie_api.machines import sightings
from kelpie_api.schemas.machines import MachineQuery, as_cursor
from kelpie_api.web.context import caller, db

PAGE = 50
QUERY = MachineQuery()


@blueprint.get("/ui/machines")
def list_machines() -> Response:
    """A page of machines by group and id."""
    try:
        query = read(QUERY)
        group = query.get("container_group_id") or None
        found, following = sightings.list_page(
            db(), caller(), container_group_id=group, page=1, page_size=PAGE, after=query["cursor"]
        )
    except InvalidRequest as refusal:
        return page("machines.html", 400, machines=[], refusal=refusal.message, group="", now=now())
    kept = {"container_group_id": group} if group else {}
    return page(
        "machines.html",
        machines=found,
        group=group or "",
        refusal=None,
        now=now(),
        query=urlencode(kept),
        following=following and urlencode(kept | {"cursor": as_cursor(following)}),
        is_later="cursor" in request.args,
    )
