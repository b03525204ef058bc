"""Browsers of other origins: what they may send, and what they may read
(docs/design/protocol.md, Requests and answers).

By hand, for a preflight tells the methods of its very route, whatever it asks for. flask-cors knows one list of
methods for a pattern of paths, and leaves it out for a preflight that names no method.
"""

from __future__ import annotations

from flask import Request, Response, current_app, request

MAY_SEND = ", ".join(
    [
        "X-Kelpie-Key",
        "Salad-Api-Key",
        "Salad-Organization",
        "Salad-Project",
        "Authorization",
        "Content-Type",
        "Idempotency-Key",
        "If-None-Match",
        "X-Request-Id",
    ]
)
MAY_READ = ", ".join(
    [
        "Kelpie-Extensions",
        "Link",
        "ETag",
        "Retry-After",
        "X-Request-Id",
        "Idempotent-Replayed",
        "Kelpie-Next-Offset",
        "Kelpie-Left-Out",
        "Kelpie-Live",
    ]
)
REMEMBERED_FOR = 86_400  # seconds; browsers cut it to what they like, two hours at most


def preflight() -> Response:
    """The answer to OPTIONS on a route that is there; it needs no key, for browsers send none with it."""
    here = [rule for rule in current_app.url_map.iter_rules() if rule.rule == str(request.url_rule)]
    methods = ", ".join(sorted({method for rule in here for method in rule.methods or ()}))
    answer = Response(
        status=204,
        headers={
            "Allow": methods,
            "Access-Control-Allow-Methods": methods,
            "Access-Control-Allow-Headers": MAY_SEND,
            "Access-Control-Max-Age": str(REMEMBERED_FOR),
        },
    )
    del answer.headers["Content-Type"]
    return answer


def allow_origin(allowed: tuple[str, ...], asked: Request, response: Response) -> None:
    """Let a page of an allowed origin read this answer, also where it is a refusal. Never with the browser's own
    credentials: a key is sent by the page or not at all."""
    origin = asked.headers.get("Origin")
    if "*" in allowed:
        response.headers["Access-Control-Allow-Origin"] = "*"
    else:
        if "Vary" in response.headers:
            response.vary.add("Origin")
        else:
            response.headers.add("Vary", "Origin")
        if origin not in allowed:
            return
        response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = MAY_READ
