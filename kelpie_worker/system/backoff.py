"""Exponential backoff with jitter."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Pauses that double from `first` up to `longest`, in seconds.

    Up to half of each is taken away at random (jitter), so that many workers that lost their server together do
    not come back to it together.
    """

    first: float
    longest: float

    def after(self, failures: int, jitter: Callable[[], float] = random.random) -> float:
        """Seconds to wait after so many failures in a row (from 1). `jitter` gives numbers from 0 to 1."""
        step = min(self.longest, self.first * 2.0 ** min(failures - 1, 40))
        return step * (1 - jitter() / 2)
