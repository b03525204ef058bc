"""How long an operation that storage refuses is repeated before the refusal counts: a rule for `system.retry`.

An expired key, a quota, a wrong clock or a full disk may be repaired within minutes.
"""

from __future__ import annotations

from kelpie_worker.s3.errors import NoBucket, StorageRefused
from kelpie_worker.system.linux import boottime
from kelpie_worker.system.retry import Failure

LONGEST = 600.0  # seconds


class Patience:
    """Measures from the first of several refusals in a row. `has_ended` is an `until` of `retry`."""

    def __init__(self) -> None:
        self._ends_at = float("inf")

    def has_ended(self, failure: Failure[Exception]) -> bool:
        """Whether storage refused for LONGEST without another answer in between, or there is no such bucket."""
        if not isinstance(failure.error, StorageRefused):
            self.renew()
            return False
        self._ends_at = min(self._ends_at, boottime() + LONGEST)
        return isinstance(failure.error, NoBucket) or boottime() >= self._ends_at

    def renew(self) -> None:
        """Measure from the next refusal: the last answer was something else."""
        self._ends_at = float("inf")
