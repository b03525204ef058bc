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
    """At most `size` values, each for at most `seconds`. Where one more comes, the one that was unused for longest
    goes: callers choose the keys, and a caller that makes up many must not cost the others all that is known.
    """

    def __init__(self, size: int, seconds: float = inf, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.values: TTLCache[Key, Value, float] = TTLCache(size, seconds, lambda: self.clock())
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        with self._lock:
            return self.values.get(key)

    def put(self, key: Key, value: Value) -> Value:
        """Keep `value` and return it."""
        with self._lock:
            self.values[key] = value
        return value

    def get_or_put(self, key: Key, value: Value) -> Value:
        """What is kept for this key; `value`, if nothing is."""
        with self._lock:
            return self.values.setdefault(key, value)

    def clear(self) -> None:
        with self._lock:
            self.values.clear()
