"""A line on the terminal that says how far long work is; none where standard error is no terminal."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from typing import Self

from kelpie.show import bar, cut, duration, size

DRAWN_EVERY = 0.1  # seconds
RATE_AFTER = 1.0  # seconds, before which a rate says nothing
START_OF_LINE = "\r\x1b[K"  # and nothing on it


def is_shown() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class Meter:
    """How much of a whole is done, in bytes or in `what` is counted. May be told by any thread."""

    def __init__(self, whole: int, what: str = "", shown: bool = True) -> None:
        self.whole = whole
        self.what = what
        self.done = 0
        self._shown = shown and is_shown()
        self._begun = time.monotonic()
        self._drawn = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        self.hide()
        self._shown = False

    def advance(self, by: int) -> None:
        """So much more is done; less, if `by` is negative."""
        with self._lock:
            self.done += by
            if time.monotonic() - self._drawn >= DRAWN_EVERY:
                self._draw()

    def reach(self, done: int) -> None:
        """So much is done in all."""
        self.advance(done - self.done)

    def hide(self) -> None:
        """Take the line away, so that another can be printed; the next change shows it again."""
        if self._shown:
            sys.stderr.write(START_OF_LINE)
            sys.stderr.flush()
            self._drawn = 0.0

    def text(self, passed: float) -> str:
        """The line, after so many seconds."""
        share = self.done / self.whole if self.whole else 1.0
        of = (
            f"{self.done} of {self.whole} {self.what}" if self.what else f"{size(self.done)} of {size(self.whole)}"
        )
        parts = [bar(share, 20), of]
        if passed >= RATE_AFTER and 0 < self.done < self.whole:
            rate = self.done / passed
            parts += [] if self.what else [f"{size(rate)}/s"]
            parts.append(f"{duration((self.whole - self.done) / rate)} left")
        return "  ".join(parts)

    def _draw(self) -> None:
        if self._shown:
            self._drawn = time.monotonic()
            columns = shutil.get_terminal_size().columns
            sys.stderr.write(START_OF_LINE + cut(self.text(self._drawn - self._begun), columns - 1))
            sys.stderr.flush()
