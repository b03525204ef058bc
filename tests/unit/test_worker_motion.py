"""Which files of a directory the worker waits for, and for how long."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from kelpie_worker import motion
from kelpie_worker.linux import files_being_written
from kelpie_worker.motion import Motion
from kelpie_worker.scan import Signature


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(motion, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_file_is_being_written_from_its_opening_to_its_closing(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb"), (tmp_path / "file").open("rb") as reading:
        inode = os.fstat(reading.fileno()).st_ino
        assert inode in files_being_written()
    with (tmp_path / "file").open("rb"):
        assert inode not in files_being_written()


def test_a_new_file_that_is_open_is_waited_for_until_it_is_closed(clock: SimpleNamespace) -> None:
    written = {1}
    watched, new = Motion(1, lambda: written), {"new": Signature(1, 10, 1)}
    watched.see(new)
    clock.now += 5
    assert watched.restless(new, {}, came_to_rest=True) == {"new"} and not watched.waited_enough()
    written.clear()
    assert watched.restless(new, {}, came_to_rest=True) == set()


def test_a_log_that_stays_open_is_waited_for_once_and_not_for_ever(clock: SimpleNamespace) -> None:
    watched, log = Motion(1, lambda: {1}), {"log": Signature(1, 10, 1)}
    watched.see(log)
    clock.now += 11.9
    assert watched.restless(log, {}, came_to_rest=True) == {"log"} and not watched.is_log("log")
    clock.now += 0.1
    assert watched.restless(log, {}, came_to_rest=True) == set()
    grown = {"log": Signature(1, 20, 2)}
    watched.see(grown)
    assert watched.restless(grown, log, came_to_rest=True) == set()


def test_what_is_known_is_not_waited_for_because_it_is_open(clock: SimpleNamespace) -> None:
    def nobody_looks() -> set[int]:
        raise AssertionError

    watched, known = Motion(1, nobody_looks), {"database": Signature(1, 10, 1)}
    watched.see(known)
    grown = {"database": Signature(1, 20, 2)}
    watched.see(grown)
    assert watched.restless(grown, known, came_to_rest=True) == set()


def test_a_file_that_takes_the_place_of_a_known_one_is_new(clock: SimpleNamespace) -> None:
    watched, known = Motion(1, lambda: {2}), {"weights": Signature(1, 10, 1)}
    watched.see(known)
    made_anew = {"weights": Signature(2, 5, 2)}
    watched.see(made_anew)
    assert watched.restless(made_anew, known, came_to_rest=True) == {"weights"}
