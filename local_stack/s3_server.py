"""An S3 server for this machine: moto's, optionally with slow uploads.

    python -m local_stack.s3_server PORT FOLDER [BYTES_PER_SECOND]

Objects are kept in memory. What FOLDER/s3-hold.json names is held on its way (see `HeldUploads`). BYTES_PER_SECOND
limits the rate of every upload, so that tests can kill a worker in the middle of one. S3's conditions for
completing a multipart upload, which moto ignores, are enforced here.
"""

import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
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


def with_slow_uploads(app: WsgiApp, rate: int) -> WsgiApp:
    def slowed(environ: Environ, start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT":
            environ["wsgi.input"] = SlowBody(environ["wsgi.input"], rate)
        return app(environ, start_response)

    return slowed


class HeldUploads:
    """While the file `s3-hold.json` names a path, no object below it appears, but for the first `pass` of them.

    The file `s3-held` appears when one is held; it is refused once the hold is over, for what sent it may be dead.
    """

    def __init__(self, app: WsgiApp, folder: Path) -> None:
        self._app = app
        self._hold = folder / "s3-hold.json"
        self._held = folder / "s3-held"
        self._passed: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        if not (_makes_an_object(environ) and self._is_held(environ["PATH_INFO"])):
            return self._app(environ, start_response)
        self._held.touch()
        while self._hold.exists():
            time.sleep(0.02)
        return _refuse(environ, start_response, ("503 Slow Down", "SlowDown"))

    def _is_held(self, path: str) -> bool:
        try:
            hold = json.loads(self._hold.read_text())
        except (FileNotFoundError, ValueError):
            return False
        if not path.startswith(hold["path"]):
            return False
        with self._lock:
            self._passed[hold["name"]] = self._passed.get(hold["name"], 0) + 1
            return self._passed[hold["name"]] > int(hold["pass"])


def _makes_an_object(environ: Environ) -> bool:
    query = environ["QUERY_STRING"]
    if environ["REQUEST_METHOD"] == "POST":
        return "uploadId=" in query
    return environ["REQUEST_METHOD"] == "PUT" and "partNumber=" not in query


class EnforcedConditions:
    """Enforces If-Match and If-None-Match on CompleteMultipartUpload, and copy-source-if-match on UploadPartCopy.

    S3 does so, and moto does on PutObject.
    """

    def __init__(self, app: WsgiApp) -> None:
        self._app = app
        self._lock = threading.Lock()  # no other completion between the check and this one

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        if _copies_a_part(environ) and (refusal := self._copy_refusal(environ)):
            return _refuse(environ, start_response, refusal)
        completes = environ["REQUEST_METHOD"] == "POST" and "uploadId=" in environ["QUERY_STRING"]
        if not completes or not ("HTTP_IF_MATCH" in environ or "HTTP_IF_NONE_MATCH" in environ):
            return self._app(environ, start_response)
        with self._lock:
            if refusal := _refusal(environ, self._etag(environ)):
                return _refuse(environ, start_response, refusal)
            return list(self._app(environ, start_response))

    def _copy_refusal(self, environ: Environ) -> tuple[str, str] | None:
        """The objects of this stack are copied onto themselves only, so the source's path is the request's."""
        wanted = environ.get("HTTP_X_AMZ_COPY_SOURCE_IF_MATCH")
        return _refusal({"HTTP_IF_MATCH": wanted}, self._etag(environ)) if wanted else None

    def _etag(self, environ: Environ) -> str | None:
        """The current object's ETag; None if there is none."""
        answers: list[tuple[str, list[tuple[str, str]]]] = []

        def note(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
            answers.append((status, headers))

        head = {name: value for name, value in environ.items() if not name.startswith("HTTP_IF_")}
        head |= {"REQUEST_METHOD": "HEAD", "QUERY_STRING": "", "CONTENT_LENGTH": "0", "wsgi.input": io.BytesIO()}
        list(self._app(head, note))
        found = {name.lower(): value for name, value in answers[0][1]}
        return found.get("etag", "").strip('"') if answers[0][0].startswith("200") else None


def _copies_a_part(environ: Environ) -> bool:
    return environ["REQUEST_METHOD"] == "PUT" and "HTTP_X_AMZ_COPY_SOURCE" in environ


def _refuse(environ: Environ, start_response: Any, refusal: tuple[str, str]) -> Iterable[bytes]:
    status, code = refusal
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response(status, [("Content-Type", "application/xml")])
    return [f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode()]


def _refusal(environ: Environ, etag: str | None) -> tuple[str, str] | None:
    if etag is None:
        return ("404 Not Found", "NoSuchKey") if "HTTP_IF_MATCH" in environ else None
    holds = environ.get("HTTP_IF_MATCH", "").strip('"') == etag
    return None if holds else ("412 Precondition Failed", "PreconditionFailed")


def main(port: int, folder: Path, rate: int | None) -> None:
    app: WsgiApp = EnforcedConditions(DomainDispatcherApplication(create_backend_app))
    app = HeldUploads(app, folder)
    if rate:
        app = with_slow_uploads(app, rate)
    run_simple("127.0.0.1", port, app, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
