"""Users and their keys (docs/design/protocol.md, Callers)."""

from __future__ import annotations

from typing import Any

from kelpie_api.auth import users
from kelpie_api.schemas.fields import Failure
from kelpie_api.schemas.users import NewToken, NewUser, Token, User, UserList, UserQuery
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.context import TEXT, caller, coordinator, db, identifier
from kelpie_api.web.narrowing import require_no_parameters
from kelpie_api.web.pages import link_after

blueprint = Blueprint("users", __name__, description="Users and their keys.")


@blueprint.get("/users/me")
@blueprint.response(200, User)
def get_me() -> dict[str, Any]:
    """The user of the calling key."""
    return users.get_user(db(), caller())


@blueprint.get("/users")
@blueprint.arguments(UserQuery, location="query")
@blueprint.response(200, UserList, headers={"Link": TEXT})
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(403, schema=Failure)
def list_users(query: dict[str, Any]) -> tuple[dict[str, Any], int, dict[str, str]]:
    """List all users, oldest first (administrator); `Link` leads to the next page, if there is one."""
    found, following = users.list_page(db(), query["after"], query["page_size"])
    return {"_count": len(found), "users": found}, 200, link_after(str(following) if following else None)


@blueprint.post("/users")
@blueprint.arguments(NewUser)
@blueprint.response(201, User)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(403, schema=Failure)
def create_user(new: dict[str, Any]) -> dict[str, Any]:
    """Make a user (administrator)."""
    return users.create_user(db(), new["username"])


@blueprint.post("/users/<user_id>/token")
@blueprint.arguments(NewToken)
@blueprint.response(201, Token)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(403, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
def create_token(new: dict[str, Any], user_id: str) -> dict[str, Any]:
    """Make a key for a user in a project (administrator); it is shown only in this answer."""
    names = {name: new[name] for name in ("org_name", "project_name", "role")}
    return {"token": users.create_token(db(), identifier(user_id, "user"), **names)}


@blueprint.delete("/users")
@blueprint.response(204)
@blueprint.alt_response(403, schema=Failure)
def delete_users() -> None:
    """Remove all users but the administrator, with their keys and jobs (administrator). It takes no parameters."""
    require_no_parameters("all users", "DELETE /users/{user_id} removes one.")
    users.delete_users(db())
    coordinator().authenticator.forget()


@blueprint.delete("/users/<user_id>")
@blueprint.response(204)
@blueprint.alt_response(403, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def delete_user(user_id: str) -> None:
    """Remove a user with its keys and jobs (administrator)."""
    users.delete_user(db(), identifier(user_id, "user"))
    coordinator().authenticator.forget()
