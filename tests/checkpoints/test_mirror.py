"""What a watch does about its directory, as the table in the docstring of `Mirror` has it, row by row."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from kelpie_worker.checkpoints import pacing
from kelpie_worker.checkpoints.mirror import Look, Mirror, Send, UpToDate, Wait
from kelpie_worker.checkpoints.pacing import Pacing
from kelpie_worker.checkpoints.stability import OpenFiles, Stability
from kelpie_worker.checkpoints.tracked_files import DirectoryHistory, Sendings, TrackedFiles
from kelpie_worker.job import StoredObject
from kelpie_worker.system.open_files import FilesInUse
from kelpie_worker.transfer.part_sizes import WHOLE_SIZE
from kelpie_worker.workspace.file_version import Signature, Snapshot

LONGEST_WAIT = 12  # seconds, for files that are being written, where the longest wait for quiet is one


class Directory:
    """A directory of which the bucket has `file` and `old`, both of the last generation, and its watch's clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.files = TrackedFiles(DirectoryHistory({}, {}, {}, False), lambda path: True, lambda path: ("b", path))
        self.stability = Stability(max_wait=1)
        self.pacing = Pacing(lambda file: self.copies, lambda size: self.seconds, list)
        self.seconds = 0.0  # that it takes to send a file
        self.copies = False  # whether storage copies what it has of a file
        self.mirrors_deletes = True
        self.is_unreported = False  # what was sent before
        self.looks: dict[str, Any] = {"at_rest": True}
        self.refuses: set[str] = set()
        self.loses: set[str] = set()  # while it is sent
        self.opened: set[int] = set()
        self._numbers = itertools.count(1)
        self.found: Snapshot = {}
        self.write("file", "old")
        self.scan()
        for path, version in self.found.items():
            self.take(path, version)
            self.files[path].was_here = self.files[path].in_last_generation = True
        self.now += 100
        self.scan()

    # --- what the command and the bucket do ---------------------------------------------------------

    def write(self, *paths: str) -> None:
        """Whole, by rename."""
        self.found |= {path: Signature(next(self._numbers), 10, next(self._numbers)) for path in paths}

    def open(self, path: str) -> None:
        """Written anew, and not closed yet."""
        self.write(path)
        self.opened.add(self.found[path].inode)

    def rewrite(self, path: str) -> None:
        """In place, just now."""
        self.found[path] = Signature(self.found[path].inode, 10, next(self._numbers))
        self.looks["at_rest"] = False

    def append(self, path: str, size: int = 10) -> None:
        before = self.found[path]
        self.found[path] = Signature(before.inode, before.size + size, next(self._numbers))
        self.looks["at_rest"] = False

    def remove(self, path: str) -> None:
        del self.found[path]

    def remove_before(self, path: str) -> None:
        """The last generation lacks it already."""
        self.remove(path)
        self.files[path].in_last_generation = False

    def refuse(self, path: str) -> None:
        """It was refused in an earlier turn."""
        self.write(path)
        self.scan()
        self.files[path].put_off(self.now)

    def send_again_and_again(self, path: str) -> None:
        """A large file, which has grown, and of which more than its size has been sent, at last just now."""
        self.append(path, size=2 * pacing.SMALL)
        self.take(path, self.found[path])
        self.append(path)
        self.files[path].sendings = Sendings(size=3 * pacing.SMALL, last_at=self.now)

    def take(self, path: str, version: Signature) -> None:
        self.files[path].take(version, StoredObject("b", path, version.size, "etag"), b"")

    def _in_use(self) -> FilesInUse:
        return FilesInUse(written=frozenset((0, inode) for inode in self.opened))

    # --- what the watch does ------------------------------------------------------------------------

    def scan(self) -> None:
        self.stability.see(self.files, self.found, self.now)

    def while_it_waits(self, change: Callable[[], None]) -> None:
        """Have something change without a rest for as long as it is waited for."""
        for _ in range(LONGEST_WAIT * 4):
            change()
            assert self.turn()[-1] == "soon"
            self.now += 0.25
        change()

    def turn(self) -> tuple[str, str, str, str]:
        """Look, decide, send; what is sent, whether that is whole, what is deleted, and when it looks again."""
        self.scan()
        mirror = Mirror(self.files, self.stability, self.pacing, self.mirrors_deletes)
        look = Look(dict(self.found), self.now, **self.looks, opened=OpenFiles(self._in_use))
        match mirror.decide(look):
            case UpToDate():
                return "-", "-", "-", "change"
            case Wait():
                return "-", "-", "-", "soon"
            case Send() as decided:
                return self._send(mirror, decided, look)

    def _send(self, mirror: Mirror, decided: Send, look: Look) -> tuple[str, str, str, str]:
        for path, version in decided.files.items():
            if path in self.refuses:
                self.files[path].put_off(self.now)
            elif path not in self.loses:
                self.take(path, version)
        names = " ".join(decided.files) if len(decided.files) < 10 else f"{len(decided.files)} files"
        is_unreported = self.is_unreported or bool(decided.files)
        sequel = mirror.after(decided, look.without(self.loses), self.now, is_unreported)
        if sequel is None:
            return names, "-", "-", "now"
        waits = "end" if look.final else "change"
        whole, deleted = "yes" if sequel.is_whole else "-", " ".join(sequel.delete)
        return names or "-", whole, deleted or "-", waits if sequel.up_to_date else "now"


