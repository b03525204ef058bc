"""How soon each of many clients may ask again, so that all together ask no more often than a process can bear."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable


class Pace:
    """Each request books the time of its client's next one, behind all that are booked: `most` a second.

    So it needs not know how many clients there are: the more, the longer the pause of each. What is booked and not
    used, as of a tab that was closed, passes by. A pause is `longest` seconds at most; where that is too short for
    so many clients their pauses are drawn from its second half, lest those that came together come together again.
    """

    def __init__(
        self,
        most: float,
        longest: float,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.most, self.longest, self.clock, self.draw = most, longest, clock, draw
        self._booked = 0.0
        self._booking = threading.Lock()

    def next_pause(self) -> float:
        """Seconds after which the client of this request may ask again."""
        with self._booking:
            now = self.clock()
            wanted = max(self._booked, now) + 1 / self.most
            self._booked = min(wanted, now + self.longest)
        return wanted - now if wanted <= now + self.longest else self.draw(self.longest / 2, self.longest)
