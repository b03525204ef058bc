"""How soon each of many clients may ask again, so that all together ask no more often than a process can bear."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from math import inf


class Pace:
    """Each request books the time of its client's next one, behind all that are booked: `most` a second.

    So it needs not know how many clients there are: the more, the longer the pause of each. What is booked and not
    used, as of a tab that was closed, passes by. A pause is `longest` seconds at most; where that is too short for
    so many clients their pauses are drawn from its second half, lest those that came together come together again.

    One that asks sooner than it was told must not keep the others waiting: a client has at most `most_of_one`
    times booked that are still to come. One that wants more is told to pause as if there were too many clients.
    """

    def __init__(
        self,
        most: float,
        longest: float,
        most_of_one: float = inf,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.most, self.longest, self.most_of_one = most, longest, most_of_one
        self.clock, self.draw = clock, draw
        self._booked: deque[tuple[float, Hashable]] = deque()  # of times to come: `most` by `longest` at most
        self._of_client: Counter[Hashable] = Counter()
        self._booking = threading.Lock()

    def next_pause(self, client: Hashable = None) -> float:
        """Seconds after which the client of this request may ask again."""
        with self._booking:
            now = self.clock()
            self._pass_by(now)
            wanted = (self._booked[-1][0] if self._booked else now) + 1 / self.most
            if wanted <= now + self.longest and self._of_client[client] < self.most_of_one:
                self._booked.append((wanted, client))
                self._of_client[client] += 1
                return wanted - now
        return self.draw(self.longest / 2, self.longest)

    def _pass_by(self, now: float) -> None:
        while self._booked and self._booked[0][0] <= now:
            _, client = self._booked.popleft()
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]
