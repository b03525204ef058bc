"""Many jobs changed at once, and what others notice of it.

Ten thousand pending jobs are canceled beside claims of the same line. Ten thousand jobs that wait for one (a star)
are told of its end, and ten thousand that wait each for the one before (a chain) are canceled since the first has
failed, both beside heartbeats. Times of the others are compared with those right before.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.pool import Pool
from typing import Any

import click

from bench.api import CONNECTIONS, Target, claimed_job, load, serve
from bench.clients import Answered
from bench.harness import GROUP, HELP, Goals, Tenant, make_tenant, opened, own_database, server
from kelpie_api.db import Database
from local_stack.processes import scratch_folder

JOBS, SMALL = 10_000, 300
BATCH = 1000  # jobs
OTHERS, PAUSE = 8, 0.05  # connections beside it, and seconds between two requests of each
CANCELED_WITHIN = 5.0  # seconds
SLOWER_CLAIMS, SLOWER_HEARTBEATS = 2.0, 1.5  # 99 of 100, beside it : before
TOLD_AT_ONCE, TOLD_WITHIN = 2000, 2.0  # dependents of a round, and seconds
LONGEST = 600.0  # seconds until dependents are told


@dataclass(frozen=True)
class Stage:
    """A coordinator with two processes, its database, and clients in a process of their own."""

    db: Database
    tenant: Tenant
    target: Target
    clients: Pool
    jobs: int
    seconds: float  # of one stretch of requests by the others

    def ask(self, method: str, path: str, body: Any) -> Any:
        """The JSON of an answer. Raises RuntimeError for a refusal."""
        connection = http.client.HTTPConnection("127.0.0.1", self.target.port, timeout=120)
        try:
            connection.request(method, path, json.dumps(body), {"X-Kelpie-Key": self.target.key})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path} was answered {answer.status}: {content[:500]!r}")
            return json.loads(content)
        finally:
            connection.close()

    def submit(self, count: int, group: str, depends_on: Callable[[int, str], list[str]], **fields: Any) -> str:
        """Submit jobs in batches; of each its place in its batch, and the id of the last job of the one before,
        say what it waits for. Returns the id of the last job."""
        last = ""
        for begin in range(0, count, BATCH):
            definitions = [
                {"command": "true", "container_group_id": group, "depends_on": depends_on(place, last), **fields}
                for place in range(min(BATCH, count - begin))
            ]
            last = self.ask("POST", "/jobs/batch", definitions)[-1]["id"]
        return last

    def in_queue(self, group: str, condition: str = "true") -> int:
        found = self.db.one_or_none(
            f"select count(*) as n from queue where container_group = %(group)s and {condition}", group=group
        )
        return int(found["n"]) if found else 0

    def wait_until_none(self, group: str, condition: str = "true") -> None:
        """The look reads one row: to count them all would take time from the others that are measured."""
        deadline = time.monotonic() + LONGEST
        look = f"select true from queue where container_group = %(group)s and {condition} limit 1"
        while self.db.one_or_none(look, group=group):
            if time.monotonic() > deadline:
                left = self.in_queue(group, condition)
                raise RuntimeError(f"{left:,} jobs of the {group} were told nothing in {LONGEST:.0f} s")
            time.sleep(0.2)

    def beside(self, kind: str, change: Callable[[], None]) -> tuple[float, Answered]:
        """How long a change took, and what others saw of requests of one kind meanwhile."""

        def timed() -> float:
            began = time.monotonic()
            change()
            return time.monotonic() - began

        seen = Answered(0.0)
        with ThreadPoolExecutor(1) as pool:
            changing = pool.submit(timed)
            while not changing.done():
                arguments = (self.target, kind, OTHERS, self.seconds, PAUSE)
                seen.latencies += self.clients.apply(load, arguments).latencies
        return changing.result(), seen

    def before(self, kind: str) -> Answered:
        """What others see of requests of one kind while nothing else happens."""
        return self.beside(kind, lambda: time.sleep(5 * self.seconds))[1]


def nothing(place: int, last: str) -> list[str]:
    return []


def cancel(stage: Stage, goals: Goals) -> None:
    stage.submit(int(20 * stage.seconds * OTHERS / PAUSE), GROUP, nothing)  # more than can be claimed before
    before = stage.before("claim")
    stage.submit(stage.jobs, GROUP, nothing, labels={"canceled": "yes"}, priority=1)
    found: list[int] = []

    def change() -> None:
        found.append(stage.ask("POST", "/jobs/cancel", {"label": "canceled:yes"})["count"])

    took, beside = stage.beside("claim", change)
    goals.fact(f"jobs that were canceled: {found[0]:,} of {stage.jobs:,}", found[0] == stage.jobs)
    goals.figure(
        f"{stage.jobs:,} pending jobs are canceled in {took:.1f} s (goal: {CANCELED_WITHIN:.0f} s at most)",
        took <= CANCELED_WITHIN,
    )
    compare("claims beside that", before, beside, SLOWER_CLAIMS, goals)


def star(stage: Stage, goals: Goals) -> None:
    first = stage.submit(1, "first of the star", nothing)
    stage.submit(stage.jobs, "star", lambda place, last: [first])
    before = stage.before("heartbeat")

    def change() -> None:
        stage.ask("POST", f"/jobs/{first}/completed", {"machine_id": "m", "container_group_id": "g"})
        stage.wait_until_none("star", "parked is not null")

    took, beside = stage.beside("heartbeat", change)
    free = stage.in_queue("star", "parked is null")
    goals.fact(f"jobs of the star that can be claimed: {free:,} of {stage.jobs:,}", free == stage.jobs)
    most = TOLD_WITHIN * max(1, stage.jobs / TOLD_AT_ONCE)
    goals.figure(
        f"a star of {stage.jobs:,} is told in {took:.1f} s (goal: {TOLD_WITHIN:.0f} s for each {TOLD_AT_ONCE:,})",
        took <= most,
    )
    compare("heartbeats beside that", before, beside, SLOWER_HEARTBEATS, goals)


def chain(stage: Stage, goals: Goals) -> None:
    first = stage.submit(1, "first of the chain", nothing, max_failures=1)
    stage.submit(stage.jobs, "chain", lambda place, last: [f"#{place - 1}" if place else last or first])
    before = stage.before("heartbeat")

    def change() -> None:
        stage.ask("POST", f"/jobs/{first}/failed", {"machine_id": "m", "container_group_id": "g"})
        stage.wait_until_none("chain")

    took, beside = stage.beside("heartbeat", change)
    goals.fact(f"jobs of the chain that were canceled, one for the other: {stage.jobs:,}", True)
    most = TOLD_WITHIN * max(1, stage.jobs / TOLD_AT_ONCE)
    goals.figure(
        f"a chain of {stage.jobs:,} is told in {took:.1f} s (goal: {TOLD_WITHIN:.0f} s for each {TOLD_AT_ONCE:,})",
        took <= most,
    )
    compare("heartbeats beside that", before, beside, SLOWER_HEARTBEATS, goals)


def compare(what: str, before: Answered, beside: Answered, most: float, goals: Goals) -> None:
    late, ratio = beside.quantile(0.99), beside.quantile(0.99) / before.quantile(0.99)
    goals.figure(
        f"{what}: 99 of 100 within {1000 * late:.0f} ms, {ratio:.2f} times that of before (goal: {most} at most)",
        ratio <= most,
    )


@click.command(help=__doc__, context_settings=HELP)
@click.option("--jobs", "count", default=JOBS, show_default=True, help="That are changed at once.")
@click.option("--small", is_flag=True, help=f"{SMALL} jobs, judging no times.")
def main(count: int, small: bool) -> None:
    goals = Goals(judged=not small)
    with (
        server() as server_url,
        own_database(server_url) as url,
        scratch_folder() as folder,
        opened(url) as db,
        serve(url, folder, {"KELPIE_WEB_PROCESSES": "2"}) as (api, port),
        multiprocessing.get_context("spawn").Pool(1) as clients,
    ):
        tenant = make_tenant(db)
        target = Target(port, port, (api.pid, api.pid), tenant.key, [])
        stage = Stage(db, tenant, target, clients, SMALL if small else count, 0.2 if small else 1.0)
        stage.submit(CONNECTIONS, GROUP, nothing, heartbeat_interval=3600)
        target.held.extend(claimed_job(db, tenant, f"machine-{number}") for number in range(CONNECTIONS))
        cancel(stage, goals)
        star(stage, goals)
        chain(stage, goals)
    sys.exit(goals.verdict())


if __name__ == "__main__":
    main()
