"""The requests of one attempt to storage: repeated with backoff, with the errors of `errors.py`.

What changes an object asks the lease before each try, and ends with it.
"""

import math
from collections.abc import Callable, Collection
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

from kelpie_worker import logs
from kelpie_worker.lease import Lease
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.s3.encodings import accepting_gzip, is_packed
from kelpie_worker.s3.errors import (
    Forbidden,
    Misconfigured,
    NoBucket,
    NotThere,
    Result,
    StorageRefused,
    StorageUnreachable,
    Untold,
    translated,
)
from kelpie_worker.s3.objects import bare, is_of_date, size_in
from kelpie_worker.s3.request_timeouts import limited
from kelpie_worker.s3.whose_fault import Asked, describes_object
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.retry import Failure, retry

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

_BACKOFF = Backoff(0.3, 10.0)
_NO_SUCH_RANGE = 416


class _Limit:
    """When a call is not repeated any more."""

    def __init__(self, max_retries: int, asked: Asked, key_renewed_within: float) -> None:
        self._max_retries = max_retries
        self._asked = asked
        self._key_renewed_within = key_renewed_within
        self._refusals = 0
        self._key_refused_at: float | None = None  # seconds since the first call began

    def is_reached(self, failure: Failure[Exception]) -> bool:
        error = failure.error
        if isinstance(error, StorageUnreachable):
            return failure.number > self._max_retries
        self._refusals += 1
        if isinstance(error, Misconfigured) and self._may_be_renewed(failure.waited):
            return False
        tells_a_fact = isinstance(error, NotThere | NoBucket | Untold)
        # From these a conclusion would be drawn that lasts: that the key is bad, that conditions are not known.
        weighty = isinstance(error, Misconfigured) or (self._asked is Asked.CONDITION and not tells_a_fact)
        return not weighty or self._refusals > 1

    def _may_be_renewed(self, waited: float) -> bool:
        if self._key_refused_at is None:
            self._key_refused_at = waited
        return waited - self._key_refused_at < self._key_renewed_within


