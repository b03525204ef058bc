"""Until when a lease is safe to act on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kelpie_worker.lease import safe_until


@given(st.floats(0, 1e9), st.floats(1, 86_400))
def test_a_lease_is_safe_for_longer_than_one_interval_and_shorter_than_two(sent: float, interval: float) -> None:
    assert sent + interval < safe_until(sent, interval) < sent + 2 * interval
