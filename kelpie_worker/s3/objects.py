"""What lies in a bucket, and where something goes to. Values only."""

from dataclasses import dataclass
from typing import Any

from kelpie_worker.job import ObjectKey

NOTHING = ""  # the ETag of no object


@dataclass(frozen=True)
class RemoteFile:
    key: str
    size: int
    etag: str = ""  # empty: the listing says none
    modified: float = 0.0  # seconds since 1970, by the clock of the storage
    version_id: str | None = None  # None: the current one


@dataclass(frozen=True)
class Stored:
    """What became visible: its ETag as a listing shows it, its version where the bucket keeps versions."""

    etag: str
    version_id: str | None


@dataclass(frozen=True)
class Target:
    """Where an upload goes."""

    bucket: str
    key: str
    content_type: str

    @property
    def place(self) -> ObjectKey:
        return self.bucket, self.key


@dataclass(frozen=True)
class Part:
    number: int  # from 1
    etag: str
    md5: bytes


def stored_by(answer: Any) -> Stored:
    version = answer.get("VersionId")
    return Stored(str(answer.get("ETag", "")).strip('"'), version if version != "null" else None)


def bare(etag: str) -> str:
    """As some server in between may have weakened it, without its quotes."""
    return etag.removeprefix("W/").strip('"')
