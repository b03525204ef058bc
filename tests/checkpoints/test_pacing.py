"""How often a file that only grows is sent again."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kelpie_worker.checkpoints.pacing import ALONE, BESIDE_OTHERS, SMALL, Pacing, is_within
from kelpie_worker.checkpoints.tracked_files import Sendings, TrackedFile
from kelpie_worker.job import StoredObject
from kelpie_worker.workspace.file_version import Signature

SIZES = st.lists(st.integers(1, 10 * SMALL), min_size=1, max_size=200)


@dataclass
class Log:
    """A file that grows, and the rules that say when it is sent."""

    copies: bool
    file: TrackedFile = field(default_factory=TrackedFile)
    now: float = 1000.0
    sent: int = 0  # bytes in all
    under_way: list[str] = field(default_factory=list)

    @property
    def pacing(self) -> Pacing:
        return Pacing(lambda file: self.copies, lambda size: size / 1_000_000, lambda: self.under_way)

    def grow(self, growth: int, seconds: float = 0) -> None:
        self.now += seconds
        size = growth + (self.file.seen.size if self.file.seen else SMALL)
        self.file.seen = Signature(1, size, size)

    @property
    def size(self) -> int:
        return self.file.seen.size if self.file.seen else 0

    def is_held(self, others: list[int]) -> bool:
        return self.file.sent is not None and bool(self.pacing.held({"log": self.file}, others, self.now))

    def send(self, cost: int, took: float = 0.0) -> None:
        assert self.file.seen
        self.sent += cost
        self.file.take(
            self.file.seen,
            StoredObject("b", "log", self.size, "etag"),
            b"",
            sending=Sendings(cost, self.now, took),
        )


def log(copies: bool = False) -> Log:
    return Log(copies)


@given(SIZES)
def test_over_its_life_at_most_three_times_its_final_size_is_sent_however_it_grows(growths: list[int]) -> None:
    paced = log()
    for growth in growths:
        paced.grow(growth)
        if not paced.is_held([]):
            paced.send(paced.size)
    paced.grow(1)
    paced.send(paced.size)  # at the command's end
    assert paced.sent <= 3 * paced.size


@given(st.lists(st.tuples(st.integers(1, 10 * SMALL), st.floats(0, 300), st.booleans()), min_size=1, max_size=200))
def test_what_is_sent_beside_that_for_the_sake_of_time_is_a_trickle(steps: list[tuple[int, float, bool]]) -> None:
    paced = log()
    for growth, seconds, beside in steps:
        paced.grow(growth, seconds)
        if not paced.is_held([1] if beside else []):
            paced.send(paced.size)
    paced.send(paced.size)
    assert paced.sent <= 3 * paced.size + BESIDE_OTHERS.rate * (paced.now - 1000)


@given(SIZES)
def test_where_storage_copies_every_byte_is_sent_once_and_nothing_is_held(growths: list[int]) -> None:
    paced = log(copies=True)
    for growth in growths:
        before = paced.file.sent.size if paced.file.sent else 0
        paced.grow(growth)
        assert not paced.is_held([])
        paced.send(paced.size - before)
    assert paced.sent == paced.size


def held_log() -> Log:
    paced = log()
    paced.grow(SMALL)
    paced.send(paced.size)
    paced.grow(1)
    paced.send(paced.size)
    paced.grow(1)
    return paced


@pytest.mark.parametrize(
    ("others", "trickle"), [([], ALONE), ([1], BESIDE_OTHERS)], ids=["alone", "beside others"]
)
def test_it_is_held_no_longer_than_its_size_takes_at_a_trickle(others: list[int], trickle: object) -> None:
    paced = held_log()
    pause = {id(ALONE): ALONE, id(BESIDE_OTHERS): BESIDE_OTHERS}[id(trickle)].pause(paced.size)
    paced.now += pause - 0.1
    assert paced.is_held(others)
    paced.now += 0.1
    assert not paced.is_held(others)


def test_beside_files_that_are_much_larger_it_goes_along() -> None:
    paced = held_log()
    assert paced.is_held([paced.size]) and not paced.is_held([8 * paced.size])


def test_many_small_ones_are_held_like_a_large_one() -> None:
    small = log()
    small.grow(1 - SMALL // 2)
    small.send(3 * small.size)
    small.grow(1)
    assert not small.is_held([])
    two = {"a": small.file, "b": small.file}
    assert small.pacing.held(two, [], small.now) == {"a", "b"}


def test_reading_a_large_file_and_copying_it_takes_a_sixth_of_the_time() -> None:
    paced = log(copies=True)
    paced.grow(SMALL)
    paced.send(paced.size, took=10)
    paced.grow(1, seconds=49)
    assert paced.is_held([1])
    paced.grow(1, seconds=1)
    assert not paced.is_held([1])


def test_a_file_that_was_downloaded_counts_as_sent_once() -> None:
    assert is_within(sent=100, size=100, cost=100) and not is_within(sent=101, size=100, cost=100)


@pytest.mark.parametrize(
    ("megabytes", "copies", "is_sent_aside"), [(4, False, False), (6, False, True), (6, True, False)]
)
def test_what_takes_long_to_send_again_is_sent_beside_the_others(
    megabytes: int, copies: bool, is_sent_aside: bool
) -> None:
    paced = log(copies)
    paced.grow(megabytes * 1_000_000)
    paced.send(paced.size)
    paced.grow(1)
    assert paced.pacing.aside({"log": paced.file}) == ({"log"} if is_sent_aside else set())


def test_what_is_being_sent_beside_the_others_is_left_out_until_it_has_ended() -> None:
    paced = log()
    paced.grow(SMALL)
    paced.send(paced.size)
    paced.grow(1)
    assert not paced.is_held([10**9])
    paced.under_way.append("log")
    assert paced.is_held([10**9])


def test_what_is_being_sent_beside_the_others_stays_so_when_another_version_has_been_sent() -> None:
    """A file that was renamed over it went up with a generation, and has grown: two uploads of it would cross."""
    paced = log()
    paced.grow(SMALL)
    paced.under_way.append("log")
    paced.send(paced.size)
    paced.grow(1)
    assert paced.is_held([10**9])
