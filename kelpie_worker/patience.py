"""How long trouble is not believed to last: a key that expired, a quota, a clock, a full disk may be mended."""

from kelpie_worker.linux import boottime
from kelpie_worker.storage_errors import NoBucket, StorageRefused

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
