"""An S3 server for this machine: moto's, optionally behind a slow line.

    python -m local_stack.s3_server PORT [BYTES_PER_SECOND]

Objects live in memory and end with the server. BYTES_PER_SECOND holds back the body of every upload, so that
"in the middle of an upload" lasts long enough to be seen, and hit.
"""

import sys
import time
from collections.abc import Callable, Iterable
from typing import IO, Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

PIECE = 16 * 1024  # bytes

Environ = dict[str, Any]
WsgiApp = Callable[[Environ, Any], Iterable[bytes]]


class SlowBody:
    """A request body that arrives no faster than `rate` bytes per second."""

    def __init__(self, body: IO[bytes], rate: int) -> None:
        self._body = body
        self._rate = rate

    def read(self, size: int = -1) -> bytes:
        pieces = []
        while size != 0:
            piece = self._body.read(PIECE if size < 0 else min(PIECE, size))
            if not piece:
                break
            time.sleep(len(piece) / self._rate)
            pieces.append(piece)
            size -= len(piece) if size > 0 else 0
        return b"".join(pieces)

    def readline(self, size: int = -1) -> bytes:
        return self._body.readline(size)


def behind_slow_line(app: WsgiApp, rate: int) -> WsgiApp:
    def slowed(environ: Environ, start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT":
            environ["wsgi.input"] = SlowBody(environ["wsgi.input"], rate)
        return app(environ, start_response)

    return slowed


def main(port: int, rate: int | None) -> None:
    app: WsgiApp = DomainDispatcherApplication(create_backend_app)
    if rate:
        app = behind_slow_line(app, rate)
    run_simple("127.0.0.1", port, app, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
