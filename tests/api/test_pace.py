"""How soon clients may ask again (kelpie_api/pace.py)."""

from __future__ import annotations

import heapq
import random

import pytest

from kelpie_api.pace import Pace


def asked(clients: int, pace: Pace, now: list[float], until: float, usual: float = 4.0) -> list[float]:
    """When requests come of clients that ask as told, and no sooner than usually; they begin together."""
    due = [now[0]] * clients
    times = []
    while due[0] < until:
        now[0] = max(now[0], heapq.heappop(due))
        times.append(now[0])
        heapq.heappush(due, now[0] + max(usual, pace.next_pause()))
    return times


@pytest.mark.parametrize(
    ("clients", "rate"),
    [(1, 0.25), (40, 10), (500, 10), (900, (900 - 10 * 15) / 45)],
    ids=["one", "few", "many", "too many"],
)
def test_clients_together_ask_no_more_often_than_they_may(clients: int, rate: float) -> None:
    now = [1000.0]
    pace = Pace(10, 60, clock=lambda: now[0], draw=random.Random(1).uniform)
    times = asked(clients, pace, now, 1400)
    for begin in (1100, 1200, 1300):
        assert len([time for time in times if begin <= time < begin + 100]) / 100 == pytest.approx(rate, rel=0.15)
    assert len([time for time in times if time >= 1100]) / 300 <= 1.1 * rate


def test_once_clients_are_gone_the_others_ask_as_usual() -> None:
    now = [1000.0]
    pace = Pace(10, 60, clock=lambda: now[0])
    asked(500, pace, now, 1100)
    assert pace.next_pause() > 45
    now[0] += 60
    assert pace.next_pause() == pytest.approx(0.1)


def test_a_client_that_asks_in_a_loop_keeps_itself_waiting_and_no_other() -> None:
    now = [1000.0]
    pace = Pace(10, 60, 30, lambda: now[0], random.Random(1).uniform)
    told = [pace.next_pause("loop") for _ in range(1000)]
    assert told[29] == pytest.approx(3) and 30 <= min(told[30:]) <= max(told[30:]) <= 60
    assert pace.next_pause("other") == pytest.approx(3.1)
    now[0] += 3
    assert [pace.next_pause(client) for client in ("loop", "other")] == pytest.approx([0.2, 0.3])
