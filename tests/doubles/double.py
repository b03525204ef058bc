"""A stand-in for a service: a real HTTP server that is held to the specification of the service it stands for."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from openapi_core import Config, OpenAPI
from openapi_core.contrib.werkzeug import WerkzeugOpenAPIRequest, WerkzeugOpenAPIResponse
from openapi_core.exceptions import OpenAPIError
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

SPECS = Path(__file__).with_name("specs")

Answer = Callable[[], Response]


@cache
def specification(name: str) -> OpenAPI:
    """Salad answers a merge patch with the group, in a type of content that only JSON can be."""
    readers: dict[str, Callable[[bytes], Any]] = {"application/merge-patch+json": json.loads}
    return OpenAPI.from_file_path(str(SPECS / name), Config(extra_media_type_deserializers=readers))


class AsAtTheService(WerkzeugOpenAPIRequest):
    """A request as if it had gone to the service itself, whose address the specification knows."""

    host: str = ""

    @property
    def host_url(self) -> str:
        return self.host


class Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


class Double(ABC):
    """Answers while it is up. `instead` replaces the service's own answer: a proxy's page, an
    error; while it is held, requests wait. What breaks the specification, of either side, is raised by `end`."""

    spec: ClassVar[str]
    host: ClassVar[str]
    unspecified: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.asked: list[str] = []  # the paths, in the order of the requests
        self.instead: Answer | None = None
        self.drift: list[Exception] = []
        self.open = threading.Event()
        self.open.set()
        self.server: Any = None
        specification(self.spec)  # to read it takes longer than some clients wait for their first answer
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.server = make_server("127.0.0.1", self.port, self.serve, threaded=True, request_handler=Quiet)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Stop listening: connections are refused."""
        self.open.set()
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def hold(self) -> None:
        self.open.clear()

    def let_go(self) -> None:
        self.open.set()

    def end(self) -> None:
        self.stop()
        if self.drift:
            raise AssertionError(f"{type(self).__name__} left its specification: {self.drift!r}")

    @abstractmethod
    def respond(self, request: Request) -> Response:
        """What the service answers."""

    def serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ)
        self.asked.append(request.path)
        self.open.wait(60)
        return self._answer(request)(environ, start_response)

    def _answer(self, request: Request) -> Response:
        if self.instead:
            return self.instead()
        if request.path in self.unspecified:
            return self.respond(request)
        try:
            return self._checked(request)
        except (OpenAPIError, AssertionError) as error:
            self.drift.append(error)
            return Response("out of the specification", 599)

    def _checked(self, request: Request) -> Response:
        seen = AsAtTheService(request)
        seen.host = self.host
        specification(self.spec).validate_request(seen)
        response = self.respond(request)
        specification(self.spec).validate_response(seen, WerkzeugOpenAPIResponse(response))
        return response


def page(status: int = 200, **headers: str) -> Answer:
    """What a proxy in front of the service answers: HTML."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: Response("<html><body>Just a moment...</body></html>", status, named, mimetype="text/html")
