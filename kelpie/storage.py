"""Buckets, with the caller's own AWS settings. Needs boto3, which the client is installed without."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from kelpie.errors import KelpieError

NEEDS_BOTO3 = "Files are in S3, and the package for it is not installed: pip install 'kelpie[files]'"


@dataclass(frozen=True)
class Entry:
    """An object of a bucket. `size` is in bytes."""

    bucket: str
    key: str
    size: int
    modified: datetime | None

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
                        yield Entry(self.name, found["Key"], found["Size"], found.get("LastModified"))

    def upload(self, path: Path, key: str) -> None:
        with said_plainly(f"s3://{self.name}/{key}"):
            self._s3.upload_file(str(path), self.name, key)

    def download(self, key: str, path: Path, etag: str | None, version: str | None) -> int:
        """Write an object to a file and return its size; only the version that was named, by its id or ETag."""
        which = {"VersionId": version} if version else {"IfMatch": etag} if etag else {}
        with said_plainly(f"s3://{self.name}/{key}"):
            body = self._s3.get_object(Bucket=self.name, Key=key, **which)["Body"]
            with path.open("wb") as file:
                for chunk in body.iter_chunks(2**20):
                    file.write(chunk)
        return path.stat().st_size


@dataclass(frozen=True)
class Stored:
    """An object that is to be brought: what it must be, and below which prefix its name begins."""

    bucket: Bucket
    key: str
    prefix: str
    size: int
    etag: str | None
    version: str | None = None

    def download(self, directory: Path) -> Path:
        """Bring it under its name, whole or not at all. Raises KelpieError if it is another than it must be."""
        relative = PurePosixPath(self.key.removeprefix(self.prefix))
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            raise KelpieError(
                f"The key {self.key} would land outside of {directory}; it was left out and nothing more was"
                f" brought."
            )
        path = directory.joinpath(*relative.parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".kelpie-")
        os.close(handle)
        try:
            size = self.bucket.download(self.key, Path(temporary), self.etag, self.version)
            if size != self.size:
                raise KelpieError(
                    f"s3://{self.bucket.name}/{self.key} has {size} bytes and must have {self.size}."
                )
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        return path


@contextmanager
def said_plainly(what: str) -> Iterator[None]:
    """Turn the errors of boto3 into one sentence."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in ("PreconditionFailed", "412"):
            raise KelpieError(
                f"{what} was overwritten since the checkpoint was committed; it is not what the job saved."
            ) from error
        raise KelpieError(
            f"{what}: the storage refused it ({code}): {error.response.get('Error', {}).get('Message', '')}"
        ) from error
    except (BotoCoreError, OSError) as error:
        raise KelpieError(f"{what}: {' '.join(str(error).split())}") from error
