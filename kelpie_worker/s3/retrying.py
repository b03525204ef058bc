"""The requests of one attempt to storage: repeated with backoff, with the errors of `errors.py`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from kelpie_worker.lease import Lease
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.s3.errors import Result, StorageUnreachable, translated
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
            answer = translated(operation, what)
            # botocore takes an answer whose headers were cut off for a complete one, such as an empty listing.
            if needed and not any(cast(dict[str, Any], answer).get(name) is not None for name in needed):
                raise StorageUnreachable(f"{what}: an answer without {needed[0]}")
            return answer

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
