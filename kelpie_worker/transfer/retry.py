"""How long a refusal is tried again before it is believed: a rule for `system.retry`.

A key that expired, a quota, a clock, a full disk may be mended within minutes.
"""

from __future__ import annotations

from kelpie_worker.s3.errors import NoBucket, StorageRefused
from kelpie_worker.system.linux import boottime
from kelpie_worker.system.retry import Failure

LONGEST = 600.0  # seconds


class Patience:
    """Counts from the first refusal of a row. `has_ended` is an `until` of `retry`."""

    def __init__(self) -> None:
        self._believed_at = float("inf")

    def has_ended(self, failure: Failure[Exception]) -> bool:
        """Whether storage refuses for good: it did for so long, and nothing else; or there is no such bucket."""
        if not isinstance(failure.error, StorageRefused):
            self.renew()
            return False
        self._believed_at = min(self._believed_at, boottime() + LONGEST)
        return isinstance(failure.error, NoBucket) or boottime() >= self._believed_at

    def renew(self) -> None:
        """Something else than a refusal was the answer."""
        self._believed_at = float("inf")
