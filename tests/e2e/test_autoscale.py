"""The whole loop for real: the API, Postgres, the autoscaler, and a Salad whose replicas are worker processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from local_stack.client import ApiClient, Job
from local_stack.processes import CHECKOUT, Child, scratch_folder, wait_for
from local_stack.stack import LocalStack, Worker
from tests.conftest import own_database
from tests.doubles.fleet import KEY, FleetDouble
from tests.doubles.tokens import TokenDouble
from tests.warm_worker import WarmChild

# Seconds. One more job runs until all these are done and the fleet has shrunk around it.
DURATIONS = [0.5 + 0.5 * (number % 4) for number in range(59)]
JOBS, MOST = 1 + len(DURATIONS), 8
LONGEST = 240.0  # seconds; it takes about thirty where the machine does nothing else


class RealFleet(FleetDouble):
    """A Salad with one group, whose replicas are workers of the local stack.

    On the way down the instances of the lowest deletion cost go first: that which each worker told the metadata
    service of its own machine.
    """

    def __init__(self) -> None:
        super().__init__()
        self.group_id = self.make_group("stopped", 0)
        self.workers: dict[str, Worker] = {}
        self.metadata: dict[str, TokenDouble] = {}
        self.started = 0
        self.chart: list[tuple[float, int, int]] = []  # when, replicas, jobs that are not final
        self.busy_stopped_beside_idle = 0

    def follow(self, stack: LocalStack, key: str) -> None:
        """Bring the processes to what the group should have."""
        status, replicas = self.standing(self.group_id)
        wanted = 0 if status == "stopped" else replicas
        while len(self.workers) < wanted:
            self._start_one(stack, key)
        if len(self.workers) > wanted:
            self._stop(len(self.workers) - wanted, self._busy(stack))
        if status == "deploying":
            self.group(self.group_id)["current_state"]["status"] = "running"

    def _start_one(self, stack: LocalStack, key: str) -> None:
        self.started += 1
        machine = f"machine-{self.started}"
        self.metadata[machine] = TokenDouble()
        settings = {
            "SALAD_CONTAINER_GROUP_ID": self.group_id,
            "KELPIE_API_KEY": key,
            "SALAD_IMDS_URL": self.metadata[machine].url,
        }
        self.workers[machine] = stack.start_worker(machine, settings)

    def cost(self, machine: str) -> int:
        return (self.metadata[machine].costs or [0])[-1]

    def _busy(self, stack: LocalStack) -> set[str]:
        """The machines that hold a lease, once each worker's cost says the same; that takes it a moment."""
        agreed: list[set[str]] = []

        def agree() -> bool:
            held = holders(stack, self.group_id) & self.workers.keys()
            if held == {machine for machine in self.workers if self.cost(machine) > 0}:
                agreed.append(held)
            return bool(agreed)

        wait_for(agree, "the deletion costs to say who is busy", pause=0.01)
        return agreed[0]

    def end(self) -> None:
        for double in self.metadata.values():
            double.end()
        super().end()

    def _stop(self, count: int, busy: set[str]) -> None:
        by_cost = sorted(self.workers, key=self.cost)
        for machine in by_cost[:count]:
            self.busy_stopped_beside_idle += machine in busy and any(m not in busy for m in by_cost[count:])
            self.workers.pop(machine).stop()


def holders(stack: LocalStack, group: str) -> set[str]:
    """The machines that hold a lease."""
    with psycopg.connect(stack.coordinator_environment()["DATABASE_URL"]) as connection:
        found = connection.execute("select machine_id from queue where holder_group = %s", [group])
        return {row[0] for row in found}


@pytest.fixture
def fleet() -> Iterator[RealFleet]:
    double = RealFleet()
    yield double
    double.end()


@pytest.fixture
def scaled(server_url: str, fleet: RealFleet) -> Iterator[LocalStack]:
    """A stack of its own, whose coordinator knows this Salad."""
    settings = {"SALAD_API_URL": fleet.api_url, "SALAD_API_KEY": KEY}
    with (
        own_database(server_url) as url,
        scratch_folder() as root,
        LocalStack(root, database_url=url, web_processes=1, settings=settings, worker_process=WarmChild) as stack,
    ):
        yield stack


