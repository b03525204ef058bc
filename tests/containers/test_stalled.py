"""Clients that stall cost the API nothing: the proxy waits for them, and not for ever."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.containers.caller import Caller
from tests.containers.compose import Compose

STALLS = [
    b"",
    b"GET /hea",
    b"GET /healthz HTTP/1.1\r\nHost: kel",
    b"GET /healthz HTTP/1.1\r\nHost: kelpie\r\n",
    b"POST /jobs HTTP/1.1\r\nHost: kelpie\r\nX-Kelpie-Key: KEY\r\n",
    b"POST /jobs HTTP/1.1\r\nHost: kelpie\r\nX-Kelpie-Key: KEY\r\nContent-Length: 1000\r\n\r\n",
    b"POST /jobs HTTP/1.1\r\nHost: kelpie\r\nX-Kelpie-Key: KEY\r\nContent-Length: 1000\r\n\r\n{",
    b"POST /jobs HTTP/1.1\r\nHost: kelpie\r\nX-Kelpie-Key: KEY\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{",
]


@contextmanager
def stalled(stack: Compose, key: str, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as held:
        sockets = [
            held.enter_context(socket.create_connection(("127.0.0.1", stack.port), timeout=60))
            for _ in range(count)
        ]
        for number, connection in enumerate(sockets):
            connection.sendall(STALLS[number % len(STALLS)].replace(b"KEY", key.encode()))
        yield sockets


@pytest.mark.parametrize("count", [len(STALLS), 200])
def test_beside_stalled_clients_all_others_are_served(stack: Compose, count: int) -> None:
    with Caller(stack, f"beside-{count}") as caller, stalled(stack, caller.key, count) as sockets:
        for dribble in range(20):
            # Half of them send on, a byte now and then.
            for connection in sockets[: count // 2] if dribble % 5 == 0 else []:
                connection.sendall(b"x")
            assert stack.answers("/healthz")
            assert caller.answer("GET", "/jobs")["jobs"] == []


def test_a_stalled_client_is_disconnected_or_asked_to_try_again(stack: Compose) -> None:
    with stalled(stack, stack.new_key("stalled"), len(STALLS)) as sockets:
        last_words = {all_that_is_said(connection).split(b"\r\n")[0] for connection in sockets}
    assert last_words <= {b"", b"HTTP/1.1 503 Service Temporarily Unavailable"}


def all_that_is_said(connection: socket.socket) -> bytes:
    """What comes before the end of a connection."""
    words = b""
    try:
        while more := connection.recv(65536):
            words += more
    except ConnectionResetError:
        return words
    return words
