"""JSON: requests that Postgres cannot store or Python cannot parse are a 400, never a 500
(docs/design/protocol.md, Errors); long answers are written in pieces, so that other requests go on meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from flask.json.provider import DefaultJSONProvider

from kelpie_api.errors import InvalidRequest
from kelpie_api.json_text import json_bytes, read_json
from kelpie_api.text import DEEPEST, MAY_BE_UNSTORABLE, holds_unstorable, require_depth, yield_to_other_threads

PIECE = 50  # items of a list that are written at a time
HINTED = 200  # bytes of a body, at each end, in which the mistake is looked for
HINTS_OF_THE_BEGINNING = [
    (r"[\[{\s]*'", "Strings of JSON stand in double quotes; in a shell put single quotes around the whole body."),
    (r"[\[\s]*\{\s*\w+\s*:", "Names stand in double quotes; in a shell put single quotes around the whole body."),
    (r"[\w.-]+=", 'This is a form; send JSON, such as {"command": "python", "container_group_id": null}.'),
    ("@", "This is the name of a file; curl sends the file itself with --data-binary @NAME."),
]


def parse_json(body: bytes) -> Any:
    """The value of a request body, whatever its Content-Type is. Raises InvalidRequest."""
    if not body.strip():
        raise InvalidRequest("The request has no body; send a JSON value.")
    try:
        value = read_json(body)
    except RecursionError:
        raise InvalidRequest("The JSON is nested too deeply.") from None
    except UnicodeDecodeError:
        raise InvalidRequest("The request body is not UTF-8; send JSON encoded as UTF-8.") from None
    except ValueError as error:
        hint = hint_of_no_json(body[:HINTED].decode("utf-8-sig", "ignore"), body[-HINTED:].decode(errors="ignore"))
        raise InvalidRequest(f"The request body is not JSON: {str(error)[:200]}.{hint}") from None
    # To look at each string takes longer than all else, and few bodies have an escape of this kind.
    if MAY_BE_UNSTORABLE.search(body):
        if holds_unstorable(value):
            raise unstorable(value)
    elif body.count(b"[") + body.count(b"{") > DEEPEST:
        require_depth(value)
    return value


def unstorable(value: Any) -> InvalidRequest:
    """The error for a body with text that cannot be stored; it names the fields, and the place in a batch."""
    index = None
    if isinstance(value, list):
        index, value = next((place, item) for place, item in enumerate(value) if holds_unstorable(item))
    fields = value.items() if isinstance(value, dict) else []
    sentence = "A string holds a NUL or half a surrogate pair; such text cannot be kept."
    errors = {name: [sentence] for name, item in fields if holds_unstorable([name, item])}
    return InvalidRequest(
        in_batch(index) + "".join(f"{name}: " for name in list(errors)[:1]) + sentence, errors, index
    )


def hint_of_no_json(beginning: str, end: str) -> str:
    """What is probably wrong with a body that is not JSON, as a sentence after another one; empty if unknown."""
    for pattern, hint in HINTS_OF_THE_BEGINNING:
        if re.match(pattern, beginning.lstrip()):
            return f" {hint}"
    return " There is a comma after the last item." if re.search(r",\s*[\]}]\s*\Z", end) else ""


def in_batch(index: int | None) -> str:
    """The beginning of a sentence about a job of a batch; empty for a job of its own."""
    return "" if index is None else f"Job {index} of the batch: "


def json_in_pieces(value: Any, dumps: Callable[[Any], bytes]) -> bytes:
    """The JSON of a value; long lists, at the top or one level down, are written PIECE items at a time."""
    if isinstance(value, dict) and any(map(_is_long, value.values())):
        return json_by_key(value, lambda item: _list_in_pieces(item, dumps) if _is_long(item) else dumps(item))
    return _list_in_pieces(value, dumps) if _is_long(value) else dumps(value)


def json_by_key(value: dict[str, Any], dumps: Callable[[Any], bytes]) -> bytes:
    """The JSON of an object whose values are written one after the other."""
    return b"{" + b",".join(b"%b:%b" % (dumps(str(key)), dumps(item)) for key, item in value.items()) + b"}"


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > PIECE


def _list_in_pieces(value: list[Any], dumps: Callable[[Any], bytes]) -> bytes:
    pieces = []
    for begin in range(0, len(value), PIECE):
        pieces.append(dumps(value[begin : begin + PIECE])[1:-1])
        yield_to_other_threads()
    return b"[%b]" % b",".join(pieces)


class Json(DefaultJSONProvider):
    """Writes what Flask writes by itself, such as errors."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        return json_in_pieces(obj, _write).decode()


def _write(value: Any) -> bytes:
    return json_bytes(value, DefaultJSONProvider.default)


def json_of_answer(value: Any) -> bytes:
    """The text of an answer, in UTF-8; other requests are served while the largest are written."""
    return json_in_pieces(value, _write) + b"\n"
