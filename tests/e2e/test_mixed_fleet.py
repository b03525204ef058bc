"""Workers of the original and Kelpie's beside each other: each goes on with the other's checkpoints."""

from __future__ import annotations

import gzip
import sys
import uuid
from functools import partial

import pytest

from local_stack.client import ApiRefusedError
from local_stack.processes import wait_for
from local_stack.stack import LocalStack

KINDS = {"input_prefix": "i", "checkpoint_prefix": "c", "output_prefix": "o"}  # without a final slash
PROGRAMS = {"original": "tests.doubles.original_worker", "ours": "kelpie_worker"}
# Adds its machine to what the checkpoint says, and ends once there are as many as it is to pass.
COMMAND = """
import os, pathlib, sys, time
places = {kind: pathlib.Path(os.environ[f"{kind}_DIR"]) for kind in ("INPUT", "CHECKPOINT", "OUTPUT")}
state = places["CHECKPOINT"] / "deep" / "state"
told = (state if state.exists() else places["INPUT"] / "data").read_text() + " " + os.environ["SALAD_MACHINE_ID"]
state.parent.mkdir(exist_ok=True)
draft = places["CHECKPOINT"].with_name("draft")
draft.write_text(told)
draft.rename(state)
while len(told.split()) < int(sys.argv[1]):
    time.sleep(1)
(places["OUTPUT"] / "result").write_text(told)
"""


@pytest.mark.parametrize(
    ("order", "compression"),
    [(("original", "ours", "original"), False), (("ours", "original", "ours"), True)],
    ids=["original first", "ours first, compressed"],
)
def test_a_job_that_is_interrupted_goes_on_where_the_other_kind_of_worker_left_it(
    stack: LocalStack, order: tuple[str, ...], compression: bool
) -> None:
    name = f"mixed-{uuid.uuid4().hex[:8]}"
    bucket = Bucket(stack, name, compression)
    bucket.put("i/data", b"input")
    job_id = stack.client.submit(
        {
            "command": sys.executable,
            "arguments": ["-c", COMMAND, str(len(order) + 1)],
            "container_group_id": name,
            "heartbeat_interval": 1,
            "compression": compression,
            **{f"{kind}_bucket": name for kind in ("input", "checkpoint", "output")},
            **KINDS,
        }
    )["id"]
    machines = [f"{name}-{number}" for number in range(len(order))]
    for number, kind in enumerate(order, start=1):
        machine = stack.start_worker(machines[number - 1], {"SALAD_CONTAINER_GROUP_ID": name}, PROGRAMS[kind])
        said = " ".join(["input", *machines[:number]]).encode()
        wait_for(partial(bucket.has, "c/deep/state", said), f"the checkpoint of the {kind} worker", timeout=60)
        if number < len(order):
            machine.vanish()
    wait_for(lambda: stack.client.job(job_id)["status"] == "completed", "the job to complete", timeout=60)
    assert bucket.has("o/result", said)
    assert [attempt["machine_id"] for attempt in stack.client.attempts(job_id)] == machines
    assert stack.client.job(job_id)["num_failures"] == 0
    machine.crash()


def test_what_an_original_worker_cannot_do_is_refused_or_noted_and_ours_does_it_after(stack: LocalStack) -> None:
    name = f"mixed-{uuid.uuid4().hex[:8]}"
    bucket = Bucket(stack, name, compression=False)
    bucket.put("i/data", b"input")
    job_id = stack.client.submit(
        {
            "command": sys.executable,
            "arguments": ["-c", COMMAND, "3"],
            "container_group_id": name,
            "heartbeat_interval": 1,
            "keep_output": 1000,
            "stall_after": 1,
            "on_stall": "fail",
            "checkpoint_signal": "USR1",
            **{f"{kind}_bucket": name for kind in ("input", "checkpoint", "output")},
            **KINDS,
        }
    )["id"]
    group = {"SALAD_CONTAINER_GROUP_ID": name}
    original = stack.start_worker(f"{name}-0", group, PROGRAMS["original"])
    wait_for(partial(bucket.has, "c/deep/state", f"input {name}-0".encode()), "its checkpoint", timeout=60)
    job = stack.client.job(job_id)
    assert (job["phase"], "progress" in job) == ("running", False)
    with pytest.raises(ApiRefusedError, match=r"409 .*cannot be told to save and stop"):
        stack.client.steer(job_id, "interrupt")
    assert "when its attempt ends" in stack.client.steer(job_id, "hold")
    assert "noted" in [event["kind"] for event in stack.client.events(job_id)]  # that no stall will be told
    original.vanish()
    wait_for(lambda: stack.client.job(job_id)["phase"] == "parked", "the job to be held", timeout=60)
    stack.client.steer(job_id, "resume")
    ours = stack.start_worker(f"{name}-1", group)
    wait_for(lambda: stack.client.job(job_id)["status"] == "completed", "the job to complete", timeout=60)
    assert bucket.has("o/result", f"input {name}-0 {name}-1".encode())
    ends = [(one["outcome"], one["useful"] is None) for one in stack.client.attempts(job_id)]
    assert ends == [("interrupted", True), ("completed", False)]
    ours.crash()


class Bucket:
    """The bucket of one job; its objects are packed if the job's are."""

    def __init__(self, stack: LocalStack, name: str, compression: bool) -> None:
        self._s3, self._name, self._compression = stack.s3, name, compression
        self._s3.create_bucket(name)

    def put(self, key: str, content: bytes) -> None:
        packed = gzip.compress(content) if self._compression else content
        self._s3.put(self._name, self._key(key), packed)

    def has(self, key: str, content: bytes) -> bool:
        if self._key(key) not in self._s3.keys(self._name):
            return False
        found = self._s3.get(self._name, self._key(key))
        return (gzip.decompress(found) if self._compression else found) == content

    def _key(self, key: str) -> str:
        return f"{key}.gz" if self._compression else key