@dataclass(frozen=True)
class Row:
    shows: str
    does: tuple[str, str, str, str]
    arrange: list[Callable[[Directory], Any]] = field(default_factory=list)


def new(watched: Directory) -> None:
    watched.write("new")


def old_removed(watched: Directory) -> None:
    watched.remove("old")


def old_removed_before(watched: Directory) -> None:
    watched.remove_before("old")


def in_motion(watched: Directory) -> None:
    watched.looks |= {"at_rest": False, "is_one_state": False}


def unreported(watched: Directory) -> None:
    watched.is_unreported = True


def file_rewritten(watched: Directory) -> None:
    watched.rewrite("file")


def file_rewritten_all_the_time(watched: Directory) -> None:
    watched.while_it_waits(lambda: watched.rewrite("file"))


def log_grows(watched: Directory) -> None:
    watched.write("log")
    watched.scan()
    watched.append("log")


def grown_often(watched: Directory) -> None:
    watched.send_again_and_again("file")


def small_grown_often(watched: Directory) -> None:
    watched.write("small")
    watched.take("small", watched.found["small"])
    watched.append("small")
    watched.files["small"].sendings = Sendings(size=1000, last_at=watched.now)
    watched.looks["at_rest"] = True


def large_grown(watched: Directory) -> None:
    watched.append("file", size=2 * WHOLE_SIZE)
    watched.take("file", watched.found["file"])
    watched.append("file")
    watched.looks["at_rest"] = True


def once_refused(watched: Directory) -> None:
    watched.refuse("no")


def final(watched: Directory) -> None:
    watched.looks = {"final": True}


