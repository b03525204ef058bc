"""A client of HTTP that costs little beside the server: one process, one thread, connections that are kept.

Requests are bytes that are ready to be sent. Of an answer only the status and the length are looked at.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from local_stack.processes import processes_in_session

Requests = Iterator[bytes]
TRIES = 20  # of opening connections until each process has its share


@dataclass
class Answered:
    """What one measurement saw."""

    seconds: float  # from its begin to its end
    latencies: list[float] = field(default_factory=list)  # seconds, one for each answer

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """The latency, in seconds, that this share of the answers did not exceed."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Connection:
    """A connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = 0.0
        self.received = bytearray()
        self.whole: int | None = None  # bytes of the answer, once they are known

    def send(self, request: bytes) -> None:
        self.sent = time.monotonic()
        self.socket.sendall(request)

    def is_answered(self) -> bool:
        """Read what is there; whether the answer is whole. Raises RuntimeError for a refusal."""
        read = self.socket.recv(1 << 20)
        self.received += read
        if not read:
            raise RuntimeError(f"the server closed the connection after {bytes(self.received[:200])!r}")
        if self.whole is None:
            head = self.received.find(b"\r\n\r\n")
            self.whole = None if head < 0 else head + 4 + length_of(bytes(self.received[:head]))
        if self.whole is None or len(self.received) < self.whole:
            return False
        if not self.received.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"a request was answered {bytes(self.received[:500])!r}")
        self.received, self.whole = bytearray(), None
        return True


def length_of(head: bytes) -> int:
    """The Content-Length of an answer."""
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0])


def request(method: str, path: str, key: str = "", body: bytes = b"") -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"X-Kelpie-Key: {key}"] if key else []
    lines += [f"Content-Type: application/json\r\nContent-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def spread(port: int, session: int, wanted: int) -> list[Connection]:
    """So many connections, as many to each process of a server as to any other.

    The processes accept from one socket, and one of them may take fifteen of sixteen: then it is measured alone.
    """
    opened: list[Connection] = []
    for _ in range(TRIES):
        opened += [Connection(port) for _ in range(wanted)]
        time.sleep(0.1)  # until they are accepted
        owners = owners_of(port, session)
        of_each: dict[int, list[Connection]] = {}
        for connection in opened:
            of_each.setdefault(owners.get(connection.socket.getsockname()[1], 0), []).append(connection)
        of_each.pop(0, None)
        share = -(-wanted // max(1, len(serving(session))))
        chosen = [connection for taken in of_each.values() for connection in taken[:share]][:wanted]
        if len(chosen) == wanted:
            for connection in set(opened) - set(chosen):
                connection.socket.close()
            return chosen
    raise RuntimeError("one process of the server accepts all connections")


def serving(session: int) -> list[int]:
    """The processes of gunicorn that serve: all but the first, which watches the others."""
    return [pid for pid in processes_in_session(session) if pid != session]


def owners_of(port: int, session: int) -> dict[int, int]:
    """The process at the other end of each connection to a port, by the connection's own port."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ports = {
        f"socket:[{inode}]": int(remote.rpartition(":")[2], 16)
        for _, local, remote, _, _, _, _, _, _, inode, *_ in sockets
        if int(local.rpartition(":")[2], 16) == port
    }
    owners = {}
    for pid in serving(session):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # it was closed meanwhile
                if (link := str(file.readlink())) in ports:
                    owners[ports[link]] = pid
    return owners


def ask(
    connections: Sequence[Connection], requests: Sequence[Requests], seconds: float, pause: float = 0.0
) -> Answered:
    """Send the requests of each connection one after the other for so many seconds, and close the connections.

    With a `pause` each connection sends one every `pause` seconds, or as soon as the one before is answered.
    """
    pairs = dict(zip(connections, requests, strict=True))
    began = time.monotonic()
    answered = Answered(seconds)
    waiting = deque((began + pause * number / len(pairs), connection) for number, connection in enumerate(pairs))
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        under_way = 0
        while under_way or time.monotonic() < began + seconds:
            now = time.monotonic()
            while waiting and waiting[0][0] <= now < began + seconds:
                waiting[0][1].send(next(pairs[waiting.popleft()[1]]))
                under_way += 1
            for key, _ in selector.select(max(0.0, waiting[0][0] - now) if waiting else None):
                if key.data.is_answered():
                    under_way -= 1
                    answered.latencies.append(time.monotonic() - key.data.sent)
                    waiting.append((key.data.sent + pause, key.data))
    answered.seconds = time.monotonic() - began
    for connection in connections:
        connection.socket.close()
    return answered
