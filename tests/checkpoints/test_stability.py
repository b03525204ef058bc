"""Which files of a directory the worker waits for, and for how long."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kelpie_worker.checkpoints.stability import OpenFiles, Stability
from kelpie_worker.checkpoints.tracked_files import DirectoryHistory, TrackedFiles
from kelpie_worker.job import StoredObject
from kelpie_worker.system.open_files import FilesInUse
from kelpie_worker.workspace.file_version import Signature, Snapshot


def in_use(inodes: set[int]) -> FilesInUse:
    return FilesInUse(written=frozenset((0, inode) for inode in inodes))


class Directory:
    """A watched directory as its scans show it, with the time in the test's hands."""

    def __init__(self, max_wait: float, written: Callable[[], set[int]]) -> None:
        """`written` answers which files are open for writing."""
        self.now = 1000.0
        self.files = TrackedFiles(DirectoryHistory({}, {}, {}, False), lambda path: True, lambda path: ("b", path))
        self.stability = Stability(max_wait)
        self._written = written
        self.logs: frozenset[str] = frozenset()  # of those that were restless when it was asked last

    def see(self, found: Snapshot) -> None:
        self.found = found
        self.stability.see(self.files, found, self.now)

    def sent(self) -> None:
        """The bucket takes all files as they are."""
        for path, version in self.found.items():
            self.files[path].take(version, StoredObject("b", path, version.size, "etag"), b"")

    def restless(self, at_rest: bool) -> set[str]:
        opened = OpenFiles(lambda: in_use(self._written()), lambda: self.now)
        found = self.stability.restless({path: self.files[path] for path in self.found}, self.now, at_rest, opened)
        self.logs = found.logs
        return set(found.paths)

    def rewrite(self, seconds: float) -> None:
        """Have a file rewritten for so long, without a rest that counts."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.2
            self.see({"state": Signature(1, 10, int(self.now * 1e9))})


def test_a_new_file_that_is_open_is_waited_for_until_it_is_closed() -> None:
    written = {1}
    watched = Directory(1, lambda: written)
    watched.see({"new": Signature(1, 10, 1)})
    watched.now += 5
    assert watched.restless(at_rest=True) == {"new"} and not watched.stability.waited_enough(watched.now)
    written.clear()
    assert watched.restless(at_rest=True) == set()


def test_a_log_that_stays_open_is_waited_for_once_and_not_for_ever() -> None:
    watched = Directory(1, lambda: {1})
    watched.see({"log": Signature(1, 10, 1)})
    watched.now += 11.9
    assert watched.restless(at_rest=True) == {"log"} and watched.logs == set()
    watched.now += 0.1
    assert watched.restless(at_rest=True) == set()
    watched.sent()
    watched.see({"log": Signature(1, 20, 2)})
    assert watched.restless(at_rest=True) == set()


def test_where_looking_takes_long_it_is_done_the_less_often() -> None:
    def look_long() -> set[int]:
        watched.now += 0.5
        return {1}

    watched = Directory(5, look_long)
    watched.see({"new": Signature(1, 10, 1)})
    before = watched.stability.pause
    watched.restless(at_rest=True)
    assert (before, watched.stability.pause) == (0.25, 5)


def test_what_is_known_is_not_waited_for_because_it_is_open() -> None:
    def is_not_asked() -> set[int]:
        raise AssertionError

    watched = Directory(1, is_not_asked)
    watched.see({"database": Signature(1, 10, 1)})
    watched.sent()
    watched.see({"database": Signature(1, 20, 2)})
    assert watched.restless(at_rest=True) == set()


def test_a_file_that_takes_the_place_of_a_known_one_is_new() -> None:
    watched = Directory(1, lambda: {2})
    watched.see({"weights": Signature(1, 10, 1)})
    watched.sent()
    watched.see({"weights": Signature(2, 5, 2)})
    assert watched.restless(at_rest=True) == {"weights"}


def test_a_file_that_is_rewritten_without_a_rest_counts_as_whole_once_it_is_closed() -> None:
    written: set[int] = set()
    watched = Directory(1, lambda: written)
    watched.rewrite(11)
    watched.sent()
    watched.rewrite(0.5)
    assert watched.restless(at_rest=True) == {"state"}
    watched.rewrite(1)
    assert watched.restless(at_rest=False) == {"state"}
    written.add(1)
    assert watched.restless(at_rest=True) == {"state"}
    written.clear()
    assert watched.restless(at_rest=True) == set()


@pytest.mark.parametrize("written", [set(), {1}], ids=["closed", "open"])
def test_a_file_that_never_rests_goes_up_in_the_end(written: set[int]) -> None:
    watched = Directory(1, lambda: written)
    watched.rewrite(13)
    assert watched.restless(at_rest=False) == {"state"}
    watched.rewrite(61)
    assert watched.restless(at_rest=False) == set()


def test_a_file_that_has_rested_has_to_rest_again() -> None:
    watched = Directory(1, set)
    watched.rewrite(61)
    watched.now += 1
    watched.see(watched.found)
    watched.rewrite(1)
    assert watched.restless(at_rest=True) == {"state"}


def test_a_rewritten_file_is_not_whole_while_its_writer_pauses() -> None:
    written = {1}
    watched = Directory(1, lambda: written)
    watched.rewrite(0.5)
    watched.now += 5
    watched.see(watched.found)
    assert watched.restless(at_rest=True) == {"state"}
    written.clear()
    assert watched.restless(at_rest=True) == set()


def test_a_rewritten_file_that_is_always_open_is_waited_for_once() -> None:
    watched = Directory(1, lambda: {1})
    for waits in (True, False, False):
        watched.rewrite(0.5)
        watched.now += 1
        watched.see(watched.found)
        assert watched.restless(at_rest=True) == ({"state"} if waits else set())
        watched.now += 12
        assert watched.restless(at_rest=True) == set()
        watched.sent()
