"""Commands that write to what is on its way up, on a line that is slower than they are."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import requests

from bench.uplink import Uplink
from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.doubles.coordinator import FakeCoordinator
from tests.real_worker import Worker, block, python

SECONDS = 4  # that an upload takes; longer than the writers below pause

# Each version of a file is one byte repeated, so that a mixture of two shows.
WRITERS = """
import os, pathlib, time

place = pathlib.Path("checkpoint")
file, draft = place / "weights", place / "draft"

def content(number, size=SIZE):
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
        opened.truncate(SIZE // 2)

def deleting(number):
    file.unlink(missing_ok=True)
    time.sleep(0.2)
    file.write_bytes(content(number))

def appending(number):
    with file.open("ab") as opened:
        opened.write(content(0, SIZE // 4))
        if number == 0:
            opened.write(content(0))
"""


class Looker:
    """Reads the object whenever it is another one, and remembers those that are a mixture."""

    def __init__(self, url: str) -> None:
        self.versions: list[str] = []  # their ETags
        self.mixtures: list[str] = []
        self._url = url
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Looker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look_once()

    def _look(self) -> None:
        while not self._ended.wait(0.2):
            self._look_once()

    def _look_once(self) -> None:
        shown = requests.head(self._url, timeout=30)
        if shown.status_code == 200 and shown.headers["ETag"] not in self.versions[-1:]:
            content = requests.get(self._url, timeout=30).content
            self.versions.append(shown.headers["ETag"])
            if content.count(content[:1]) != len(content):
                self.mixtures.append(shown.headers["ETag"])


@pytest.mark.parametrize(
    ("writer", "size"),
    # The first two are read while they are written to only if they do not fit into the parts that wait to be sent.
    [("renaming", 100), ("overwriting", 100), ("truncating", 6), ("deleting", 6), ("appending", 6)],
)
def test_whatever_is_written_during_its_upload_no_mixture_is_ever_visible_and_the_last_version_arrives(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    writer: str,
    size: int,
) -> None:
    script = (
        f"SIZE = {size}_000_000\n{WRITERS}\nfor number in range(6):\n    {writer}(number)\n    time.sleep(0.5)\n"
    )
    script += "draft.unlink(missing_ok=True)\nfile.rename('last')\nos.link('last', file)\n"
    sync = {"during": [block(bucket, "checkpoint", prefix="ck/", pattern="^weights$")]}
    job = coordinator.submit(**python(script), sync=sync, heartbeat_interval=10)
    line = Uplink(s3.port, size / SECONDS * 1_000_000)
    worker = make_worker(AWS_ENDPOINT_URL=f"http://127.0.0.1:{line.port}")
    with Looker(f"{s3.url}/{bucket}/ck/weights") as looker:
        worker.start()
        wait_for(lambda: coordinator.reports(job), "the job to end", timeout=120)
    line.close()

    assert coordinator.status(job) == "completed"
    assert s3.files(bucket, "ck/") == {"weights": (worker.folder / "last").read_bytes()}
    assert looker.mixtures == []
    wait_for(lambda: s3.unfinished_uploads(bucket) == [], "nothing to be left of the uploads")
