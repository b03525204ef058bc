"""A proxy between two real programs that holds a request at a chosen moment, so that a test kills right there."""

from __future__ import annotations

import http.client
import re
import threading
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}


class Moment(Enum):
    ON_THE_WAY_THERE = "the request has left the client and never arrives"
    ON_THE_WAY_BACK = "the request was carried out and its answer never arrives"


@dataclass
class Hold:
    """Holds the requests that match, the first `spared` excepted, until `let_go`; held ones are dropped then."""

    method: str
    path: re.Pattern[str]
    moment: Moment
    spared: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def matches(self, method: str, path: str, moment: Moment) -> bool:
        return (
            not self.ended.is_set()
            and moment is self.moment
            and method == self.method
            and self.path.search(path) is not None
        )

    def catches(self) -> bool:
        """Whether a request that matches is held; called once for each."""
        self.spared -= 1
        return self.spared < 0

    def let_go(self) -> None:
        self.ended.set()


class HoldingProxy:
    """Stands before `upstream` (http://host:port) at `url`."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.holds: list[Hold] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HoldingProxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_all_go()
        self._server.shutdown()
        self._server.server_close()

    def hold(self, method: str, path: str, moment: Moment, spared: int = 0) -> Hold:
        """From now on; `path` is a regular expression that is searched for in path and query."""
        hold = Hold(method, re.compile(path), moment, spared)
        self.holds.append(hold)
        return hold

    def let_all_go(self) -> None:
        for hold in self.holds:
            hold.let_go()

    def dropped(self, method: str, path: str, moment: Moment) -> bool:
        """Wait while this request is held; whether it was."""
        for hold in self.holds:
            if hold.matches(method, path, moment) and hold.catches():
                hold.reached.set()
                hold.ended.wait()
                return True
        return False

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if proxy.dropped(self.command, self.path, Moment.ON_THE_WAY_THERE):
                    self.close_connection = True
                    return
                upstream = http.client.HTTPConnection(
                    proxy.upstream.hostname or "", proxy.upstream.port, timeout=60
                )
                try:
                    upstream.request(self.command, self.path, body, dict(self.headers))
                    answer = upstream.getresponse()
                    content = answer.read()
                except OSError:
                    self.close_connection = True
                    return
                finally:
                    upstream.close()
                if proxy.dropped(self.command, self.path, Moment.ON_THE_WAY_BACK):
                    self.close_connection = True
                    return
                self.answer(answer, content)

            def answer(self, answer: http.client.HTTPResponse, content: bytes) -> None:
                self.send_response_only(answer.status, answer.reason)
                for name, value in answer.getheaders():
                    if name.lower() not in HOP_BY_HOP | {"content-length"}:
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

            def log_message(self, format: str, *args: object) -> None:
                """Quiet: what went wrong is seen at both ends."""

        return Handler
