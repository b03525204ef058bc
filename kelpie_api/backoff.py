"""How long to wait before trying again."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Backoff:
    """Pauses that double from `first` up to `longest`, each shortened by up to half."""

    first: timedelta
    longest: timedelta

    def after(self, tries: int, jitter: float) -> timedelta:
        """The pause after the `tries`-th try (from 1). `jitter`, from 0 to 1, says how much is taken away."""
        step = min(self.longest, self.first * 2.0 ** min(tries - 1, 20))
        return step * (1 - jitter / 2)
