"""One run of the autoscaler over a thousand rules, against a Salad that takes 50 ms for each answer.

The double checks requests against Salad's specification, which takes it more time than Kelpie needs; only the
request budget should limit the speed of a run.
"""

from __future__ import annotations

import sys
import threading
import time
from uuid import UUID

import click

from bench.harness import HELP, Goals, Tenant, make_tenant, opened, own_database, server
from kelpie_api.db import SQL, Database
from kelpie_api.queue import submissions
from kelpie_api.salad.client import Salad
from kelpie_api.salad.request_budget import AUTOSCALER, RequestBudget
from kelpie_api.scaling.autoscaler import Autoscaler, all_applied
from kelpie_api.scaling.groups import ContainerGroups
from kelpie_api.schemas.submission import JobDefinition
from tests.doubles.fleet import KEY, FleetDouble

PROJECTS, GROUPS, BUSY = 10, 100, 40  # projects; groups of each; groups, of all, that have jobs
SMALL_PROJECTS, SMALL_BUSY = 2, 4
LATENCY = 0.05  # seconds
LONGEST = 60.0
MOST_A_MINUTE = 240


def fill(db: Database, tenant: Tenant, salad: FleetDouble, projects: int, busy: int) -> None:
    groups = [
        (n, salad.make_group(project=("acme", f"project-{n}"))) for n in range(projects) for _ in range(GROUPS)
    ]
    for number, group in groups:
        db.execute(
            SQL.create_rule,
            container_group_id=UUID(group),
            tenant_id=tenant.caller.tenant_id,
            user_id=tenant.caller.user_id,
            org_name="acme",
            project_name=f"project-{number}",
            container_group_name=salad.group(group)["name"],
            min_replicas=0,
            max_replicas=10,
            idle_threshold_seconds=300,
        )
    wanted = [JobDefinition().load({"command": "true", "container_group_id": group}) for _, group in groups[:busy]]
    submissions.submit(db, tenant.caller, wanted)


def busiest_minute(times: list[float]) -> int:
    return max(sum(1 for later in times if at <= later < at + 60) for at in times)


@click.command(help=__doc__, context_settings=HELP)
@click.option("--small", is_flag=True, help="A size that takes seconds; times are not judged.")
def main(small: bool) -> None:
    goals = Goals(judged=not small)
    projects, busy = (SMALL_PROJECTS, SMALL_BUSY) if small else (PROJECTS, BUSY)
    salad = FleetDouble()
    salad.latency = LATENCY
    with server() as url, own_database(url) as database, opened(database, 10) as db:
        fill(db, make_tenant(db), salad, projects, busy)
        stopped = threading.Event()
        began = time.monotonic()
        fleet = ContainerGroups(Salad(salad.api_url), KEY, stopped, RequestBudget(db, AUTOSCALER))
        verdicts = Autoscaler(db, fleet, stopped).run()
        took = time.monotonic() - began
    salad.end()
    rules, requests = projects * GROUPS, len(salad.requests)
    goals.fact(f"{rules:,} rules decided: {len(verdicts):,}", len(verdicts) == rules and all_applied(verdicts))
    goals.fact(f"groups started and scaled: {len(salad.changes) // 2}", len(salad.changes) == 2 * busy)
    most = busiest_minute([at for at, _ in salad.requests])
    goals.fact(f"{requests} requests, {most} in the busiest minute", most < MOST_A_MINUTE)
    goals.figure(f"one run took {took:.1f} s", took < LONGEST)
    sys.exit(goals.verdict())


if __name__ == "__main__":
    main()
