"""How long a request may wait for storage: longer, the more bytes are under way, and never past the lease.

Bytes that were sent may wait for minutes on a slow uplink, in this machine's buffers or in a relay's, before the
storage has them and answers. A fixed time-out would drop them and send them again, for ever.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Seconds for a byte, while no upload has shown better: the whole uplink has half a Mbit/s.
_UNKNOWN_PACE = 1 / (64 * 1024)
_SLOWEST_PACE = 1 / (16 * 1024)
_MARGIN = 3  # times the pace that was seen
_TELLS_A_PACE = 64 * 1024  # bytes; for smaller ones the round trip is what takes the time
_LOOK_EVERY = 1.0  # seconds between looks at the lease, which is renewed or lost while a request waits


class Line:
    """The way to storage, which all requests share. Threads may share it."""

    def __init__(self, shortest_patience: float) -> None:
        """`shortest_patience`, in seconds, is for requests with nothing else under way."""
        self._shortest = shortest_patience
        self._lock = threading.Lock()
        self._under_way = 0  # bytes of requests that are not answered
        self._pace = _UNKNOWN_PACE
        self._was_seen = False

    @property
    def patience(self) -> float:
        """Seconds without any progress after which a request is given up."""
        return self._shortest + self._under_way * self._pace

    @contextmanager
    def carrying(self, size: int, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
        """Count these bytes as under way. Unless that raises, the time it takes shows the pace of the line."""
        began = clock()
        with self._lock:
            self._under_way += size
        try:
            yield
            if size >= _TELLS_A_PACE:
                self._note_pace((clock() - began) / size)
        finally:
            with self._lock:
                self._under_way -= size

    def note_time_out(self) -> None:
        """A request was given up: if much was under way, the line may be slower than it was seen."""
        with self._lock:
            if self._under_way >= _TELLS_A_PACE:
                self._pace = min(_SLOWEST_PACE, 2 * self._pace)

    def _note_pace(self, seen: float) -> None:
        with self._lock:
            before = self._pace / 2 if self._was_seen else 0.0
            self._pace, self._was_seen = min(_SLOWEST_PACE, max(_MARGIN * seen, before)), True


class Limits:
    """How long one request may go on."""

    def __init__(self, line: Line, left: Callable[[], float]) -> None:
        """`left` says for how many seconds it may be on its way still; more, once the lease is renewed."""
        self._line = line
        self._left = left
        self._moved_at = time.monotonic()

    def note_progress(self) -> None:
        self._moved_at = time.monotonic()

    def pause(self) -> float:
        """Seconds to wait for the socket before asking again. Raises TimeoutError: the request has to end."""
        return min(_LOOK_EVERY, self.at_most(_LOOK_EVERY))

    def at_most(self, seconds: float) -> float:
        """That long, or less if the request has to end before. Raises TimeoutError if it has to end now."""
        left = self._left()
        if left <= 0:
            raise TimeoutError("the lease ends before storage has answered")
        waits = self._line.patience - (time.monotonic() - self._moved_at)
        if waits <= 0:
            self._line.note_time_out()
            raise TimeoutError("storage takes nothing and answers nothing")
        return min(seconds, left, waits)


_current: ContextVar[Limits | None] = ContextVar("limits of this thread's request", default=None)


def current_limits() -> Limits | None:
    """The limits of the request that this thread sends; None if the client's own time-outs are all."""
    return _current.get()


@contextmanager
def limited(line: Line, size: int, left: Callable[[], float]) -> Iterator[None]:
    """Limit the requests that this thread sends, which have that many bytes of content."""
    with line.carrying(size):
        before = _current.set(Limits(line, left))
        try:
            yield
        finally:
            _current.reset(before)
