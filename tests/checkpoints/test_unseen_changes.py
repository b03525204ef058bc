"""Files whose content changes while all that `stat` shows of them stays the same."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from kelpie_worker.checkpoints import observer, unseen_changes
from kelpie_worker.checkpoints.mirror import Look
from kelpie_worker.checkpoints.stability import OpenFiles
from kelpie_worker.checkpoints.tracked_files import DirectoryHistory, TrackedFiles
from kelpie_worker.checkpoints.unseen_changes import Contents
from kelpie_worker.config import WatchTimes
from kelpie_worker.job import Job, StoredObject, SyncBlock
from kelpie_worker.lease import Lease
from kelpie_worker.system.open_files import FilesInUse
from kelpie_worker.workspace import file_version, scan
from kelpie_worker.workspace.file_version import Signature, Snapshot, signature_of
from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.checkpoints import watched as watched_directory
from tests.checkpoints.watched import Watched, keys_of

PAGE = mmap.PAGESIZE
FILE = (0, 1)
OPEN = FilesInUse(written=frozenset([FILE]))
MAPPED = FilesInUse(written=frozenset([FILE]), mapped=frozenset([FILE]))
NOTHING = FilesInUse()
CLOSED_TO_INSPECTION = FilesInUse(is_all=False)


# --- which files are read again, and when ----------------------------------------------------------------


@dataclass
class System:
    """What the kernel tells, and how often a content was read again."""

    tells_writes: bool = True
    reveals: bool = True
    digest: bytes = b"sent"
    read: int = 0
    flushed: int = 0


class Directory:
    """One file that was sent while `in_use` was so, as its watch sees it later."""

    def __init__(self, system: System, monkeypatch: pytest.MonkeyPatch, history: dict[str, bool]) -> None:
        self.system = system
        self.now = 1000.0
        self.found: Snapshot = {"file": Signature(1, 10, 1)}
        past = DirectoryHistory(self.found if history else {}, {}, {}, False, **history)
        self.files = TrackedFiles(past, lambda path: True, lambda path: ("b", path))
        block = SyncBlock("b", "c/", "/nowhere")
        self.contents = Contents(
            Job("claim", "job"), block, self.files, past, Lease(), threading.Event(), lambda: None
        )
        for name in ("tells_writes", "digest_of", "flush", "flush_reveals_writes"):
            monkeypatch.setattr(unseen_changes, name, getattr(self, f"_{name}"))
        monkeypatch.setattr(unseen_changes.time, "monotonic", lambda: self.now)

    def send(self, in_use: FilesInUse) -> None:
        look = self.look(in_use)
        proven = self.contents.proven(self.found, look)
        self.files["file"].take(self.found["file"], StoredObject("b", "file", 10, "etag"), b"", b"sent")
        self.contents.note_sent(self.found, proven)

    def look(self, in_use: FilesInUse, final: bool = False) -> Look:
        self.now += 100
        return Look(dict(self.found), self.now, final, opened=OpenFiles(lambda: in_use, lambda: self.now))

    def times_read(self, in_use: FilesInUse, final: bool = False, looks: int = 1) -> int:
        before = self.system.read
        for _ in range(looks):
            self.contents.compare(self.look(in_use, final))
            self.contents.wait()
        return self.system.read - before

    def _tells_writes(self, *_: Any) -> bool:
        return self.system.tells_writes

    def _digest_of(self, *_: Any) -> bytes:
        self.system.read += 1
        return self.system.digest

    def _flush(self, *_: Any) -> None:
        self.system.flushed += 1

    def _flush_reveals_writes(self, *_: Any) -> bool:
        return self.system.reveals


@pytest.mark.parametrize(
    ("system", "sent_while", "then", "while_it_runs", "at_the_end"),
    [
        (System(), NOTHING, NOTHING, 0, 0),
        (System(), NOTHING, MAPPED, 0, 0),  # opened after it was read: the first write moves the times
        (System(), OPEN, OPEN, 0, 1),
        (System(), OPEN, NOTHING, 1, 0),
        (System(), MAPPED, MAPPED, 1, 1),
        (System(reveals=False, tells_writes=False), MAPPED, MAPPED, 3, 1),
        (System(reveals=False, tells_writes=False), MAPPED, NOTHING, 1, 1),
        (System(reveals=False, tells_writes=False), NOTHING, MAPPED, 3, 1),
        (System(tells_writes=False), NOTHING, NOTHING, 1, 1),
        (System(tells_writes=False), OPEN, OPEN, 0, 1),
        (System(), CLOSED_TO_INSPECTION, CLOSED_TO_INSPECTION, 1, 1),
    ],
    ids=[
        "closed",
        "mapped later",
        "open",
        "open, then closed",
        "mapped",
        "mapped on tmpfs",
        "mapped on tmpfs, then closed",
        "mapped later on tmpfs",
        "times that tell nothing",
        "times that tell nothing, and open",
        "a process that may not be inspected",
    ],
)
def test_a_file_is_read_again_where_its_signature_does_not_speak_for_it(
    system: System,
    sent_while: FilesInUse,
    then: FilesInUse,
    while_it_runs: int,
    at_the_end: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = Directory(replace(system), monkeypatch, {})
    directory.send(sent_while)
    assert directory.times_read(then, looks=3) == while_it_runs
    assert directory.times_read(NOTHING, final=True, looks=2) == at_the_end
    assert not directory.files["file"].content.may_differ


def test_a_file_that_differs_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Directory(System(), monkeypatch, {})
    directory.send(OPEN)
    directory.system.digest = b"other"
    directory.contents.compare(directory.look(NOTHING, final=True))
    assert directory.files.changed(directory.found) == directory.found
    directory.send(NOTHING)
    assert not directory.files.changed(directory.found)


def test_a_mapped_file_is_flushed_before_it_is_read_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Directory(System(), monkeypatch, {})
    directory.send(MAPPED)
    directory.times_read(MAPPED)
    assert directory.system.flushed == 1
    directory.times_read(NOTHING, final=True)
    assert directory.system.flushed == 1


def test_comparing_takes_a_twentieth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Directory(System(reveals=False), monkeypatch, {})
    monkeypatch.setattr(unseen_changes, "digest_of", lambda *_: directory.look(MAPPED) and directory._digest_of())
    directory.send(MAPPED)
    assert directory.times_read(MAPPED, looks=1) == 1  # it takes a hundred seconds, and so does each look
    assert directory.times_read(MAPPED, looks=19) == 0
    assert directory.times_read(MAPPED, looks=1) == 1


def test_no_checkpoint_waits_for_a_huge_file_that_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Directory(System(), monkeypatch, {})
    read = threading.Event()
    monkeypatch.setattr(unseen_changes, "digest_of", lambda *_: read.wait() and b"other")
    directory.send(OPEN)
    for _ in range(3):
        directory.contents.compare(directory.look(NOTHING))
        assert not directory.files.changed(directory.found)
    read.set()
    directory.contents.wait()
    assert directory.files.changed(directory.found) == directory.found


def test_processes_are_looked_at_no_more_often_where_a_file_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Directory(System(), monkeypatch, {})
    directory.send(OPEN)
    monkeypatch.setattr(unseen_changes, "_SHORTEST_PAUSE", 250)  # seconds; there are a hundred between two looks
    looks = [directory.look(OPEN) for _ in range(7)]
    for look in looks:
        directory.now = look.now
        directory.contents.compare(look)
        directory.contents.wait()
    assert [look.opened.took is not None for look in looks] == [True, False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("system", "history", "at_the_end", "is_sent_anew"),
    [
        (System(), {"is_untouched": True, "is_of_another_boot": True}, 0, False),  # a boot that is not known
        (System(), {"is_untouched": False}, 0, False),
        (System(), {"is_untouched": False, "is_of_another_boot": True}, 0, True),
        (System(tells_writes=False), {"is_untouched": True}, 1, False),
        (System(tells_writes=False), {"is_untouched": False}, 0, True),
    ],
    ids=["just downloaded", "by an earlier run", "before a reboot", "without times", "without times, earlier"],
)
def test_a_download_counts_as_sent_where_it_is_known_to_be_unchanged(
    system: System,
    history: dict[str, bool],
    at_the_end: int,
    is_sent_anew: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = Directory(replace(system), monkeypatch, history)
    directory.contents.begin(directory.found)
    assert directory.times_read(NOTHING, final=True) == at_the_end
    assert bool(directory.files.changed(directory.found)) == is_sent_anew


# --- with a kernel and a bucket --------------------------------------------------------------------------


@pytest.fixture(params=[None, "/dev/shm"], ids=["disk", "tmpfs"])
def mapped(
    request: pytest.FixtureRequest, aws: None, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Watched]:
    """A watched directory with a file of two pages, `state`, that the bucket has."""
    for module, name, value in (
        (unseen_changes, "_SHORTEST_PAUSE", 0.05),
        (unseen_changes, "_PAUSE_FACTOR", 1),
        (observer, "_SHORTEST_SCAN_PAUSE", 0.05),
        (observer, "_SCAN_PAUSE_FACTOR", 1),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(watched_directory, "TIMES", WatchTimes(debounce=0, stability=0.02, max_wait=0.1))
    with tempfile.TemporaryDirectory(dir=request.param) as folder:
        watched = Watched(Path(folder, "checkpoint"), bucket)
        (watched.folder / "state").write_bytes(b"0" * 2 * PAGE)
        yield watched
        watched.lease.cancel()
        watched.checkpoints.stop()
        watched.transfer.close()


@contextmanager
def mapping(path: Path) -> Iterator[mmap.mmap]:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        yield pages


def send(watched: Watched) -> None:
    while not watched.checkpoints.cycle(final=False):
        pass


def test_what_a_mapping_wrote_last_is_sent_when_the_command_has_ended(
    mapped: Watched, s3: S3Server, bucket: str
) -> None:
    path = mapped.folder / "state"
    with mapping(path) as pages:
        pages[0:1], pages[PAGE : PAGE + 1] = b"1", b"1"
        while not mapped.checkpoints.cycle(final=True):
            pass
        pages[0:1], pages[PAGE : PAGE + 1] = b"2", b"2"
    mapped.checkpoints.finish()
    assert keys_of(s3, bucket)["state"] == path.read_bytes()


def read_then_write(path: Path) -> None:
    """On a tmpfs a page that was read through a mapping can be written at once: no time moves."""
    with mapping(path) as pages:
        assert pages[0:1] == b"0"
        pages[0:1] = b"1"


def test_what_a_mapping_made_after_the_upload_reads_and_then_writes_is_sent(
    mapped: Watched, s3: S3Server, bucket: str
) -> None:
    send(mapped)
    read_then_write(mapped.folder / "state")
    mapped.checkpoints.finish()
    assert keys_of(s3, bucket)["state"] == b"1" + b"0" * (2 * PAGE - 1)


def test_what_a_mapping_made_after_the_download_reads_and_then_writes_is_sent(
    mapped: Watched, s3: S3Server, bucket: str
) -> None:
    brought = scan.Scanner(str(mapped.folder), lambda name: True, frozenset()).scan()
    watched = Watched(mapped.folder, bucket, brought, is_untouched=True)
    watched.checkpoints.start()
    read_then_write(mapped.folder / "state")
    watched.checkpoints.finish()
    watched.transfer.close()
    assert keys_of(s3, bucket)["state"] == b"1" + b"0" * (2 * PAGE - 1)


def test_what_a_mapping_writes_is_sent_while_the_command_runs(mapped: Watched, s3: S3Server, bucket: str) -> None:
    mapped.checkpoints.start()
    with mapping(mapped.folder / "state") as pages:
        for number in b"12":
            pages[0] = number
            wait_for(lambda: keys_of(s3, bucket).get("state", b"-")[0] == pages[0], "what was written")


def test_an_output_is_sent_again_where_the_checkpoint_may_be_older(mapped: Watched, bucket: str) -> None:
    with mapping(mapped.folder / "state"):
        while not mapped.checkpoints.cycle(final=True):
            pass
        assert not mapped.checkpoints.sent_objects()
    mapped.checkpoints.finish()
    assert mapped.checkpoints.sent_objects().keys() == {(bucket, "c/state")}


def overwrite(path: Path, content: bytes) -> None:
    with path.open("r+b") as file:
        file.write(content)


def restore_times(path: Path) -> None:
    """As `cp -p`, `rsync -t --inplace`, `touch -r` and `tar` leave a file."""
    before = path.stat()
    overwrite(path, b"new")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_another(path: Path) -> None:
    before, other = path.stat(), path.with_name("other")
    other.write_bytes(b"new")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


def write_by_another_name(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.hardlink_to(path)
    overwrite(elsewhere, b"new")
    elsewhere.unlink()


def fill_a_hole(path: Path) -> None:
    with mapping(path) as pages:
        pages[0:3] = b"new"


def allocate(path: Path) -> None:
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 3)
        file.write(b"new")


def truncate_and_write(path: Path) -> None:
    path.write_bytes(b"new")


CHANGES: dict[str, Callable[[Path], object]] = {
    "its time restored": restore_times,
    "replaced": replace_by_another,
    "by another name": write_by_another_name,
    "in a hole": fill_a_hole,
    "allocated": allocate,
    "from its beginning": truncate_and_write,
    "in place": lambda path: overwrite(path, b"new"),
}
KINDS_OF_TIMES: dict[str, Callable[[int], int]] = {
    "fine": lambda ns: ns,
    "of a second": lambda ns: ns // 10**9 * 10**9,
    "of a clock that stands": lambda ns: 10**18,
    "of a clock that runs backwards": lambda ns: 4 * 10**18 - ns,
}


@pytest.mark.parametrize("times", KINDS_OF_TIMES)
def test_whatever_times_a_change_leaves_the_bucket_has_what_the_command_left(
    times: str, watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    see_times(KINDS_OF_TIMES[times], monkeypatch)
    for name in CHANGES:
        with (watched.folder / name).open("wb") as file:
            file.truncate(3)
    send(watched)
    assert keys_of(s3, bucket) == dict.fromkeys(CHANGES, bytes(3))
    for name, change in CHANGES.items():
        change(watched.folder / name)
    watched.checkpoints.finish()
    assert keys_of(s3, bucket) == dict.fromkeys(CHANGES, b"new")


def see_times(shown: Callable[[int], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a file system's times look as `shown` makes them of the real ones."""

    def signature(status: os.stat_result) -> Signature:
        real = signature_of(status)
        return replace(real, mtime_ns=shown(real.mtime_ns), ctime_ns=shown(real.ctime_ns))

    for module in (file_version, scan):
        monkeypatch.setattr(module, "signature_of", signature)


def test_what_was_closed_before_it_was_sent_is_never_read_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[str]()
    monkeypatch.setattr(unseen_changes, "digest_of", lambda path, *_: read.append(path))
    monkeypatch.setattr(unseen_changes, "tells_writes", lambda *_: True)  # the test's directory may be on a tmpfs
    for name in ("one", "two"):
        (watched.folder / name).write_bytes(b"content")
    watched.write("renamed", b"content")
    send(watched)
    overwrite(watched.folder / "two", b"CONTENT")
    watched.checkpoints.finish()
    assert read == []


def test_a_download_that_a_disk_may_have_lost_is_sent_anew(
    aws: None, tmp_path: Path, s3: S3Server, bucket: str
) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "weights").write_bytes(b"as the disk has it")
    brought = scan.Scanner(str(tmp_path / "checkpoint"), lambda name: True, frozenset()).scan()
    Watched(tmp_path / "checkpoint", bucket, brought, is_of_another_boot=True).checkpoints.finish()
    assert keys_of(s3, bucket) == {"weights": b"as the disk has it"}
