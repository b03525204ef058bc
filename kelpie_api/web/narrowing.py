"""Parameters by which a caller means to remove less than a route removes (docs/design/protocol.md, Requests and
answers)."""

from __future__ import annotations

import json
from collections.abc import Collection

from flask import request

from kelpie_api.errors import InvalidRequest
from kelpie_api.web.body import MOST_NAMED, whole_body

LONGEST_SHOWN = 100  # characters of a parameter's name in a sentence
BODY = "body"  # stands for one that is no JSON object


def require_no_parameters(removed: str, instead: str) -> None:
    """Raise InvalidRequest if a request that removes all of something has a query or a body: it would be ignored.

    `removed` is what would be gone, `instead` a sentence that says how to remove less.
    """
    _refuse(_parameters(), removed, instead)


def require_no_filters(fields: Collection[str], removed: str, instead: str) -> None:
    """Raise InvalidRequest if the query or body of a request that removes many names one of these fields, as if to
    choose among them. Other parameters are ignored, as everywhere."""
    _refuse([name for name in _parameters() if name in fields], removed, instead)


def _refuse(names: list[str], removed: str, instead: str) -> None:
    if not names:
        return
    shown = [name[:LONGEST_SHOWN] for name in names[:MOST_NAMED]]
    raise InvalidRequest(
        f"DELETE {request.path[:LONGEST_SHOWN]} removes {removed}, whatever {' and '.join(shown[:3])} says, so"
        f" nothing was removed. {instead}",
        {name: ["It does not narrow what is removed."] for name in shown},
    )


def _parameters() -> list[str]:
    return list(dict.fromkeys([*request.args, *_names_in_body()]))


def _names_in_body() -> list[str]:
    """The fields of the body, or `body` where it is no object; none if it is empty, like the {} that some send."""
    data = whole_body().strip()
    if not data:
        return []
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return [BODY]
    return list(body) if isinstance(body, dict) else [BODY] if body else []
