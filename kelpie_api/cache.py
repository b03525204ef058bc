"""What all threads of a process share: a cache, and values that one thread makes for all."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from math import inf
from typing import Generic, TypeVar

from cachetools import TTLCache

Key = TypeVar("Key")
Value = TypeVar("Value")
LONGEST_REST, LONGEST_KEPT = 1.0, 10.0  # seconds


class Cache(Generic[Key, Value]):
    """At most `size` values, each for at most `seconds`; one more value replaces the least recently used one.

    Callers choose the keys, so a caller that makes up many of them must not empty the cache for all others.
    `weigh`: how much of `size` a value takes, otherwise 1; one that takes more than all of it is not kept.
    """

    def __init__(
        self,
        size: int,
        seconds: float = inf,
        clock: Callable[[], float] = time.monotonic,
        weigh: Callable[[Value], float] | None = None,
    ) -> None:
        self.clock = clock
        self.values: TTLCache[Key, Value, float] = TTLCache(size, seconds, lambda: self.clock(), weigh)
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        with self._lock:
            return self.values.get(key)

    def put(self, key: Key, value: Value) -> Value:
        """Store `value` and return it."""
        with self._lock:
            if self.values.getsizeof(value) <= self.values.maxsize:
                self.values[key] = value
        return value

    def get_or_put(self, key: Key, value: Value) -> Value:
        """The stored value of this key; if there is none, `value`, which is stored."""
        with self._lock:
            return self.values.setdefault(key, value)

    def clear(self) -> None:
        with self._lock:
            self.values.clear()


class Shared(Generic[Key, Value]):
    """Values of which each is made once for all requests that want it at about the same time.

    One thread at a time makes one, and the next waits for `rest` times as long as that took, a second at most: so
    they never take more than a share of the process. `places`: how many threads may make one or wait, and
    `places_of_one` how many of them for the same client. `aside`: entered while a thread waits for its turn.
    `size` and `weigh` are those of a Cache.
    """

    def __init__(
        self,
        size: int,
        places: int,
        rest: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        weigh: Callable[[Value], float] = lambda value: 1,
        places_of_one: float = inf,
        aside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.places, self.places_of_one, self.aside = places, places_of_one, aside
        self.rest, self.clock, self.sleep = rest, clock, sleep
        self._values: Cache[Key, tuple[float, Value]] = Cache(
            size, LONGEST_KEPT, lambda: self.clock(), lambda kept: weigh(kept[1])
        )
        self._taken: Counter[Hashable] = Counter()  # places, of each client that has any
        self._counting = threading.Lock()
        self._making = threading.Lock()
        self._rests_until = -inf

    def get(self, key: Key, seconds: float, make: Callable[[], Value], client: Hashable = None) -> Value | None:
        """The value of this key that was begun within so many seconds, else one that `make` makes now.

        None where as many wait for theirs as may, of all clients or of this one. Raises what `make` raises, of
        which nothing is kept.
        """
        found = self._made_within(key, seconds)
        if found is not None or not self._take_place(client):
            return found
        try:
            with self.aside():
                self._making.acquire()
            try:
                found = self._made_within(key, seconds)  # another thread may have made it meanwhile
                return self._make(key, make) if found is None else found
            finally:
                self._making.release()
        finally:
            self._leave_place(client)

    def _take_place(self, client: Hashable) -> bool:
        with self._counting:
            if self._taken.total() >= self.places or self._taken[client] >= self.places_of_one:
                return False
            self._taken[client] += 1
            return True

    def _leave_place(self, client: Hashable) -> None:
        with self._counting:
            self._taken -= Counter((client,))  # which keeps no client that has none

    def _made_within(self, key: Key, seconds: float) -> Value | None:
        at, value = self._values.get(key) or (-inf, None)
        return value if at + seconds > self.clock() else None

    def _make(self, key: Key, make: Callable[[], Value]) -> Value:
        with self.aside():
            self.sleep(max(0.0, self._rests_until - self.clock()))
        began = self.clock()
        try:
            return self._values.put(key, (began, make()))[1]
        finally:
            ended = self.clock()
            self._rests_until = ended + min(LONGEST_REST, self.rest * (ended - began))
