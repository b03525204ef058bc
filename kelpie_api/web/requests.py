"""What is done before and after every request: authentication, headers, metrics, one log line."""

from __future__ import annotations

import re
import time
import uuid

from flask import Flask, Request, Response
from werkzeug.exceptions import HTTPException

from kelpie_api import logs
from kelpie_api.errors import KelpieError
from kelpie_api.metrics import request_answered
from kelpie_api.web import cors, sessions
from kelpie_api.web.access import PUBLIC, require_open
from kelpie_api.web.body import LARGEST_BODY, FreeText
from kelpie_api.web.context import coordinator, here, this_request
from kelpie_api.web.errors import answer_bug, answer_error, answer_http_error
from kelpie_api.web.json import Json
from kelpie_api.web.paths import require_nothing_left_out
from kelpie_api.web.process import Coordinator

# What clients and workers may use here (docs/design/protocol.md, Extensions).
EXTENSIONS = ", ".join(
    (
        "attempt",
        "checkpoint",
        "claim-id",
        "depends",
        "filters",
        "keys",
        "limits",
        "names",
        "output",
        "pages",
        "phase",
        "progress",
        "release",
        "secrets",
        "steer",
        "sweeps",
        "usage",
        "wait",
        "why",
    )
)
LONGEST_LOGGED_PATH = 500

REQUEST_ID = re.compile("[A-Za-z0-9._-]{1,128}")


def prepare(app: Flask, parts: Coordinator) -> None:
    """Give the application its parts, its error answers, and what happens around each request."""
    app.extensions["kelpie"] = parts
    app.json = Json(app)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.url_map.converters["text"] = FreeText
    # One byte more: a body of unknown length (chunked) is cut here in silence, and must be seen as too long.
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY + 1
    app.before_request(admit)
    app.after_request(stamp)
    app.register_error_handler(KelpieError, answer_error)
    app.register_error_handler(HTTPException, answer_http_error)
    app.register_error_handler(Exception, answer_bug)


def admit() -> Response | None:
    """Before each request: start the process if it is new, authenticate the caller if the route needs one."""
    request, kept, parts = this_request(), here(), coordinator()
    kept.began = time.monotonic()
    kept.request_id = request_id(request)
    if request.method == "OPTIONS" and request.url_rule is not None:
        return cors.preflight()
    parts.begin()
    endpoint = request.endpoint
    if endpoint is None:
        require_nothing_left_out()
    if endpoint is None or endpoint in PUBLIC:
        return None
    parts.require_current_schema()
    if sessions.is_page(endpoint):
        kept.caller = sessions.caller_of(request)
    else:
        kept.caller = parts.authenticator.caller(request.headers, client_address(request, parts.config.proxies))
    require_nothing_left_out()
    require_open(kept.caller, endpoint)
    return None


def client_address(request: Request, proxies: int) -> str:
    """The address of the client: of this connection, or that which the outermost of KELPIE_PROXIES proxies had.

    Each proxy adds its client's address at the end of X-Forwarded-For. What stands before these was written by the
    client, which can write anything.
    """
    forwarded = [address.strip() for address in request.headers.get("X-Forwarded-For", "").split(",")]
    if not (proxies and forwarded[-1]):
        return request.remote_addr or ""
    return forwarded[-min(proxies, len(forwarded))]


def request_id(request: Request) -> str:
    """The id of this request in the log: the X-Request-Id that came with it if well-formed, else a new one."""
    given = request.headers.get("X-Request-Id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def stamp(response: Response) -> Response:
    """After each request: set the common headers, count it, and log one line."""
    request, kept = this_request(), here()
    response.headers["Kelpie-Extensions"] = EXTENSIONS
    response.headers["X-Request-Id"] = kept.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    if not sessions.is_page(request.endpoint):
        cors.allow_origin(coordinator().config.cors_origins, request, response)
    seconds = time.monotonic() - kept.get("began", time.monotonic())
    route = request.url_rule.rule if request.url_rule else None
    request_answered(request.method, route, response.status_code, seconds)
    logs.info(
        "request",
        request_id=kept.request_id,
        method=request.method,
        path=request.path[:LONGEST_LOGGED_PATH],
        status=response.status_code,
        seconds=round(seconds, 4),
        machine_id=kept.get("machine_id"),
        attempt=kept.get("attempt"),
    )
    return response
