"""Which files of a directory the worker waits for, and for how long."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from kelpie_worker.checkpoints import stability
from kelpie_worker.checkpoints.stability import Stability
from kelpie_worker.system.linux import files_being_written
from kelpie_worker.workspace.file_version import Signature


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(stability, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_file_is_being_written_from_its_opening_to_its_closing(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb"), (tmp_path / "file").open("rb") as reading:
        inode = os.fstat(reading.fileno()).st_ino
        assert inode in files_being_written()
    with (tmp_path / "file").open("rb"):
        assert inode not in files_being_written()


def test_a_new_file_that_is_open_is_waited_for_until_it_is_closed(clock: SimpleNamespace) -> None:
    written = {1}
    watched, new = Stability(1, lambda: written), {"new": Signature(1, 10, 1)}
    watched.see(new)
    clock.now += 5
    assert watched.restless(new, {}, came_to_rest=True) == {"new"} and not watched.waited_enough()
    written.clear()
    assert watched.restless(new, {}, came_to_rest=True) == set()


def test_a_log_that_stays_open_is_waited_for_once_and_not_for_ever(clock: SimpleNamespace) -> None:
    watched, log = Stability(1, lambda: {1}), {"log": Signature(1, 10, 1)}
    watched.see(log)
    clock.now += 11.9
    assert watched.restless(log, {}, came_to_rest=True) == {"log"} and not watched.is_log("log")
    clock.now += 0.1
    assert watched.restless(log, {}, came_to_rest=True) == set()
    grown = {"log": Signature(1, 20, 2)}
    watched.see(grown)
    assert watched.restless(grown, log, came_to_rest=True) == set()


def test_where_looking_takes_long_it_is_done_the_less_often(clock: SimpleNamespace) -> None:
    def look_long() -> set[int]:
        clock.now += 0.5
        return {1}

    watched, new = Stability(5, look_long), {"new": Signature(1, 10, 1)}
    watched.see(new)
    before = watched.pause
    watched.restless(new, {}, came_to_rest=True)
    assert (before, watched.pause) == (0.25, 5)


def test_what_is_known_is_not_waited_for_because_it_is_open(clock: SimpleNamespace) -> None:
    def nobody_looks() -> set[int]:
        raise AssertionError

    watched, known = Stability(1, nobody_looks), {"database": Signature(1, 10, 1)}
    watched.see(known)
    grown = {"database": Signature(1, 20, 2)}
    watched.see(grown)
    assert watched.restless(grown, known, came_to_rest=True) == set()


def test_a_file_that_takes_the_place_of_a_known_one_is_new(clock: SimpleNamespace) -> None:
    watched, known = Stability(1, lambda: {2}), {"weights": Signature(1, 10, 1)}
    watched.see(known)
    made_anew = {"weights": Signature(2, 5, 2)}
    watched.see(made_anew)
    assert watched.restless(made_anew, known, came_to_rest=True) == {"weights"}


def rewrite(watched: Stability, clock: SimpleNamespace, seconds: float) -> dict[str, Signature]:
    """Have a file rewritten for so long, without a rest that counts. As it is then."""
    state: dict[str, Signature] = {}
    end = clock.now + seconds
    while clock.now < end:
        clock.now += 0.2
        state = {"state": Signature(1, 10, int(clock.now * 1e9))}
        watched.see(state)
    return state


def test_a_file_that_is_rewritten_without_a_rest_counts_as_whole_once_nobody_has_it_open(
    clock: SimpleNamespace,
) -> None:
    written: set[int] = set()
    watched = Stability(1, lambda: written)
    rewrite(watched, clock, 11)
    watched.sent("state")
    state = rewrite(watched, clock, 0.5)
    assert watched.restless(state, {}, came_to_rest=True) == {"state"}
    state = rewrite(watched, clock, 1)
    assert watched.restless(state, {}, came_to_rest=False) == {"state"}
    written.add(1)
    assert watched.restless(state, {}, came_to_rest=True) == {"state"}
    written.clear()
    assert watched.restless(state, {}, came_to_rest=True) == set()


@pytest.mark.parametrize("written", [set(), {1}], ids=["closed", "open"])
def test_a_file_that_never_rests_goes_up_in_the_end(clock: SimpleNamespace, written: set[int]) -> None:
    watched = Stability(1, lambda: written)
    state = rewrite(watched, clock, 13)
    assert watched.restless(state, {}, came_to_rest=False) == {"state"}
    state = rewrite(watched, clock, 61)
    assert watched.restless(state, {}, came_to_rest=False) == set()


def test_a_file_that_has_rested_has_to_rest_again(clock: SimpleNamespace) -> None:
    watched = Stability(1, set)
    state = rewrite(watched, clock, 61)
    clock.now += 1
    watched.see(state)
    state = rewrite(watched, clock, 1)
    assert watched.restless(state, {}, came_to_rest=True) == {"state"}


def test_a_rewritten_file_is_not_whole_while_its_writer_takes_breath(clock: SimpleNamespace) -> None:
    written = {1}
    watched = Stability(1, lambda: written)
    state = rewrite(watched, clock, 0.5)
    clock.now += 5
    watched.see(state)
    assert watched.restless(state, {}, came_to_rest=True) == {"state"}
    written.clear()
    assert watched.restless(state, {}, came_to_rest=True) == set()


def test_a_rewritten_file_that_is_always_open_is_waited_for_once(clock: SimpleNamespace) -> None:
    watched = Stability(1, lambda: {1})
    for waits in (True, False, False):
        state = rewrite(watched, clock, 0.5)
        clock.now += 1
        watched.see(state)
        assert watched.restless(state, {}, came_to_rest=True) == ({"state"} if waits else set())
        clock.now += 12
        assert watched.restless(state, {}, came_to_rest=True) == set()
        watched.sent("state")
