"""HTTP requests to services that may be slow or unreachable, or may answer anything: with a deadline for the whole
exchange.

http.client on a socket of ours. The same with httpcore and a network backend of ours is no shorter, and does not
tell an answer that is cut off from one that is not HTTP.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import certifi

from kelpie_api.errors import NoAnswer
from kelpie_version import VERSION

CONNECT = 2.0  # seconds for one address of several
LARGEST_ANSWER = 16 * 1024 * 1024
# Characters of a name that a name server can know. To encode a longer one takes time that grows with its square: a
# minute for 16,000 letters of many kinds.
LONGEST_HOST = 253
A_DAY = 24 * 3600.0

OWN_HEADERS = {"User-Agent": f"kelpie/{VERSION}", "Connection": "close"}

Target = tuple[int, tuple[Any, ...]]  # an address family and what `connect` takes


@dataclass(frozen=True)
class Reply:
    status: int
    json: Any  # None where the body is not JSON
    retry_after: float


def get(url: str, headers: Mapping[str, str], limit: float) -> Reply:
    return send("GET", url, headers, limit)


def send(method: str, url: str, headers: Mapping[str, str], limit: float, body: bytes | None = None) -> Reply:
    """Send one request; `limit` is seconds from the connection to the last byte of the answer. Raises NoAnswer.

    Redirects are not followed, and the environment's proxies and .netrc are not used: a key goes to this address
    only.
    """
    due = time.monotonic() + limit
    try:
        return exchange(method, url, headers, body, due)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NoAnswer(f"no answer ({type(error).__name__})") from error


def exchange(method: str, url: str, headers: Mapping[str, str], body: bytes | None, due: float) -> Reply:
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    with dial(resolve(host, port), CONNECT, due) as plain:
        plain.settimeout(left(due))
        with tls().wrap_socket(plain, server_hostname=host) if secure else plain as sock:
            connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(host, port)
            connection.sock = DeadlineSocket(sock, due)  # else it would connect by itself, without the deadline
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request(method, target, body, {**OWN_HEADERS, **headers})
            with connection.getresponse() as answer:
                return Reply(answer.status, parsed(read(answer)), retry_after(answer))


class DeadlineSocket:
    """A socket for http.client with a deadline for all operations together, not for each."""

    def __init__(self, sock: socket.socket, due: float) -> None:
        self.sock = sock
        self.due = due

    def sendall(self, data: bytes) -> None:
        self.sock.settimeout(left(self.due))
        self.sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(DeadlineReader(self))

    def close(self) -> None:
        """Do nothing: http.client calls this after the headers and reads on; `exchange` closes the socket."""


class DeadlineReader(io.RawIOBase):
    def __init__(self, deadline_socket: DeadlineSocket) -> None:
        self.deadline_socket = deadline_socket

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self.deadline_socket.sock.settimeout(left(self.deadline_socket.due))
        return self.deadline_socket.sock.recv_into(buffer)


def resolve(host: str, port: int) -> list[Target]:
    """The addresses of a host. Raises OSError, UnicodeError."""
    if len(host) > LONGEST_HOST:
        raise socket.gaierror("The name is too long to have an address")
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, tuple(address)) for family, _, _, _, address in found]


def dial(targets: Iterable[Target], patience: float, due: float) -> socket.socket:
    """A connection to the first address that accepts one within `patience` seconds. Raises OSError."""
    failure: OSError = socket.gaierror("The name has no address")
    for family, address in targets:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(min(patience, left(due)))
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


def left(due: float) -> float:
    """The seconds left until the deadline. Raises TimeoutError if there are none."""
    seconds = due - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def trust() -> ssl.SSLContext:
    """The system's authorities and those of `certifi`, for small images have none."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


@cache
def tls() -> ssl.SSLContext:
    return trust()


def read(answer: http.client.HTTPResponse) -> bytes:
    body = b""
    while chunk := answer.read1(65536):
        body += chunk
        if len(body) > LARGEST_ANSWER:
            raise NoAnswer("the answer was too long")
    if answer.length:
        raise NoAnswer("the answer was cut off")
    return body


def parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def retry_after(answer: http.client.HTTPResponse) -> float:
    """The seconds of Retry-After, given as such or as a date (RFC 9110, section 10.2.3); 0 without the header."""
    text = answer.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= 5 else 0.0
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    # A date without a zone is GMT, as all dates of HTTP.
    seconds = (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(0.0, seconds), A_DAY)
