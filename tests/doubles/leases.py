"""Leases as a test needs them."""

from __future__ import annotations

from kelpie_worker.lease import Lease
from kelpie_worker.system.linux import boottime


def held(seconds: float = 3600) -> Lease:
    """A lease that is safe for that long."""
    lease = Lease()
    lease.renew(boottime() + seconds)
    return lease
