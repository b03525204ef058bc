"""Commands that write to what is on its way up, on a line that is slower than they are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bench.uplink import Uplink
from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.worker.conftest import block
from tests.worker.coordinator import FakeCoordinator
from tests.worker.test_journey import finished, python
from tests.worker.worker import Worker

SIZE = 6_000_000  # in parts
RATE = 4_000_000  # bytes a second: one file takes longer than the writers below pause

# Each version of a file is one byte repeated, so that a mixture of two shows.
WRITE = f"""
import pathlib, time

place = pathlib.Path("checkpoint")
file, draft = place / "weights", place / "draft"

def content(number, size={SIZE}):
    return bytes([65 + number]) * size

def renaming(number):
    draft.write_bytes(content(number))
    draft.rename(file)

def overwriting(number):
    with file.open("r+b" if number else "wb") as opened:
        opened.write(content(number))

def truncating(number):
    file.write_bytes(content(number))
    time.sleep(0.2)
    with file.open("r+b") as opened:
        opened.truncate({SIZE} // 2)

def deleting(number):
    file.unlink(missing_ok=True)
    time.sleep(0.2)
    file.write_bytes(content(number))

def appending(number):
    with file.open("ab") as opened:
        opened.write(content(0, {SIZE} // 4))
        if number == 0:
            opened.write(content(0))
"""


@pytest.fixture
def line(s3: S3Server) -> Iterator[Uplink]:
    uplink = Uplink(s3.port, RATE)
    yield uplink
    uplink.close()


@contextmanager
def looking(s3: S3Server, bucket: str) -> Iterator[list[bytes]]:
    """Every content of the object that anybody could have read meanwhile, and that of no object left out."""
    seen: list[bytes] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            for content in s3.files(bucket, "ck/").values():
                if content not in seen:
                    seen.append(content)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


@pytest.mark.parametrize("writer", ["renaming", "overwriting", "truncating", "deleting", "appending"])
def test_whatever_is_written_during_its_upload_no_mixture_is_ever_visible_and_the_last_version_arrives(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    line: Uplink,
    writer: str,
) -> None:
    script = WRITE + f"for number in range(6):\n    {writer}(number)\n    time.sleep(0.5)\n"
    script += "draft.unlink(missing_ok=True)\npathlib.Path('last').write_bytes(file.read_bytes())\n"
    sync = {"during": [block(bucket, "checkpoint", prefix="ck/", pattern="^weights$")]}
    job = coordinator.submit(**python(script), sync=sync, heartbeat_interval=10)
    worker = make_worker(AWS_ENDPOINT_URL=f"http://127.0.0.1:{line.port}")
    with looking(s3, bucket) as seen:
        worker.start()
        assert wait_for(lambda: coordinator.reports(job), "the job to end", timeout=90)
        assert finished(coordinator, job)[0] == "completed"
        last = (worker.folder / "last").read_bytes()
        wait_for(lambda: last in seen, "the last version to be looked at")

    assert s3.files(bucket, "ck/") == {"weights": last}
    assert all(len(set(content)) == 1 for content in seen)
    assert s3.unfinished_uploads(bucket) == []
