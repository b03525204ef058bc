"""The boto3 client that all attempts share, and what was found out about the storage that it talks to."""

import re
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kelpie_worker import logs
from kelpie_worker.s3.encodings import make_refusal_readable, tell_accepted
from kelpie_worker.s3.errors import NoBucket
from kelpie_worker.s3.fast_path import FastPath
from kelpie_worker.s3.listing import make_readable
from kelpie_worker.s3.open_uploads import OpenUploads
from kelpie_worker.s3.provider_differences import Habit
from kelpie_worker.s3.request_timeouts import Line
from kelpie_worker.s3.settings import StorageSettings, unusable
from kelpie_worker.system.linux import boottime

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONNECT_TIMEOUT, _READ_TIMEOUT = 10, 30
_CONNECTIONS = 32
_SHORTEST_LIFE = 2.0  # seconds for which the credentials that were read are used
_COPIES_REFUSED_FOR = 600.0  # seconds without a try to copy parts, once two in a row have failed
_UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)
_MULTI_REGION = re.compile(r"arn:[^:]*:s3::[^:]*:accesspoint[:/]")


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
    # To make a client takes long, and AWS's own address is known to one only.
    named = settings.endpoint
    url = named.value if named else session.client("s3", config=common).meta.endpoint_url
    if url.lower().startswith("https:"):
        settings.check_authorities()
    proxy = settings.proxy(url)
    through = ClientConfig(proxies={urlsplit(url).scheme: proxy.url} if proxy else {})
    client = session.client("s3", config=common.merge(through))
    bound_by_limits(client)
    client.meta.events.register_first("before-parameter-build.s3", _refuse_multi_region)
    client.meta.events.register("before-parse.s3", make_refusal_readable)
    client.meta.events.register("before-parse.s3.ListObjectsV2", make_readable)
    client.meta.events.register("before-call.s3.HeadBucket", _follow_no_redirect)
    for operation in ("GetObject", "HeadObject"):
        client.meta.events.register(f"before-send.s3.{operation}", tell_accepted)
    return client


class SharedClient:
    """Creates the client on first use. Threads may share it."""

    def __init__(self, region: str | None, open_uploads: OpenUploads | None = None) -> None:
        self._region = region
        self.open_uploads = open_uploads or OpenUploads()
        self.line = Line(_READ_TIMEOUT)
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._connected_at = 0.0
        self._fast_path: FastPath | None = None
        self.completion_etags_last = Habit()  # listings show the ETag that CompleteMultipartUpload answered
        self.answers_ranges = Habit()
        self.sends_ranges = Habit()  # the same, with whatever status
        self.etag_is_md5 = Habit()  # the ETag of an object that was sent whole is the MD5 of its content
        self.enforces_conditions = Habit()
        # Parts of its objects are copied into multipart uploads. Without that all of a file is sent again.
        self.copies_parts = Habit(lasts=_COPIES_REFUSED_FOR)

    def get(self) -> "S3Client":
        with self._lock:
            if self._client is None:
                self._client = _told_client(self._region)
                self._connected_at = boottime()
                self._fast_path = FastPath(self._client)
            return self._client

    def renew(self) -> None:
        """Have the next request read the credentials anew: their files may have been renewed."""
        with self._lock:
            if boottime() - self._connected_at >= _SHORTEST_LIFE:
                self._client = None

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


def _refuse_multi_region(params: Any, **_: object) -> None:
    """Raises NoBucket for an access point of several regions: botocore alone cannot sign its requests (SigV4A).

    It would say so in an error that passes for one of this machine's settings.
    """
    from botocore.compat import HAS_CRT

    bucket = str(params.get("Bucket", ""))
    if not HAS_CRT and _MULTI_REGION.match(bucket):
        raise NoBucket(
            f"{bucket} is a multi-region access point, whose signatures Kelpie cannot make: name a bucket, or an"
            " access point of one region"
        )


def _follow_no_redirect(params: Any, **_: object) -> None:
    """Where every request is redirected, boto3 would ask for ever in which region the bucket is."""
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def _timestamp(text: str) -> datetime:
    """Parse a time of an answer; 1970 if it is none, for no object is refused for its time.

    botocore's own parser takes longer than the transfer of a large listing.
    """
    from botocore.utils import parse_timestamp

    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    try:
        return parse_timestamp(text)
    except (ValueError, OverflowError, OSError):
        return _UNKNOWN_TIME
