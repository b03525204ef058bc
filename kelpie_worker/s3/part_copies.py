"""Whether a bucket copies parts of its objects into multipart uploads, as far as its answers tell.

Some storage does not know that request, and a key may be allowed to write only. One failure proves neither, and
what is true today may be mended tomorrow: two in a row count, and for a while.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from kelpie_worker import logs
from kelpie_worker.system.linux import boottime

_FAILURES_THAT_COUNT = 2
_TRIED_AGAIN_AFTER = 600.0  # seconds


@dataclass
class _Failures:
    in_a_row: int = 0
    last_at: float = 0.0


class PartCopies:
    """What is known of each bucket; threads may share it."""

    def __init__(self, clock: Callable[[], float] = boottime) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, _Failures] = {}

    def may_work(self, bucket: str) -> bool:
        """Whether a copy is worth a request."""
        with self._lock:
            failures = self._failures.get(bucket, _Failures())
            too_many = failures.in_a_row >= _FAILURES_THAT_COUNT
            return not too_many or self._clock() - failures.last_at >= _TRIED_AGAIN_AFTER

    def worked(self, bucket: str) -> None:
        with self._lock:
            self._failures.pop(bucket, None)

    def failed(self, bucket: str, detail: str) -> None:
        with self._lock:
            failures = self._failures.setdefault(bucket, _Failures())
            failures.in_a_row += 1
            failures.last_at = self._clock()
            if failures.in_a_row == _FAILURES_THAT_COUNT:
                logs.warn("parts_not_copied", bucket=bucket, detail=detail)
