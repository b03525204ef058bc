"""The requests of one attempt to storage: repeated with backoff, with the errors of `errors.py`.

What changes an object asks the lease before each try, and ends with it.
"""

import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, cast

from kelpie_worker import logs
from kelpie_worker.lease import Lease
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.s3.errors import Result, StorageUnreachable, translated
from kelpie_worker.s3.line import limited
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.retry import retry, tries

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

_BACKOFF = Backoff(0.3, 10.0)


class Calls:
    """Each method that sends a request raises StorageUnreachable, StorageRefused, Changed or Cancelled."""

    def __init__(self, shared: SharedClient, lease: Lease, max_retries: int) -> None:
        self.shared = shared
        self.lease = lease
        self._max_retries = max_retries

    @property
    def client(self) -> "S3Client":
        return self.shared.get()

    def repeated(self, what: str, operation: Callable[[], Result], *needed: str) -> Result:
        """Call `operation` until it succeeds, at most `max_retries` times more; returns its answer.

        `what` names the operation in an error. The answer must have at least one of the fields `needed`.
        """

        def once() -> Result:
            self.lease.check()
            with limited(self.shared.line, 0, self._as_long_as_it_is_wanted):
                return _answer_with(needed, translated(operation, what), what)

        return self._until_it_succeeds(once)

    def sending(self, what: str, operation: Callable[[], Result], needed: str, size: int) -> Result:
        """The same for an upload of so many bytes that are not visible: they may be sent past the lease."""

        def once() -> Result:
            self.lease.check()
            with limited(self.shared.line, size, self._as_long_as_it_is_wanted):
                return _answer_with((needed,), translated(operation, what), what)

        return self._until_it_succeeds(once)

    def changing(self, what: str, operation: Callable[[], Result], *needed: str, size: int = 0) -> Result:
        """The same for what changes an object: each try waits until the lease is safe, and ends when it is not.

        `size` is the number of bytes that are sent.
        """

        def once() -> Result:
            if self.lease.wait_until_safe():
                logs.info("change_was_held", detail=what)
            with limited(self.shared.line, size, self.lease.seconds_left):
                return _answer_with(needed, translated(operation, what), what)

        return self._until_it_succeeds(once)

    def _as_long_as_it_is_wanted(self) -> float:
        """The seconds left for what changes no object: any number, until the attempt is over."""
        return 0.0 if self.lease.cancelled else math.inf

    def _until_it_succeeds(self, once: Callable[[], Result]) -> Result:
        return retry(
            once,
            on=StorageUnreachable,
            backoff=_BACKOFF,
            pause=self.lease.pause,
            until=tries(self._max_retries + 1),
        )

    def head(self, bucket: str, key: str) -> "HeadObjectOutputTypeDef":
        return self.repeated(
            f"verifying {bucket}/{key}", lambda: self.client.head_object(Bucket=bucket, Key=key), "ETag"
        )


def _answer_with(needed: Collection[str], answer: Result, what: str) -> Result:
    """The answer, if it has one of these fields, or none is needed. Raises StorageUnreachable.

    botocore takes an answer whose headers were cut off for a complete one, such as an empty listing.
    """
    if needed and not any(cast(dict[str, Any], answer).get(name) is not None for name in needed):
        raise StorageUnreachable(f"{what}: an answer without {next(iter(needed))}")
    return answer
