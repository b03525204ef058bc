"""Error handlers: every error is answered as JSON with a title, a sentence and a status."""

from __future__ import annotations

from flask import Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from kelpie_api import logs
from kelpie_api.errors import KelpieError, UserRemoved
from kelpie_api.web.context import coordinator

TITLES = {
    404: ("Route Not Found", "There is no such route; look at /openapi.json for those there are."),
    405: (
        "Method Not Allowed",
        "This route does not know that method; look at the Allow header for those it knows.",
    ),
    413: ("Payload Too Large", "A request body may have at most 16 MiB; send fewer jobs at once."),
}


def answer_error(error: KelpieError) -> Response:
    if isinstance(error, UserRemoved):
        coordinator().authenticator.forget()
    response = jsonify(error.body())
    response.status_code = error.status
    response.headers.update(error.headers())
    return response


def answer_http_error(error: HTTPException) -> Response:
    """Errors of Flask itself, in the same shape as all others."""
    status = error.code or 500
    title, message = TITLES.get(status, (error.name, error.description or error.name))
    response = jsonify({"error": title, "message": message})
    response.status_code = status
    for name, value in error.get_headers():
        if name not in {"Content-Type", "Content-Length"}:
            response.headers[name] = value
    return response


def answer_bug(error: Exception) -> Response:
    """A defect: the log has its traceback, the answer only the request id."""
    logs.error("request_failed", error, request_id=g.get("request_id"), path=request.path)
    response = jsonify(
        {
            "error": "Internal Server Error",
            "message": f"This is a defect; report request {g.get('request_id')}.",
        }
    )
    response.status_code = 500
    return response
