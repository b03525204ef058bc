"""One request and its answer over a connection that is open already, with few steps in between.

For a small object urllib3, http.client and the parser of mails that it reads headers with take longer than the
transfer. So a request is written to a kept connection of the client's pool as it is, and an ordinary answer is
read from there into the caller's buffer. All else is left to what knows it: connections are made by urllib3, with
the client's proxies and certificates, and an answer that is not of the ordinary kind is read by http.client.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from kelpie_worker.s3.answers import Answer, as_connection_errors
from kelpie_worker.s3.connections import KeptConnections, WholeHead, receive
from kelpie_worker.s3.request_timeouts import Limits, current_limits

_LARGEST_HEAD = 16 * 1024  # bytes; one that is longer is left to http.client
_STATUS = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: |$)")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_FRAMING = ("content-length", "connection")


def exchange(pool: KeptConnections, request: Any) -> Answer | None:
    """Send a prepared request, which names its host; None if it has no limits, or no connection is open for it.

    Raises ConnectionError.
    """
    limits = current_limits()
    connection = pool.take() if limits else None
    if connection is None or limits is None:
        return None
    try:
        with as_connection_errors():
            connection.send(_request_bytes(request))
            return _answer_on(pool, connection, limits, request.method)
    except BaseException:
        connection.close()
        pool.give_back(connection)
        raise


def _request_bytes(request: Any) -> bytes:
    lines = [f"{request.method} {urlsplit(request.url).path} HTTP/1.1"]
    for name, value in request.headers.items():
        lines.append(f"{name}: {value.decode() if isinstance(value, bytes) else value}")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1:
        raise ValueError("a header with a line break")
    return head.encode("latin-1") + b"\r\n\r\n" + (request.body or b"")


def _answer_on(pool: KeptConnections, connection: Any, limits: Limits, method: str) -> Answer:
    block = memoryview(bytearray(_LARGEST_HEAD))
    received, end = 0, -1
    while end < 0 and received < _LARGEST_HEAD:
        count = receive(connection.sock, limits, block[received:])
        if not count:
            break
        received += count
        end = block.obj.find(b"\r\n\r\n", 0, received)  # type: ignore[attr-defined]  # a bytearray
    loan = _Loan(pool, connection)
    found = _ordinary(bytes(block[:end])) if end >= 0 else None
    if found is None:
        return _OtherAnswer(loan, limits, method, bytes(block[:received]))
    status, headers = found
    return _OrdinaryAnswer(loan, limits, status, headers, block[end + 4 : received])


def _ordinary(head: bytes) -> tuple[int, dict[str, str]] | None:
    """Status and headers of an answer that says how long its body is; None if anything about it is unusual."""
    first, *lines = head.split(b"\r\n")
    status = _STATUS.match(first)
    if not status or status[1] in (b"204", b"304"):
        return None
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        name = name.lower()
        if not colon or not _NAME.fullmatch(name) or (name in _FRAMING and name in headers):
            return None
        headers[name] = value.strip()
    if not headers.get("content-length", "").isdecimal() or "transfer-encoding" in headers:
        return None
    return int(status[1]), headers


class _Loan:
    """A connection of a pool that goes back once: open after a whole answer, else closed."""

    def __init__(self, pool: KeptConnections, connection: Any) -> None:
        self._pool = pool
        self._connection = connection
        self._is_over = False

    @property
    def sock(self) -> Any:
        return self._connection.sock

    def end(self, is_reusable: bool) -> None:
        if self._is_over:
            return
        self._is_over = True
        if not is_reusable:
            self._connection.close()
        self._pool.give_back(self._connection)


class _OrdinaryAnswer:
    def __init__(
        self, loan: _Loan, limits: Limits, status: int, headers: Mapping[str, str], begun: memoryview
    ) -> None:
        """`begun` is what came of the body with the head."""
        self.status = status
        self.headers = headers
        self._loan = loan
        self._limits = limits
        self._left = int(headers["content-length"])
        self._is_reusable = "close" not in headers.get("connection", "").lower() and len(begun) <= self._left
        self._begun = begun[: self._left]
        self._note_end()

    def readinto(self, buffer: memoryview) -> int:
        if not self._left:
            return 0
        if count := min(len(self._begun), len(buffer)):
            buffer[:count] = self._begun[:count]
            self._begun = self._begun[count:]
        else:
            with as_connection_errors():
                count = receive(self._loan.sock, self._limits, buffer[: self._left])
            if not count:
                raise ConnectionError("the answer ended before its body did")
        self._left -= count
        self._note_end()
        return count

    def _note_end(self) -> None:
        if not self._left:
            self._loan.end(self._is_reusable)

    def close(self) -> None:
        self._loan.end(is_reusable=False)


class _OtherAnswer:
    """An answer that http.client reads: one in chunks, one without a length, one that was cut off."""

    def __init__(self, loan: _Loan, limits: Limits, method: str, received: bytes) -> None:
        source: Any = _Replayed(received, loan.sock, limits)
        self._response = WholeHead(source, method=method)
        self._response.begin()
        self.status = self._response.status
        self.headers = {name.lower(): value for name, value in self._response.getheaders()}
        self._loan = loan

    def readinto(self, buffer: memoryview) -> int:
        with as_connection_errors():
            count = self._response.readinto(buffer)
        if not count:
            if self._response.length:
                raise ConnectionError("the answer ended before its body did")
            self._loan.end(is_reusable=not self._response.will_close)
        return count

    def close(self) -> None:
        self._loan.end(is_reusable=False)
        self._response.close()


class _Replayed(io.RawIOBase):
    """What was received already, and then what comes."""

    def __init__(self, received: bytes, sock: Any, limits: Limits) -> None:
        self._received = received
        self._sock = sock
        self._limits = limits

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._received:
            return receive(self._sock, self._limits, buffer)
        count = min(len(buffer), len(self._received))
        buffer[:count], self._received = self._received[:count], self._received[count:]
        return count
