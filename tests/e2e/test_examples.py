"""The examples on real workers that are lost: how far each is, as the API shows it."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from local_stack.client import Job
from local_stack.processes import CHECKOUT
from local_stack.stack import LocalStack, Worker

EXAMPLES = CHECKOUT / "examples"
LONGEST = 120  # seconds
KILL_AT = 0.2  # of the work, so that the second attempt has some to do
# Seconds of a step: each machine works for many heartbeats, so that some tell of it also on a busy computer.
PACE = {"counting": "0.06", "digits": "1", "container": "1", "montecarlo": "0.1"}


def block(bucket: str, name: str, direction: str) -> dict[str, str]:
    return {"bucket": bucket, "prefix": f"{name}/", "local_path": name, "direction": direction}


def saved_in(bucket: str, *inputs: str) -> dict[str, list[dict[str, str]]]:
    """Inputs and checkpoints come, and checkpoints go up while it runs."""
    before = [block(bucket, name, "download") for name in (*inputs, "checkpoint")]
    return {"before": before, "during": [block(bucket, "checkpoint", "upload")]}


def counting(stack: LocalStack, bucket: str, folder: Path) -> Job:
    stack.s3.put(bucket, "input/limit.txt", b"200")
    legacy = {f"{kind}_bucket": bucket for kind in ("input", "checkpoint", "output")}
    prefixes = {f"{kind}_prefix": f"{kind}/" for kind in ("input", "checkpoint", "output")}
    script = [str(EXAMPLES / "counting" / "count.py")]
    return {"arguments": script, **legacy, **prefixes}


def digits(stack: LocalStack, bucket: str, folder: Path) -> Job:
    subprocess.run([sys.executable, EXAMPLES / "digits" / "prepare.py", folder], check=True)
    for path in folder.iterdir():
        stack.s3.put(bucket, f"input/{path.name}", path.read_bytes())
    script = [str(EXAMPLES / "digits" / "train.py"), "input", "checkpoint", "out", "--epochs", "8"]
    return {"arguments": script, "sync": saved_in(bucket, "input")}


def montecarlo(stack: LocalStack, bucket: str, folder: Path) -> Job:
    return {"arguments": [str(EXAMPLES / "montecarlo" / "simulate.py"), "out", *map(str, range(70))]}


def container(stack: LocalStack, bucket: str, folder: Path) -> Job:
    stack.s3.put(bucket, "in/data", b"input")
    return {
        "command": str(EXAMPLES / "container" / "relay.sh"),
        "arguments": ["8"],
        "sync": saved_in(bucket, "in"),
    }


KINDS: dict[str, Callable[[LocalStack, str, Path], Job]] = {
    "counting": counting,
    "digits": digits,
    "montecarlo": montecarlo,
    "container": container,
}


class Example:
    """One example as a job of a queue of its own, whose first machine vanishes in the middle of it."""

    def __init__(self, stack: LocalStack, kind: str, folder: Path) -> None:
        self._stack = stack
        self._pace = PACE[kind]
        self._group = f"{kind}-{uuid.uuid4().hex[:8]}"
        stack.s3.create_bucket(self._group)
        common = {"command": sys.executable, "container_group_id": self._group, "heartbeat_interval": 1}
        self.id = stack.client.submit({**common, **KINDS[kind](stack, self._group, folder)})["id"]
        self._machines: list[Worker] = []
        self._seen: dict[str, float] = {}  # fractions, by when they were told

    def begin(self) -> None:
        """On a new machine."""
        number = len(self._machines)
        pace = dict.fromkeys(("SECONDS_PER_STEP", "SECONDS_PER_EPOCH", "SECONDS_PER_BLOCK"), self._pace)
        settings = {"SALAD_CONTAINER_GROUP_ID": self._group, **pace}
        self._machines.append(self._stack.start_worker(f"{self._group}-{number}", settings))

    def look(self) -> bool:
        """Note how far it is; whether it has ended."""
        job = self._stack.client.job(self.id)
        progress = job.get("progress") or {}
        if (fraction := progress.get("fraction")) is not None:
            self._seen[progress["at"]] = fraction
            if len(self._machines) == 1 and fraction >= KILL_AT:
                self._machines[0].vanish()
                self.begin()
        return job["status"] not in ("pending", "running")

    def end(self) -> None:
        for machine in self._machines:
            machine.crash()

    def told(self) -> dict[int, list[float]]:
        """What was seen of each attempt, in order."""
        began = [datetime.fromisoformat(one["claimed"]) for one in self._stack.client.attempts(self.id)]
        told: dict[int, list[float]] = defaultdict(list)
        for at, fraction in self._seen.items():
            told[sum(claimed <= datetime.fromisoformat(at) for claimed in began)].append(fraction)
        return told

    def course(self) -> dict[str, Any]:
        return self._stack.client.progress(self.id)


@pytest.fixture(scope="module")
def examples(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Example]:
    """All of them, run at once to their end."""
    begun = {kind: Example(stack, kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}
    for example in begun.values():
        example.begin()
    deadline = time.monotonic() + LONGEST
    left = list(begun.values())
    while left and time.monotonic() < deadline:
        left = [example for example in left if not example.look()]
        time.sleep(0.1)
    for example in begun.values():
        example.end()
    return begun


@pytest.mark.timeout(LONGEST + 60)
@pytest.mark.parametrize("kind", KINDS)
def test_an_example_tells_how_far_it_is_and_goes_back_only_where_a_machine_was_lost(
    stack: LocalStack, examples: dict[str, Example], kind: str
) -> None:
    example = examples[kind]
    assert stack.client.job(example.id)["status"] == "completed"
    told = example.told()
    assert told.keys() == {1, 2}
    assert all(fractions == sorted(fractions) for fractions in told.values()), told
    assert any(KILL_AT <= fraction < 1 for fraction in told[1])
    assert told[2][-1] == 1 and len(told[2]) > 1
    course = example.course()
    assert course["resumed"]["attempt"] == 2
    if kind != "montecarlo":  # which begins anew; how far it is by the first look at it depends on the machine
        assert course["resumed"]["to"] >= KILL_AT / 2, course["resumed"]
    points = [(point["attempt"], point["fraction"]) for point in course["points"]]
    assert points == sorted(points) and {attempt for attempt, _ in points} == {1, 2}
