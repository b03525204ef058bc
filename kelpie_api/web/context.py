"""What routes need of the current request: its caller, the database, an id from the path."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from flask import Request
from flask.globals import app_ctx, request_ctx

from kelpie_api.auth.caller import Caller
from kelpie_api.db import Database
from kelpie_api.errors import NotFound
from kelpie_api.text import parse_uuid
from kelpie_api.web.process import Coordinator

TEXT = {"schema": {"type": "string"}}  # a header in the OpenAPI document


# Flask's `request` and `g` look the request up at each use; a request that asks for ten things asks once here.
def this_request() -> Request:
    return request_ctx.request


def here() -> Any:
    """What is kept for the time of this request, flask's `g`."""
    return app_ctx.g


def coordinator() -> Coordinator:
    found: Coordinator = app_ctx.app.extensions["kelpie"]
    return found


def db() -> Database:
    return coordinator().db


def caller() -> Caller:
    found: Caller = here().caller
    return found


def identifier(text: str, what: str) -> UUID:
    """An id from a path. Raises NotFound if it is not a UUID, since no row can have it."""
    try:
        return parse_uuid(text)
    except ValueError:
        raise NotFound(f"There is no {what} {text[:100]}; its id is not a UUID{hint_of_no_id(text)}.") from None


def hint_of_no_id(text: str) -> str:
    """Where an id has quotes, brackets or blanks around it, or a URL in front of it: the id alone."""
    found = re.search(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text)
    return f": write {found[0]} alone" if found else ""
