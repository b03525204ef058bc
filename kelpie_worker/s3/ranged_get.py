"""Download a large object in ranges at the same time; a range whose connection broke continues where it stopped.

Every answer must be exactly the range that was requested, of the same object: otherwise its bytes would be
written to the wrong offset. Some servers ignore ranges, and one was seen that sends the range without saying so.
"""

import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from kelpie_worker.s3.objects import bare

LARGE = 64 * 1024 * 1024
_PIECE = 32 * 1024 * 1024
_AT_ONCE = 4
_BLOCK = 1024 * 1024
_PARTIAL_CONTENT = 206
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class NotTheRange(Exception):
    """The answer is not the range that was requested. `first`: it was the first answer of this download."""

    def __init__(self, first: bool) -> None:
        super().__init__(first)
        self.first = first


class GetRange(Protocol):
    def __call__(self, first: int, last: int, etag: str | None) -> Any:
        """GetObject of the bytes from `first` to `last`, both included, if the object has that ETag."""


@dataclass(frozen=True)
class _Version:
    """The object that all ranges must belong to."""

    size: int
    etag: str


class RangedGet:
    """Downloads one object into an open file.

    `repeated` calls an operation with retries, `check` raises to end the download.
    """

    def __init__(
        self,
        get_range: GetRange,
        repeated: Callable[[Callable[[], None]], None],
        check: Callable[[], None],
        descriptor: int,
    ) -> None:
        self._get_range = get_range
        self._repeated = repeated
        self._check = check
        self._descriptor = descriptor
        self._version: _Version | None = None  # None until the first answer
        self._given_up = threading.Event()

    def fetch(self) -> tuple[int, str]:
        """Returns the object's size and ETag. Raises NotTheRange, OSError, and what `repeated` and `check` raise.

        On any error the file holds an incomplete object.
        """
        self._fetch_piece(0)
        assert self._version
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="ranges") as pool:
            try:
                for _ in pool.map(self._fetch_piece, range(_PIECE, self._version.size, _PIECE)):
                    pass
            except BaseException:
                self._given_up.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return self._version.size, self._version.etag

    def _fetch_piece(self, start: int) -> None:
        position = start

        def fetch_rest() -> None:
            nonlocal position
            etag = self._version.etag if self._version else None
            answer = self._get_range(position, self._end(start) - 1, etag)
            with closing(answer["Body"]) as body:
                self._check_range(answer, position, start)
                while position < self._end(start) and not self._given_up.is_set():
                    self._check()
                    position += self._write(body.read(min(_BLOCK, self._end(start) - position)), position)

        self._repeated(fetch_rest)

    def _end(self, start: int) -> int:
        """The end, exclusive, of the piece that begins at `start`."""
        return min(start + _PIECE, self._version.size) if self._version else start + _PIECE

    def _check_range(self, answer: Any, position: int, start: int) -> None:
        """Raises NotTheRange unless the answer is the rest of the piece, from `position`."""
        shown = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
        if answer["ResponseMetadata"]["HTTPStatusCode"] != _PARTIAL_CONTENT or not shown:
            raise NotTheRange(first=self._version is None)
        first, last, size = map(int, shown.groups())
        version = _Version(size, bare(answer.get("ETag", "")))
        if version != (self._version or version) or (first, last + 1) != (position, min(start + _PIECE, size)):
            raise NotTheRange(first=self._version is None)
        self._version = version

    def _write(self, block: bytes, position: int) -> int:
        if not block:
            raise ConnectionError("the answer ended before the range did")
        written = 0
        while written < len(block):
            written += os.pwrite(self._descriptor, block[written:], position + written)
        return written
