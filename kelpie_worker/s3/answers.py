"""Answers with an object, of whatever they are read: their status, their headers, and a body that is checked."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from kelpie_worker.s3.encodings import unpacked

_BLOCK = 16 * 1024
_LARGEST_DOCUMENT = 1024 * 1024  # bytes of an answer that is no object: an error document
_WHOLE = 200


class Answer(Protocol):
    """An answer whose body is read once, from the beginning."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """By names in lower case."""

    def readinto(self, buffer: memoryview) -> int:
        """Read some of the body; returns how many bytes, 0 at its end. Raises what `translated` knows."""

    def close(self) -> None:
        """Drop what was not read."""


def fill(answer: Answer, buffer: memoryview) -> int:
    """Read until the buffer is full or the body ends; returns the number of bytes."""
    filled = 0
    while filled < len(buffer) and (count := answer.readinto(buffer[filled:])):
        filled += count
    return filled


def document(answer: Answer) -> bytes:
    """The body of an answer that is no object, unpacked; at most its beginning, if it is long."""
    found, block = b"", memoryview(bytearray(_BLOCK))
    try:
        while len(found) < _LARGEST_DOCUMENT and (count := answer.readinto(block)):
            found += block[:count]
    finally:
        answer.close()  # also where it was cut off: its connection is none of the pool's any more
    return unpacked(found, answer.headers)


class LibraryAnswer:
    """An answer whose head was read by urllib3. The body is read past it: it would copy every block twice."""

    def __init__(self, status: int, headers: Mapping[str, str], raw: Any) -> None:
        """`raw`: urllib3's response."""
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self._raw = raw
        self._left = _length(self.headers)

    def readinto(self, buffer: memoryview) -> int:
        with as_connection_errors():
            count: int = self._raw._fp.readinto(buffer)
        if self._left is not None:
            self._left -= count
        if not count:
            if self._left:
                raise ConnectionError("the answer ended before its body did")
            self._raw.release_conn()
        return count

    def close(self) -> None:
        self._raw.close()


def of_session(answer: Any) -> LibraryAnswer:
    """What botocore's session returned for a request."""
    return LibraryAnswer(answer.status_code, answer.headers, answer.raw)


def of_boto(answer: Any) -> Answer:
    """What boto3's GetObject returned."""
    told = answer["ResponseMetadata"]
    return checked(LibraryAnswer(told["HTTPStatusCode"], told["HTTPHeaders"], answer["Body"]._raw_stream))


def bounded(answer: Answer) -> Answer:
    """The answer. Raises ConnectionError if it does not say how long its body is: its headers were cut off.

    A lost connection would then look like the end of the body.
    """
    if not {"content-length", "transfer-encoding"} & answer.headers.keys():
        answer.close()
        raise ConnectionError("an answer without its length")
    return answer


def _length(headers: Mapping[str, str]) -> int | None:
    """The length of a body that comes as it is; None if its end shows otherwise."""
    told = headers.get("content-length", "")
    return int(told) if told.isdecimal() and "transfer-encoding" not in headers else None


def checked(answer: Answer) -> Answer:
    """The answer, which raises at its end unless a checksum that the storage tells of the whole object is met.

    Raises as `bounded` does.
    """
    bounded(answer)
    for name, algorithm in _CHECKSUMS.items():
        expected = answer.headers.get(f"x-amz-checksum-{name}", "")
        if expected and "-" not in expected and answer.status == _WHOLE:
            return _Checked(answer, algorithm(), expected)
    return answer


class _Crc32:
    def __init__(self) -> None:
        self._sum = 0

    def update(self, block: memoryview) -> None:
        self._sum = zlib.crc32(block, self._sum)

    def digest(self) -> bytes:
        return self._sum.to_bytes(4, "big")


class _Checked:
    """An object whose checksum the storage has told."""

    def __init__(self, answer: Answer, checksum: Any, expected: str) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.close = answer.close
        self._answer = answer
        self._checksum = checksum
        self._expected = expected

    def readinto(self, buffer: memoryview) -> int:
        count = self._answer.readinto(buffer)
        self._checksum.update(buffer[:count])
        if not count and base64.b64encode(self._checksum.digest()).decode() != self._expected:
            raise ConnectionError("the body is not what the storage's checksum is of")
        return count


_CHECKSUMS: dict[str, Callable[[], Any]] = {"crc32": _Crc32, "sha1": hashlib.sha1, "sha256": hashlib.sha256}


@contextmanager
def as_connection_errors() -> Iterator[None]:
    """Let an error of the connection not be taken for one of the disk, which is an OSError as well."""
    from urllib3.connection import HTTPException

    try:
        yield
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
