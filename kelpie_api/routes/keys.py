"""Keys with names and roles (docs/design/protocol.md, Callers)."""

from __future__ import annotations

from typing import Any

from kelpie_api.auth import keys
from kelpie_api.db import Row
from kelpie_api.schemas.fields import Failure
from kelpie_api.schemas.keys import KeyList, KeyQuery, KeyRemoval, MadeKey, NewKey
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.context import TEXT, caller, coordinator, db, identifier
from kelpie_api.web.pages import link_after

blueprint = Blueprint("keys", __name__, description="Keys of your project, with names and roles.")
NO_STORE = {"Cache-Control": TEXT}


@blueprint.post("/keys")
@blueprint.arguments(NewKey)
@blueprint.response(201, MadeKey, headers=NO_STORE)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def create_key(new: dict[str, Any]) -> tuple[Row, int, dict[str, str]]:
    """Make a key of your project; `token` is shown only in this answer. Events name the user and the key."""
    return keys.create(db(), caller(), new["name"], new["role"]), 201, {"Cache-Control": "no-store"}


@blueprint.get("/keys")
@blueprint.arguments(KeyQuery, location="query")
@blueprint.response(200, KeyList, headers={"Link": TEXT})
@blueprint.alt_response(400, schema=Failure)
def list_keys(query: dict[str, Any]) -> tuple[Row, int, dict[str, str]]:
    """List the keys of your project, oldest first, never the keys themselves. `last_used` is exact to ten minutes;
    `Link` leads to the next page, if there is one."""
    found, following = keys.list_page(db(), caller(), query["after"], query["page_size"])
    return {"_count": len(found), "keys": found}, 200, link_after(str(following) if following else None)


@blueprint.delete("/keys/<key_id>")
@blueprint.arguments(KeyRemoval, location="query")
@blueprint.response(204)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def delete_key(query: dict[str, Any], key_id: str) -> None:
    """Remove a key of your project; processes that know it refuse it within 30 seconds."""
    keys.delete(db(), caller(), identifier(key_id, "key"), query["is_meant"])
    coordinator().authenticator.forget()
