"""How long trouble is tried again: a key that expired, a quota, a clock, a full disk may be mended."""

from __future__ import annotations

from kelpie_worker.s3.errors import NoBucket, StorageRefused
from kelpie_worker.system.linux import boottime

LONGEST = 600.0  # seconds


class Patience:
    def __init__(self) -> None:
        self._believed_at = float("inf")

    def has_ended(self, refusal: StorageRefused) -> bool:
        """Whether this refusal, and those before it since the last `renew`, are to be believed."""
        self._believed_at = min(self._believed_at, boottime() + LONGEST)
        return isinstance(refusal, NoBucket) or boottime() >= self._believed_at

    def renew(self) -> None:
        """Something else than a refusal was the answer."""
        self._believed_at = float("inf")
