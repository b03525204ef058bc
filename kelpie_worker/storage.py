"""The bucket; with its shortcut the only importer of boto3, and only once it is needed.

Every operation is repeated `max_retries` times with backoff. What remains is one of two errors: storage that
cannot be reached now, and storage that refuses; among the refusals are those of this worker's own settings.
"""

import base64
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from kelpie_worker import logs
from kelpie_worker.backoff import backoff
from kelpie_worker.job import StoredObject
from kelpie_worker.lease import Lease
from kelpie_worker.ranges import LARGE, NotTheRange, Ranges
from kelpie_worker.shortcut import AskBoto, Shortcut, check_bounds
from kelpie_worker.unfinished import Unfinished

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        CompleteMultipartUploadOutputTypeDef,
        HeadObjectOutputTypeDef,
        ListObjectsV2OutputTypeDef,
    )

_CONNECT_TIMEOUT, _READ_TIMEOUT = 10, 30
_CONNECTIONS = 32
_FIRST_PAUSE, _LONGEST_PAUSE = 0.3, 10.0
_BLOCK = 1024 * 1024
_SMALL_TRIAL = 64 * 1024  # bytes that may be sent twice to find something out
_NOBODYS_ETAG = "0" * 32
_MD5 = re.compile("[0-9a-f]{32}")
_CONFLICTS = {"PreconditionFailed", "ConditionalRequestConflict"}
_PASSING_CODES = {
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "OperationAborted",
}
Result = TypeVar("Result")


class StorageUnreachable(Exception):
    """Storage did not answer, or not as it should; it may be otherwise in a moment."""


class StorageRefused(Exception):
    """Storage answered no: no such bucket, no permission, no credentials. Asking again changes nothing."""


class NotTheListed(StorageUnreachable):
    """What came bears the name of what was listed, and has another size."""


class NotThere(StorageRefused):
    """There is no such object (or multipart upload)."""


class NoUpload(NotThere):
    """There is no such multipart upload (any more)."""


class NoBucket(StorageRefused):
    """There is no such bucket, nor can there be one of that name: only another job definition helps."""


class Misconfigured(StorageRefused):
    """No request left this worker: its AWS settings cannot be used. Another worker may have better ones."""


class Changed(Exception):
    """Nothing was stored: something else is there than was to be replaced. `found` is its ETag.

    `found` is NOTHING where there is no object, and None where storage does not let us look.
    """

    def __init__(self, what: str, found: str | None = None) -> None:
        super().__init__(what)
        self.found = found


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


@dataclass(frozen=True)
class Part:
    number: int  # from 1
    etag: str
    md5: bytes


def connect(region: str | None) -> "S3Client":
    """A client as the AWS_* variables describe it. It may be shared by threads. BotoCoreError, ValueError."""
    import boto3
    import botocore.session
    from botocore.config import Config as ClientConfig
    from botocore.exceptions import NoCredentialsError

    # Some other providers refuse the checksums that boto3 adds; Content-MD5 goes with every upload anyway.
    foreign = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    checksums: Any = "when_required" if foreign else "when_supported"
    session = botocore.session.get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
    if session.get_credentials() is None:  # boto3 itself says so only when it has something to sign
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


class SharedClient:
    """Connects on first need, once."""

    def __init__(self, region: str | None, unfinished: Unfinished | None = None) -> None:
        self._region = region
        self.unfinished = unfinished or Unfinished()
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._shortcut: Shortcut | None = None
        self.etags_hold: bool | None = None  # whether a listing shows what a completion answered; None: unknown
        self.honours_ranges = True  # until it is seen not to
        self.gives_md5: set[str] = set()  # buckets of which an ETag was seen to be the content's MD5
        self.heeds_conditions: dict[str, bool] = {}  # by bucket, once it is known

    def get(self) -> "S3Client":
        with self._lock:
            if self._client is None:
                self._client = _connected(self._region)
                self._shortcut = Shortcut(self._client)
            return self._client

    @property
    def shortcut(self) -> Shortcut:
        self.get()
        assert self._shortcut
        return self._shortcut


