"""Everything that is asked of the bucket, broken in every way that networks and servers break it."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.doubles.coordinator import FakeCoordinator
from tests.doubles.faulty_proxy import FAULTS, FaultyProxy
from tests.real_worker import UNTIL_TOLD, Sync, Worker, block, finished, shell

OPERATIONS = {"list", "get", "head", "put", "create", "part", "complete", "delete", "probe"}
LARGE = os.urandom(12_000_000)  # in parts


def operation_of(method: str, path: str) -> str:
    named = {"~probe": "probe", "list-type": "list", "uploads": "create", "partNumber": "part"}
    for part, operation in named.items():
        if part in path:
            return operation
    if "uploadId" in path:
        return {"POST": "complete", "DELETE": "abort"}[method]
    return method.lower()


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_breaks_every_file_arrives_whole_and_the_job_completes(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    sync: Sync,
    faulty: FaultyProxy,
    impatient: dict[str, str],
    fault: str,
) -> None:
    s3.put(bucket, "in/large", LARGE)
    script = f"cp in/large checkpoint/large; echo 1 > checkpoint/small; echo 1 > checkpoint/gone; {UNTIL_TOLD}; "
    script += "rm checkpoint/gone; mv in/large out/large; echo 2 > out/small"
    job = coordinator.submit(**shell(script), sync=sync, heartbeat_interval=5)
    faulty.counts_looks = True
    faulty.break_each_once(fault, operation_of)
    worker = make_worker(AWS_ENDPOINT_URL=faulty.url, **impatient).start()
    worker.wait_for("checkpoint_committed")
    (worker.folder / "go").touch()

    assert finished(coordinator, job)[0] == "completed"

    assert set(faulty.broken) == OPERATIONS
    assert s3.files(bucket, "out/") == {"large": LARGE, "small": b"2\n"}
    assert s3.files(bucket, "checkpoint/") == {"large": LARGE, "small": b"1\n"}
    assert coordinator.attempts(job) == 1 and len(worker.seen("command_started")) == 1
    # An upload whose id was in a lost answer cannot be aborted.
    if fault not in ("lost", "truncate", "behead"):
        assert s3.unfinished_uploads(bucket) == []


@pytest.mark.parametrize("fault", ["503", "stall", "lost"])
def test_an_upload_that_cannot_even_be_aborted_keeps_no_worker_from_its_next_job(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
    impatient: dict[str, str],
    fault: str,
) -> None:
    faults = {"part": "503", "abort": fault}
    faulty.fault = lambda method, path: faults.get(operation_of(method, path))
    fill = f"head -c {len(LARGE)} /dev/zero > checkpoint/large; sleep 1000"
    canceled = coordinator.submit(**shell(fill), sync={"during": [block(bucket, "checkpoint")]})
    worker = make_worker(AWS_ENDPOINT_URL=faulty.url, **impatient).start()
    wait_for(lambda: s3.unfinished_uploads(bucket), "an upload to begin")

    coordinator.cancel(canceled)
    job = coordinator.submit(**shell("echo 1 > out/x"), sync={"after": [block(bucket, "out")]})

    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "") == {"out/x": b"1\n"}
    worker.wait_for("upload_not_aborted")


def test_cut_off_from_the_bucket_and_from_the_coordinator_a_job_goes_on_and_is_reported_when_they_are_back(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    sync: Sync,
    faulty: FaultyProxy,
) -> None:
    script = f"echo 1 > checkpoint/a; {UNTIL_TOLD}; echo 2 > checkpoint/b; echo 3 > out/c"
    job = coordinator.submit(**shell(script), sync=sync)
    worker = make_worker(AWS_ENDPOINT_URL=faulty.url, MAX_RETRIES="0").start()
    worker.wait_for("checkpoint_committed")
    faulty.fault = lambda method, path: "reset"
    coordinator.down = True
    worker.wait_for("lease_unsafe")
    (worker.folder / "go").touch()
    worker.wait_for("command_exited")
    worker.wait_for("heartbeat_unanswered", count=len(worker.seen("heartbeat_unanswered")) + 1)
    assert s3.keys(bucket) == ["checkpoint/a"]

    faulty.fault = lambda method, path: None
    coordinator.down = False

    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "") == {"checkpoint/a": b"1\n", "checkpoint/b": b"2\n", "out/c": b"3\n"}
    assert coordinator.attempts(job) == 1 and len(worker.seen("command_started")) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
        {"AWS_SECRET_ACCESS_KEY": ""},
        {"AWS_PROFILE": "nosuch"},
        {"AWS_CONFIG_FILE": "no-config"},
    ],
    ids=["no credentials", "half of them", "no such profile", "rubbish for a configuration"],
)
def test_a_misconfigured_worker_gives_its_job_back_and_does_not_take_the_next_at_once(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker], sync: Sync, settings: dict[str, str]
) -> None:
    jobs = [coordinator.submit(**shell("exit 0"), sync={"after": sync["after"]}) for _ in range(2)]
    worker = make_worker(AWS_EC2_METADATA_DISABLED="true", **settings)
    (worker.folder / "no-config").write_text("= rubbish")
    worker.start()
    worker.wait_for("released", reason="configuration")
    worker.wait_for("wiped")
    assert [coordinator.status(job) for job in jobs] == ["released", "pending"]
    assert not worker.seen("command_started")
