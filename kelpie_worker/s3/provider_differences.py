"""What storage was seen to do where providers differ, bucket by bucket; concluded anew after a while.

No conclusion rests on one answer: a proxy, a key that was just made, or a body that was damaged on its way may
have made it.
"""

import threading
from collections.abc import Callable

from kelpie_worker.system.linux import boottime

_ENOUGH = 2  # answers in a row that agree
LASTS = 1800.0  # seconds; then the storage may have been repaired, or be another one


class Habit:
    """Whether a kind of storage does one thing. Threads may share it.

    A conclusion lasts for `lasts` seconds, or until two answers in a row contradict it.
    """

    def __init__(self, clock: Callable[[], float] = boottime, lasts: float = LASTS) -> None:
        self._clock = clock
        self._lasts = lasts
        self._lock = threading.Lock()
        self._in_a_row: dict[str, tuple[bool, int]] = {}  # the newest answers, where they are not as concluded
        self._concluded: dict[str, tuple[bool, float]] = {}  # and when

    def of(self, bucket: str) -> bool | None:
        """What was concluded; None if nothing was, or too long ago."""
        with self._lock:
            concluded, at = self._concluded.get(bucket, (None, 0.0))
            return concluded if self._clock() - at < self._lasts else None

    def saw(self, bucket: str, does: bool) -> bool:
        """Note an answer that shows it. True if that made the conclusion."""
        known = self.of(bucket)
        with self._lock:
            if known == does:
                self._in_a_row.pop(bucket, None)
                return False
            value, count = self._in_a_row.pop(bucket, (does, 0))
            count = count + 1 if value == does else 1
            if count < _ENOUGH:
                self._in_a_row[bucket] = does, count
                return False
            self._concluded[bucket] = does, self._clock()
            return True