def job_of(group: str, command: str, *arguments: str) -> Job:
    return {
        "command": command,
        "arguments": list(arguments),
        "container_group_id": group,
        "heartbeat_interval": 5,
    }


@contextmanager
def autoscaler(stack: LocalStack) -> Iterator[None]:
    """The autoscaler, as it runs beside an API, and with no rule that it could not apply."""
    script = Path(CHECKOUT) / "scripts" / "autoscale"
    environment = stack.coordinator_environment()
    program = Child("autoscaler", [sys.executable, script, "--interval", "1"], folder=stack.root, env=environment)
    try:
        yield
    finally:
        program.stop()
    assert program.wait(0) == 0, program.log_tail()
    assert "failed" not in program.output.read_text()


def drawn(chart: list[tuple[float, int, int]]) -> str:
    lines = [f"{'s':>5}  jobs  replicas"]
    lines += [
        f"{at:5.1f}  {jobs:4}  {'#' * replicas}{' ' * (MOST - replicas)} {replicas}"
        for at, replicas, jobs in chart
    ]
    return "\n".join(lines)


def test_sixty_jobs_scale_a_group_up_to_its_limit_and_down_to_a_stop(
    scaled: LocalStack, fleet: RealFleet, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    key = scaled.new_user_key("acme", "default")
    client = ApiClient(scaled.api_url, key)
    client.create_scaling_rule(
        {
            "container_group_id": fleet.group_id,
            "min_replicas": 0,
            "max_replicas": MOST,
            "idle_threshold_seconds": 0,
        }
    )
    enough = tmp_path / "enough"
    last = job_of(fleet.group_id, "sh", "-c", f"until [ -e {enough} ]; do sleep 0.2; done")
    others = [job_of(fleet.group_id, "sleep", str(seconds)) for seconds in DURATIONS]
    ids = [job["id"] for job in client.submit_batch([last, *others])]

    began, known = time.monotonic(), 0

    def decision() -> Job | None:
        """What the autoscaler decided since."""
        newest = client.scaling_decisions(fleet.group_id)[:1]
        return newest[0] if newest and newest[0]["id"] > known else None

    with autoscaler(scaled):
        while fleet.workers or fleet.changes[-1:] != [("stop", fleet.group(fleet.group_id)["name"], None)]:
            assert time.monotonic() < began + LONGEST, f"the group was not stopped:\n{drawn(fleet.chart)}"
            newest = wait_for(decision, "the next decision", timeout=60)
            known = newest["id"]
            fleet.follow(scaled, key)
            fleet.chart.append((time.monotonic() - began, len(fleet.workers), newest["active"]))
            if newest["active"] == len(fleet.workers) == 1:
                enough.touch()
    record_property("chart", drawn(fleet.chart))

    replicas = [count for _, count, _ in fleet.chart]
    assert max(replicas) == MOST
    assert (replicas[-1], fleet.standing(fleet.group_id)[0], fleet.workers) == (0, "stopped", {})
    jobs = {job["id"]: job for job in client.jobs(page_size=JOBS)}
    assert [jobs[job_id]["status"] for job_id in ids] == ["completed"] * JOBS
    # Down from the top it only went further down: nothing was taken away too early.
    top = replicas.index(MOST)
    assert replicas[top:] == sorted(replicas[top:], reverse=True)
    assert fleet.busy_stopped_beside_idle == 0
    # The one machine that was busy stayed, for its deletion cost was the highest.
    assert [attempt["outcome"] for attempt in client.attempts(ids[0])] == ["completed"]
    # A worker that was stopped during a claim gave its job back; no lease had to lapse.
    outcomes = [attempt["outcome"] for job_id in ids for attempt in client.attempts(job_id)]
    assert set(outcomes) <= {"completed", "released"}
    assert outcomes.count("released") <= MOST
