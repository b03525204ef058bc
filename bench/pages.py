"""How soon the server has each page beside a long history and many machines, and the slowest statement of each.

The application runs in this process, so what is measured is the work of the server alone. Each page is asked for
five times after a first one, and its median is taken.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import click
import psycopg
from flask.testing import FlaskClient

from bench.fill import SMALL, Contents, fill
from bench.harness import GROUP, HELP, Goals, Tenant, make_tenant, opened, own_database, server
from kelpie_api.app import create_app
from kelpie_api.auth import sessions
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.queue import sweeps

SECRET_KEY = "the same whenever a benchmark starts on one database"
TIMES = 5
GOAL, STATEMENT_GOAL = 1.0, 0.3  # seconds: a page, and each of its statements


@dataclass(frozen=True)
class Size:
    finished: int = 5_000_000
    pending: int = 100_000
    running: int = 10_000
    machines: int = 2_000
    of_sweep: int = 10_000
    attempts: int = 1_000  # of one job
    points: int = 500  # of its progress


TINY = Size(SMALL, SMALL, 100, 50, 200, 20, 50)

# The first jobs of the queue are handed out, to so many machines.
RUNNING = """
with taken as (
  select job_id, 'machine-' || row_number() over (order by seq) %% %(machines)s as machine
    from queue
   order by seq
   limit %(running)s
),
held as (
  update queue q
     set rank = rank & -2, machine_id = machine, holder_group = %(group)s, attempt = 1, heartbeat = now(),
         phase = 'running', fraction = 0.5
    from taken t
   where q.job_id = t.job_id
),
handed as (
  update jobs j set status = 'running', started = now(), machine_id = machine, attempt = 1
    from taken t
   where j.id = t.job_id
)
insert into attempts (job_id, number, machine_id, container_group, tenant_id)
select job_id, 1, machine, %(group)s, %(tenant)s from taken
"""
FAILED = """
update jobs
   set status = 'failed', failed = completed, completed = null, reason = 'exit_code'
 where id in (select id from jobs where status = 'completed' and seq %% 100 = 0)
"""
# A sweep has the newest jobs that have ended, and the last ones of the queue.
OF_SWEEP = """
update jobs set sweep_id = %(sweep)s
 where id in (select id from jobs where status = 'completed' order by seq desc limit %(of_sweep)s / 2)
    or id in (select job_id from queue where machine_id is null order by seq desc limit %(of_sweep)s / 2)
"""
OF_SWEEP_IN_QUEUE = """
update queue q set sweep_id = %(sweep)s from jobs j where j.id = q.job_id and j.sweep_id = %(sweep)s
"""
LABELLED = """
with labelled as (
  update jobs set labels = '{"team": "nlp"}', name = 'lora-' || seq where seq %% 50 = 0 returning seq
)
insert into job_labels (tenant_id, key, value, seq) select %(tenant)s, 'team', 'nlp', seq from labelled
"""
MACHINES = """
insert into machines (tenant_id, container_group, machine_id)
select %(tenant)s, %(group)s, 'machine-' || n from generate_series(0, %(machines)s - 1) n
"""
USAGE = """
insert into usage_of_days (tenant_id, day, container_group, machine_id, sweep_id, outcome, attempts, held,
                           useful, lost, money)
select %(tenant)s, (now() at time zone 'UTC')::date - d, %(group)s, 'machine-' || n, %(none)s, 'completed', 9,
       9000, 8000, 1000, 2
  from generate_series(0, 29) d, generate_series(0, %(machines)s - 1) n
"""
ATTEMPTS = """
insert into attempts (job_id, number, machine_id, container_group, claimed, ended, outcome, held, useful, lost,
                      tenant_id)
select %(job)s, n, 'machine-' || n, %(group)s, now() - (%(attempts)s - n) * interval '1 hour',
       now() - (%(attempts)s - n) * interval '1 hour' + interval '50 minutes', 'interrupted', 3000, 2400, 600,
       %(tenant)s
  from generate_series(2, %(attempts)s) n
"""
MARKS = """
insert into checkpoint_marks (job_id, attempt, at)
select %(job)s, n, now() - (%(attempts)s - n) * interval '1 hour' + m * interval '10 minutes'
  from generate_series(2, %(attempts)s) n, generate_series(1, 4) m
"""
POINTS = """
insert into progress_points (job_id, number, attempt, at, fraction, step, metrics)
select %(job)s, n, 1, now() - (%(points)s - n) * interval '1 minute', n::float8 / %(points)s, n, %(metrics)s::json
  from generate_series(1, %(points)s) n
