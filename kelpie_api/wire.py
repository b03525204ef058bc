"""Reading what strangers send: what the column cannot hold or the parser cannot bear is a 400, never a 500.

The rules are contract section 1 and reliability section 2 (hostile JSON). And writing much of it without keeping
everybody else waiting.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn
from uuid import UUID

from kelpie_api.errors import InvalidRequest

UNSTORABLE = re.compile("[\0\ud800-\udfff]")
LONGEST_NAME = 255
# The text of a name: it forges no line in the lists and logs in which people read it.
NAME_TEXT = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$(?!\n)"
DEEPEST = 100
UUID_TEXT = re.compile("[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
PIECE = 50  # items of a list that are written at once


def parse_json(body: bytes) -> Any:
    """The value of a request body, whatever its Content-Type said. Raises InvalidRequest."""
    if not body.strip():
        raise InvalidRequest("The request has no body; send a JSON value.")
    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except RecursionError:
        raise InvalidRequest("The JSON is nested too deeply.") from None
    except UnicodeDecodeError:
        raise InvalidRequest("The request body is not UTF-8; send JSON encoded as UTF-8.") from None
    except ValueError as error:
        raise InvalidRequest(f"The request body is not JSON: {str(error)[:200]}.") from None
    if any(UNSTORABLE.search(text) for text in strings_of(value)):
        raise unstorable(value)
    return value


def unstorable(value: Any) -> InvalidRequest:
    """The refusal of a body that holds such text, by the field where it stands; a list is a batch."""
    index = None
    if isinstance(value, list):
        index, value = next((place, item) for place, item in enumerate(value) if holds_unstorable(item))
    fields = value.items() if isinstance(value, dict) else []
    sentence = "A string holds a NUL or half a surrogate pair; such text cannot be kept."
    errors = {name: [sentence] for name, item in fields if holds_unstorable([name, item])}
    place = "" if index is None else f"Job {index} of the batch: "
    return InvalidRequest(place + "".join(f"{name}: " for name in list(errors)[:1]) + sentence, errors, index)


def holds_unstorable(value: Any) -> bool:
    return any(UNSTORABLE.search(text) for text in strings_of(value))


def parse_uuid(text: str) -> UUID:
    """Python alone takes much more for one: underscores, braces, the digits of any script. Raises ValueError."""
    if not UUID_TEXT.fullmatch(text):
        raise ValueError("this is not a UUID")
    return UUID(text)


def strings_of(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys included, level by level. InvalidRequest where these are too many."""
    level = [value]
    for _ in range(DEEPEST + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                yield item
            elif isinstance(item, list):
                below += item
            elif isinstance(item, dict):
                yield from item
                below += item.values()
        level = below
    if level:
        raise InvalidRequest(f"The JSON is nested more than {DEEPEST} levels deep.")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def give_way() -> None:
    """Let other requests of this process go on, which wait while one computes."""
    time.sleep(0)


def json_in_pieces(value: Any, dumps: Callable[[Any], str]) -> str:
    """The JSON of a value whose long lists, at the top or one level down, are written a few items at a time."""
    if isinstance(value, dict):
        return (
            "{"
            + ",".join(f"{dumps(str(key))}:{_list_in_pieces(item, dumps)}" for key, item in value.items())
            + "}"
        )
    return _list_in_pieces(value, dumps)


def _list_in_pieces(value: Any, dumps: Callable[[Any], str]) -> str:
    if not isinstance(value, list) or len(value) <= PIECE:
        return dumps(value)
    pieces = []
    for begin in range(0, len(value), PIECE):
        pieces.append(dumps(value[begin : begin + PIECE])[1:-1])
        give_way()
    return f"[{','.join(pieces)}]"
