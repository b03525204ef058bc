"""The S3 server of the stack as a child process, and a client for looking into its buckets."""

import json
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import requests
from botocore.config import Config

from local_stack.processes import CHECKOUT, Child, free_port, wait_until_ready

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class S3Server:
    """An S3 endpoint on 127.0.0.1. `upload_rate` (bytes per second and request) slows uploads down."""

    def __init__(self, folder: Path, upload_rate: int | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._upload_rate = upload_rate
        self._child: Child | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make a program use this server instead of Amazon's."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local-secret",
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        self._child = Child(
            "s3", self._program(), folder=self._folder, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}
        )
        wait_until_ready(self._child, self._answers)

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None

    def create_bucket(self, bucket: str) -> None:
        self._client.create_bucket(Bucket=bucket)

    def delete_bucket(self, bucket: str) -> None:
        self._client.delete_bucket(Bucket=bucket)

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self._client.put_object(Bucket=bucket, Key=key, Body=content)

    def keep_versions(self, bucket: str) -> None:
        self._client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})

    def delete(self, bucket: str, key: str) -> None:
        self._client.delete_object(Bucket=bucket, Key=key)

    def get(self, bucket: str, key: str) -> bytes:
        return self._client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def content_type(self, bucket: str, key: str) -> str:
        return self._client.head_object(Bucket=bucket, Key=key)["ContentType"]

    def content_encoding(self, bucket: str, key: str) -> str | None:
        return self._client.head_object(Bucket=bucket, Key=key).get("ContentEncoding")

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def etags(self, bucket: str, prefix: str = "") -> dict[str, str]:
        """{key: ETag} of the first thousand objects."""
        answer = self._client.list_objects_v2(Bucket=bucket, Prefix=prefix)
        return {item["Key"]: item["ETag"].strip('"') for item in answer.get("Contents", [])}

    def files(self, bucket: str, prefix: str) -> dict[str, bytes]:
        """Every object under a prefix: {key without the prefix: bytes}; objects deleted meanwhile are left out."""
        found = {}
        for key in self.keys(bucket, prefix):
            with suppress(self._client.exceptions.NoSuchKey):
                found[key.removeprefix(prefix)] = self.get(bucket, key)
        return found

    def unfinished_uploads(self, bucket: str, prefix: str = "") -> list[str]:
        """Keys of multipart uploads that were begun and neither completed nor aborted."""
        answer = self._client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
        return [upload["Key"] for upload in answer.get("Uploads", [])]

    @contextmanager
    def hold(self, bucket: str, prefix: str, first: int = 0) -> Iterator[Path]:
        """Let no object appear under a prefix, but for the first so many; yields the file that appears when one is
        held. What was held is refused afterwards."""
        held = self._folder / "s3-held"
        held.unlink(missing_ok=True)
        draft, hold = self._folder / "s3-hold.tmp", self._folder / "s3-hold.json"
        draft.write_text(json.dumps({"name": secrets.token_hex(4), "path": f"/{bucket}/{prefix}", "pass": first}))
        draft.replace(hold)
        try:
            yield held
        finally:
            hold.unlink()

    def begin_upload(self, bucket: str, key: str) -> str:
        """Begin a multipart upload, as another program would; returns its id."""
        return self._client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]

    def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        self._client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)

    @cached_property
    def _client(self) -> "S3Client":
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            region_name=self.environment["AWS_REGION"],
            config=Config(s3={"addressing_style": "path"}),
        )

    def _program(self) -> list[str]:
        rate = [str(self._upload_rate)] if self._upload_rate else []
        return [sys.executable, "-m", "local_stack.s3_server", str(self.port), str(self._folder), *rate]

    def _answers(self) -> bool:
        try:
            requests.get(self.url, timeout=2)
        except (requests.ConnectionError, requests.Timeout):
            return False
        return True
