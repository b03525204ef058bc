"""A cache for all threads of a process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from math import inf
from typing import Generic, TypeVar

from cachetools import TTLCache

Key = TypeVar("Key")
Value = TypeVar("Value")


class Cache(Generic[Key, Value]):
    """At most `size` values, each for at most `seconds`; one more value replaces the least recently used one.

    Callers choose the keys, so a caller that makes up many of them must not empty the cache for all others.
    """

    def __init__(self, size: int, seconds: float = inf, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.values: TTLCache[Key, Value, float] = TTLCache(size, seconds, lambda: self.clock())
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        with self._lock:
            return self.values.get(key)

    def put(self, key: Key, value: Value) -> Value:
        """Store `value` and return it."""
        with self._lock:
            self.values[key] = value
        return value

    def get_or_put(self, key: Key, value: Value) -> Value:
        """The stored value of this key; if there is none, `value`, which is stored."""
        with self._lock:
            return self.values.setdefault(key, value)

    def clear(self) -> None:
        with self._lock:
            self.values.clear()
