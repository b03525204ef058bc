"""The boto3 client that all attempts share, and what was found out about the storage that it talks to."""

import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kelpie_worker import logs
from kelpie_worker.s3.fast_path import FastPath
from kelpie_worker.s3.line import Line
from kelpie_worker.s3.open_uploads import OpenUploads
from kelpie_worker.s3.part_copies import PartCopies
from kelpie_worker.s3.settings import StorageSettings, unusable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONNECT_TIMEOUT, _READ_TIMEOUT = 10, 30
_CONNECTIONS = 32


def connect(region: str | None) -> "S3Client":
    """A thread-safe client by the user's settings. Raises Misconfigured where they cannot be used."""
    return client_by(StorageSettings(region))


def client_by(settings: StorageSettings) -> "S3Client":
    from botocore.exceptions import BotoCoreError

    try:
        return _client(settings)
    except (BotoCoreError, OSError, ValueError) as error:
        raise unusable(error) from error


def _client(settings: StorageSettings) -> "S3Client":
    import boto3
    from botocore.config import Config as ClientConfig

    from kelpie_worker.s3.connections import bound_by_limits

    settings.demand_credentials()
    settings.session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
    session = boto3.session.Session(botocore_session=settings.session)
    checksums: Any = {name: setting.value for name, setting in settings.checksums.items()}
    common = ClientConfig(
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=_READ_TIMEOUT,
        max_pool_connections=_CONNECTIONS,
        # MAX_RETRIES decides how often a call is repeated, and a retry of boto3's own would not ask the lease.
        retries={"total_max_attempts": 1},
        **checksums,
    )
    url = session.client("s3", config=common).meta.endpoint_url
    if url.startswith("https:"):
        settings.check_authorities()
    proxy = settings.proxy(url)
    through = ClientConfig(proxies={urlsplit(url).scheme: proxy.url} if proxy else {})
    client = session.client("s3", config=common.merge(through))
    bound_by_limits(client)
    return client


class SharedClient:
    """Creates the client on first use. Threads may share it."""

    def __init__(self, region: str | None, open_uploads: OpenUploads | None = None) -> None:
        self._region = region
        self.open_uploads = open_uploads or OpenUploads()
        self.line = Line(_READ_TIMEOUT)
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._fast_path: FastPath | None = None
        # Whether listings show the ETag that CompleteMultipartUpload answered; None: not yet known.
        self.completion_etags_last: bool | None = None
        self.supports_ranges = True  # until an answer shows otherwise
        self.etag_is_md5: set[str] = set()  # buckets in which an ETag was seen to be the MD5 of the content
        self.enforces_conditions: dict[str, bool] = {}  # by bucket; absent: not yet known
        self.part_copies = PartCopies()

    def get(self) -> "S3Client":
        with self._lock:
            if self._client is None:
                self._client = _told_client(self._region)
                self._fast_path = FastPath(self._client)
            return self._client

    @property
    def fast_path(self) -> FastPath:
        self.get()
        assert self._fast_path
        return self._fast_path


def _told_client(region: str | None) -> "S3Client":
    """A client, and in the log what was left out to make it."""
    settings = StorageSettings(region)
    client = client_by(settings)
    for sentence in settings.missing_files():
        logs.warn("aws_file_missing", detail=sentence)
    return client


def _timestamp(text: str) -> datetime:
    """Parse a time of an answer. botocore's own parser takes longer than the transfer of a large listing."""
    from botocore.utils import parse_timestamp

    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return parse_timestamp(text)
