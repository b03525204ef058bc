"""Reading of request bodies and paths, and the errors for malformed ones."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from flask import Request
from marshmallow import Schema, ValidationError
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.routing import PathConverter

from kelpie_api.db import Row
from kelpie_api.errors import InvalidRequest
from kelpie_api.schemas.fields import RequestSchema, UnknownField, unknown_fields
from kelpie_api.web.context import here, this_request
from kelpie_api.web.json import in_batch, parse_json

LARGEST_BODY = 16 * 1024 * 1024
LONG_BODY = 128 * 1024  # of which werkzeug would read several pieces
MOST_NAMED = 100  # fields in one refusal, or in the warnings about one job or rule
MOST_GUESSED = 10  # of these: to look for what was meant takes a tenth of a millisecond


class BodyParser(FlaskParser):
    """Reads JSON whatever the Content-Type is, since the original's clients post it as text/plain."""

    DEFAULT_VALIDATION_STATUS = 400

    def read(self, schema: Schema, req: Request, location: str) -> Any:
        """What a schema makes of the body, the query or the headers. Raises InvalidRequest.

        As `parse`, which looks at each request for what is the same for all.
        """
        try:
            return schema.load(self._load_location_data(schema=schema, req=req, location=location))
        except ValidationError as error:
            raise invalid(error) from None

    def load_json(self, req: Request, schema: Schema) -> Any:
        if getattr(schema, "may_be_left_out", False) and not whole_body():
            return {}
        return request_json()

    def load_querystring(self, req: Request, schema: Schema) -> Any:
        try:
            unquote_to_bytes(req.query_string).decode()
        except UnicodeDecodeError:
            raise InvalidRequest("The query is not UTF-8; encode it as UTF-8 and then in percent signs.") from None
        return super().load_querystring(req, schema)


class FreeText(PathConverter):
    """Any text in a path, up to its end: slashes, also in front, and line ends, which `$` would overlook."""

    regex = r"[\s\S]+?(?!\n\Z)"
    part_isolating = False


def request_json() -> Any:
    """The body's JSON value, parsed once a request. Raises InvalidRequest."""
    kept = here()
    if "body" not in kept:
        kept.body = parse_json(whole_body())
    return kept.body


def whole_body() -> bytes:
    """The bytes of the body. Raises RequestEntityTooLarge; InvalidRequest if the body is incomplete."""
    request = this_request()
    try:
        _read_ahead(request)
        data = request.get_data()
    except RequestEntityTooLarge:
        raise
    except Exception as error:  # the server reads here, and raises various errors for a malformed chunk
        raise InvalidRequest("The request body is cut off or its chunks are malformed; send it again.") from error
    if len(data) > LARGEST_BODY:
        raise RequestEntityTooLarge
    if len(data) < (request.content_length or 0):
        raise InvalidRequest("The request body is shorter than its Content-Length says.")
    return data


def _read_ahead(request: Request) -> None:
    """Read a long body in large pieces. werkzeug reads 64 KiB at a time, and gunicorn moves the rest for each."""
    length = request.content_length or 0
    source = request.environ.get("wsgi.input")
    if LONG_BODY <= length <= LARGEST_BODY and source is not None and not isinstance(source, io.BytesIO):
        request.environ["wsgi.input"] = io.BytesIO(source.read(length))


def load(schema: Schema, values: Row) -> Any:
    """What a schema makes of values that are no body and no query, as those of a form. Raises InvalidRequest."""
    try:
        return schema.load(values)
    except ValidationError as error:
        raise invalid(error) from None


def invalid(error: ValidationError) -> InvalidRequest:
    """The error for marshmallow's nested messages: a flat map of field paths, at most MOST_NAMED of them."""
    messages: dict[Any, Any] = error.messages_dict
    index = min((key for key in messages if isinstance(key, int)), default=None)
    flat = dict(itertools.islice(flatten(messages if index is None else messages[index]), MOST_NAMED))
    first = next(iter(flat.items()))
    named = f"{first[0]}: " if first[0] != "_schema" else ""
    return InvalidRequest(f"{in_batch(index)}{named}{' '.join(first[1])}", flat, index)


def flatten(messages: Any, path: str = "") -> Iterator[tuple[str, list[str]]]:
    if isinstance(messages, dict):
        for name, inner in messages.items():
            yield from flatten(inner, f"{path}.{name}" if path and name != "_schema" else path or str(name))
    else:
        yield path, [str(message) for message in messages]


def ignored(schema: RequestSchema, body: Any, what: str) -> list[str]:
    """Warnings about the fields of a body that are not `what`."""
    unknown = unknown_fields(schema, body)
    warnings = [
        f"{field.path} is not {what}{guess(field) if place < MOST_GUESSED else ''}; it was ignored."
        for place, field in enumerate(itertools.islice(unknown, MOST_NAMED))
    ]
    if next(unknown, None):
        warnings.append(f"More fields were ignored than these {MOST_NAMED}.")
    return warnings


def guess(field: UnknownField) -> str:
    meant = field.meant()
    return f" (did you mean {meant}?)" if meant else ""


def with_warnings(answer: Row, warnings: list[str]) -> Row:
    """An answer with its warnings, which come first; the key is there only if there are any."""
    return {"warnings": warnings} | answer if warnings else answer