class Storage:
    """The bucket operations of one attempt. Each raises StorageUnreachable, StorageRefused or Cancelled."""

    def __init__(self, client: SharedClient, lease: Lease, max_retries: int) -> None:
        self._shared = client
        self._lease = lease
        self._max_retries = max_retries

    def check_settings(self) -> None:
        """Raises Misconfigured; asks nobody."""
        self._shared.get()

    def files(self, bucket: str, prefix: str) -> Iterator[RemoteFile]:
        """Everything under a prefix, page by page."""
        where: dict[str, str] = {"Bucket": bucket, "Prefix": prefix}
        while True:
            page = self._repeated(
                f"listing {bucket}/{prefix}", partial(self._list, where), "IsTruncated", "Name", "KeyCount"
            )
            for item in page.get("Contents", []):
                modified = item["LastModified"].timestamp()
                yield RemoteFile(item["Key"], item["Size"], _bare(item.get("ETag", "")), modified)
            if not page.get("IsTruncated"):
                return
            where["ContinuationToken"] = page["NextContinuationToken"]

    def fetch(self, bucket: str, key: str, path: Path, listed: RemoteFile | None = None) -> RemoteFile:
        """Write an object to a new file; what was really brought. OSError.

        A truncated body counts as no answer, and so does one that is not the object that was `listed`, unless the
        answer names another ETag: then the object was replaced since. A large object comes in pieces at the same
        time, where the server can do that.
        """
        listed = listed or RemoteFile(key, -1)
        version = {"VersionId": listed.version_id} if listed.version_id else {}
        which: dict[str, Any] = {"Bucket": bucket, "Key": key} | version
        what = f"downloading {bucket}/{key}"
        if listed.size >= LARGE and self._shared.honours_ranges:
            try:
                return _identified(listed, *self._fetch_in_ranges(which, path, what))
            except NotTheRange as error:
                self._shared.honours_ranges = not error.first
            except NotTheListed as error:
                logs.warn("download_repeated", key=key, detail=str(error))
        return self._repeated(what, lambda: self._fetch_once(which, path, listed))

    def has(self, stored: StoredObject) -> bool:
        """Whether the bucket still has this version."""
        which: dict[str, Any] = {"Bucket": stored.bucket, "Key": stored.key, "VersionId": stored.version_id}
        try:
            found = self._repeated(
                f"looking for {stored.bucket}/{stored.key}", lambda: self._client.head_object(**which)
            )
        except StorageRefused:
            return False
        return found.get("ContentLength") == stored.size and _stored(found).etag == stored.etag

    def put(self, target: Target, body: bytes, over: str | None = None) -> Stored:
        """Store a small object whole, and make sure that it arrived. `over`: see `_over`. Also raises Changed."""
        digest = hashlib.md5(body, usedforsecurity=False)
        what = f"uploading {target.bucket}/{target.key}"

        def store(condition: dict[str, str]) -> Stored:
            md5 = _base64(digest.digest())
            answer = self._repeated(what, lambda: self._put_once(target, body, md5, condition), "ETag")
            if answer["ETag"].strip('"') != digest.hexdigest():
                self._verify(target, answer["ETag"], len(body))
            else:
                self._shared.gives_md5.add(target.bucket)
            return _stored(answer)

        content = digest.hexdigest(), len(body)
        return self._tried(over, target, content, store) or self._over(over, target, content, store)

    def begin(self, target: Target) -> str:
        """Start a multipart upload, of which nothing is visible until `complete`; its id."""
        answer = self._repeated(
            f"beginning {target.bucket}/{target.key}",
            lambda: self._client.create_multipart_upload(
                Bucket=target.bucket, Key=target.key, ContentType=target.content_type
            ),
            "UploadId",
        )
        self._shared.unfinished.begun((answer["UploadId"], target.bucket, target.key))
        return answer["UploadId"]

    def send_part(self, target: Target, upload_id: str, number: int, body: bytes) -> Part:
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        answer = self._repeated(
            f"uploading part {number} of {target.bucket}/{target.key}",
            lambda: self._client.upload_part(
                Bucket=target.bucket,
                Key=target.key,
                UploadId=upload_id,
                PartNumber=number,
                Body=body,
                ContentMD5=_base64(md5),
            ),
            "ETag",
        )
        return Part(number, answer["ETag"], md5)

    def complete(
        self, target: Target, upload_id: str, parts: list[Part], size: int, over: str | None = None
    ) -> Stored:
        """Make a multipart upload visible, and make sure that it is what was sent. `over` as in `put`."""
        listed: Any = {"Parts": [{"PartNumber": part.number, "ETag": part.etag} for part in parts]}
        etag = _multipart_etag(parts)
        what = f"completing {target.bucket}/{target.key}"

        def store(condition: dict[str, str]) -> Stored:
            answer = self._repeated(
                what, lambda: self._complete_once(target, upload_id, listed, condition), "ETag"
            )
            if answer["ETag"].strip('"') != etag:
                self._verify(target, answer["ETag"], size)
            return self._as_listed(target, _stored(answer))

        try:
            stored = self._over(over, target, (etag, size), store)
        except NoUpload:
            self._shared.unfinished.over(upload_id)
            # The answer to an earlier try was lost: the upload is gone because it is complete.
            return self._verify(target, etag, size)
        self._shared.unfinished.over(upload_id)
        return stored

    def go_without_conditions(self, bucket: str, detail: str) -> None:
        """It cannot be had here that a write names what it replaces; unless it was seen to work before."""
        if bucket not in self._shared.heeds_conditions:
            self._shared.heeds_conditions[bucket] = False
            logs.warn("conditional_writes_not_usable", bucket=bucket, detail=detail)

    def etag(self, bucket: str, key: str) -> str | None:
        """Of the object that is there now: NOTHING if there is none, None if we may not look."""
        try:
            return _stored(self._head(Target(bucket, key, ""))).etag
        except NotThere:
            return NOTHING
        except StorageRefused:
            return None

    def abort(self, target: Target, upload_id: str) -> None:
        """Forget a multipart upload; tried once, for whoever aborts has no time. `abort_left` tries again."""
        what = f"aborting {target.bucket}/{target.key}"
        try:
            _translated(
                lambda: self._client.abort_multipart_upload(
                    Bucket=target.bucket, Key=target.key, UploadId=upload_id
                ),
                what,
            )
        except NoUpload:
            pass  # aborted or complete: the answer to an earlier try was lost
        except (StorageUnreachable, StorageRefused) as error:
            self._shared.unfinished.leave(upload_id)
            logs.warn("upload_not_aborted", key=target.key, detail=str(error))
            return
        self._shared.unfinished.over(upload_id)

    def abort_left(self) -> None:
        """Abort what this worker left unfinished, in an earlier life or when storage was away."""
        self._shared.unfinished.abort_left(
            lambda upload: self.abort(Target(bucket=upload[1], key=upload[2], content_type=""), upload[0])
        )

    def delete(self, bucket: str, key: str, known: str | None = None) -> None:
        """Raises Changed too, where another object is there than that of the ETag `known`, if storage can tell."""
        what = f"deleting {bucket}/{key}"
        if known and self._shared.heeds_conditions.get(bucket):
            try:
                self._repeated(
                    what, lambda: self._client.delete_object(Bucket=bucket, Key=key, IfMatch=f'"{known}"')
                )
                return
            except NoBucket:
                raise
            except NotThere:
                return
            except StorageRefused:
                pass  # not every storage that heeds conditions does so for this
        self._repeated(what, lambda: self._client.delete_object(Bucket=bucket, Key=key))

    @property
    def _client(self) -> "S3Client":
        return self._shared.get()

    # --- writing over what is known only ------------------------------------------------------------

    def _over(
        self,
        over: str | None,
        target: Target,
        content: tuple[str, int],
        store: Callable[[dict[str, str]], Stored],
    ) -> Stored:
        """Store where there is the object whose ETag is `over`: NOTHING is none, None whatever is there.

        Storage that knows no conditions, or does not permit them, is used without. Raises Changed.
        """
        if over is None or self._shared.heeds_conditions.get(target.bucket) is False:
            return store({})
        try:
            return store(_condition(over))
        except (NoUpload, NoBucket, Misconfigured):
            raise
        except (Changed, NotThere) as error:
            return self._perhaps_ours(target, content, error)
        except StorageRefused as refusal:  # for the condition, or for good: who may write without one finds out
            raise Changed(str(refusal)) from refusal

    def _perhaps_ours(self, target: Target, content: tuple[str, int], error: Exception) -> Stored:
        """What is there instead may be what was sent: the answer to an earlier try was lost."""
        try:
            found = self._head(target)
        except NotThere:
            raise Changed(str(error), NOTHING) from error
        except StorageRefused:
            raise Changed(str(error)) from error
        stored = _stored(found)
        if (stored.etag, found.get("ContentLength")) == content:
            return stored
        raise Changed(str(error), stored.etag) from error

    def _tried(
        self,
        over: str | None,
        target: Target,
        content: tuple[str, int],
        store: Callable[[dict[str, str]], Stored],
    ) -> Stored | None:
        """Find out whether conditions are heeded, by one that cannot hold. If they are not, it is stored.

        Nothing is put into the bucket for it that is not to be there anyway.
        """
        if not over or content[1] > _SMALL_TRIAL or target.bucket in self._shared.heeds_conditions:
            return None
        try:
            stored = store(_condition(_NOBODYS_ETAG))
        except Changed:
            self._shared.heeds_conditions[target.bucket] = True
            return None
        except StorageRefused:
            return None
        self.go_without_conditions(target.bucket, "it stores what a condition forbids")
        return stored

    # --- single requests ----------------------------------------------------------------------------

    def _put_once(self, target: Target, body: bytes, md5: str, condition: dict[str, Any]) -> Any:
        where = target.bucket, target.key, body, target.content_type, md5
        try:
            return self._shared.shortcut.put(*where, _as_headers(condition))
        except AskBoto:
            return self._client.put_object(
                Bucket=target.bucket,
                Key=target.key,
                Body=body,
                ContentType=target.content_type,
                ContentMD5=md5,
                **condition,
            )

    def _complete_once(
        self, target: Target, upload_id: str, listed: Any, condition: dict[str, Any]
    ) -> "CompleteMultipartUploadOutputTypeDef":
        return self._client.complete_multipart_upload(
            Bucket=target.bucket, Key=target.key, UploadId=upload_id, MultipartUpload=listed, **condition
        )

    def _list(self, where: dict[str, Any]) -> "ListObjectsV2OutputTypeDef":
        return self._client.list_objects_v2(**where)

    def _as_listed(self, target: Target, stored: Stored) -> Stored:
        """Some servers answer a completion with another ETag than they show later: seen once, asked each time."""
        if self._shared.etags_hold:
            return stored
        try:
            shown = _stored(self._head(target))
        except (StorageUnreachable, StorageRefused):  # it is there; only its ETag is not sure
            return stored
        if self._shared.etags_hold is None:
            self._shared.etags_hold = shown.etag == stored.etag
        return shown

    def _head(self, target: Target) -> "HeadObjectOutputTypeDef":
        return self._repeated(
            f"verifying {target.bucket}/{target.key}",
            lambda: self._client.head_object(Bucket=target.bucket, Key=target.key),
            "ETag",
        )

    def _verify(self, target: Target, etag: str, size: int) -> Stored:
        stored = self._head(target)
        if stored.get("ContentLength") != size or stored["ETag"].strip('"') != etag.strip('"'):
            raise StorageUnreachable(f"{target.bucket}/{target.key} is not what was uploaded")
        return _stored(stored)

    def _open(self, which: dict[str, Any]) -> tuple[Any, Mapping[str, str]]:
        try:
            if which.keys() != {"Bucket", "Key"}:
                raise AskBoto
            return self._shared.shortcut.get(which["Bucket"], which["Key"])
        except AskBoto:
            answer = self._client.get_object(**which)
            headers = answer["ResponseMetadata"]["HTTPHeaders"]
            check_bounds(headers)
            return answer["Body"], headers

    def _fetch_in_ranges(self, which: dict[str, Any], path: Path, what: str) -> tuple[int, str]:
        def ask(first: int, last: int, etag: str | None) -> Any:
            same: dict[str, Any] = {"IfMatch": etag} if etag else {}
            return self._client.get_object(**which, **same, Range=f"bytes={first}-{last}")

        with path.open("wb") as file:
            try:
                return Ranges(ask, partial(self._repeated, what), self._lease.check, file.fileno()).fetch()
            except Changed as error:
                raise NotTheRange(first=False) from error

    def _fetch_once(self, which: dict[str, Any], path: Path, listed: RemoteFile) -> RemoteFile:
        opened, headers = self._open(which)
        facts = {name.lower(): value for name, value in headers.items()}
        received, digest = 0, hashlib.md5(usedforsecurity=False)
        comparable = may_be_md5(_bare(facts.get("etag", "")), facts)
        with path.open("wb") as file:
            while block := opened.read(_BLOCK):
                self._lease.check()
                file.write(block)
                if comparable:
                    digest.update(block)
                received += len(block)
        brought = _identified(listed, received, facts.get("etag", ""))
        if comparable:
            self._compare(which["Bucket"], brought, digest.hexdigest())
        return brought

    def _compare(self, bucket: str, brought: RemoteFile, md5: str) -> None:
        """By the ETag, where this bucket was seen to give MD5 sums as such: not all storage does."""
        if brought.etag == md5:
            self._shared.gives_md5.add(bucket)
        elif bucket in self._shared.gives_md5:
            raise StorageUnreachable(f"downloading {bucket}/{brought.key}: its content is not that of its ETag")

    def _repeated(self, what: str, operation: Callable[[], Result], *needed: str) -> Result:
        """Of the fields that are `needed` the answer must have one."""
        failures = 0
        while True:
            self._lease.check()
            try:
                answer = _translated(operation, what)
                # An answer whose headers were cut off passes for a whole one, and so for an empty listing.
                if needed and not any(cast(dict[str, Any], answer).get(name) is not None for name in needed):
                    raise StorageUnreachable(f"{what}: an answer without {needed[0]}")
                return answer
            except StorageUnreachable:
                failures += 1
                if failures > self._max_retries:
                    raise
            self._lease.pause(backoff(failures, _FIRST_PAUSE, _LONGEST_PAUSE))


