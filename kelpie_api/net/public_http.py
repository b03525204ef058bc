"""Requests to URLs that users choose: to public addresses only, and to the very address that was checked.

A name may resolve differently between a check and a connection, so the connection goes to the checked address; the
certificate, SNI and Host are still those of the name. Redirects are not followed, proxies not used
(docs/design/protocol.md, Webhooks).
"""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import SplitResult, quote, unquote, urlsplit

from kelpie_api.errors import NoAnswer
from kelpie_api.net.addresses import OwnAddresses, Resolver
from kelpie_api.net.http import Target, dial, left, resolve, trust
from kelpie_api.net.public_addresses import is_open

CONNECT = 5.0  # seconds for one address
IN_ALL = 15.0  # seconds from the resolution of the name to the status line
LINGER = 0.5  # seconds to read the rest of the answer, so that the receiver sees no broken connection
MOST_READ = 64 * 1024
ITSELF = "This address is the coordinator's own; a webhook goes to a receiver of yours."


@dataclass(frozen=True)
class PublicHttp:
    """Posts to public addresses, with `allow_private` to any; never to the coordinator's own."""

    allow_private: bool = False
    resolver: Resolver = resolve
    tls: ssl.SSLContext = field(default_factory=trust)
    connect: float = CONNECT
    in_all: float = IN_ALL
    own: OwnAddresses = field(default_factory=OwnAddresses)

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """Send one POST and return the status of the answer. Raises NoAnswer."""
        deadline = time.monotonic() + self.in_all
        host = "the receiver"
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            port = parts.port or (443 if parts.scheme == "https" else 80)
            if self.own.named_by(url):
                raise NoAnswer(ITSELF)
            found = self.targets(host, port)
            with dial(found, self.connect, deadline) as plain, self._secure(parts, plain, deadline) as sock:
                _send(parts, port, sock, headers, body)
                status = _status(sock, deadline)
                _linger(sock)
                return status
        except (OSError, ValueError, http.client.HTTPException) as error:
            # ValueError: a host that no name server could know, a header that is no header.
            raise NoAnswer(_why(error, host[:100], self.in_all)) from error

    def targets(self, host: str, port: int) -> list[Target]:
        """All addresses of a host. Raises NoAnswer if any is not public, or is the coordinator's own, since any of
        them may be connected to."""
        found = self.resolver(host, port)
        if self.own.reached_at(found):
            raise NoAnswer(ITSELF)
        if not self.allow_private and not all(is_open(address) for _, address in found):
            raise NoAnswer(
                f"{host[:100]} leads to an address that is not public; webhooks go to public addresses only, "
                "unless the operator sets KELPIE_WEBHOOK_ALLOW_PRIVATE."
            )
        return found

    def _secure(self, parts: SplitResult, plain: socket.socket, deadline: float) -> socket.socket:
        plain.settimeout(left(deadline))
        if parts.scheme != "https":
            return plain
        return self.tls.wrap_socket(plain, server_hostname=(parts.hostname or "").rstrip("."))


def _send(parts: SplitResult, port: int, sock: socket.socket, headers: Mapping[str, str], body: bytes) -> None:
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", port)
    connection.sock = sock  # else it would resolve the name again
    path = parts.path or "/"
    target = quote(f"{path}?{parts.query}" if parts.query else path, safe="!#$%&'()*+,/:;=?@[]~")
    connection.request("POST", target, body, {**_login(parts), **headers, "Connection": "close"})


def _login(parts: SplitResult) -> dict[str, str]:
    """Basic authentication from a user and a password in the URL."""
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def _status(sock: socket.socket, deadline: float) -> int:
    """The status of the final answer; interim ones (100 Continue) are skipped. Raises NoAnswer."""
    lines = _lines(sock, deadline)
    while True:
        found = re.match(rb"HTTP/1\.[01] ([1-9]\d\d)(?:\s|$)", next(lines))
        if found is None:
            raise NoAnswer("What the receiver answered is not HTTP.")
        if not found[1].startswith(b"1"):
            return int(found[1])
        while next(lines):
            continue


def _lines(sock: socket.socket, deadline: float) -> Iterator[bytes]:
    buffer, read = b"", 0
    while True:
        while b"\n" in buffer:
            text, _, buffer = buffer.partition(b"\n")
            yield text.rstrip(b"\r")
        sock.settimeout(left(deadline))
        chunk = sock.recv(4096)
        read += len(chunk)
        if not chunk or read > MOST_READ:
            raise NoAnswer("The receiver closed the connection, or sent headers without end, before it answered.")
        buffer += chunk


def _linger(sock: socket.socket) -> None:
    """Read the rest of a short answer, so that the receiver can finish it."""
    deadline, read = time.monotonic() + LINGER, 0
    with suppress(OSError):
        while read < MOST_READ:
            sock.settimeout(left(deadline))
            chunk = sock.recv(4096)
            if not chunk:
                return
            read += len(chunk)


def _why(error: Exception, host: str, in_all: float) -> str:
    """What went wrong, in a sentence for the operator of the receiver."""
    match error:
        case TimeoutError():
            return f"No connection or no answer in time; a webhook must be answered within {in_all:g} seconds."
        case socket.gaierror():
            return f"The name {host} cannot be resolved: {error.strerror or error}."
        case ssl.SSLCertVerificationError():
            return f"The certificate of {host} is not trusted: {error.verify_message}"
        case OSError():
            return f"The connection to {host} failed: {error.strerror or error}."
    return f"This URL cannot be called: {type(error).__name__}."
