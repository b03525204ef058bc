"""Connections of clients between two requests, for which any number of threads wait together."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar


class Connection(Protocol):
    """What is kept; gunicorn's TConn."""

    sock: Any  # a socket
    timeout: float  # monotonic, in seconds: how long it is kept


Kept = TypeVar("Kept", bound=Connection)


class KeptConnections(Generic[Kept]):
    """A thread that waits gets the next connection that has something to read, and has it until it puts it back.

    So the thread that learns of a request also serves it. A thread that waits for all and hands requests to others
    costs each request two changes of threads, which take as long as an answer of Flask.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._lock = threading.Lock()
        self._kept: dict[int, Kept] = {}

    def put(self, connection: Kept) -> None:
        """Keep a connection until it has something to read, or was closed by its client.

        Raises OSError, or ValueError if it is closed here.
        """
        number = connection.sock.fileno()
        with self._lock:
            self._kept[number] = connection
        try:
            self._watch(number)
        except (OSError, ValueError):  # a ValueError where it is closed
            with self._lock:
                del self._kept[number]
            raise

    def _watch(self, number: int) -> None:
        # One shot: of all threads one is told, and only once.
        told = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT
        try:
            self._epoll.modify(number, told)
        except FileNotFoundError:  # it is new
            self._epoll.register(number, told)

    def next_readable(self) -> Kept | None:
        """Wait for a connection that has something to read; None if another thread has taken it meanwhile."""
        for number, _ in self._epoll.poll(maxevents=1):
            with self._lock:
                return self._kept.pop(number, None)
        return None

    def take_overdue(self, now: float) -> list[Kept]:
        """Those that were to be kept until `now` at the latest; they are no longer kept."""
        with self._lock:
            overdue = {number: kept for number, kept in self._kept.items() if kept.timeout <= now}
            for number in overdue:
                del self._kept[number]
        return list(overdue.values())

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Kept]:
        with self._lock:
            return iter(list(self._kept.values()))

    def __getitem__(self, place: int) -> Kept:
        return list(self)[place]
