"""The boto3 client that all attempts share, and what was found out about the storage that it talks to."""

import os
import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kelpie_worker.s3.errors import Misconfigured
from kelpie_worker.s3.fast_path import FastPath
from kelpie_worker.s3.open_uploads import OpenUploads

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONNECT_TIMEOUT, _READ_TIMEOUT = 10, 30
_CONNECTIONS = 32


def connect(region: str | None) -> "S3Client":
    """A thread-safe client configured by the AWS_* variables. Raises BotoCoreError or ValueError."""
    import boto3
    import botocore.session
    from botocore.config import Config as ClientConfig
    from botocore.exceptions import NoCredentialsError

    _forget_empty_settings()
    # Some providers other than AWS refuse the checksums that boto3 adds; every upload has a Content-MD5 anyway.
    foreign = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    checksums: Any = "when_required" if foreign else "when_supported"
    session = botocore.session.get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
    if session.get_credentials() is None:  # boto3 would report this only when the first request is signed
        raise NoCredentialsError
    return boto3.session.Session(botocore_session=session).client(
        "s3",
        region_name=region,
        config=ClientConfig(
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=_READ_TIMEOUT,
            max_pool_connections=_CONNECTIONS,
            retries={"total_max_attempts": 1},
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
        ),
    )


def _forget_empty_settings() -> None:
    """Treat empty AWS_* variables as absent; boto3 would look for a profile with an empty name, for example.

    The command's environment is not affected: it descends from another process.
    """
    for name in [name for name, value in os.environ.items() if name.startswith("AWS_") and not value]:
        del os.environ[name]


class SharedClient:
    """Creates the client on first use. Threads may share it."""

    def __init__(self, region: str | None, open_uploads: OpenUploads | None = None) -> None:
        self._region = region
        self.open_uploads = open_uploads or OpenUploads()
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._fast_path: FastPath | None = None
        # Whether listings show the ETag that CompleteMultipartUpload answered; None: not yet known.
        self.completion_etags_last: bool | None = None
        self.supports_ranges = True  # until an answer shows otherwise
        self.etag_is_md5: set[str] = set()  # buckets in which an ETag was seen to be the MD5 of the content
        self.enforces_conditions: dict[str, bool] = {}  # by bucket; absent: not yet known

    def get(self) -> "S3Client":
        with self._lock:
            if self._client is None:
                self._client = _connected(self._region)
                self._fast_path = FastPath(self._client)
            return self._client

    @property
    def fast_path(self) -> FastPath:
        self.get()
        assert self._fast_path
        return self._fast_path


def _connected(region: str | None) -> "S3Client":
    from botocore.exceptions import BotoCoreError

    try:
        return connect(region)
    except (BotoCoreError, ValueError) as error:
        raise Misconfigured(f"the AWS_* variables cannot be used: {error}") from error


def _timestamp(text: str) -> datetime:
    """Parse a time of an answer. botocore's own parser takes longer than the transfer of a large listing."""
    from botocore.utils import parse_timestamp

    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return parse_timestamp(text)
