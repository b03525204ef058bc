"""Paths in which something was left out, mostly by a script whose variable is empty (docs/design/protocol.md,
Requests and answers)."""

from __future__ import annotations

import re

from flask import current_app
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule

from kelpie_api.errors import InvalidRequest
from kelpie_api.web.context import this_request

# Stands in an empty part of a path, to see which route it would be if nothing had been left out.
FILLING = "x"


def require_nothing_left_out() -> None:
    """Raise InvalidRequest if a part of the path is empty and the route that was meant is another one.

    Of the paths that lead to a route, only those of a DELETE are refused: without its id the removal of one thing
    would be the removal of all. A trailing slash elsewhere is accepted.
    """
    request = this_request()
    if request.endpoint is not None and request.method != "DELETE":
        return
    meant = rule_without_gap(request.path, request.method)
    if meant is None or meant[0].endpoint == request.endpoint:
        return
    rule, left_out = meant
    all_of_them = f" {request.path.rstrip('/')} without the slash removes all." if request.endpoint else ""
    raise InvalidRequest(
        f"The path has nothing in place of {' and '.join(left_out)} in {shown(rule)}; is a variable of your script"
        f" empty?{all_of_them}",
        {name: ["It is empty."] for name in left_out},
    )


def rule_without_gap(path: str, method: str) -> tuple[Rule, list[str]] | None:
    """The route that a path with empty parts would lead to if those were filled, and their names; None if none."""
    filled = re.sub(r"(?<=/)(?=/|\Z)", FILLING, path)
    if filled == path:
        return None
    try:
        rule, arguments = current_app.url_map.bind("").match(filled, method, return_rule=True)
    except HTTPException:
        return None
    left_out = [name for name, value in arguments.items() if value == FILLING]
    return (rule, left_out) if left_out else None


def shown(rule: Rule) -> str:
    """A route as the OpenAPI document writes it."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
