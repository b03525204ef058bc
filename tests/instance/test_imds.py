"""Asking the metadata service, whatever it answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from kelpie_worker.salad.imds import Imds, ImdsUnavailable


@contextmanager
def answering(content: bytes) -> Iterator[str]:
    """The address of a server that answers one request with this, and then keeps silent."""
    hung_up = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.recv(65_536)
                connection.sendall(content)
                hung_up.wait(60)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        hung_up.set()
        thread.join()


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"SSH-2.0\r\n",
        OK,
        OK + b"Content-Length: 100\r\n\r\n{",
        OK + b"Content-Length: 2\r\n\r\n[]",
        OK + b"Content-Length: 2\r\n\r\n{}",
        OK + b"Content-Length: 5\r\n\r\n<htm>",
        OK + b'Content-Length: 11\r\n\r\n{"jwt": 12}',
        OK + b'Content-Length: 17\r\n\r\n{"jwt":"a\\r\\nb:c"}',
    ],
)
def test_whatever_is_no_token_is_no_answer(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelpie_worker.salad.imds._TIMEOUT", 0.2)
    with answering(content) as url, pytest.raises(ImdsUnavailable):
        Imds(url).token()


def test_an_answer_that_never_ends_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then: the socket's own time-out never comes."""
    monkeypatch.setattr("kelpie_worker.salad.imds.LONGEST_CALL", 0.3)
    monkeypatch.setattr("kelpie_worker.salad.imds._TIMEOUT", 30.0)
    with answering(OK + b"Content-Length: 100\r\n\r\n{") as url, pytest.raises(ImdsUnavailable):
        Imds(url).token()
