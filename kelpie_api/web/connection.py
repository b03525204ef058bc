"""The connection of a request's client: whether it is still there, for answers that are held back."""

from __future__ import annotations

import socket

from kelpie_api.db import next_byte
from kelpie_api.web.context import this_request


def is_closed(client: socket.socket) -> bool:
    """Whether the client closed its connection; bytes that it sent ahead do not count.

    A client that closed only its sending half looks the same: the difference shows when something is sent to it,
    and by then a job would have been claimed.
    """
    return client.fileno() < 0 or next_byte(client.fileno()) == b""


def client_is_gone() -> bool:
    """Whether the client of this request closed its connection; under other servers than gunicorn none is gone."""
    client: socket.socket | None = this_request().environ.get("gunicorn.socket")
    return client is not None and is_closed(client)
