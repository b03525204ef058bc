"""A proxy before a server that breaks the requests a test names, the way networks and servers do."""

from __future__ import annotations

import gzip
import http.client
import re
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

# "503", "500", "html" (a page of a proxy in between), "403", "400", "reset" and "stall" (no answer before the
# proxy is closed) in place of being carried out, "lost" after it, "truncate" in its answer, "behead" in that's
# headers; "halve" answers with half a body that passes for a whole one, "part" with 206, "spoil" with other bytes;
# "swallow" is a yes to what is not carried out; "gone" is what S3 answers to the completion of an upload that is
# complete, and moto does not; "501" and "412" are what a server says that knows no conditions. "404 page" is a
# status with a page of something before the storage, "400 ExpiredToken" one with that code in an error document.
# "untagged" leaves the ETag out of the answer (not out of a listing); "half-etag" cuts the answer off in it.
Fault = str
LOOK = "KelpieLooksWhetherItMayWrite"  # in the address of a look whether a place takes uploads
_MD5 = re.compile("[0-9a-f]{32}")
_ETAG = re.compile(b"<ETag>[^<]*</ETag>")
# What networks and servers do to any request.
FAULTS = ["503", "500", "stall", "reset", "truncate", "behead", "lost"]
PAGE = b"<html><body><h1>It works!</h1></body></html>"
PAGE_TOLD = {"Content-Type": "text/html", "ETag": '"5f3-page"', "Last-Modified": "Wed, 12 Oct 2022 17:50:00 GMT"}
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Not now.</Message></Error>"
GONE = b"<?xml version='1.0'?><Error><Code>NoSuchUpload</Code><Message>It is gone.</Message></Error>"


