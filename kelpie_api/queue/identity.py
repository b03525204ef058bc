"""How a job or a sweep is told from others: its id, and the key of the request that made it."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True)
class IdempotencyKey:
    """The Idempotency-Key of a request, and a digest of what was asked for."""

    key: str
    digest: bytes

    def of(self, part: object) -> IdempotencyKey:
        """The key of one part of the request."""
        return IdempotencyKey(hashlib.sha256(f"{self.key} {part}".encode()).hexdigest(), self.digest)


def new_id() -> UUID:
    """A random id that begins with the current time (version 7 of RFC 9562).

    Indexes on the id then keep jobs of one time side by side, so that a claim among millions of finished jobs
    touches few pages, which are in memory (bench/README.md, claim).
    """
    milliseconds = time.time_ns() // 1_000_000
    return UUID(int=milliseconds << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62))
