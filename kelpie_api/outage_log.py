"""The log lines about a database that is away: one when it goes and one when it is back, however many threads of a
process notice it, and however often."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kelpie_api import logs


class OutageLog:
    """Knows which parts of a process the database does not serve; it is back once it serves all of them again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.without: set[str] = set()  # names of parts
        self.since = 0.0

    def away(self, part: str, why: object) -> None:
        """Note that this part of the process is not served; the first to note it logs why.

        `why` is a sentence, an error, or a function that finds the reason.
        """
        with self.lock:
            is_first = not self.without
            self.without.add(part)
            self.since = self.clock() if is_first else self.since
        if is_first:
            logs.warning("database_away", message=" ".join(str(why() if callable(why) else why).split()))

    def back(self, part: str) -> None:
        """Note that this part is served; the last of them logs for how many seconds the database was away."""
        if part not in self.without:
            return
        with self.lock:
            was_without = part in self.without
            self.without.discard(part)
            is_over = was_without and not self.without
        if is_over:
            logs.info("database_back", seconds=round(self.clock() - self.since, 1))