ROWS = [
    Row("nothing written or removed since the last generation", ("-", "-", "-", "change")),
    Row("a new file", ("new", "yes", "-", "change"), [new]),
    Row("the same, where the directory does not hold still", ("new", "-", "-", "change"), [new, in_motion]),
    Row("a file replaced by a new version", ("file", "yes", "-", "change"), [lambda w: w.write("file")]),
    Row(
        "a file that grows without a rest, after it was sent once",
        ("file", "yes", "-", "change"),
        [lambda w: w.append("file")],
    ),
    Row("the same, sent again too often, beside a new file", ("new", "-", "-", "change"), [new, grown_often]),
    Row(
        "the same, beside a file removed before",
        ("new", "-", "old", "change"),
        [new, grown_often, old_removed_before],
    ),
    Row("the same, without another file", ("-", "-", "-", "change"), [grown_often]),
    Row(
        "the same, where storage copies what it has of the file",
        ("file", "yes", "-", "change"),
        [grown_often, lambda w: setattr(w, "copies", True)],
    ),
    Row(
        "the same, once much time has passed",
        ("file", "yes", "-", "change"),
        [grown_often, lambda w: setattr(w, "now", w.now + pacing.ALONE.least_pause)],
    ),
    Row(
        "a small file that grows, beside a new one", ("small new", "yes", "-", "change"), [small_grown_often, new]
    ),
    Row(
        "a large file that grew and takes long, beside a new one",
        ("new", "-", "-", "change"),
        [large_grown, new, lambda w: setattr(w, "seconds", 60.0)],
    ),
    Row(
        "more files than a generation may have",
        ("1000 files", "-", "-", "now"),
        [lambda w: w.write(*map(str, range(1001)))],
    ),
    Row("a file removed since the last generation", ("-", "-", "-", "change"), [old_removed]),
    Row(
        "the same, where what was sent before was never reported",
        ("-", "yes", "-", "change"),
        [old_removed, unreported],
    ),
    Row("the same, beside a new file", ("new", "yes", "-", "change"), [old_removed, new]),
    Row("a file removed before the last generation", ("-", "yes", "old", "change"), [old_removed_before]),
    Row("the same, beside a new file", ("new", "yes", "old", "change"), [old_removed_before, new]),
    Row(
        "the same, where the directory does not hold still",
        ("new", "-", "-", "change"),
        [old_removed_before, new, in_motion],
    ),
    Row(
        "the same, hidden by a link or in a closed folder",
        ("-", "-", "-", "change"),
        [old_removed_before, lambda w: w.looks.update(shows_removals=False)],
    ),
    Row(
        "the same, where deletes are not mirrored",
        ("-", "-", "-", "change"),
        [old_removed_before, lambda w: setattr(w, "mirrors_deletes", False)],
    ),
    Row(
        "a new file that is open for writing, beside a new one",
        ("-", "-", "-", "soon"),
        [new, lambda w: w.open("open")],
    ),
    Row(
        "the same, once it was waited for",
        ("new open", "yes", "-", "change"),
        [new, lambda w: w.open("open"), lambda w: w.scan(), lambda w: setattr(w, "now", w.now + LONGEST_WAIT)],
    ),
    Row("a file being rewritten in place, beside a new one", ("-", "-", "-", "soon"), [new, file_rewritten]),
    Row("the same, once it was waited for", ("new", "-", "-", "now"), [new, file_rewritten_all_the_time]),
    Row(
        "the same, beside a file removed before",
        ("new", "-", "-", "now"),
        [new, old_removed_before, file_rewritten_all_the_time],
    ),
    Row(
        "a new file being rewritten, beside a file removed before",
        ("-", "-", "-", "now"),
        [
            old_removed_before,
            lambda w: w.write("half"),
            lambda w: w.scan(),
            lambda w: w.while_it_waits(lambda: w.rewrite("half")),
        ],
    ),
    Row("a new file that grows without a rest", ("-", "-", "-", "soon"), [log_grows]),
    Row(
        "the same, once it was waited for",
        ("log", "-", "-", "now"),
        [log_grows, lambda w: w.while_it_waits(lambda: w.append("log"))],
    ),
    Row(
        "a file that the bucket refuses, beside a new one",
        ("new no", "-", "-", "change"),
        [new, lambda w: w.write("no"), lambda w: w.refuses.add("no")],
    ),
    Row("a refused file, beside a new one", ("new", "-", "-", "change"), [once_refused, new]),
    Row(
        "a refused version, beside a file removed before",
        ("new", "-", "-", "change"),
        [lambda w: w.refuse("file"), new, old_removed_before],
    ),
    Row(
        "a refused file that is due again",
        ("no", "yes", "-", "change"),
        [once_refused, lambda w: setattr(w, "now", w.now + 1)],
    ),
    Row(
        "a file that goes away with its directory, beside a new one",
        ("new gone", "yes", "-", "change"),
        [new, lambda w: w.write("gone"), lambda w: w.loses.add("gone")],
    ),
    Row("final: a file being rewritten in place", ("file", "yes", "-", "end"), [file_rewritten, final]),
    Row("final: a file that grew, sent again too often", ("file", "yes", "-", "end"), [grown_often, final]),
    Row("final: a file removed since the last generation", ("-", "yes", "old", "end"), [old_removed, final]),
    Row("final: a refused file, beside a new one", ("new", "-", "-", "now"), [once_refused, new, final]),
    Row("final: a refused file", ("no", "yes", "-", "end"), [once_refused, final]),
    Row(
        "final: a new file, where the directory does not hold still",
        ("new", "-", "-", "now"),
        [new, final, in_motion],
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.shows)
def test_what_a_look_shows_decides_what_is_sent_reported_and_deleted_and_when_to_look_again(row: Row) -> None:
    watched = Directory()
    for step in row.arrange:
        step(watched)
    assert watched.turn() == row.does


def test_the_docstring_has_the_same_rows_in_the_same_order() -> None:
    lines = [re.split(r" {2,}", line.strip()) for line in (Mirror.__doc__ or "").splitlines()]
    table = [tuple(line) for line in lines if len(line) == 5]
    assert table[2:] == [(row.shows, *row.does) for row in ROWS]
