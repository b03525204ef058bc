"""Requests on a connection that is open already: what the answer holds, and what becomes of the connection."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from kelpie_worker.s3.answers import Answer, bounded, document
from kelpie_worker.s3.connections import KeptConnections
from kelpie_worker.s3.exchange import exchange
from kelpie_worker.s3.request_timeouts import Line, limited

REQUEST = SimpleNamespace(
    method="PUT",
    url="http://storage.test/bucket/a%20b",
    headers={"Host": "storage.test", "X-Name": b"value"},
    body=b"body",
)
LONG = b"0123456789" * 10_000


class Pool(KeptConnections):
    """A pool of one connection, whose other end the test holds."""

    def __init__(self) -> None:
        self.proxy = None
        self.sock: Any
        self.sock, self.other_end = socket.socketpair()
        self.given_back = 0

    def take(self) -> Any:
        return self

    def give_back(self, connection: Any) -> None:
        self.given_back += 1

    def send(self, content: bytes) -> None:
        self.sock.sendall(content)

    def close(self) -> None:
        self.sock.close()

    @property
    def is_open(self) -> bool:
        return bool(self.sock.fileno() >= 0)


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool()
    with limited(Line(30), 0, lambda: math.inf):
        yield pool
    pool.close()
    pool.other_end.close()


def answered(pool: Pool, *pieces: bytes, ends: bool = False) -> Answer:
    for piece in pieces:
        pool.other_end.sendall(piece)
    if ends:
        pool.other_end.shutdown(socket.SHUT_WR)
    answer = exchange(pool, REQUEST)
    assert answer
    return answer


def test_a_request_is_sent_as_it_was_prepared(pool: Pool) -> None:
    answered(pool, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert pool.other_end.recv(1000) == (
        b"PUT /bucket/a%20b HTTP/1.1\r\nHost: storage.test\r\nX-Name: value\r\n\r\nbody"
    )


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: one\r\n\r\nwhole",
        b"HTTP/1.1 200\r\netag:one\r\nCONTENT-LENGTH:5\r\n\r\nwhole",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: one\r\n\r\n3\r\nwho\r\n2\r\nle\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: one\r\n\r\nwhole",
        b"HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 5\r\nETag: one\r\n\r\nwhole",
        b"HTTP/1.1 200 OK\r\nX-Long: " + LONG[:20_000] + b"\r\nContent-Length: 5\r\nETag: one\r\n\r\nwhole",
    ],
)
def test_a_whole_answer_leaves_its_connection_to_the_next_request(pool: Pool, answer: bytes) -> None:
    found = answered(pool, answer)
    assert (found.status, found.headers["etag"], document(found)) == (200, "one", b"whole")
    assert pool.given_back == 1
    assert pool.is_open


def test_a_body_longer_than_the_first_reading_comes_whole(pool: Pool) -> None:
    found = answered(pool, b"HTTP/1.1 206 Partial\r\nContent-Length: 100000\r\n\r\n" + LONG)
    assert document(found) == LONG
    assert pool.is_open


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwhole",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole and more",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nwhole",
        b"HTTP/1.1 200 OK\r\n\r\nwhole",
    ],
)
def test_a_connection_that_is_not_fit_for_another_request_is_closed(pool: Pool, answer: bytes) -> None:
    assert document(answered(pool, answer, ends=True)) == b"whole"
    assert pool.given_back == 1
    assert not pool.is_open


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + LONG[:80_000],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: on",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: one\r\n",
        b"HTTP/1.1 200",
        b"",
        b"no answer\r\n\r\n",
    ],
)
def test_an_answer_that_was_cut_off_is_an_error_of_the_connection(pool: Pool, answer: bytes) -> None:
    with pytest.raises(ConnectionError):
        document(bounded(answered(pool, answer, ends=True)))
    if pool.given_back:
        assert not pool.is_open


def test_an_answer_that_is_dropped_takes_its_connection_along(pool: Pool) -> None:
    found = answered(pool, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    found.close()
    assert (pool.given_back, pool.is_open) == (1, False)


def test_without_limits_nothing_is_sent() -> None:
    pool = Pool()
    assert exchange(pool, REQUEST) is None
    pool.close()
    pool.other_end.close()