class Calls:
    """Each method that sends a request raises StorageUnreachable, StorageRefused, Changed or Cancelled."""

    def __init__(self, shared: SharedClient, lease: Lease, max_retries: int) -> None:
        self.shared = shared
        self.lease = lease
        self._max_retries = max_retries

    @property
    def client(self) -> "S3Client":
        return self.shared.get()

    def repeated(
        self, what: str, operation: Callable[[], Result], *needed: str, asked: Asked = Asked.OTHER
    ) -> Result:
        """Call `operation` until it succeeds, at most `max_retries` times more; returns its answer.

        `what` names the operation in an error. The answer must have at least one of the fields `needed`. A refused
        key is read again, and tried once more; so is a refusal that may be for a condition.
        """

        def once() -> Result:
            self.lease.check()
            with limited(self.shared.line, 0, self._as_long_as_it_is_wanted):
                return _answer_with(needed, translated(operation, what, asked), what)

        return self._until_it_succeeds(once, asked)

    def sending(
        self,
        what: str,
        operation: Callable[[], Result],
        needed: str,
        size: int,
        key_renewed_within: float = 0.0,
    ) -> Result:
        """The same for an upload of so many bytes that are not visible: they may be sent past the lease.

        A key that is refused is read again for at least so many seconds.
        """

        def once() -> Result:
            self.lease.check()
            with limited(self.shared.line, size, self._as_long_as_it_is_wanted):
                return _answer_with((needed,), translated(operation, what), what)

        return self._until_it_succeeds(once, key_renewed_within=key_renewed_within)

    def changing(
        self,
        what: str,
        operation: Callable[[], Result],
        *needed: str,
        size: int = 0,
        asked: Asked = Asked.OTHER,
        key_renewed_within: float = 0.0,
    ) -> Result:
        """The same for what changes an object: each try waits until the lease is safe, and ends when it is not.

        `size` is the number of bytes that are sent. `key_renewed_within` as in `sending`.
        """

        def once() -> Result:
            if self.lease.wait_until_safe():
                logs.info("change_was_held", detail=what)
            with limited(self.shared.line, size, self.lease.seconds_left):
                return _answer_with(needed, translated(operation, what, asked), what)

        return self._until_it_succeeds(once, asked, key_renewed_within)

    def _as_long_as_it_is_wanted(self) -> float:
        """The seconds left for what changes no object: any number, until the attempt is over."""
        return 0.0 if self.lease.cancelled else math.inf

    def _until_it_succeeds(
        self, once: Callable[[], Result], asked: Asked = Asked.OTHER, key_renewed_within: float = 0.0
    ) -> Result:
        return retry(
            once,
            on=(StorageUnreachable, StorageRefused),
            backoff=_BACKOFF,
            pause=self.lease.pause,
            until=_Limit(self._max_retries, asked, key_renewed_within).is_reached,
            on_failure=self._read_credentials_again,
        )

    def _read_credentials_again(self, failure: Failure[Exception]) -> None:
        if isinstance(failure.error, Misconfigured):
            self.shared.renew()

    def head(self, bucket: str, key: str, version_id: str | None = None) -> "HeadObjectOutputTypeDef":
        """What a HEAD request says of an object, or a GET request for its first byte.

        A refused HEAD request says not why: a 404 may come from a proxy, a 400 may mean an expired key.
        """
        what = f"verifying {bucket}/{key}"
        which: Any = {"Bucket": bucket, "Key": key} | ({"VersionId": version_id} if version_id else {})
        return self.repeated(what, lambda: self._head_once(what, which))

    def head_once(self, bucket: str, key: str) -> "HeadObjectOutputTypeDef":
        """The same, for an operation that is repeated itself."""
        return self._head_once(f"verifying {bucket}/{key}", {"Bucket": bucket, "Key": key})

    def _head_once(self, what: str, which: Any) -> "HeadObjectOutputTypeDef":
        try:
            found = translated(lambda: self._head_with_size(which), what, Asked.HEAD)
        except Untold:
            found = translated(lambda: self._head_by_get(which), what)
        headers = found["ResponseMetadata"]["HTTPHeaders"]
        if not describes_object(headers, which["Key"]) and not self._is_listed(which, found, what):
            raise StorageUnreachable(f"{what}: an answer that the storage has not given, as if from a proxy")
        if found.get("ETag") is None and "VersionId" not in which:
            listed = self._listed_etag(which, found.get("ContentLength"), what)
            found = cast("HeadObjectOutputTypeDef", {**found, "ETag": listed})
        return _answer_with(("ETag",), found, what)

    def _is_listed(self, which: Any, found: Any, what: str) -> bool:
        """Whether a listing shows what was found, though it looks like a page: an object may be a page of HTML.

        Raises Forbidden if the key may not list: without that it would be asked for without end.
        """
        if "VersionId" in which:
            return False
        try:
            shown = self._shown(which, what)
        except Forbidden as error:
            raise Forbidden(f"{error}; it looks like a proxy's page: let the AWS key list the bucket") from error
        if shown is None or shown.get("ETag") is None or shown.get("Size") != found.get("ContentLength"):
            return False
        if (told := found.get("ETag")) is not None:
            return bare(shown["ETag"]) == bare(told)
        modified = shown.get("LastModified")
        return bool(modified and is_of_date(found["ResponseMetadata"]["HTTPHeaders"], modified.timestamp()))

    def _listed_etag(self, which: Any, size: int | None, what: str) -> str | None:
        """The ETag that a listing shows of an object of this size: proxies that change bodies drop it elsewhere.

        None if the listing shows another object, or no ETag either.
        """
        shown = self._shown(which, what)
        return shown.get("ETag") if shown and shown.get("Size") == size else None

    def _shown(self, which: Any, what: str) -> Any:
        """What a listing shows of an object; None if it shows none."""
        where = {"Bucket": which["Bucket"], "Prefix": which["Key"], "MaxKeys": 1}
        page = translated(lambda: self.client.list_objects_v2(**where), what)
        shown = next(iter(page.get("Contents", [])), None)
        return shown if shown and shown.get("Key") == which["Key"] else None

    def _head_with_size(self, which: Any) -> "HeadObjectOutputTypeDef":
        """What packs or unpacks bodies on their way leaves their size out of the answer."""
        found = self.client.head_object(**which)
        if "ContentLength" in found:
            return found
        with accepting_gzip(not is_packed(which["Key"])):
            return self.client.head_object(**which)

    def _head_by_get(self, which: Any) -> "HeadObjectOutputTypeDef":
        from botocore.exceptions import ClientError

        try:
            answer: Any = self.client.get_object(**which, Range="bytes=0-0")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != _NO_SUCH_RANGE:
                raise
            answer = self.client.get_object(**which)  # an empty object has no first byte
        with closing(answer["Body"]):
            head: HeadObjectOutputTypeDef = answer | {"ContentLength": size_in(answer)}
            return head


def _answer_with(needed: Collection[str], answer: Result, what: str) -> Result:
    """The answer, if it has one of these fields, or none is needed. Raises StorageUnreachable.

    botocore takes an answer whose headers were cut off for a complete one, such as an empty listing.
    """
    if needed and not any(cast(dict[str, Any], answer).get(name) is not None for name in needed):
        raise StorageUnreachable(f"{what}: an answer without {next(iter(needed))}")
    return answer
