"""Download a large object in ranges at the same time; a range whose connection broke continues where it stopped.

Every answer must be exactly the range that was requested, of the same object: otherwise its bytes would be
written to the wrong offset. Some servers ignore ranges. Others (rclone's) send the range with the status of a
whole object: it is taken for the range only if both Content-Range and Content-Length say so, and only of an object
so large that one connection for all of it takes long.
"""

import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from kelpie_worker.s3.answers import Answer
from kelpie_worker.s3.objects import OF_A_DATE, bare, date_in
from kelpie_worker.s3.receiving import own_block, write_at

LARGE = 64 * 1024 * 1024
TAKEN_UNMARKED = 256 * 1024 * 1024  # bytes of an object from which on a range may have the status of a whole one
_PIECE = 32 * 1024 * 1024
_AT_ONCE = 4
_WHOLE, _PARTIAL_CONTENT = 200, 206
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class NotTheRange(Exception):
    """The answer is not the range that was requested. `first`: it was the first answer of this download."""

    def __init__(self, first: bool) -> None:
        super().__init__(first)
        self.first = first


class GetRange(Protocol):
    def __call__(self, first: int, last: int, etag: str | None) -> Answer:
        """GetObject of the bytes from `first` to `last`, both included, if the object has that ETag."""


@dataclass(frozen=True)
class _Version:
    """The object that all ranges must belong to."""

    size: int
    mark: str  # its ETag, or the moment at which it was stored


class RangedGet:
    """Downloads one object into an open file.

    `repeated` calls an operation with retries, `check` raises to end the download. `takes_unmarked`: a range may
    come with the status of a whole object.
    """

    def __init__(
        self,
        get_range: GetRange,
        repeated: Callable[[Callable[[], None]], None],
        check: Callable[[], None],
        descriptor: int,
        takes_unmarked: bool,
    ) -> None:
        self._get_range = get_range
        self._repeated = repeated
        self._check = check
        self._descriptor = descriptor
        self._statuses = {_PARTIAL_CONTENT, _WHOLE} if takes_unmarked else {_PARTIAL_CONTENT}
        self._version: _Version | None = None  # None until the first answer
        self._headers: Mapping[str, str] = {}
        self._given_up = threading.Event()

    def fetch(self) -> tuple[Mapping[str, str], int]:
        """Returns the headers of an answer, and the object's size.

        Raises NotTheRange, OSError, and what `repeated` and `check` raise; the file is incomplete then.
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
        return self._headers, self._version.size

    def _fetch_piece(self, start: int) -> None:
        position = start

        def fetch_rest() -> None:
            nonlocal position
            etag = bare(self._headers.get("etag", "")) or None
            with closing(self._get_range(position, self._end(start) - 1, etag)) as answer:
                self._check_range(answer, position, start)
                block = own_block()
                while position < self._end(start) and not self._given_up.is_set():
                    self._check()
                    position += self._write(answer, block[: self._end(start) - position], position)

        self._repeated(fetch_rest)

    def _write(self, answer: Answer, block: memoryview, position: int) -> int:
        """Receive and write some bytes; returns how many. What came before a connection broke is not lost."""
        count = answer.readinto(block)
        if not count:
            raise ConnectionError("the answer ended before the range did")
        write_at(self._descriptor, block[:count], position)
        return count

    def _end(self, start: int) -> int:
        """The end, exclusive, of the piece that begins at `start`."""
        return min(start + _PIECE, self._version.size) if self._version else start + _PIECE

    def _check_range(self, answer: Answer, position: int, start: int) -> None:
        """Raises NotTheRange unless the answer is the rest of the piece, from `position`."""
        shown = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        if answer.status not in self._statuses or not shown:
            raise NotTheRange(first=self._version is None)
        first, last, size = map(int, shown.groups())
        if answer.status == _WHOLE and answer.headers.get("content-length") != str(last + 1 - first):
            raise NotTheRange(first=self._version is None)
        version = _Version(size, _mark(answer.headers))
        if version != (self._version or version) or (first, last + 1) != (position, min(start + _PIECE, size)):
            raise NotTheRange(first=self._version is None)
        if not version.mark:  # the next ranges may be of another version
            raise NotTheRange(first=False)
        self._headers, self._version = answer.headers, version


def _mark(headers: Mapping[str, str]) -> str:
    """What tells the version of an object from the next one; empty if the answer has nothing that does.

    A date does if the second that it names was over when the storage answered (RFC 9110, 8.8.2.2).
    """
    if etag := bare(headers.get("etag", "")):
        return etag
    modified, told = date_in(headers, "last-modified"), date_in(headers, "date")
    return str(modified) if modified is not None and told is not None and told > modified + OF_A_DATE else ""
