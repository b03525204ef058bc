"""Routes that are described in the OpenAPI document, as flask-smorest describes them.

Its decorators describe a route when the program starts, and wrap it in functions that a request passes one after
the other: one for each documented answer, each of which looks up the application and whether the next is a
coroutine. Here a request passes one function for each schema that is read, and one for the schema of its answer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flask_smorest
from flask import Response
from marshmallow import Schema

from kelpie_api.web.body import BodyParser
from kelpie_api.web.context import this_request
from kelpie_api.web.json import json_of_answer

Route = Callable[..., Any]
Decorator = Callable[[Route], Route]
PARSER = BodyParser()


class Blueprint(flask_smorest.Blueprint):
    """Each schema is made once, when its route is."""

    ARGUMENTS_PARSER = PARSER

    def arguments(self, schema: type[Schema] | Schema, *, location: str = "json", **described: Any) -> Decorator:
        """Read the body, the query or the headers by a schema; the route gets the result as a further argument.

        Raises InvalidRequest.
        """
        describe = super().arguments(schema, location=location, **described)
        made = schema() if isinstance(schema, type) else schema

        def decorator(route: Route) -> Route:
            @functools.wraps(route)
            def reading(*args: Any, **kwargs: Any) -> Any:
                read = PARSER.read(made, this_request(), location)
                return route(*args, read, **kwargs)

            return described_as(reading, describe(route))

        return decorator

    def response(self, status_code: int, schema: Any = None, **described: Any) -> Decorator:
        """Answer what the route returns, by a schema: a value, or a value with a status and headers.

        An answer that is ready is only described.
        """
        made = schema() if isinstance(schema, type) else schema
        describe = super().response(status_code, made, **described)

        def decorator(route: Route) -> Route:
            @functools.wraps(route)
            def answering(*args: Any, **kwargs: Any) -> Response:
                result = route(*args, **kwargs)
                if isinstance(result, Response):
                    return result
                value, status, headers = result if isinstance(result, tuple) else (result, status_code, {})
                text = json_of_answer(made.dump(value) if made else value)
                answer = Response(text, status, mimetype="application/json")
                if headers:
                    answer.headers.extend(headers)
                return answer

            return described_as(answering, describe(route))

        return decorator

    def alt_response(self, status_code: int, response: str | None = None, **described: Any) -> Decorator:
        """Describe a further answer of the route; a request does not pass here."""
        describe = super().alt_response(status_code, response, **described)
        return lambda route: described_as(route, describe(route))


def described_as(route: Route, described: Route) -> Route:
    """The route with flask-smorest's description of another one."""
    route._apidoc = described._apidoc  # type: ignore[attr-defined]
    return route
