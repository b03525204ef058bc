"""HTTP: a schema in, one call, a schema out. The rules that hold for every route are here (contract section 1)."""

from __future__ import annotations

import itertools
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes
from uuid import UUID

from flask import Flask, Request, Response, current_app, g, jsonify, request
from flask.json.provider import DefaultJSONProvider
from flask_smorest import Api
from marshmallow import Schema, ValidationError
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.routing import PathConverter

from kelpie_api import Coordinator, logs
from kelpie_api.auth import Caller
from kelpie_api.db import Database
from kelpie_api.errors import Forbidden, InvalidRequest, KelpieError, NotFound, OwnerVanished
from kelpie_api.metrics import request_answered
from kelpie_api.routes import cors
from kelpie_api.schemas import Instant, unknown_fields
from kelpie_api.wire import json_in_pieces, parse_json, parse_uuid

EXTENSIONS = "attempt, checkpoint, claim-id, release, wait"
LARGEST_BODY = 16 * 1024 * 1024
LONGEST_LOGGED_PATH = 500
MOST_NAMED = 100  # fields in one refusal, or in the warnings about one job or rule
TEXT = {"schema": {"type": "string"}}  # what the document says of a header
PUBLIC = {
    "health.healthz",
    "health.readyz",
    "metrics.get_metrics",
    "api-docs.openapi_json",
    "docs.get_page",
    "docs.get_asset",
}
DATABASE_FREE = {"health.healthz", "metrics.get_metrics"}

# What a machine's token may call; a route that is not named here is closed to it (a node's owner can read it).
OPEN_TO_MACHINES = {
    "work.get_work",
    "work.heartbeat",
    "work.completed",
    "work.failed",
    "work.released",
    "work.keep_checkpoint",
    "work.resumed",
    "jobs.list_jobs",
    "jobs.get_job",
    "jobs.list_attempts",
    "jobs.list_events",
    "users.get_me",
}
# And what else, if the operator allows it (KELPIE_JWT_CAN_SUBMIT).
OPEN_TO_SUBMITTING_MACHINES = {
    "jobs.submit_job",
    "jobs.submit_job_by_old_path",
    "jobs.submit_batch",
    "jobs.cancel_job",
    "scaling.create_rule",
    "scaling.list_rules",
    "scaling.get_rule",
    "scaling.change_rule",
    "scaling.delete_rule",
    "scaling.list_decisions",
    "scaling.get_group_metrics",
}

REQUEST_ID = re.compile("[A-Za-z0-9._-]{1,128}")

TITLES = {
    404: ("Route Not Found", "There is no such route; look at /openapi.json for those there are."),
    405: (
        "Method Not Allowed",
        "This route does not know that method; look at the Allow header for those it knows.",
    ),
    413: ("Payload Too Large", "A request body may have at most 16 MiB; send fewer jobs at once."),
}


class DocumentedApi(Api):
    # A default response would document every status there is, whatever it means.
    DEFAULT_ERROR_RESPONSE_NAME = None


class BodyParser(FlaskParser):
    """Reads JSON whatever the Content-Type says, for the original's clients post it as text/plain."""

    DEFAULT_VALIDATION_STATUS = 400

    def load_json(self, req: Request, schema: Schema) -> Any:
        return request_json()

    def load_querystring(self, req: Request, schema: Schema) -> Any:
        try:
            unquote_to_bytes(req.query_string).decode()
        except UnicodeDecodeError:
            raise InvalidRequest("The query is not UTF-8; encode it as UTF-8 and then in percent signs.") from None
        return super().load_querystring(req, schema)

    def handle_error(
        self,
        error: ValidationError,
        req: Request,
        schema: Schema,
        *,
        error_status_code: int | None,
        error_headers: Mapping[str, str] | None,
    ) -> NoReturn:
        raise invalid(error)


class FreeText(PathConverter):
    """Any text in a path, up to its end: slashes, also in front, and line ends, which `$` would overlook."""

    regex = r"[\s\S]+?(?!\n\Z)"
    part_isolating = False


class Json(DefaultJSONProvider):
    """Writes answers; the largest take a second, in which other requests are served."""

    sort_keys = False

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        return json_in_pieces(obj, lambda part: super(Json, self).dumps(part, **kwargs))


def request_json() -> Any:
    """The body's JSON value, parsed once a request. Raises InvalidRequest."""
    if "body" not in g:
        g.body = parse_json(whole_body())
    return g.body


def whole_body() -> bytes:
    """Raises RequestEntityTooLarge, and InvalidRequest if not all of the body came."""
    try:
        data = request.get_data()
    except RequestEntityTooLarge:
        raise
    except Exception as error:  # the server reads it here, and raises what it likes at a chunk that is none
        raise InvalidRequest("The request body is cut off or its chunks are malformed; send it again.") from error
    if len(data) > LARGEST_BODY:
        raise RequestEntityTooLarge
    if len(data) < (request.content_length or 0):
        raise InvalidRequest("The request body is shorter than its Content-Length says.")
    return data


def invalid(error: ValidationError) -> InvalidRequest:
    """Marshmallow's nested messages as one flat map of field paths; of very many, the first hundred."""
    _, inner = next(iter(error.messages_dict.items()))
    index = min((key for key in inner if isinstance(key, int)), default=None) if isinstance(inner, dict) else None
    flat = dict(itertools.islice(flatten(inner if index is None else inner[index]), MOST_NAMED))
    place = "" if index is None else f"Job {index} of the batch: "
    first = next(iter(flat.items()))
    named = f"{first[0]}: " if first[0] != "_schema" else ""
    return InvalidRequest(f"{place}{named}{' '.join(first[1])}", flat, index)


