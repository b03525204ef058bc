"""A job that is steered through the API while a worker has it: what it saved last is what it goes on from."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import requests

from local_stack.processes import wait_for
from local_stack.stack import LocalStack

# Saves a number only when it is asked to end, and ends by itself once it was asked so often.
COMMAND = """
import pathlib, signal, sys, time
saved = pathlib.Path("ck/saved")
times = int(saved.read_text()) if saved.exists() else 0

def save(*_):
    saved.parent.mkdir(exist_ok=True)
    saved.with_name(".draft").write_text(str(times + 1))
    saved.with_name(".draft").rename(saved)
    sys.exit()

signal.signal(signal.SIGTERM, save)
pathlib.Path("begun").write_text(str(times))
while times < int(sys.argv[1]):
    time.sleep(0.05)
"""


@pytest.fixture
def name() -> str:
    return f"steered-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def submit(stack: LocalStack, name: str) -> Callable[..., str]:
    announced = requests.get(f"{stack.api_url}/healthz", timeout=10).headers["Kelpie-Extensions"]
    if "steer" not in announced.split(", "):
        pytest.skip("this coordinator steers no jobs")
    stack.s3.create_bucket(name)

    def submit(times: int, **fields: Any) -> str:
        blocks = [{"bucket": name, "prefix": "ck/", "local_path": "ck"}]
        sync = {"before": [dict(blocks[0], direction="download")], "during": [dict(blocks[0], direction="upload")]}
        job = {"command": sys.executable, "arguments": ["-c", COMMAND, str(times)], "container_group_id": name}
        return str(stack.client.submit({**job, "sync": sync, "heartbeat_interval": 1, **fields})["id"])

    return submit


def test_a_job_that_is_interrupted_and_held_goes_on_from_what_it_saved(
    stack: LocalStack, name: str, submit: Callable[..., str]
) -> None:
    job = submit(times=2)
    worker = stack.start_worker(name, {"SALAD_CONTAINER_GROUP_ID": name})

    def runs(times: int) -> bool:
        told = worker.disk / "begun"
        return told.exists() and told.read_text() == str(times)

    wait_for(lambda: runs(0), "the command")
    wait_for(lambda: stack.client.job(job)["phase"] == "running", "its phase")
    stack.client.steer(job, "interrupt")
    wait_for(lambda: runs(1), "the same machine to go on")
    stack.client.steer(job, "hold")
    wait_for(lambda: stack.client.job(job)["phase"] == "parked", "the job to be held")
    assert stack.s3.get(name, "ck/saved") == b"2"
    stack.client.steer(job, "resume")
    wait_for(lambda: stack.client.job(job)["status"] == "completed", "the job to complete")
    ends = [(attempt["outcome"], attempt["reason"]) for attempt in stack.client.attempts(job)]
    assert ends == [("released", "interrupt"), ("released", "hold"), ("completed", None)]
    assert stack.client.job(job)["num_failures"] == 0
    worker.crash()


@pytest.mark.parametrize(
    ("limits", "status", "attempts"),
    [({"max_runtime": 1}, "failed", 1), ({"max_attempt_runtime": 1}, "completed", 2)],
)
def test_at_the_end_of_its_time_a_job_saves_and_fails_or_is_handed_out_again(
    stack: LocalStack, name: str, submit: Callable[..., str], limits: dict[str, int], status: str, attempts: int
) -> None:
    """The time counts from the handout: it is set once the command runs, however long a machine took for that."""
    job = submit(times=1)
    worker = stack.start_worker(name, {"SALAD_CONTAINER_GROUP_ID": name})
    wait_for((worker.disk / "begun").exists, "the command")
    stack.client.change(job, **limits)
    wait_for(lambda: stack.client.job(job)["status"] == status, f"the job to be {status}")
    assert stack.s3.get(name, "ck/saved") == b"1"
    ends = [(attempt["outcome"], attempt["reason"]) for attempt in stack.client.attempts(job)]
    assert ends[0] == ("released", "time_limit") and len(ends) == attempts
    assert stack.client.job(job)["num_failures"] == 0
    worker.crash()
