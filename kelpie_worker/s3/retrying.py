"""The calls of one attempt to storage: each is repeated with backoff, and raises errors of our own classes."""

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
    """Each raises StorageUnreachable, StorageRefused, Changed or Cancelled."""

    def __init__(self, shared: SharedClient, lease: Lease, max_retries: int) -> None:
        self.shared = shared
        self.lease = lease
        self._max_retries = max_retries

    @property
    def client(self) -> "S3Client":
        return self.shared.get()

    def repeated(self, what: str, operation: Callable[[], Result], *needed: str) -> Result:
        """The answer of `operation`, which is called up to `max_retries` times more; `what` names it in an error.

        The answer must have one of the fields that are `needed`.
        """

        def once() -> Result:
            self.lease.check()
            answer = translated(operation, what)
            # An answer whose headers were cut off passes for a whole one, and so for an empty listing.
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
