"""A large object in pieces at the same time, each piece taken up again where its connection broke.

Every answer must be the very range that was asked for, of the same object: else its bytes would be written where
they do not belong. Some servers ignore ranges, and one was seen that honours them and says that it does not.
"""

import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

LARGE = 64 * 1024 * 1024
_PIECE = 32 * 1024 * 1024
_AT_ONCE = 4
_BLOCK = 1024 * 1024
_PARTIAL_CONTENT = 206
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class NotTheRange(Exception):
    """The answer is something else than the range that was asked for. `first`: it was the first answer."""

    def __init__(self, first: bool) -> None:
        super().__init__(first)
        self.first = first


class Ask(Protocol):
    def __call__(self, first: int, last: int, etag: str | None) -> Any:
        """GetObject of these bytes, both ends included, if the object has that ETag."""


@dataclass(frozen=True)
class _Whole:
    size: int
    etag: str


class Ranges:
    """Brings one object into a file. `repeated` tries an operation as often as it should be tried."""

    def __init__(
        self, ask: Ask, repeated: Callable[[Callable[[], None]], None], check: Callable[[], None], descriptor: int
    ) -> None:
        self._ask = ask
        self._repeated = repeated
        self._check = check
        self._descriptor = descriptor
        self._whole: _Whole | None = None
        self._given_up = threading.Event()

    def fetch(self) -> tuple[int, str]:
        """The object's size and ETag. NotTheRange; what `repeated` and `check` raise; OSError."""
        self._fetch_piece(0)
        assert self._whole
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="ranges") as pool:
            try:
                for _ in pool.map(self._fetch_piece, range(_PIECE, self._whole.size, _PIECE)):
                    pass
            except BaseException:
                self._given_up.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return self._whole.size, self._whole.etag

    def _fetch_piece(self, start: int) -> None:
        position = start

        def go_on() -> None:
            nonlocal position
            answer = self._ask(position, self._end(start) - 1, self._whole.etag if self._whole else None)
            with closing(answer["Body"]) as body:
                self._judge(answer, position, start)
                while position < self._end(start) and not self._given_up.is_set():
                    self._check()
                    position += self._write(body.read(min(_BLOCK, self._end(start) - position)), position)

        self._repeated(go_on)

    def _end(self, start: int) -> int:
        """Of the piece that starts there."""
        return min(start + _PIECE, self._whole.size) if self._whole else start + _PIECE

    def _judge(self, answer: Any, position: int, start: int) -> None:
        shown = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
        if answer["ResponseMetadata"]["HTTPStatusCode"] != _PARTIAL_CONTENT or not shown:
            raise NotTheRange(first=self._whole is None)
        first, last, size = map(int, shown.groups())
        whole = _Whole(size, answer.get("ETag", ""))
        if whole != (self._whole or whole) or (first, last + 1) != (position, min(start + _PIECE, size)):
            raise NotTheRange(first=self._whole is None)
        self._whole = whole

    def _write(self, block: bytes, position: int) -> int:
        if not block:
            raise ConnectionError("the answer ended before the range did")
        written = 0
        while written < len(block):
            written += os.pwrite(self._descriptor, block[written:], position + written)
        return written
