"""The values of this package: objects in a bucket, upload targets, parts. No requests."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from kelpie_worker.job import ObjectKey

_OF_PROXIES = re.compile("(-|;|--)gzip$")


@dataclass(frozen=True)
class Absent:
    """There is no object under the key."""


@dataclass(frozen=True)
class Version:
    """There is the object with this ETag, without quotes."""

    etag: str


@dataclass(frozen=True)
class Unknown:
    """There may be any object or none: storage does not tell, or it does not matter."""


OF_A_DATE = 1.0  # seconds by which the dates of one moment differ, since they are whole ones
# What is under a key; for a write, what it may replace. A write over Unknown replaces any object.
ObjectState = Absent | Version | Unknown
UNKNOWN = Unknown()


@dataclass(frozen=True)
class RemoteFile:
    key: str
    size: int
    etag: str = ""  # empty: the listing has none
    modified: float = 0.0  # seconds since 1970, by the clock of the storage
    version_id: str | None = None  # None: the current one


@dataclass(frozen=True)
class Stored:
    """A stored object: its ETag as a listing shows it, and its version if the bucket keeps versions."""

    etag: str
    version_id: str | None


@dataclass(frozen=True)
class Target:
    """Where an upload goes, and the content type and encoding that it is stored with."""

    bucket: str
    key: str
    content_type: str
    content_encoding: str | None = None  # "gzip" for what was compressed on its way
    metadata: tuple[tuple[str, str], ...] = ()  # names and values that are kept with the object

    @property
    def place(self) -> ObjectKey:
        return self.bucket, self.key

    @property
    def headers(self) -> dict[str, str]:
        """What is stored with the object, as HTTP headers."""
        return {**self._kind, **{f"x-amz-meta-{name}": value for name, value in self.metadata}}

    @property
    def parameters(self) -> dict[str, Any]:
        """The same as boto3's parameters."""
        metadata = {"Metadata": dict(self.metadata)} if self.metadata else {}
        return {name.replace("-", ""): value for name, value in self._kind.items()} | metadata

    @property
    def _kind(self) -> dict[str, str]:
        encoding = {"Content-Encoding": self.content_encoding} if self.content_encoding else {}
        return {"Content-Type": self.content_type, **encoding}


@dataclass(frozen=True)
class SourceRange:
    """Bytes of a stored object that are to be copied, and their MD5 as the local file has them."""

    etag: str  # of the object
    first: int
    length: int
    md5: bytes


@dataclass(frozen=True)
class Part:
    number: int  # from 1
    etag: str
    md5: bytes


def stored_by(answer: Any) -> Stored:
    version = answer.get("VersionId")
    return Stored(bare(str(answer.get("ETag", ""))), version if version != "null" else None)


def bare(etag: str) -> str:
    """The ETag without its quotes, and without what proxies add that could have compressed the body."""
    return _OF_PROXIES.sub("", etag.removeprefix("W/").strip('"'))


def as_given(etag: str) -> str:
    """The ETag as the storage gave it, with its quotes: it takes no other, such as what proxies make of it."""
    return etag if bare(etag) == etag.strip('"') else f'"{bare(etag)}"'


def size_in(answer: Any) -> int:
    """The size of the whole object, by the answer to a GET request for a part of it."""
    whole = re.fullmatch(r"bytes .*/(\d+)", answer.get("ContentRange", ""))
    return int(whole[1]) if whole else int(answer.get("ContentLength", -1))


def date_of(answer: Any) -> float | None:
    """Seconds since 1970 of an answer, by the clock of the storage; None if it does not tell the time."""
    return date_in(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}), "date")


def is_of_date(headers: Mapping[str, str], modified: float) -> bool:
    """Whether an answer tells of an object that was stored then, in seconds since 1970."""
    told = date_in(headers, "last-modified")
    return told is not None and abs(told - modified) <= OF_A_DATE


def date_in(headers: Mapping[str, str], name: str) -> float | None:
    """Seconds since 1970 of the header with this name; None if there is none, or it is no date."""
    try:
        return parsedate_to_datetime(headers.get(name, "")).timestamp()
    except ValueError:
        return None
