"""Which text can be stored, what a name and an id look like, and how deep JSON may be."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from kelpie_api.errors import InvalidRequest

UNSTORABLE = re.compile("[\0\ud800-\udfff]")
# The text of a name: it forges no line in the lists and logs in which people read it.
NAME_TEXT = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$(?!\n)"
DEEPEST = 100
UUID_TEXT = re.compile("[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


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


def yield_to_other_threads() -> None:
    """Let other requests of this process go on, which wait while one computes."""
    time.sleep(0)
