"""Rules for text: what can be stored, names, ids, and the depth of JSON."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from kelpie_api.errors import InvalidRequest

UNSTORABLE = re.compile("[\0\ud800-\udfff]")
# How JSON in UTF-8 writes what cannot be stored: as it is, neither may stand there.
MAY_BE_UNSTORABLE = re.compile(rb"\\u(0000|[dD][89a-fA-F])")
# A name has no line ends or control characters, so that it cannot forge lines in lists and logs.
NAME_TEXT = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$(?!\n)"
DEEPEST = 100
UUID_TEXT = re.compile("[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def holds_unstorable(value: Any) -> bool:
    return any(UNSTORABLE.search(text) for text in strings_of(value))


def parse_uuid(text: str) -> UUID:
    """A UUID from text. `UUID` alone accepts more: braces, underscores, digits of any script. ValueError."""
    if not UUID_TEXT.fullmatch(text):
        raise ValueError("this is not a UUID")
    return UUID(text)


def strings_of(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys included. Raises InvalidRequest for more than DEEPEST levels."""
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
        raise too_deep()


def require_depth(value: Any) -> None:
    """Raise InvalidRequest for a JSON value of more than DEEPEST levels."""
    level = [value]
    for _ in range(DEEPEST + 1):
        containers = [item for item in level if item.__class__ is dict or item.__class__ is list]
        level = [inner for item in containers for inner in (item.values() if item.__class__ is dict else item)]
    if level:
        raise too_deep()


def too_deep() -> InvalidRequest:
    return InvalidRequest(f"The JSON is nested more than {DEEPEST} levels deep.")


def yield_to_other_threads() -> None:
    """Let other threads of this process run during a long computation."""
    time.sleep(0)
