"""Container groups: what waits for them, and their pause."""

from __future__ import annotations

from flask import Response, request
from werkzeug.wrappers import Response as AnyResponse

from kelpie_api.dashboard.pages import blueprint, lead_to, page
from kelpie_api.db import SQL
from kelpie_api.errors import InvalidRequest, NotFound
from kelpie_api.limits import LONGEST_NAME
from kelpie_api.queue import groups
from kelpie_api.text import UNSTORABLE
from kelpie_api.web import sessions
from kelpie_api.web.body import whole_body
from kelpie_api.web.context import caller, db, this_request

MOST = 500
PAUSES = {"pause": True, "resume": False}


@blueprint.get("/ui/groups")
def list_groups() -> Response:
    """The container groups of the caller's project."""
    found = db().all(SQL.list_groups, scope=caller().scope["scope"], most=MOST + 1)
    return page("groups.html", refreshed=10, groups=found[:MOST], more=len(found) > MOST)


@blueprint.post("/ui/groups/<verb>")
def pause_group(verb: str) -> AnyResponse:
    """Hand the machines of a group no job any more, or again."""
    whole_body()
    sessions.require_own_form(this_request())
    if verb not in PAUSES:
        raise NotFound("There is no such button.")
    group = request.form.get("group", "")
    if not 0 < len(group) <= LONGEST_NAME or UNSTORABLE.search(group) or "\ufffd" in group:
        raise InvalidRequest("There is no container group of this name.")
    groups.change(db(), caller(), group, {"paused": PAUSES[verb]})
    told = "is paused: its machines are handed no job" if PAUSES[verb] else "goes on"
    return lead_to("/ui/groups", f"The container group {group} {told}.")
