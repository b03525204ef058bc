"""Secrets of a project (docs/design/protocol.md, Secrets)."""

from __future__ import annotations

import re
from typing import Any

from kelpie_api.db import Row
from kelpie_api.errors import InvalidRequest
from kelpie_api.schemas.fields import Failure
from kelpie_api.schemas.secrets import NAME_OF_A_SECRET, ODD_NAME, NewSecret, Secret, SecretList
from kelpie_api.sealed import secrets
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.context import caller, coordinator, db

blueprint = Blueprint("secrets", __name__, description="Secrets, which jobs name and their commands get.")


@blueprint.get("/secrets")
@blueprint.response(200, SecretList)
def list_secrets() -> Row:
    """List the secrets of your project: names, when each was set, by which actor. No route shows a value."""
    found = secrets.list_all(db(), caller())
    return {"_count": len(found), "secrets": found}


@blueprint.put("/secrets/<secret_name>")
@blueprint.arguments(NewSecret)
@blueprint.response(200, Secret)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def put_secret(new: dict[str, Any], secret_name: str) -> Row:
    """Give a secret its value. Jobs that name it get the value that it has when they are claimed."""
    return secrets.put(db(), coordinator().authenticator.seal, caller(), name_of(secret_name), new["value"])


@blueprint.delete("/secrets/<secret_name>")
@blueprint.response(204)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def delete_secret(secret_name: str) -> None:
    """Remove a secret; a 409 while open jobs or the defaults of a container group name it."""
    secrets.delete(db(), caller(), secret_name)


def name_of(text: str) -> str:
    """A secret's name from a path. Raises InvalidRequest."""
    if not re.fullmatch(NAME_OF_A_SECRET, text):
        raise InvalidRequest(ODD_NAME, {"secret_name": [ODD_NAME]})
    return text
