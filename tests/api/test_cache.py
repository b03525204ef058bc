"""What is remembered between requests: how much, for how long, and what goes first."""

from __future__ import annotations

from kelpie_api.cache import Cache


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
