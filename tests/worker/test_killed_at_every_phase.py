"""A worker that is killed in one phase of a job after the other."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.doubles.coordinator import FakeCoordinator
from tests.doubles.faulty_proxy import FaultyProxy
from tests.real_worker import Sync, Worker, block, finished, kill_everything, shell

CONTENT = os.urandom(300_000)


SUPERVISORS_LAST = ["claimed", "downloaded", "command_exited", "outputs_set_aside", "uploaded", "reported"]
LAST_OF_EVERYTHING = ["downloading", "command_started", "checkpoint_prepared", "checkpoint_committed", "uploading"]
LAST_OF_EVERYTHING += ["reported"]  # which is while it wipes


@pytest.mark.parametrize(
    ("kill", "moment"),
    [(Worker.kill, moment) for moment in SUPERVISORS_LAST]
    + [(kill_everything, moment) for moment in LAST_OF_EVERYTHING],
)
def test_a_worker_killed_at_any_moment_goes_on_with_the_same_attempt(
    coordinator: FakeCoordinator,
    worker: Worker,
    s3: S3Server,
    bucket: str,
    sync: Sync,
    kill: Callable[[Worker], None],
    moment: str,
) -> None:
    for number in range(5):
        s3.put(bucket, f"in/{number}", CONTENT)
    script = "cat in/* > out/all; echo 1 > checkpoint/state; sleep 0.4"
    job = coordinator.submit(**shell(script), sync=sync)
    worker.start()
    worker.wait_for(moment, job_id=job)

    kill(worker)
    worker.start()

    assert finished(coordinator, job)[0] == "completed"
    assert [name for name, _ in coordinator.reports(job)] == ["completed"] and coordinator.attempts(job) == 1
    assert s3.files(bucket, "out/") == {"all": CONTENT * 5}
    assert s3.files(bucket, "checkpoint/") == {"state": b"1\n"}
    wait_for(lambda: worker.state()["jobs"][-1]["end"], "the job to be off the books")
    assert not any(path for name in ("in", "out", "checkpoint") for path in (worker.folder / name).iterdir())
    assert not list(worker.folder.glob(".kelpie-*"))


@pytest.mark.parametrize("phase", ["during", "after"])
def test_what_a_killed_worker_left_unfinished_in_the_bucket_is_aborted_and_nothing_else(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
    phase: str,
) -> None:
    of_another_program = s3.begin_upload(bucket, "ck/large")
    parts: list[str] = []

    def refuse_parts(method: str, path: str) -> str | None:
        if "partNumber" not in path:
            return None
        parts.append(path)
        return "503"

    faulty.fault = refuse_parts
    end = "exec sleep 1000" if phase == "during" else "exit 0"
    job = coordinator.submit(
        **shell(f"head -c 6000000 /dev/zero > ck/large; {end}"), sync={phase: [block(bucket, "ck")]}
    )
    worker = make_worker(AWS_ENDPOINT_URL=faulty.url).start()
    wait_for(lambda: parts, "a part to be sent")  # by then the worker has noted the upload
    assert len(s3.unfinished_uploads(bucket)) == 2
    kill_everything(worker)
    coordinator.cancel(job)

    worker.start()

    wait_for(lambda: s3.unfinished_uploads(bucket) == ["ck/large"], "the upload to be aborted")
    s3.abort_upload(bucket, "ck/large", of_another_program)
    worker.wait_for("wiped")
    wait_for(lambda: not list(worker.folder.glob(".kelpie-*")), "the notes to be gone")
