"""JSON values as YAML that people read: blocks for what is nested, JSON for the leaves, which is YAML as well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def as_yaml(value: Any) -> str:
    return "\n".join(lines(value)) + "\n"


def lines(value: Any) -> Iterator[str]:
    """The lines of a value, not indented."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from under(f"{json.dumps(key, ensure_ascii=False)}:", inner)
    elif isinstance(value, list) and value:
        for item in value:
            yield from under("-", item)
    else:
        yield json.dumps(value, ensure_ascii=False)


def under(head: str, value: Any) -> Iterator[str]:
    """A key or a dash with its value: in the same line, or in indented lines below."""
    inner = list(lines(value))
    if isinstance(value, dict | list) and value:
        yield head
        yield from (f"  {line}" for line in inner)
    else:
        yield f"{head} {inner[0]}"
