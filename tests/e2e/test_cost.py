"""What a job cost whose machines were lost: the figures of the API against the times of the kills."""

from __future__ import annotations

import json
import sys
import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import pytest

from local_stack.processes import wait_for
from local_stack.stack import LocalStack

HOURLY = 3600  # so that a second costs one
SLACK = 2.0  # seconds that a heartbeat may be late where the machine has much to do
# Saves its step and the time after every so many seconds; on a machine that will be lost once, and works on.
COMMAND = """
import json, os, pathlib, sys, time
saved = pathlib.Path("ck/saved")
done = json.loads(saved.read_text())["step"] if saved.exists() else 0
while done < int(sys.argv[2]):
    time.sleep(float(sys.argv[1]))
    done += 1
    saved.parent.mkdir(exist_ok=True)
    draft = saved.with_name(".draft")
    draft.write_text(json.dumps({"step": done, "at": time.time()}))
    draft.rename(saved)
    if "TO_BE_LOST" in os.environ:
        time.sleep(600)
"""


@dataclass(frozen=True)
class Scale:
    every: float  # seconds between two checkpoints
    steps: int
    interval: int  # seconds between heartbeats


@dataclass(frozen=True)
class Kill:
    at: float
    saved_at: float  # of the newest checkpoint that the bucket had then


SMALL = Scale(every=2, steps=4, interval=1)  # tests.e2e.test_cost.WHOLE is the same in the size of a real job
WHOLE = Scale(every=10, steps=6, interval=5)


def killed_twice(stack: LocalStack, name: str, scale: Scale) -> tuple[str, list[Kill]]:
    """The id of the job, and when its machines were lost: heard of for half a step after a checkpoint."""
    blocks = {"bucket": name, "prefix": "ck/", "local_path": "ck"}
    job_id = stack.client.submit(
        {
            "command": sys.executable,
            "arguments": ["-c", COMMAND, str(scale.every), str(scale.steps)],
            "sync": {
                "before": [{**blocks, "direction": "download"}],
                "during": [{**blocks, "direction": "upload"}],
            },
            "container_group_id": name,
            "heartbeat_interval": scale.interval,
        }
    )["id"]
    kills: list[Kill] = []
    for number in (1, 2):
        settings = {"SALAD_CONTAINER_GROUP_ID": name, "TO_BE_LOST": "1"}
        machine = stack.start_worker(f"{name}-{number}", settings)
        wait_for(partial(has_saved, stack, name, job_id, number), "its checkpoint", timeout=90)
        wait_for(partial(works_on, stack, job_id, scale.every / 2), "heartbeats after it", timeout=90)
        machine.crash()
        kills.append(Kill(time.time(), json.loads(stack.s3.get(name, "ck/saved"))["at"]))
    machine = stack.start_worker(f"{name}-3", {"SALAD_CONTAINER_GROUP_ID": name})
    wait_for(lambda: stack.client.job(job_id)["status"] == "completed", "the job to complete", timeout=120)
    machine.crash()
    return job_id, kills


def has_saved(stack: LocalStack, name: str, job_id: str, attempt: int) -> bool:
    """Whether that attempt runs, and a checkpoint that it made is in the bucket and known to the API."""
    job = stack.client.job(job_id)
    if job["attempt"] != attempt or not job.get("checkpoint"):
        return False
    made = json.loads(stack.s3.get(name, "ck/saved"))["at"]
    claimed = seconds(stack.client.attempts(job_id)[-1]["claimed"])
    return bool(seconds(job["checkpoint"]["at"]) > made > claimed)


def works_on(stack: LocalStack, job_id: str, since: float) -> bool:
    """Whether it was heard so many seconds after its newest checkpoint, or later."""
    job = stack.client.job(job_id)
    return seconds(job["heartbeat"]) >= seconds(job["checkpoint"]["at"]) + since


def seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def figures_follow_from_the_kills(stack: LocalStack, name: str, scale: Scale) -> dict[str, Any]:
    """Play it, and compare; the row of the usage."""
    stack.client.set_price(name, HOURLY)
    job_id, kills = killed_twice(stack, name, scale)
    attempts = stack.client.attempts(job_id)
    assert [one["outcome"] for one in attempts] == ["interrupted", "interrupted", "completed"]
    for one, kill in zip(attempts, kills, strict=False):
        held = kill.at - seconds(one["claimed"])
        assert held - scale.interval - SLACK <= one["held"] <= held, (one, kill)
        assert scale.every / 2 <= one["lost"] <= kill.at - kill.saved_at, (one, kill)
        assert one["useful"] == pytest.approx(one["held"] - one["lost"])
    last = attempts[-1]
    assert (last["lost"], last["held"]) == (
        0,
        pytest.approx(seconds(last["ended"]) - seconds(last["claimed"]), abs=0.01),
    )
    (row,) = [row for row in stack.client.usage(by="group")["usage"] if row["key"] == name]
    assert (row["attempts"], row["interruptions"]) == (3, 2)
    assert row["held"] == pytest.approx(sum(one["held"] for one in attempts))
    assert row["lost"]["interrupted"] == pytest.approx(sum(one["lost"] for one in attempts))
    assert row["money"] == pytest.approx(row["held"])
    return dict(row)


def test_held_lost_and_money_of_a_job_that_was_killed_twice_follow_from_the_kills(stack: LocalStack) -> None:
    name = f"cost-{uuid.uuid4().hex[:8]}"
    stack.s3.create_bucket(name)
    row = figures_follow_from_the_kills(stack, name, SMALL)
    assert row["useful"] >= SMALL.every * SMALL.steps