class FaultyProxy:
    """`fault` says what to do to a request, given its method and path with query; None lets it pass."""

    def __init__(self, target: str) -> None:
        self.fault: Callable[[str, str], Fault | None] = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        self.broken: list[str] = []  # operations, by `break_each_once`
        self._closed = threading.Event()
        self.headers: list[tuple[str, dict[str, str]]] = []  # of the requests, after their methods
        # Whether the requests that find out at the beginning of a job whether its places take uploads count, too.
        self.counts_looks = False
        # Or "whole": they are ignored; "mislabelled": answered with 200; "of any version": If-Match is ignored.
        self.ranges = "honoured"
        # What this storage does with If-Match and If-None-Match: enforces them (""), does not know them
        # ("ignored"), or answers them with a fault.
        self.conditions: Fault = ""
        # What it does with requests to copy a part: copies (""), takes the part for an empty one ("ignored"),
        # copies all of the object ("whole"), or answers with a fault.
        self.copies: Fault = ""
        # What it does with bodies: nothing (""), unpacks those stored with an encoding unless gzip is accepted, as
        # Google's storage does ("unpacked"), or packs all for which gzip is accepted, as proxies do ("packed").
        self.bodies = ""
        self.etags = "md5s"  # or "others", as of storage that has another rule for them, in answers and requests
        # What becomes of an answer's headers, given the request's method and path with query.
        self.with_headers: Callable[[str, str, dict[str, str]], dict[str, str]] = lambda method, path, told: told
        self._target = urlsplit(target)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._pass_on(self)

            do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def break_in_turn(self, faults: Sequence[Fault], method: str, part: str = "") -> None:
        """Break requests of a method whose path holds a part, one for each fault; let all others pass."""
        left = list(faults)

        def decide(this_method: str, path: str) -> Fault | None:
            return left.pop(0) if left and this_method == method and part in path else None

        self.fault = decide

    def break_each_once(self, fault: Fault, operation_of: Callable[[str, str], str | None]) -> None:
        """Break the first request of every operation; None: one that is let pass."""

        def decide(method: str, path: str) -> Fault | None:
            operation = operation_of(method, path)
            if operation is None or operation in self.broken:
                return None
            self.broken.append(operation)
            return fault

        self.fault = decide

    def _pass_on(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if LOOK in request.path and not self.counts_looks:
            _answer(request, *self._ask(request, body))
            return
        self.requests.append((request.command, request.path))
        self.headers.append((request.command, dict(request.headers.items())))
        fault = self.fault(request.command, request.path)
        if self.conditions and (request.headers["If-Match"] or request.headers["If-None-Match"]):
            fault = fault or self.conditions
            del request.headers["If-Match"], request.headers["If-None-Match"]
        if self.copies and request.headers["x-amz-copy-source"]:
            fault = fault or self.copies
            if self.copies == "ignored":
                del request.headers["x-amz-copy-source"]
            del request.headers["x-amz-copy-source-range"]
        if fault in ("503", "500"):
            _answer(request, int(fault), {}, b"")
        elif fault == "html":
            _answer(request, 200, {"Content-Type": "text/html"}, PAGE)
        elif fault == "stall":
            self._closed.wait()
            _reset(request)
        elif fault == "swallow":
            _answer(request, 200, {"ETag": f'"{"0" * 32}"'}, b"")
        elif fault == "400":
            _answer(request, 400, {}, b"")
        elif fault == "403":
            _answer(request, 403, {"Content-Type": "application/xml"}, DENIED)
        elif fault in ("501", "412"):
            _answer(request, int(fault), {}, b"")
        elif fault == "gone":
            _answer(request, 404, {"Content-Type": "application/xml"}, GONE)
        elif fault == "reset":
            _reset(request)
        elif fault and fault.endswith(" page"):
            _answer(request, int(fault[:3]), PAGE_TOLD, PAGE)
        elif fault and " " in fault:
            document = DENIED.replace(b"AccessDenied", fault[4:].encode())
            _answer(request, int(fault[:3]), {"Content-Type": "application/xml"}, document)
        else:
            status, headers, content = self._ask(request, body)
            if fault == "lost":
                _reset(request)
            elif fault == "behead" or (fault == "truncate" and (not content or request.command == "HEAD")):
                # The most treacherous place: what came is a status, and passes for an answer without headers.
                request.wfile.write(f"HTTP/1.1 {status} OK\r\nContent-Le".encode())
                request.close_connection = True
            elif fault == "half-etag":
                told = "".join(f"{k}: {v}\r\n" for k, v in headers.items() if k.lower() != "etag")
                etag = next((v for k, v in headers.items() if k.lower() == "etag"), "")
                request.wfile.write(f"HTTP/1.1 {status} OK\r\n{told}ETag: {etag[:9]}".encode())
                request.close_connection = True
            elif fault == "untagged":
                untagged = {k: v for k, v in headers.items() if k.lower() != "etag"}
                is_completion = b"<CompleteMultipartUploadResult" in content
                _answer(request, status, untagged, _ETAG.sub(b"", content) if is_completion else content)
            elif fault == "halve":
                _answer(request, status, headers, content[: len(content) // 2])
            elif fault == "part":
                _answer(request, 206, headers, content[: len(content) // 2])
            elif fault == "spoil":
                _answer(request, status, headers, content[::-1])
            elif fault == "truncate":
                _answer(request, status, headers, content, cut=len(content) // 2)
            else:
                _answer(request, status, headers, content)

    def _ask(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self._target.hostname or "", self._target.port or 80, timeout=30)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() != "connection"}
            if "If-Match" in headers:
                headers["If-Match"] = self.shown(headers["If-Match"])
            body = self._with_etags_shown(body)
            if self.ranges == "whole":
                headers.pop("Range", None)
            if self.ranges == "of any version":
                headers.pop("If-Match", None)
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            status = 200 if answer.status == 206 and self.ranges == "mislabelled" else answer.status
            told = {k: self.shown(v) if k.lower() == "etag" else v for k, v in answer.getheaders()}
            told = self.with_headers(request.command, request.path, told)
            return status, *self._encoded(request, told, self._with_etags_shown(answer.read()))
        finally:
            connection.close()

    def shown(self, etag: str) -> str:
        """The ETag that is shown of an object whose ETag is this one, and the other way round."""
        return _MD5.sub(lambda md5: md5[0][::-1], etag) if self.etags == "others" else etag

    def _with_etags_shown(self, content: bytes) -> bytes:
        if self.etags == "md5s":
            return content
        return _ETAG.sub(lambda element: self.shown(element[0].decode()).encode(), content)

    def _encoded(
        self, request: BaseHTTPRequestHandler, headers: dict[str, str], content: bytes
    ) -> tuple[dict[str, str], bytes]:
        accepted, stored = "gzip" in request.headers.get("Accept-Encoding", ""), headers.get("Content-Encoding")
        if request.command == "GET" and self.bodies == "unpacked" and stored and not accepted:
            return {name: headers[name] for name in headers if name != "Content-Encoding"}, gzip.decompress(
                content
            )
        if self.bodies == "packed" and accepted and not stored:
            headers = headers | {"Content-Encoding": "gzip"}
            headers.pop("Content-Length", None)
            return headers, gzip.compress(content) if request.command == "GET" else content
        return headers, content


def _answer(
    request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes, cut: int = 0
) -> None:
    request.send_response_only(status)
    dropped = ("transfer-encoding", "connection", "content-length")
    for name, value in headers.items():
        if name.lower() not in dropped:
            request.send_header(name, value)
    length = headers.get("Content-Length") if request.command == "HEAD" else len(content)
    if length is not None:
        request.send_header("Content-Length", str(length))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content[: len(content) - cut])
    if cut:
        request.close_connection = True


def _reset(request: BaseHTTPRequestHandler) -> None:
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close_connection = True
    request.connection.close()
