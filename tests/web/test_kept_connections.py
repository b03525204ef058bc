"""Connections between two requests, and the threads that wait for the next one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from queue import SimpleQueue

import pytest

from kelpie_api.web.kept_connections import KeptConnections


@dataclass(eq=False)
class Kept:
    """A connection, and the client at its other end."""

    sock: socket.socket
    client: socket.socket
    timeout: float = 10.0


@pytest.fixture
def pairs() -> Iterator[list[Kept]]:
    with ExitStack() as sockets:
        made = [Kept(*map(sockets.enter_context, socket.socketpair())) for _ in range(3)]
        yield made


def test_a_connection_is_given_to_one_thread_until_it_is_put_back(pairs: list[Kept]) -> None:
    kept, given = KeptConnections[Kept](), SimpleQueue[Kept | None]()

    def take_some() -> None:
        for _ in range(2):
            given.put(kept.next_readable())

    threads = [threading.Thread(target=take_some) for _ in range(2)]
    for thread in threads:
        thread.start()
    for pair in pairs:
        kept.put(pair)
    pairs[0].client.send(b"one")
    pairs[1].client.close()
    assert {given.get(timeout=10), given.get(timeout=10)} == set(pairs[:2])
    assert list(kept) == [pairs[2]] and len(kept) == 1
    pairs[2].client.send(b"two")
    assert given.get(timeout=10) is pairs[2]
    kept.put(pairs[0])  # what came was not read, so it is readable still
    assert given.get(timeout=10) is pairs[0]
    for thread in threads:
        thread.join(10)
    assert not kept


def test_what_is_overdue_is_given_to_a_thread_as_if_its_client_had_closed_it(pairs: list[Kept]) -> None:
    """It is not closed while a thread may have been told of its number, which then is another connection's."""
    kept = KeptConnections[Kept]()
    for pair, until in zip(pairs, (1.0, 2.0, 3.0), strict=True):
        pair.timeout = until
        kept.put(pair)
    kept.end_overdue(now=1.0)
    assert kept.next_readable() is pairs[0] and pairs[0].sock.recv(1) == b""
    pairs[1].client.send(b"just in time")
    kept.end_overdue(now=2.0)
    assert kept.next_readable() is pairs[1] and pairs[1].sock.recv(99) == b"just in time"
    kept.put(pairs[1])
    pairs[1].client.send(b"and again")
    assert kept.next_readable() is pairs[1], "it is not ended: its request came first"
    assert list(kept) == [pairs[2]]


def test_who_asks_for_the_first_of_what_was_just_taken_learns_that_nothing_is_due(pairs: list[Kept]) -> None:
    """gunicorn's main thread asks in two steps, when its process is to end."""
    kept = KeptConnections[Kept]()
    kept.put(pairs[0])
    assert kept and kept[0] is pairs[0]
    pairs[0].client.send(b"one")
    assert kept.next_readable() is pairs[0]
    assert kept[0].timeout <= 0


def test_a_connection_that_cannot_be_watched_is_not_kept(pairs: list[Kept]) -> None:
    kept = KeptConnections[Kept]()
    pairs[0].sock.close()
    with pytest.raises((OSError, ValueError)):
        kept.put(pairs[0])
    assert not kept
