"""Asking services that may be slow, away, or answer rubbish: a deadline for the whole exchange, one asker however
many wait, and no more questions than the service likes."""

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
from typing import Any, TypeVar
from urllib.parse import urlsplit

import certifi

from kelpie_api.errors import NoAnswer
from kelpie_version import VERSION

CONNECT = 2.0  # seconds for one address of several
LARGEST_ANSWER = 16 * 1024 * 1024
A_DAY = 24 * 3600.0

WHO = {"User-Agent": f"kelpie/{VERSION}", "Connection": "close"}

Answer = TypeVar("Answer")
Target = tuple[int, tuple[Any, ...]]  # an address family and what `connect` takes


@dataclass(frozen=True)
class Reply:
    status: int
    json: Any  # None where the body is not JSON
    retry_after: float


def get(url: str, headers: Mapping[str, str], limit: float) -> Reply:
    return send("GET", url, headers, limit)


def send(method: str, url: str, headers: Mapping[str, str], limit: float, body: bytes | None = None) -> Reply:
    """One request within `limit` seconds, from the connection to the last byte, however slowly the answer drips.
    Raises NoAnswer.

    Redirects are not followed and the environment's proxies and .netrc not read: the key goes to this address.
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
        with tls().wrap_socket(plain, server_hostname=host) if secure else plain as line:
            connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(host, port)
            connection.sock = DeadLine(line, due)  # else it would connect by itself, and wait as long as it likes
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request(method, target, body, {**WHO, **headers})
            with connection.getresponse() as answer:
                return Reply(answer.status, parsed(read(answer)), retry_after(answer))


class DeadLine:
    """A connection that is dead after a moment, though each byte comes in time."""

    def __init__(self, line: socket.socket, due: float) -> None:
        self.line = line
        self.due = due

    def sendall(self, data: bytes) -> None:
        self.line.settimeout(left(self.due))
        self.line.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(Inflow(self))

    def close(self) -> None:
        """The client closes once it has the headers, and reads on; who opened the connection closes it."""


class Inflow(io.RawIOBase):
    def __init__(self, dead_line: DeadLine) -> None:
        self.dead_line = dead_line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self.dead_line.line.settimeout(left(self.dead_line.due))
        return self.dead_line.line.recv_into(buffer)


def resolve(host: str, port: int) -> list[Target]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, tuple(address)) for family, _, _, _, address in found]


def dial(targets: Iterable[Target], patience: float, due: float) -> socket.socket:
    """A connection to the first of the addresses that takes one within `patience` seconds."""
    failure: OSError = socket.gaierror("The name has no address")
    for family, address in targets:
        line = socket.socket(family, socket.SOCK_STREAM)
        try:
            line.settimeout(min(patience, left(due)))
            line.connect(address)
            return line
        except OSError as error:
            line.close()
            failure = error
    raise failure


def left(due: float) -> float:
    """The seconds until then. Raises TimeoutError if there are none."""
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
    """The seconds that the service asks for, itself or by naming a date (RFC 9110, section 10.2.3)."""
    text = answer.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= 5 else 0.0
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    # Without a zone it is GMT, as all of HTTP's dates.
    seconds = (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(0.0, seconds), A_DAY)
