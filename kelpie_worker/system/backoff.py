"""How long to wait before trying again."""

import random
from collections.abc import Callable


def backoff(failures: int, first: float, limit: float, jitter: Callable[[], float] = random.random) -> float:
    """Seconds to wait after `failures` in a row (from 1): `first`, doubling up to `limit`.

    Up to half of it is taken away at random, so that a fleet that lost its server together does not
    come back to it together.
    """
    step = min(limit, first * 2.0 ** min(failures - 1, 40))
    return step * (1 - jitter() / 2)