"""

HELD = "select job_id from queue where machine_id is not null order by seq limit 1"
UNHELD = "select job_id from queue where machine_id is null order by seq desc limit 1"


@dataclass(frozen=True)
class Filled:
    """Jobs and a sweep whose pages are looked at: a job with many attempts, and one that waits."""

    tenant: Tenant
    busy: UUID
    waiting: UUID
    sweep: UUID


def prepare(db: Database, url: str, size: Size) -> Filled:
    tenant = make_tenant(db)
    fill(url, tenant.caller.tenant_id, Contents(size.pending + size.running, size.finished, priorities=5))
    made, _ = sweeps.create(db, tenant.caller, {"name": "grid"}, None)
    values: dict[str, Any] = {
        **{name: getattr(size, name) for name in size.__dataclass_fields__},
        "tenant": tenant.caller.tenant_id,
        "group": GROUP,
        "sweep": made["id"],
        "none": UUID(int=0),
        "metrics": json.dumps({f"metric-{number}": 0.5 for number in range(8)}),
    }
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")  # else no job that has ended can be changed
        for statement in (RUNNING, FAILED, OF_SWEEP, OF_SWEEP_IN_QUEUE, LABELLED, MACHINES, USAGE):
            connection.execute(statement, values)
        values["job"] = one(connection, HELD)
        for statement in (ATTEMPTS, MARKS, POINTS):
            connection.execute(statement, values)
        waiting = one(connection, UNHELD)
        connection.execute("vacuum (analyze)")
    return Filled(tenant, values["job"], waiting, UUID(str(made["id"])))


def one(connection: psycopg.Connection[Any], statement: str) -> UUID:
    found = connection.execute(statement.encode()).fetchone()
    if found is None:
        raise RuntimeError("the database that was just filled has no such job")
    return UUID(str(found[0]))


def pages_of(filled: Filled) -> dict[str, str]:
    """The address of each page, by what is on it."""
    return {
        "overview": "/ui",
        "all jobs": "/ui/jobs",
        "running jobs": "/ui/jobs?phase=running",
        "pending jobs": "/ui/jobs?phase=pending",
        "failed jobs": "/ui/jobs?phase=failed",
        "jobs by name": "/ui/jobs?name=lora-*",
        "jobs by label": "/ui/jobs?label=team:nlp",
        "jobs that none is": "/ui/jobs?label=team:none&phase=failed",
        "jobs of the sweep": f"/ui/jobs?sweep={filled.sweep}",
        "a change of those of the sweep": f"/ui/jobs/change/cancel?sweep={filled.sweep}",
        "a change of those of a name": "/ui/jobs/change/cancel?name=lora-*",
        "a change of those of a label": "/ui/jobs/change/hold?label=team:nlp",
        "a rerun of those of a label": "/ui/jobs/change/rerun?label=team:nlp&phase=failed",
        "a job with many attempts": f"/ui/jobs/{filled.busy}",
        "a job that waits": f"/ui/jobs/{filled.waiting}",
        "sweeps": "/ui/sweeps",
        "the sweep": f"/ui/sweeps/{filled.sweep}",
        "groups": "/ui/groups",
        "a group": f"/ui/groups/one?container_group_id={GROUP}",
        "machines": "/ui/machines",
        "settings": "/ui/settings",
        "usage by group": "/ui/usage",
        "usage by machine": "/ui/usage?by=machine",
    }


@dataclass
class Statements:
    """The slowest statement of this thread since the last `forget`, in seconds."""

    seconds: float = 0.0
    text: str = ""
    thread: int = field(default_factory=threading.get_ident)

    def forget(self) -> None:
        self.seconds, self.text = 0.0, ""

    def note(self, text: object, seconds: float) -> None:
        if threading.get_ident() == self.thread and seconds > self.seconds:
            self.seconds, self.text = seconds, " ".join(str(text).split())


@contextmanager
def watched() -> Iterator[Statements]:
    """Time each statement that this process sends."""
    found = Statements()
    send: Callable[..., Any] = psycopg.Connection.execute

    def timed(self: psycopg.Connection[Any], query: Any, *arguments: Any, **options: Any) -> Any:
        began = time.monotonic()
        try:
            return send(self, query, *arguments, **options)
        finally:
            found.note(query, time.monotonic() - began)

    psycopg.Connection.execute = timed  # type: ignore[method-assign]
    try:
        yield found
    finally:
        psycopg.Connection.execute = send  # type: ignore[method-assign]


@contextmanager
def browser(url: str, tenant: Tenant) -> Iterator[FlaskClient]:
    """A browser that is signed in, of an application in this process."""
    application = create_app(Config(database_url=url, secret_key=SECRET_KEY))
    parts = application.extensions["kelpie"]
    try:
        with opened(url) as db:
            token = sessions.begin_once(db, sessions.invite(db, tenant.key))
        http = application.test_client()
        http.set_cookie("kelpie", token)
        yield http
    finally:
        parts.end()


@click.command(help=__doc__, context_settings=HELP)
@click.option("--finished", default=Size.finished, show_default=True, help="Jobs that have ended.")
@click.option("--small", is_flag=True, help=f"{SMALL:,} jobs of each kind: to see that it works.")
def main(finished: int, small: bool) -> None:
    goals = Goals(judged=not small)
    with server() as server_url, own_database(server_url) as url, opened(url) as db:
        size = TINY if small else replace(Size(), finished=finished)
        filled = prepare(db, url, size)
        click.echo(
            f"beside {size.finished:,} finished, {size.pending:,} pending and {size.running:,} running jobs,"
            f" {size.machines:,} machines, a sweep of {size.of_sweep:,}:"
        )
        with browser(url, filled.tenant) as http, watched() as statements:
            for name, address in pages_of(filled).items():
                measure(goals, http, statements, name, address)
    sys.exit(goals.verdict())


def measure(goals: Goals, http: FlaskClient, statements: Statements, name: str, address: str) -> None:
    statuses, took, slowest = set(), [], Statements()
    for number in range(TIMES + 1):
        statements.forget()
        began = time.monotonic()
        with closing(http.get(address)) as answer:
            seconds = time.monotonic() - began
            statuses.add(answer.status_code)
        if number:  # the first one reads templates and plans
            took.append(seconds)
            slowest.note(statements.text, statements.seconds)
    if statuses != {200}:
        goals.fact(f"{name} is answered {sorted(statuses)} (goal: 200)", False)
    median, statement = statistics.median(took), slowest.seconds
    goals.figure(
        f"{name}: {1000 * median:.0f} ms, its slowest statement {1000 * statement:.0f} ms"
        f" (goal: under {1000 * GOAL:.0f} ms, and {1000 * STATEMENT_GOAL:.0f} ms at most)",
        median < GOAL and statement <= STATEMENT_GOAL,
    )
    if slowest.seconds > STATEMENT_GOAL:
        click.echo(f"        {slowest.text[:300]}")


if __name__ == "__main__":
    main()
