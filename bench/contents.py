"""What it costs to find files that were changed without a trace: what is read again, and for how long."""

from __future__ import annotations

import mmap
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import click

from bench.harness import HELP, Goals
from kelpie_worker.checkpoints.mirror import Look
from kelpie_worker.checkpoints.tracked_files import DirectoryHistory, TrackedFiles
from kelpie_worker.checkpoints.unseen_changes import Contents
from kelpie_worker.job import Job, StoredObject, SyncBlock
from kelpie_worker.lease import Lease
from kelpie_worker.system.linux import process_ids
from kelpie_worker.system.open_files import files_in_use
from kelpie_worker.workspace.file_version import Signature, digest_of
from kelpie_worker.workspace.scan import Scanner

RUNS = 5
MIB = 1024 * 1024


@click.command(help=__doc__, context_settings=HELP)
@click.option("--size", default=256, show_default=True, help="MiB of the large file.")
@click.option("--files", default=2000, show_default=True, help="Small files, of 64 kB each.")
@click.option("--small", is_flag=True, help="16 MiB and 100 files, judging no times.")
def main(size: int, files: int, small: bool) -> None:
    size, files = (16, 100) if small else (size, files)
    goals = Goals(judged=not small)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), size, files)
        compared(goals, folder, runs=1 if small else RUNS)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        write(Path(folder), 1 if small else 16, 0)
        watched(goals, folder, wait=not small)
    processes(goals)
    sys.exit(goals.verdict())


def write(folder: Path, size: int, files: int) -> None:
    block = os.urandom(MIB)
    with (folder / "large").open("wb") as large:
        for _ in range(size):
            large.write(block)
    for number in range(files):
        (folder / f"small-{number}").write_bytes(block[number : number + 64_000])


class Sent:
    """A directory of which the bucket has all, without a bucket."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._scanner = Scanner(folder, lambda path: True, frozenset())
        past = DirectoryHistory({}, {}, {}, False)
        self.files = TrackedFiles(past, lambda path: True, lambda path: ("b", path))
        block = SyncBlock("b", "c/", folder)
        lease = Lease()
        self._contents = Contents(
            Job("claim", "job"), block, self.files, past, lease, threading.Event(), self._fail
        )
        self._digests = {path: self._digest(path, version) for path, version in self._scanner.scan().items()}

    def send(self) -> None:
        look = self.look()
        proven = self._contents.proven(look.found, look)
        for path, version in look.found.items():
            stored = StoredObject("b", path, version.size, "etag")
            self.files[path].take(version, stored, b"", self._digests[path])
        self._contents.note_sent(look.found, proven)

    def look(self, final: bool = False) -> Look:
        return Look(self._scanner.scan(), time.monotonic(), final)

    def compare(self, look: Look) -> None:
        self._contents.compare(look)
        self._contents.wait()

    def _fail(self) -> None:
        raise RuntimeError("a file differs that was not changed")

    def read_all(self) -> None:
        for path, version in self._scanner.scan().items():
            self._digest(path, version)

    def _digest(self, path: str, version: Signature) -> bytes:
        return digest_of(f"{self.folder}/{path}", version, lambda: None)


def compared(goals: Goals, folder: str, runs: int) -> None:
    """The comparison when the command has ended, beside a reading of everything."""
    sent = Sent(folder)
    whole = median_of(sent.read_all)
    click.echo(f"        all that was sent, read once: {whole:.2f} s")
    for what, opened, limit in (
        ("all closed before they were sent", [], 0.1),
        ("one of them open when it was sent", ["small-0"], 0.1),
        ("the large one mapped when it was sent", ["large"], 1.5),
    ):
        took = statistics.median(at_the_end(sent, opened) for _ in range(runs))
        goals.figure(
            f"compared at the end, {what}: {took / whole:.3f} of that, at most {limit}", took < limit * whole
        )


def at_the_end(sent: Sent, opened: list[str]) -> float:
    """Seconds of the comparison, without the look at the processes, which is measured by itself."""
    with ExitStack() as mapped:
        for name in opened:
            mapped.enter_context(mapping(Path(sent.folder, name)))
        sent.send()
    look = sent.look(final=True)
    assert look.opened.in_use.is_all
    return seconds_of(lambda: sent.compare(look))


@contextmanager
def mapping(path: Path) -> Iterator[None]:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        yield


def watched(goals: Goals, folder: str, wait: bool) -> None:
    """A file that stays mapped on a tmpfs, which has to be read again and again while the command runs."""
    sent = Sent(folder)
    with mapping(Path(folder, "large")):
        sent.send()
        first = sent.look()
        busy = seconds_of(lambda: sent.compare(first))
        again = sent.look()
        while wait and again.opened.took is None:  # until the next one is due
            time.sleep(0.05)
            again = sent.look()
            sent.compare(again)
    share = busy / (again.now - first.now)
    what = f"a mapped file on a tmpfs: {share:.3f} of the time goes into comparing it, at most 0.1"
    goals.figure(what, share < 0.1)


def processes(goals: Goals) -> None:
    """The processor time of a look at all processes, beside one at their open files alone, in turns."""
    turns = [(cpu_of(descriptors_alone), cpu_of(files_in_use)) for _ in range(RUNS)]
    ratio = statistics.median(both / alone for alone, both in turns)
    took = statistics.median(both for _, both in turns)
    click.echo(f"        a look at {len(process_ids())} processes: {took * 1000:.0f} ms of a core")
    goals.figure(f"files open or mapped : files open: {ratio:.1f}, at most 3", ratio < 3)


def descriptors_alone() -> None:
    for pid in process_ids():
        with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as descriptors:
            for descriptor in descriptors:
                with suppress(OSError):
                    descriptor.stat()


def median_of(work: Callable[[], object]) -> float:
    return statistics.median(seconds_of(work) for _ in range(RUNS))


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cpu_of(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
