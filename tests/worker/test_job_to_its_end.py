"""A job's way through a real worker, when nothing goes wrong and when the job itself does."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import pytest

from local_stack.s3 import S3Server
from tests.doubles.coordinator import FakeCoordinator
from tests.real_worker import Sync, Worker, block, finished, python, shell


def test_inputs_come_down_checkpoints_and_outputs_go_up(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, sync: Sync
) -> None:
    s3.put(bucket, "in/deep/data", b"input")
    s3.put(bucket, "checkpoint/state", b"half")
    script = "cat in/deep/data checkpoint/state > out/result; echo whole > checkpoint/next"
    job = coordinator.submit(**shell(script), sync=sync)

    worker.start()

    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "out/") == {"result": b"inputhalf"}
    assert s3.files(bucket, "checkpoint/") == {"state": b"half", "next": b"whole\n"}
    worker.wait_for("wiped")
    assert [path.name for name in ("in", "checkpoint", "out") for path in (worker.folder / name).iterdir()] == []
    for event in ("worker_started", "claimed", "downloading", "downloaded", "command_started", "command_exited"):
        assert worker.seen(event), event


def test_a_job_of_the_older_generation_moves_its_three_directories(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    s3.put(bucket, "i/data", b"input")
    s3.put(bucket, "c/state", b"1")
    script = (
        'cat "$INPUT_DIR/data" "$CHECKPOINT_DIR/state" > "$OUTPUT_DIR/result"; echo 2 > "$CHECKPOINT_DIR/state"'
    )
    places = {"input": "i", "checkpoint": "c", "output": "o/"}
    legacy = {f"{kind}_bucket": bucket for kind in places} | {
        f"{kind}_prefix": place for kind, place in places.items()
    }
    job = coordinator.submit(**shell(script), sync=None, **legacy)

    worker.start()

    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "o/") == {"result": b"input1"}
    assert s3.files(bucket, "c/") == {"state": b"2\n"}


def test_a_job_without_files_needs_no_storage(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker]
) -> None:
    job = coordinator.submit(**shell("exit 0"), sync={})
    worker = make_worker(AWS_ENDPOINT_URL="http://127.0.0.1:9").start()
    assert finished(coordinator, job) == (
        "completed",
        {"machine_id": "machine", "container_group_id": "group", "attempt": 1, "exit_code": 0},
    )
    assert worker.wait_for("reported", job_id=job)["outcome"] == "completed"


@pytest.mark.parametrize(
    ("command", "reason", "exit_code"),
    [
        (shell("exit 3"), "exit_code", 3),
        (shell("kill -SEGV $$"), "signal", 139),
        ({"command": "no-such-command"}, "not_found", None),
        ({"command": "/etc/hostname"}, "not_found", None),
    ],
)
def test_a_failure_is_reported_with_its_reason(
    coordinator: FakeCoordinator, worker: Worker, command: dict[str, Any], reason: str, exit_code: int | None
) -> None:
    job = coordinator.submit(**command, sync={})
    worker.start()
    report, body = finished(coordinator, job)
    assert (report, body["reason"], body.get("exit_code")) == ("failed", reason, exit_code)
    assert (command["command"] in body.get("detail", "")) == (reason == "not_found")


def test_a_failed_command_leaves_its_last_checkpoint_and_no_outputs(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, sync: Sync
) -> None:
    job = coordinator.submit(**shell("echo 7 > checkpoint/state; echo half > out/result; exit 1"), sync=sync)
    worker.start()
    assert finished(coordinator, job)[0] == "failed"
    assert s3.files(bucket, "checkpoint/") == {"state": b"7\n"}
    assert s3.keys(bucket, "out/") == []


def test_the_command_sees_the_environments_in_order(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker], s3: S3Server, bucket: str
) -> None:
    names = ("FROM_CONTAINER", "FROM_BOTH", "KELPIE_JOB_ID", "KELPIE_STATE_FILE", "OUTPUT_DIR")
    script = "import os; open('out/seen', 'w').write(repr([os.environ[n] for n in {names!r}]))".replace(
        "{names!r}", repr(names)
    )
    job = coordinator.submit(
        **python(script),
        environment={"FROM_BOTH": "job", "OUTPUT_DIR": "/nowhere"},
        sync={"after": [block(bucket, "out")]},
    )
    worker = make_worker(FROM_CONTAINER="container", FROM_BOTH="container").start()
    finished(coordinator, job)
    expected = ["container", "job", job, str(worker.state_file), str(worker.folder / "output")]
    assert s3.get(bucket, "out/seen").decode() == repr(expected)


def test_the_next_job_starts_while_the_outputs_of_the_last_one_are_on_their_way(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    after = {"after": [block(bucket, "out")]}
    first = coordinator.submit(**shell("head -c 40000000 /dev/zero > out/large"), sync=after)
    second = coordinator.submit(
        **shell("ls out > out/listing"), sync={"after": [block(bucket, "out", prefix="second/")]}
    )
    worker.start()
    worker.wait_for("command_started", job_id=second)
    assert finished(coordinator, first)[0] == finished(coordinator, second)[0] == "completed"
    events = [(event["event"], event.get("job_id")) for event in worker.events]
    assert events.index(("command_started", second)) < events.index(("uploaded", first))
    assert len(s3.get(bucket, "out/large")) == 40_000_000
    assert s3.get(bucket, "second/listing") == b"listing\n"  # the first job's file was out of the way


def test_compressed_files_bear_gz_in_the_bucket_and_only_there(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, sync: Sync
) -> None:
    s3.put(bucket, "in/data.gz", gzip.compress(b"packed"))
    job = coordinator.submit(**shell("cp in/data out/result"), sync=sync, compression=True)
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.keys(bucket, "out/") == ["out/result.gz"]
    assert gzip.decompress(s3.get(bucket, "out/result.gz")) == b"packed"


@pytest.mark.parametrize("coordinator", [""], indirect=True)
def test_the_original_api_is_asked_for_nothing_it_does_not_know(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, sync: Sync
) -> None:
    job = coordinator.submit(**shell("sleep 1.5; echo done > out/result"), sync=sync)
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "out/") == {"result": b"done\n"}
    bodies = [call.body for call in coordinator.calls if call.method == "POST"]
    assert bodies and not any("attempt" in body for body in bodies)
    assert not any("claim_id" in call.query for call in coordinator.calls)
