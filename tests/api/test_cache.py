"""What is remembered between requests: how much, for how long, and what goes first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kelpie_api.cache import Cache, Shared


def test_a_full_cache_drops_what_was_unused_for_longest_and_keeps_the_rest() -> None:
    cache: Cache[str, int] = Cache(3)
    for number, key in enumerate("abc"):
        cache.put(key, number)
    assert cache.get("a") == 0
    cache.put("d", 3)
    assert [cache.get(key) for key in "abcd"] == [0, None, 2, 3]


def test_a_value_is_forgotten_when_its_time_is_over() -> None:
    now = [100.0]
    cache: Cache[str, int] = Cache(3, 30, lambda: now[0])
    cache.put("a", 1)
    now[0] += 29
    assert cache.get("a") == 1
    now[0] += 1
    assert cache.get("a") is None


def test_of_two_that_make_a_value_for_one_key_both_get_the_first() -> None:
    cache: Cache[str, list[int]] = Cache(3)
    first, second = [1], [2]
    assert cache.get_or_put("a", first) is first
    assert cache.get_or_put("a", second) is first


def test_a_cleared_cache_knows_nothing() -> None:
    cache: Cache[str, int] = Cache(3)
    cache.put("a", 1)
    cache.clear()
    assert cache.get("a") is None


class Hands:
    """Makes values that are numbered, each in a tenth of a second of a clock that no one waits for."""

    def __init__(self) -> None:
        self.now, self.made, self.slept = 100.0, 0, 0.0

    def make(self) -> int:
        self.now += 0.1
        self.made += 1
        return self.made

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.now += seconds


def test_a_shared_value_is_made_once_for_all_that_ask_within_its_time() -> None:
    hands = Hands()
    shared: Shared[str, int] = Shared(3, 1, 0, lambda: hands.now, hands.sleep)
    assert [shared.get(key, 2, hands.make) for key in "aaba"] == [1, 1, 2, 1]
    hands.now += 2
    assert shared.get("a", 2, hands.make) == 3
    assert hands.slept == 0


def test_shared_values_together_weigh_no_more_than_they_may_and_one_that_is_too_heavy_is_made_again() -> None:
    hands = Hands()
    weights = {1: 2, 2: 2, 3: 2, 4: 6, 5: 6}
    shared: Shared[str, int] = Shared(5, 1, 0, lambda: hands.now, hands.sleep, weights.__getitem__)
    assert [shared.get(key, 2, hands.make) for key in "abcbcdd"] == [1, 2, 3, 2, 3, 4, 5]
    assert shared.get("b", 2, hands.make) == 2


def test_after_a_shared_value_the_next_waits_in_proportion() -> None:
    hands = Hands()
    shared: Shared[str, int] = Shared(3, 1, 2, lambda: hands.now, hands.sleep)
    assert [shared.get(key, 2, hands.make) for key in "ab"] == [1, 2]
    assert hands.slept == pytest.approx(0.2)


def test_a_thread_is_aside_while_it_waits_for_its_turn_but_not_while_it_makes_a_value() -> None:
    hands, are_aside = Hands(), 0

    @contextmanager
    def aside() -> Iterator[None]:
        nonlocal are_aside
        are_aside += 1
        yield
        are_aside -= 1

    def make() -> int:
        assert are_aside == 0
        return hands.make()

    def sleep(seconds: float) -> None:
        assert are_aside == 1
        hands.sleep(seconds)

    shared: Shared[str, int] = Shared(3, 1, 2, lambda: hands.now, sleep, aside=aside)
    assert [shared.get(key, 2, make) for key in "ab"] == [1, 2]
    assert hands.slept == pytest.approx(0.2)


@pytest.mark.parametrize(("places", "of_one", "second"), [(1, 2, "other"), (2, 1, "loop")], ids=["all", "its own"])
def test_where_all_places_are_taken_there_is_no_value_and_one_that_fails_leaves_its_place(
    places: int, of_one: int, second: str
) -> None:
    shared: Shared[str, int] = Shared(3, places, 0, places_of_one=of_one)
    begun, may_end = threading.Event(), threading.Event()

    def slowly() -> int:
        begun.set()
        assert may_end.wait(10)
        raise ZeroDivisionError

    def first() -> None:
        with pytest.raises(ZeroDivisionError):
            shared.get("a", 2, slowly, "loop")

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(10)
    assert shared.get("b", 2, lambda: 1, second) is None
    may_end.set()
    thread.join()
    assert shared.get("b", 2, lambda: 1, second) == 1
