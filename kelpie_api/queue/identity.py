"""How a job or a sweep is told from others: its id, and the key of the request that made it."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True)
class IdempotencyKey:
    """The Idempotency-Key of a submission, and a digest of the body that it came with."""

    key: str
    digest: bytes


def new_id() -> UUID:
    """A random id that begins with the current time (version 7 of RFC 9562).

    Indexes on the id then keep jobs of one time side by side, so that a claim among millions of finished jobs
    touches few pages, which are in memory (bench/README.md, claim).
    """
    milliseconds = time.time_ns() // 1_000_000
    return UUID(int=milliseconds << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62))
