"""Connections of clients between two requests, for which any number of threads wait together."""

from __future__ import annotations

import math
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar


class Connection(Protocol):
    """What is kept; gunicorn's TConn."""

    sock: Any  # a socket
    timeout: float  # monotonic, in seconds: how long it is kept


Kept = TypeVar("Kept", bound=Connection)


class Taken:
    """Stands for a connection that another thread has just taken."""

    timeout = 0.0


class KeptConnections(Generic[Kept]):
    """A thread that waits gets the next connection that has something to read, and has it until it puts it back.

    So the thread that learns of a request also serves it. A thread that waits for all and hands requests to others
    costs each request two changes of threads, which take as long as an answer of Flask.

    Only a thread that got a connection closes it. If it were closed while it is kept, its number could be that of
    the next connection before the thread that was told of it comes to take it, and that thread would wait for a
    request that was never sent.
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
        if number < 0:
            raise ValueError("the connection is closed")
        with self._lock:
            self._kept[number] = connection
        try:
            self._watch(number)
        except OSError:
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

    def next_readable(self) -> Kept:
        """Wait for a connection that has something to read."""
        while True:
            for number, _ in self._epoll.poll(maxevents=1):
                with self._lock:
                    kept = self._kept.pop(number, None)
                if kept is not None:
                    return kept

    def end_overdue(self, now: float) -> None:
        """Let those that were to be kept until `now` at the latest look as if closed by their clients, so that
        threads take them. What has something to read is not idle: its request waits for a thread."""
        with self._lock:
            overdue = {number: kept for number, kept in self._kept.items() if kept.timeout <= now}
            for kept in overdue.values():
                kept.timeout = math.inf  # no second time; where it is put back it gets another
        if not overdue:
            return
        look = select.poll()
        for number in overdue:
            look.register(number, select.POLLIN)
        readable = {number for number, _ in look.poll(0)}
        for number in overdue.keys() - readable:
            with self._lock:  # for each alone: a thread that waits for it has a request
                self._end(number, overdue[number])

    def _end(self, number: int, kept: Kept) -> None:
        if self._kept.get(number) is kept and kept.timeout == math.inf:  # no thread has taken it since
            # Not TLS's own, which would drop its state. What the client sends from now on can still be read.
            with suppress(OSError):  # reset by the client
                socket.socket.shutdown(kept.sock, socket.SHUT_RD)

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Kept]:
        with self._lock:
            return iter(list(self._kept.values()))

    def __getitem__(self, place: int) -> Kept | Taken:
        """gunicorn asks for the first one after it saw that there is one, and a thread may have taken it since."""
        kept = list(self)
        return kept[place] if kept else Taken()
