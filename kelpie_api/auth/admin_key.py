"""The administrator's key, and the limits for guesses at it.

An operator chooses this key, so it can be guessed; all other keys of Kelpie's are 256 random bits. A key that is
no other one is a guess. Each address, and all together, may make some guesses at once and then one in a while.
Beyond that a guess pauses before it is compared. A pause is short and takes a thread, so few guesses pause at a
time; where as many do already, a further one is refused without being compared.

An attacker keeps no administrator out: the first guess of an address never pauses, whatever others send, and
from an address where the administrator was seen within a day the key is compared before anything else. A worker
that repeats one wrong key uses nothing up: a key that was wrong stays wrong.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address, ip_network

from kelpie_api import logs
from kelpie_api.cache import Cache
from kelpie_api.errors import TooManyRequests
from kelpie_api.net.single_flight import Budget

# Guesses of one address, and of all together: so many at once, then so many a second.
OF_AN_ADDRESS, OF_AN_ADDRESS_A_SECOND = 20, 0.5
OF_ALL, OF_ALL_A_SECOND = 200, 5.0
PAUSE = 1.0  # seconds
PAUSING_OF_AN_ADDRESS, PAUSING = 2, 16  # requests, at the same time
REMEMBERED = 10_000  # addresses, and wrong keys
SEEN_FOR = 24 * 3600.0  # seconds
LOG_PAUSE = 60.0  # seconds


class AdminKey:
    """Compares keys with the administrator's, as fast as the limits of this process allow."""

    def __init__(
        self,
        digest: bytes,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.digest = digest
        self.sleep = sleep
        self.clock = clock
        self.of_all = Budget(OF_ALL_A_SECOND, OF_ALL, clock)
        self.of_addresses: Cache[str, Budget] = Cache(REMEMBERED, clock=clock)
        self.seen_at: Cache[str, bool] = Cache(REMEMBERED, SEEN_FOR, clock)
        self.wrong: Cache[bytes, bool] = Cache(REMEMBERED, clock=clock)
        self.pausing: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.log_lines = Budget(1 / LOG_PAUSE, 1, clock)

    def is_it(self, digest: bytes, address: str) -> bool:
        """Whether this is the digest of the administrator's key. Raises TooManyRequests.

        `address` is the client's. It may pause for PAUSE seconds.
        """
        if self.wrong.get(digest):
            return False
        source = network_of(address)
        if self.seen_at.get(source) and self._is_right(digest, source):
            return True
        self._slow_down(source)
        return self._is_right(digest, source)

    def _is_right(self, digest: bytes, source: str) -> bool:
        is_right = hmac.compare_digest(digest, self.digest)
        if is_right:
            self.seen_at.put(source, True)
        else:
            self.wrong.put(digest, True)
        return is_right

    def _slow_down(self, source: str) -> None:
        """Pause if guesses are above their limits. Raises TooManyRequests where too many pause already."""
        if self._is_within_limits(source):
            return
        if self.log_lines.spare():
            logs.warning("many_wrong_keys", address=source)
        with self._place_to_pause(source):
            self.sleep(PAUSE)

    def _is_within_limits(self, source: str) -> bool:
        budget = self.of_addresses.get(source)
        if budget is None:
            # The first guess counts, and passes also where those of all together are used up.
            self.of_addresses.get_or_put(source, Budget(OF_AN_ADDRESS_A_SECOND, OF_AN_ADDRESS, self.clock)).spare()
            self.of_all.spare()
            return True
        return budget.spare() and self.of_all.spare()

    @contextmanager
    def _place_to_pause(self, source: str) -> Iterator[None]:
        with self.lock:
            if self.pausing[source] >= PAUSING_OF_AN_ADDRESS or self.pausing.total() >= PAUSING:
                raise TooManyRequests(
                    "This API key is not known here, and many such keys came in a short time; check X-Kelpie-Key,"
                    " and send the request again in a moment.",
                    2 * PAUSE,
                )
            self.pausing[source] += 1
        try:
            yield
        finally:
            with self.lock:
                self.pausing -= Counter([source])


def network_of(address: str) -> str:
    """What one sender has: an IPv4 address, or the /64 of an IPv6 one, within which it can choose addresses."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(ip, IPv6Address):
        return str(ip.ipv4_mapped or ip_network((ip, 64), strict=False))
    return str(ip)
