"""Buckets, with the caller's own AWS settings. Needs boto3, which the client is installed without."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from kelpie.errors import KelpieError

NEEDS_BOTO3 = "Files are in S3, and the package for it is not installed: pip install 'kelpie[files]'"
NEEDS_KEYS = "No AWS credentials were found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
TRIES = 3  # for an object whose bytes end early
Tell = Callable[
    [int], None
]  # hears of so many bytes more that were sent or written; fewer, if they are begun again


def untold(count: int) -> None:
    """Where it is of no interest."""


@dataclass(frozen=True)
class Entry:
    """An object of a bucket. `size` is in bytes."""

    bucket: str
    key: str
    size: int
    modified: datetime | None
    etag: str | None = None

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class Bucket:
    """One bucket. Every method raises KelpieError with what the storage said."""

    def __init__(self, name: str) -> None:
        try:
            import boto3
        except ImportError:
            raise KelpieError(NEEDS_BOTO3) from None
        self.name = name
        with said_plainly(f"s3://{name}"):
            self._s3: Any = boto3.client("s3", region_name=os.environ.get("AWS_REGION") or None)

    def entries(self, prefix: str) -> Iterator[Entry]:
        """The objects under a prefix; markers of directories are left out."""
        with said_plainly(f"s3://{self.name}/{prefix}"):
            for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
                for found in page.get("Contents", []):
                    if not found["Key"].endswith("/"):
                        yield Entry(
                            self.name, found["Key"], found["Size"], found.get("LastModified"), found.get("ETag")
                        )

    def upload(self, path: Path, key: str, tell: Tell = untold) -> None:
        with said_plainly(f"s3://{self.name}/{key}"):
            self._s3.upload_file(str(path), self.name, key, Callback=tell)

    def download(self, key: str, path: Path, etag: str | None, version: str | None, tell: Tell = untold) -> int:
        """Write an object to a file and return its size; only the version that was named, by its id or ETag."""
        from botocore.exceptions import IncompleteReadError, ResponseStreamingError

        which = {"VersionId": version} if version else {"IfMatch": etag} if etag else {}
        with said_plainly(f"s3://{self.name}/{key}"):
            for left in reversed(range(TRIES)):
                body = self._s3.get_object(Bucket=self.name, Key=key, **which)["Body"]
                try:
                    with path.open("wb") as file:
                        for chunk in body.iter_chunks(2**20):
                            file.write(chunk)
                            tell(len(chunk))
                    break
                except (IncompleteReadError, ResponseStreamingError):
                    tell(-path.stat().st_size)
                    if not left:
                        raise
        return path.stat().st_size


@dataclass(frozen=True)
class Stored:
    """An object that is to be brought: what it must be, and below which prefix its name begins.

    `folder` is the directory, relative to where all are brought, that it belongs to.
    """

    bucket: Bucket
    key: str
    prefix: str
    size: int
    etag: str | None
    version: str | None = None
    folder: str = ""

    @property
    def url(self) -> str:
        return f"s3://{self.bucket.name}/{self.key}"

    @property
    def name(self) -> PurePosixPath:
        """Where it belongs, relative to where all are brought. Raises KelpieError if that is outside."""
        relative = PurePosixPath(self.key.removeprefix(self.prefix))
        whole = self.folder / relative
        if relative.is_absolute() or whole.is_absolute() or ".." in whole.parts or not relative.parts:
            raise KelpieError(f"{self.url} would land outside of the directory; nothing was brought.")
        return whole

    def download(self, directory: Path, tell: Tell = untold) -> Path:
        """Bring it under its name, whole or not at all. Raises KelpieError if it is another than it must be."""
        path = directory / self.name
        draft = path.parent / f".kelpie-{secrets.token_hex(8)}"
        with said_plainly(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.parent.resolve().is_relative_to(directory.resolve()):
                raise KelpieError(f"{path.parent} is a link that leads out of {directory}; remove it.")
            try:
                size = self.bucket.download(self.key, draft, self.etag, self.version, tell)
                if size != self.size:
                    raise KelpieError(f"{self.url} has {size} bytes and must have {self.size}.")
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
        return path


def bring(wanted: Sequence[Stored], directory: Path, tell: Tell = untold) -> None:
    """Download all of them, or none if one has no place of its own below the directory. Raises KelpieError.

    `tell` hears of bytes as they arrive.
    """
    taken: dict[PurePosixPath, Stored] = {}
    for stored in wanted:
        if other := taken.get(stored.name):
            raise KelpieError(f"{other.url} and {stored.url} would be one file; nothing was brought.")
        taken[stored.name] = stored
    for name, stored in taken.items():
        if folder := next((taken[parent] for parent in name.parents if parent in taken), None):
            raise KelpieError(
                f"{folder.url} would be a file and the directory of {stored.url}; nothing was brought."
            )
    for stored in wanted:
        stored.download(directory, tell)


@contextmanager
def said_plainly(what: str) -> Iterator[None]:
    """Turn the errors of boto3 into one sentence."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError as error:
        raise KelpieError(NEEDS_KEYS) from error
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in ("PreconditionFailed", "412"):
            raise KelpieError(f"{what} was overwritten meanwhile; it is not what the job saved.") from error
        if code in ("NoSuchKey", "NoSuchVersion"):
            raise KelpieError(f"{what} is not there any more.") from error
        raise KelpieError(
            f"{what}: the storage refused it ({code}): {error.response.get('Error', {}).get('Message', '')}"
        ) from error
    except (Boto3Error, BotoCoreError, OSError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise KelpieError(f"{what}: {reason}") from error
