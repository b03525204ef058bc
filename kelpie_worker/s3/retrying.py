"""What one attempt asks of storage: every call is repeated with backoff, and its errors are ours."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from kelpie_worker.lease import Lease
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.s3.errors import Result, StorageUnreachable, translated
from kelpie_worker.system.backoff import backoff

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

_FIRST_PAUSE, _LONGEST_PAUSE = 0.3, 10.0


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
        """Of the fields that are `needed` the answer must have one."""
        failures = 0
        while True:
            self.lease.check()
            try:
                answer = translated(operation, what)
                # An answer whose headers were cut off passes for a whole one, and so for an empty listing.
                if needed and not any(cast(dict[str, Any], answer).get(name) is not None for name in needed):
                    raise StorageUnreachable(f"{what}: an answer without {needed[0]}")
                return answer
            except StorageUnreachable:
                failures += 1
                if failures > self._max_retries:
                    raise
            self.lease.pause(backoff(failures, _FIRST_PAUSE, _LONGEST_PAUSE))

    def head(self, bucket: str, key: str) -> "HeadObjectOutputTypeDef":
        return self.repeated(
            f"verifying {bucket}/{key}", lambda: self.client.head_object(Bucket=bucket, Key=key), "ETag"
        )
