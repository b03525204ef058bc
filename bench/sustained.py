"""Whether claims stay fast: claims from one queue at full speed for half a minute.

Each claim leaves a dead entry at the head of the queue's index, where the next one begins its scan. Housekeeping
runs at the same time, as in a web process. A second run has an old snapshot open (of a long report or a backup,
for example), so that no dead entry can be removed. A third measures how many claims the API can serve at all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import psycopg

from bench import api, pgbench
from bench.fill import Contents, fill
from bench.harness import HELP, Goals, make_tenant, opened, own_database, server
from kelpie_api.queue.maintenance import Maintenance
from local_stack.processes import scratch_folder

CONNECTIONS = 4
FLOOR = 1_500  # claims a second: an estimate of what the API needs on two cores

HANDED_OUT = """
select count(*) as handouts, count(distinct job_id) as jobs, coalesce(max(number), 0) as attempts,
       (select count(*) from queue where machine_id is not null) as held
  from attempts
 where job_id in (select job_id from queue)
"""


@dataclass(frozen=True)
class Size:
    jobs: int
    finished: int
    seconds: int
    window: int  # seconds; the rate is measured for each window


FULL = Size(jobs=200_000, finished=200_000, seconds=30, window=5)
SMALL = Size(jobs=10_000, finished=1_000, seconds=2, window=1)


@contextmanager
def housekeeping(url: str) -> Iterator[None]:
    with opened(url, connections=4) as db:
        maintenance = Maintenance(db)
        maintenance.start()
        try:
            yield
        finally:
            maintenance.stop()


@contextmanager
def old_snapshot(url: str) -> Iterator[None]:
    """Keep a transaction open that sees the database as it is now."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("select count(*) from tenants")
        yield
        connection.rollback()


@contextmanager
def nothing(url: str) -> Iterator[None]:
    yield


def from_the_database(server_url: str, size: Size, snapshot: bool, goals: Goals, folder: Path) -> list[float]:
    """The claims a second in each window, from a new queue."""
    with own_database(server_url) as url:
        with opened(url) as db:
            tenant_id = make_tenant(db).caller.tenant_id
        fill(url, tenant_id, Contents(size.jobs, size.finished))
        with housekeeping(url), (old_snapshot if snapshot else nothing)(url):
            rates = pgbench.claims_a_second(
                url, tenant_id, connections=CONNECTIONS, seconds=size.seconds, window=size.window, folder=folder
            )
        with psycopg.connect(url) as connection:
            handouts, jobs, attempts, held = connection.execute(HANDED_OUT).fetchall()[0]
    goals.fact(
        f"{handouts:,} handouts, {jobs:,} jobs, {held:,} held: nothing handed out twice",
        handouts == jobs == held and attempts == 1,
    )
    return rates


def through_the_api(server_url: str, size: Size, folder: Path) -> float:
    with own_database(server_url) as url:
        with opened(url) as db:
            tenant = make_tenant(db)
        fill(url, tenant.caller.tenant_id, Contents(size.jobs, size.finished))
        return api.claims_a_second(url, tenant.key, size.seconds / 2, folder)


def show(name: str, rates: list[float]) -> None:
    windows = " ".join(f"{rate:6,.0f}" for rate in rates)
    # On a busy machine the first second may pass before the first claim.
    ratio = f"{rates[-1] / rates[0]:.2f}" if rates[0] else "unknown: no claim in the first window"
    click.echo(f"{name:22} {windows}   last / first {ratio}")


@click.command(help=__doc__, context_settings=HELP)
@click.option("--small", is_flag=True, help="A short queue for a few seconds: to see that it works.")
def main(small: bool) -> None:
    size = SMALL if small else FULL
    goals = Goals(judged=not small)
    with server() as server_url, scratch_folder() as folder:
        free = from_the_database(server_url, size, False, goals, folder)
        hindered = from_the_database(server_url, size, True, goals, folder)
        asked = through_the_api(server_url, size, folder)
    click.echo(f"claims a second in windows of {size.window} s, {CONNECTIONS} connections:")
    show("housekeeping", free)
    show("and an old snapshot", hindered)
    click.echo(f"{'through the API':22} {asked:6,.0f}")
    ratio = f"{free[-1] / asked:.1f}x" if asked else "any multiple of"
    goals.figure(
        f"the last window gives {ratio} what the API can ask for (goal: more than 1x)",
        free[-1] > asked,
    )
    goals.figure(f"the last window gives {free[-1]:,.0f} claims a second (goal: over {FLOOR:,})", free[-1] > FLOOR)
    sys.exit(goals.verdict())


if __name__ == "__main__":
    main()
