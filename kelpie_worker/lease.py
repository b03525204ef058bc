"""How long a lease is safe, and how to wait until it is."""

import threading
from collections.abc import Callable

from kelpie_worker.system.linux import boottime

_LONGEST_MARGIN = 10.0


class Cancelled(Exception):
    """The attempt is over: all work for it must stop."""


def safe_until(sent_at: float, heartbeat_interval: float) -> float:
    """When a lease that was renewed by a request sent then may belong to another attempt, less a margin.

    A lease lapses two intervals after the last heartbeat (docs/design/protocol.md, Lease). The margin, in seconds
    like the interval, is for what is on the wire then. Both times are CLOCK_BOOTTIME.
    """
    return sent_at + 2 * heartbeat_interval - min(heartbeat_interval / 2, _LONGEST_MARGIN)


class Lease:
    """One attempt's right to change the bucket, as the uploader's threads see it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._until = 0.0
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def renew(self, until: float) -> None:
        with self._changed:
            self._until = max(self._until, until)
            self._changed.notify_all()

    def cancel(self) -> None:
        with self._changed:
            self._cancelled.set()
            self._changed.notify_all()

    def check(self) -> None:
        """Raises Cancelled once the attempt is over."""
        if self.cancelled:
            raise Cancelled

    def pause(self, seconds: float) -> None:
        """Sleep, but not beyond the attempt's end. Raises Cancelled."""
        if self._cancelled.wait(seconds):
            raise Cancelled

    def wait_until_safe(self) -> bool:
        """Wait, before a change of the bucket, until a heartbeat is accepted. True if it had to wait.

        Raises Cancelled if the lease turns out to be lost.
        """
        return self._wait(lambda: boottime() < self._until)

    def seconds_left(self) -> float:
        """For how long the bucket may be changed, as far as is known now; 0 where it may not."""
        return 0.0 if self.cancelled else max(0.0, self._until - boottime())

    def wait_for_heartbeat(self, since: float, heartbeat_interval: float) -> None:
        """Wait until a heartbeat is accepted that was sent after `since` (CLOCK_BOOTTIME). Raises Cancelled."""
        self._wait(lambda: self._until >= safe_until(since, heartbeat_interval))

    def _wait(self, holds: Callable[[], bool]) -> bool:
        waited = False
        with self._changed:
            while not self.cancelled and not holds():
                waited = True
                self._changed.wait()
        self.check()
        return waited
