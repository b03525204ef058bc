"""Flask without what it does for each request and this application has no use for: cookies of its own, coroutines,
and another look at a host whose address it has taken apart before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface
from flask.wrappers import Response
from werkzeug.routing import MapAdapter

MOST_HOSTS = 100  # that are remembered: clients choose them


class NoSessions(SessionInterface):
    """The pages have sessions of their own (kelpie_api/web/sessions.py); no request has one of Flask's."""

    def __init__(self) -> None:
        self.none = self.null_session_class()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self.none

    def save_session(self, app: Flask, session: object, response: Response) -> None:
        """There is nothing to save."""


class Application(Flask):
    """What `create_app` makes."""

    session_interface = NoSessions()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._of_hosts: dict[tuple[Any, ...], tuple[str, MapAdapter]] = {}

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func  # no route is a coroutine

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """As Flask's, but a host is taken apart once. Raises BadHost, SecurityError."""
        if request is None or "PATH_INFO" not in request.environ or "HTTP_UPGRADE" in request.environ:
            return super().create_url_adapter(request)
        asked = request.environ
        at = tuple(map(asked.get, ("HTTP_HOST", "wsgi.url_scheme", "SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME")))
        known = self._of_hosts.get(at)
        if known is None:
            adapter = super().create_url_adapter(request)
            if adapter is not None and len(self._of_hosts) < MOST_HOSTS:
                self._of_hosts[at] = request.host, adapter
            return adapter
        request.host, adapter = known
        return MapAdapter(
            self.url_map,
            adapter.server_name,
            adapter.script_name,
            adapter.subdomain,
            adapter.url_scheme,
            _decoded(asked["PATH_INFO"]),
            asked["REQUEST_METHOD"],
            _decoded(asked.get("QUERY_STRING", "")),
        )


def _decoded(text: str) -> str:
    """Text of a request, which WSGI gives as if its bytes were characters."""
    return text.encode("latin-1").decode(errors="replace")
