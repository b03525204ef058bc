"""The client's connections, for requests with limits (`request_timeouts.py`): these are asked at every step.

The time-outs of a client are set once for all its requests, and hold for each step alone: for every address that
is tried, for a body however large, for each piece of an answer. Their sum is more than a lease lasts. Here the
lease is asked before every piece that is sent and while the answer is waited for, and what it does not permit is
dropped from this machine's buffers, too: a line that comes back would carry it to the bucket minutes later.
"""

from __future__ import annotations

import io
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from botocore.compat import HTTPResponse
from urllib3.exceptions import ClosedPoolError

from kelpie_worker.s3.request_timeouts import Limits, current_limits

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PIECE = 64 * 1024  # bytes
_DROP_WHAT_IS_UNSENT = struct.pack("ii", 1, 0)  # linger for no time: close with a reset


def bound_by_limits(client: S3Client) -> None:
    """Let the client's requests keep to `line.current_limits`, on connections through a proxy too."""
    whole: Any = client
    # The session shares this mapping with its pools of direct connections and of those through proxies.
    whole._endpoint.http_session._pool_classes_by_scheme.update(http=_Pool, https=_SecurePool)


class WholeHead(HTTPResponse):
    """An answer that has come to the end of its head, or there is none.

    http.client takes what came before a connection was lost for all of a head: half an ETag, a length without its
    last figures.
    """

    def begin(self) -> None:
        file: Any = self.fp
        head: Any = _Head(file)
        self.fp = head
        try:
            super().begin()
        finally:
            if self.fp is head:
                self.fp = file


class _Head:
    """What a head is read from, line by line."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.close = file.close

    def readline(self, most: int) -> bytes:
        line: bytes = self._file.readline(most)
        if not line.endswith(b"\n") and len(line) < most:
            raise ConnectionError("the head of the answer was cut off")
        return line


class _Answer(WholeHead):
    """An answer that is waited for as long as the limits of its request permit."""

    def __init__(self, sock: Any, *arguments: Any, **named: Any) -> None:
        limits = current_limits()
        source: Any = _Source(sock, limits) if limits else sock
        super().__init__(source, *arguments, **named)


class _Source:
    """What an answer takes for its socket: it only opens a file to read from."""

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        self._sock = sock
        self._limits = limits

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_LimitedReader(self._sock, self._limits))


class _LimitedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        self._sock = sock
        self._limits = limits
        self._file = sock.makefile("rb", buffering=0)  # keeps the socket open until this is closed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return receive(self._sock, self._limits, buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Limited:
    """A connection that sends in pieces."""

    response_class: Any = _Answer
    sock: Any
    timeout: Any
    _response_received: bool

    def connect(self) -> None:
        limits = current_limits()
        if limits:
            self.timeout = limits.at_most(self.timeout)
        super().connect()  # type: ignore[misc]  # of the connection that this is mixed into

    def send(self, data: Any) -> Any:
        limits = current_limits()
        # An answer that came before the body is there already: then the body is not sent.
        if limits is None or self._response_received or not isinstance(data, bytes | bytearray | memoryview):
            return super().send(data)  # type: ignore[misc]
        if self.sock is None:
            self.connect()
        limits.note_progress()
        left = memoryview(data)
        with _reset_on_time_out(self.sock):
            while left:
                _wait_at_most(self.sock, limits.pause())
                try:
                    sent = self.sock.send(left[:_PIECE])
                except TimeoutError:
                    continue
                limits.note_progress()
                left = left[sent:]
        return None


class _Connection(_Limited, AWSHTTPConnection):  # type: ignore[misc]  # whose own bases disagree
    pass


class _SecureConnection(_Limited, AWSHTTPSConnection):  # type: ignore[misc]
    pass


class KeptConnections:
    """A pool that lends connections which are open, and may be written to and read from directly."""

    proxy: Any
    _get_conn: Any
    _put_conn: Any

    def take(self) -> Any:
        """A connection without a proxy that an earlier request left open; None if there is none.

        It has to be given back.
        """
        if self.proxy is not None:
            return None
        try:
            connection = self._get_conn()
        except ClosedPoolError:
            return None
        if connection.sock is None:
            self.give_back(connection)
            return None
        return connection

    def give_back(self, connection: Any) -> None:
        """Let the next request have the connection, open or closed."""
        self._put_conn(connection)


class _Pool(KeptConnections, AWSHTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(KeptConnections, AWSHTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def receive(sock: Any, limits: Limits, buffer: Any) -> int:
    """Read what has come into a buffer; returns the number of bytes, 0 at the end. Raises OSError."""
    limits.note_progress()
    with _reset_on_time_out(sock):
        while True:
            _wait_at_most(sock, limits.pause())
            try:
                received: int = sock.recv_into(buffer)
                return received
            except TimeoutError:
                continue


def _wait_at_most(sock: Any, seconds: float) -> None:
    if sock.gettimeout() != seconds:  # it mostly is that already, and setting it is a call of the system
        sock.settimeout(seconds)


@contextmanager
def _reset_on_time_out(sock: socket.socket) -> Iterator[None]:
    """Have a connection that timed out closed without sending what is left of the request."""
    try:
        yield
    except TimeoutError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DROP_WHAT_IS_UNSENT)
        raise
