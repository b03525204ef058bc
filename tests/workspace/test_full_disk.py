"""A disk of 64 MiB, and what is full when on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.doubles.coordinator import FakeCoordinator
from tests.real_worker import Worker, block, finished, shell

TOO_LARGE = 80_000_000
FILL = "if cat /dev/zero > disk/out/x; then exit 9; fi"


@pytest.fixture
def small_disk(worker: Worker) -> Sequence[str]:
    """What starts the worker with its folder `disk` as one; invisible to other processes, and gone with it."""
    disk = worker.folder / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=64m none "{disk}" && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", mount, "sh"]


def seen_by(worker: Worker, path: str) -> Path:
    return Path(f"/proc/{worker.pid}/root{worker.folder}/{path}")


def test_inputs_that_do_not_fit_give_the_job_back_and_nothing_of_them_stays(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, small_disk: Sequence[str]
) -> None:
    s3.put(bucket, "in/small", b"1")
    s3.put(bucket, "in/large", bytes(TOO_LARGE))
    job = coordinator.submit(**shell("exit 0"), sync={"before": [block(bucket, "in", local_path="disk/in")]})
    worker.start(small_disk)
    report, body = finished(coordinator, job)
    assert (report, body["reason"]) == ("released", "disk_full")
    worker.wait_for("wiped")
    assert list(seen_by(worker, "disk/in").iterdir()) == [] and not worker.seen("command_started")


@pytest.mark.parametrize("code", [0, 1])
def test_a_command_that_fills_the_disk_ends_as_it_says_and_the_next_job_has_the_disk_again(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, small_disk: Sequence[str], code: int
) -> None:
    sync = {"during": [block(bucket, "ck", local_path="disk/ck")]}
    sync["after"] = [block(bucket, "out", local_path="disk/out")]
    filling = coordinator.submit(**shell(f"{FILL}; truncate -s 1000 disk/out/x; exit {code}"), sync=sync)
    worker.start(small_disk)
    assert finished(coordinator, filling)[0] == ("failed" if code else "completed")
    assert s3.files(bucket, "out/") == ({} if code else {"x": bytes(1000)})

    job = coordinator.submit(**shell("head -c 50000000 /dev/zero > disk/ck/y"), sync=sync)
    assert finished(coordinator, job)[0] == "completed"
    assert len(s3.get(bucket, "ck/y")) == 50_000_000


def test_outputs_that_fill_the_disk_to_the_last_byte_go_up(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, small_disk: Sequence[str]
) -> None:
    sync = {"after": [block(bucket, "out", local_path="disk/out")]}
    job = coordinator.submit(**shell(FILL), sync=sync)
    worker.start(small_disk)
    assert finished(coordinator, job)[0] == "completed"
    assert len(s3.get(bucket, "out/x")) == 64 * 1024 * 1024


def test_a_job_that_fills_the_disk_under_the_state_file_is_given_back_before_the_worker_ends(
    coordinator: FakeCoordinator, worker: Worker, bucket: str, small_disk: Sequence[str]
) -> None:
    sync = {"after": [block(bucket, "out", local_path="disk/out")]}
    job = coordinator.submit(**shell(FILL), sync=sync)
    worker.start(small_disk, KELPIE_STATE_FILE=str(worker.folder / "disk/state.json"))
    assert worker.wait() == 1
    assert worker.seen("worker_failed", reason="disk_full")
    wait_for(lambda: coordinator.reports(job), "what became of the job")
    assert [(name, body["reason"]) for name, body in coordinator.reports(job)] == [("released", "disk_full")]
