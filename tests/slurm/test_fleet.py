"""examples/slurm: workers as jobs of a real Slurm, which preempts, signals, requeues and loses them."""

from __future__ import annotations

import shlex
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from local_stack.processes import CHECKOUT, wait_for
from local_stack.stack import LocalStack, own_environment
from tests.slurm.cluster import Slurm

LOOK_EVERY = 0.3  # seconds: each look starts a program of Slurm's, or asks the coordinator
EXAMPLE = CHECKOUT / "examples" / "slurm" / "worker.sbatch"

# Counts and saves, for as long as it is the first attempt. SIGTERM has it save once more, which takes a while, and
# exit with 0. A later attempt tells what it found.
COMMAND = """
import os, pathlib, signal, sys, time
saved = pathlib.Path("ck/saved")

def save(number):
    saved.with_name(".draft").write_text(str(number))
    saved.with_name(".draft").rename(saved)

def end(*_):
    time.sleep(1.5)
    save("last")
    sys.exit()

signal.signal(signal.SIGTERM, end)
found = saved.read_text() if saved.exists() else "nothing"
saved.parent.mkdir(exist_ok=True)
number = 0
while os.environ["KELPIE_ATTEMPT"] == "1":
    save(number := number + 1)
    time.sleep(0.3)
pathlib.Path("out").mkdir(exist_ok=True)
pathlib.Path("out/found").write_text(found)
"""


@dataclass
class Fleet:
    """Workers of one queue in Slurm's hands, and a job of that queue."""

    slurm: Slurm
    stack: LocalStack
    queue: str
    environment: dict[str, str]
    array: str = ""
    job: str = ""

    def begin(self, workers: int) -> None:
        """Submit the workers and a job, and wait until it has a checkpoint in the bucket."""
        wanted = f"--array=1-{workers}"
        self.array = self.slurm.submit(wanted, str(EXAMPLE), environment=self.environment)
        folders = {"bucket": self.queue, "prefix": "ck/", "local_path": "ck"}
        sync = {
            "before": [{**folders, "direction": "download"}],
            "during": [{**folders, "direction": "upload"}],
            "after": [{"bucket": self.queue, "prefix": "out/", "local_path": "out", "direction": "upload"}],
        }
        command = {"command": sys.executable, "arguments": ["-c", COMMAND], "container_group_id": self.queue}
        self.job = self.stack.client.submit({**command, "sync": sync, "heartbeat_interval": 2})["id"]
        self.wait_for(lambda: "ck/saved" in self.stack.s3.keys(self.queue), "a checkpoint")

    def wait_for(self, fact: Callable[[], object], what: str) -> None:
        """Raises TimeoutError with what Slurm and the workers say."""
        try:
            wait_for(fact, what, timeout=40, pause=LOOK_EVERY)
        except TimeoutError as error:
            attempts = self.stack.client.attempts(self.job) if self.job else []
            raise TimeoutError(f"{error}\n{self.slurm.jobs()}\n{attempts}\n{self.logs()}") from error

    def holder(self) -> str:
        """The Slurm job whose worker has the job."""
        for log in self.slurm.folder.glob(f"kelpie-{self.array}-*.log"):
            if self.job in log.read_text():
                return f"{self.array}_{log.stem.rpartition('-')[2]}"
        raise LookupError(self.logs())

    def ends(self) -> list[tuple[str, str | None]]:
        """How its attempts ended, once it is completed."""
        self.wait_for(lambda: self.stack.client.job(self.job)["status"] == "completed", "its end")
        assert self.stack.client.job(self.job)["num_failures"] == 0
        return [(attempt["outcome"], attempt["reason"]) for attempt in self.stack.client.attempts(self.job)]

    def found(self) -> str:
        """What the last attempt went on from."""
        return self.stack.s3.get(self.queue, "out/found").decode()

    def logs(self) -> str:
        return "\n".join(log.read_text() for log in self.slurm.folder.glob(f"kelpie-{self.array}-*.log"))


@pytest.fixture
def fleet(slurm: Slurm, stack: LocalStack, tmp_path: Path) -> Iterator[Fleet]:
    queue = f"slurm-{uuid.uuid4().hex[:8]}"
    stack.s3.create_bucket(queue)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "kelpie").write_text(f'#!/bin/sh\nexec {sys.executable} -m kelpie "$@"\n')
    (programs / "kelpie").chmod(0o755)
    settings = {
        "KELPIE_API_URL": stack.api_url,
        "KELPIE_API_KEY": stack.user_key,
        "SALAD_CONTAINER_GROUP_ID": queue,
        "KELPIE_RUNTIME_DIR": str(tmp_path / "run"),
        **stack.s3.environment,
    }
    file = tmp_path / ".config" / "kelpie" / "worker.env"
    file.parent.mkdir(parents=True)
    lines = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    disk = f"TMPDIR={shlex.quote(str(tmp_path))}/$SLURMD_NODENAME"  # each node has its own
    file.write_text("\n".join([*lines, disk, ""]))
    own = own_environment()
    environment = {**own, "PATH": f"{programs}:{own['PATH']}", "HOME": str(tmp_path)}
    fleet = Fleet(slurm, stack, queue, environment)
    yield fleet
    slurm.says("scancel", "--user=root")
    wait_for(lambda: not slurm.jobs(), "all jobs of Slurm to end", 40, pause=LOOK_EVERY)


def preempted(fleet: Fleet) -> None:
    """Both nodes are wanted by others for a second."""
    fleet.slurm.submit("--partition=urgent", "--nodes=2", "--exclusive", "--wrap=sleep 1")


def signalled(fleet: Fleet) -> None:
    fleet.slurm.says("scancel", "--signal=TERM", fleet.holder())


def out_of_time(fleet: Fleet) -> None:
    """What Slurm sends before the time limit."""
    fleet.slurm.says("scancel", "--batch", "--signal=USR1", fleet.holder())


def requeued(fleet: Fleet) -> None:
    fleet.slurm.says("scontrol", "requeue", fleet.holder())


@pytest.mark.parametrize(
    ("misfortune", "workers"),
    [(preempted, 1), (out_of_time, 1), (requeued, 2), (signalled, 2)],  # a worker that is signalled ends for good
)
def test_a_worker_gives_its_job_back_which_goes_on(
    fleet: Fleet, misfortune: Callable[[Fleet], None], workers: int
) -> None:
    fleet.begin(workers)
    misfortune(fleet)
    assert fleet.ends() == [("released", "shutdown"), ("completed", None)]
    assert fleet.found() == "last"


def test_the_job_goes_on_when_its_node_is_lost_and_slurm_requeues_the_worker(fleet: Fleet) -> None:
    fleet.begin(workers=1)
    lost = fleet.slurm.node_of(fleet.holder())
    fleet.slurm.lose_node(lost)
    try:
        assert fleet.ends() == [("interrupted", None), ("completed", None)]
        assert int(fleet.found()) > 0
    finally:
        fleet.slurm.start_node(lost)


def test_without_work_a_node_is_given_back(slurm: Slurm, fleet: Fleet) -> None:
    fleet.environment["MAX_TIME_WITH_NO_WORK_S"] = "1"
    worker = slurm.submit(str(EXAMPLE), environment=fleet.environment)
    fleet.wait_for(lambda: worker not in slurm.jobs(), "the worker to end")