def _connected(region: str | None) -> "S3Client":
    from botocore.exceptions import BotoCoreError

    try:
        return connect(region)
    except (BotoCoreError, ValueError) as error:
        raise Misconfigured(f"the AWS_* variables cannot be used: {error}") from error


def _translated(operation: Callable[[], Result], what: str) -> Result:
    """The operation's result, its errors turned into ours."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConfigNotFound,
        ConfigParseError,
        CredentialRetrievalError,
        HTTPClientError,
        IncompleteReadError,
        InvalidProxiesConfigError,
        InvalidRegionError,
        NoCredentialsError,
        NoRegionError,
        PartialCredentialsError,
        ProfileNotFound,
        ResponseStreamingError,
        TokenRetrievalError,
    )
    from botocore.exceptions import ConnectionError as NoConnection
    from urllib3.exceptions import HTTPError

    broken = (
        NoConnection,
        HTTPClientError,
        IncompleteReadError,
        ResponseStreamingError,
        HTTPError,
        ConnectionError,
    )
    # Credentials are looked for, and renewed, when a request is signed.
    of_the_worker = (
        ConfigNotFound,
        ConfigParseError,
        CredentialRetrievalError,
        InvalidProxiesConfigError,
        InvalidRegionError,
        NoCredentialsError,
        NoRegionError,
        PartialCredentialsError,
        ProfileNotFound,
        TokenRetrievalError,
    )

    try:
        return operation()
    except of_the_worker as error:
        raise Misconfigured(f"{what}: {error}") from error
    except ClientError as error:
        raise _refusal(error.response, what) from error
    except broken as error:
        raise StorageUnreachable(f"{what}: {type(error).__name__}") from error
    except (BotoCoreError, ValueError) as error:
        raise StorageRefused(f"{what}: {error}") from error


def _refusal(response: Any, what: str) -> Exception:
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(response.get("Error", {}).get("Code", status))
    sentence = f"{what}: {code}"
    if status == 501:  # it knows no such request, or no such header
        return StorageRefused(sentence)
    if status >= 500 or status in (0, 408, 429) or 300 <= status < 400 or code in _PASSING_CODES:
        return StorageUnreachable(sentence)
    if status == 412 or code in _CONFLICTS:
        return Changed(sentence)
    kinds = {
        "NoSuchBucket": NoBucket,
        "InvalidBucketName": NoBucket,
        "NoSuchUpload": NoUpload,
        "NoSuchKey": NotThere,
        "404": NotThere,  # the answer to HEAD has no body, and so no code
    }
    return kinds.get(code, StorageRefused)(sentence)


def _identified(listed: RemoteFile, size: int, etag: str) -> RemoteFile:
    """What was brought. Raises NotTheListed if it claims to be that, and is not."""
    etag = _bare(etag)
    replaced = etag and listed.etag and etag != listed.etag and not listed.version_id
    if listed.size not in (-1, size) and not replaced:
        raise NotTheListed(f"downloading {listed.key}: {size} bytes came of {listed.size}")
    return replace(listed, size=size, etag=etag or listed.etag)


def _bare(etag: str) -> str:
    """As some server in between may have weakened it, without its quotes."""
    return etag.removeprefix("W/").strip('"')


def may_be_md5(etag: str, headers: Mapping[str, str]) -> bool:
    """With a key of KMS, or of the customer's, an ETag looks like an MD5 and is none."""
    foreign_key = "x-amz-server-side-encryption-customer-algorithm" in headers
    kms = headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    return bool(_MD5.fullmatch(etag)) and not foreign_key and not kms


def _condition(over: str) -> dict[str, str]:
    return {"IfNoneMatch": "*"} if over == NOTHING else {"IfMatch": f'"{over}"'}


def _as_headers(condition: dict[str, str]) -> dict[str, str]:
    names = {"IfMatch": "If-Match", "IfNoneMatch": "If-None-Match"}
    return {names[name]: value for name, value in condition.items()}


def _multipart_etag(parts: list[Part]) -> str:
    """The ETag that S3 gives an object made of these parts."""
    digest = hashlib.md5(b"".join(part.md5 for part in parts), usedforsecurity=False)
    return f"{digest.hexdigest()}-{len(parts)}"


def _stored(answer: Any) -> Stored:
    version = answer.get("VersionId")
    return Stored(str(answer.get("ETag", "")).strip('"'), version if version != "null" else None)


def _moment(text: str) -> datetime:
    """A time in an answer. The general reader takes longer over a listing than its bytes take to come."""
    from botocore.utils import parse_timestamp

    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return parse_timestamp(text)


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