def flatten(messages: Any, path: str = "") -> Iterator[tuple[str, list[str]]]:
    if isinstance(messages, dict):
        for name, inner in messages.items():
            yield from flatten(inner, f"{path}.{name}" if path and name != "_schema" else path or str(name))
    else:
        yield path, [str(message) for message in messages]


def ignored(schema: Schema, body: Any, what: str) -> dict[str, list[str]]:
    """Warnings that name the fields of a body which are not `what`; nothing where there are none."""
    names = unknown_fields(schema, body)
    warnings = [f"{name} is not {what}; it was ignored." for name in itertools.islice(names, MOST_NAMED)]
    if next(names, None):
        warnings.append(f"More fields were ignored than these {MOST_NAMED}.")
    return {"warnings": warnings} if warnings else {}


def coordinator() -> Coordinator:
    found: Coordinator = current_app.extensions["kelpie"]
    return found


def db() -> Database:
    return coordinator().db


def caller() -> Caller:
    found: Caller = g.caller
    return found


def administrator() -> Caller:
    if not caller().is_admin:
        raise Forbidden("Only the administrator may do this.")
    return caller()


def identifier(text: str, what: str) -> UUID:
    """An id from a path; one that is no UUID names nothing."""
    try:
        return parse_uuid(text)
    except ValueError:
        raise NotFound(f"There is no {what} {text[:100]}; its id is not a UUID.") from None


def register(app: Flask, parts: Coordinator) -> None:
    """Give the application its routes, its error answers, and what happens around each request."""
    from kelpie_api.routes import docs, health, jobs, machines, metrics, scaling, users, webhooks, work
    from kelpie_api.routes.callers import CallersInSpec
    from kelpie_api.routes.document import Document

    app.extensions["kelpie"] = parts
    app.json = Json(app)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.url_map.converters["text"] = FreeText
    app.config |= {
        # One byte more: a body of unknown length (chunked) is cut here in silence, and must be seen as too long.
        "MAX_CONTENT_LENGTH": LARGEST_BODY + 1,
        "API_TITLE": "Kelpie",
        "API_VERSION": "1",
        "OPENAPI_VERSION": "3.0.3",
        "OPENAPI_URL_PREFIX": "/",
        "OPENAPI_JSON_PATH": "openapi.json",
    }
    app.before_request(admit)
    app.after_request(stamp)
    api = DocumentedApi(app, spec_kwargs={"extra_plugins": [CallersInSpec(PUBLIC), Document(DATABASE_FREE)]})
    api.register_field(Instant, "string", "date-time")
    for routes in (jobs, work, machines, scaling, webhooks, users, health, metrics):
        api.register_blueprint(routes.blueprint)
    app.register_blueprint(docs.blueprint)
    # Flask adds HEAD to every GET; here it would claim a job and keep it to itself.
    for rule in app.url_map.iter_rules("work.get_work"):
        (rule.methods or set()).discard("HEAD")
    app.register_error_handler(KelpieError, answer_error)
    app.register_error_handler(HTTPException, answer_http_error)
    app.register_error_handler(Exception, answer_bug)


def admit() -> Response | None:
    """Before each request: the process is ready, and the caller is known where the route asks for one."""
    g.began = time.monotonic()
    g.request_id = request_id()
    if request.method == "OPTIONS" and request.url_rule is not None:
        return cors.preflight()
    coordinator().begin()
    if request.endpoint is None or request.endpoint in PUBLIC:
        return None
    coordinator().require_current_schema()
    g.caller = coordinator().gatekeeper.caller(request.headers)
    if g.caller.machine:
        require_open_to_machines(request.endpoint)
    return None


def require_open_to_machines(endpoint: str) -> None:
    if endpoint in OPEN_TO_MACHINES:
        return
    if not (coordinator().config.jwt_can_submit and endpoint in OPEN_TO_SUBMITTING_MACHINES):
        raise Forbidden("A machine's token may work, report and read jobs of its own group; use a key for this.")


def request_id() -> str:
    """What this request is called in our log: as the caller or its proxy calls it, if that is a name."""
    given = request.headers.get("X-Request-Id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def stamp(response: Response) -> Response:
    """After each request: what this server speaks, a count, and one log line."""
    response.headers["Kelpie-Extensions"] = EXTENSIONS
    response.headers["X-Request-Id"] = g.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    cors.open_to(coordinator().config.cors_origins, response)
    seconds = time.monotonic() - g.get("began", time.monotonic())
    route = request.url_rule.rule if request.url_rule else None
    request_answered(request.method, route, response.status_code, seconds)
    logs.info(
        "request",
        request_id=g.request_id,
        method=request.method,
        path=request.path[:LONGEST_LOGGED_PATH],
        status=response.status_code,
        seconds=round(seconds, 4),
        machine_id=g.get("machine_id"),
        attempt=g.get("attempt"),
    )
    return response


def answer_error(error: KelpieError) -> Response:
    if isinstance(error, OwnerVanished):
        coordinator().gatekeeper.forget()
    response = jsonify(error.body())
    response.status_code = error.status
    response.headers.update(error.headers())
    return response


def answer_http_error(error: HTTPException) -> Response:
    """What Flask itself refuses, in the same shape as every other error."""
    status = error.code or 500
    title, message = TITLES.get(status, (error.name, error.description or error.name))
    response = jsonify({"error": title, "message": message})
    response.status_code = status
    for name, value in error.get_headers():
        if name not in {"Content-Type", "Content-Length"}:
            response.headers[name] = value
    return response


def answer_bug(error: Exception) -> Response:
    """A defect of ours: logged whole, answered without its inside."""
    logs.error("request_failed", error, request_id=g.get("request_id"), path=request.path)
    response = jsonify(
        {
            "error": "Internal Server Error",
            "message": f"This is a defect; report request {g.get('request_id')}.",
        }
    )
    response.status_code = 500
    return response
