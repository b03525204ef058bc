"""Make a database with a long queue beside a long history, and say how long it took.

The rows are those that the API would have written: each pending job with its row of the queue and its event, each
finished job with its times. Every fifth finished job has its attempt and its three events too; for all of them it
would take many minutes. The rows satisfy every constraint: checks apply as usual, and the indexes and foreign
keys, which are dropped first and created again at the end, verify every row then. Inserts fire no trigger (the
one on status is for updates).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import click
import psycopg

from bench.harness import GROUP, HELP, make_tenant, opened, own_database, server

PENDING, FINISHED = 1_000_000, 5_000_000
SMALL = 2_000
TABLES = ["jobs", "queue", "attempts", "events"]

# The ids of jobs: with their time in front, as the API creates them (UUID version 7), so that the index entries of
# jobs of one time are beside each other; or random.
RANDOM_IDS = """
create function pg_temp.job_id(at timestamptz) returns uuid language sql volatile return gen_random_uuid()
"""
ORDERED_IDS = """
create function pg_temp.job_id(at timestamptz) returns uuid language sql volatile return
  encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
                                 placing substring(int8send((extract(epoch from at) * 1000)::bigint) from 3)
                                 from 1 for 6), 52, 1), 53, 1), 'hex')::uuid
"""

PENDING_JOBS = """
insert into jobs (id, tenant_id, container_group, command, arguments, environment, sync, compression,
                  max_failures, heartbeat_interval, priority)
select pg_temp.job_id(clock_timestamp()), %(tenant_id)s, %(group)s, 'python', '["train.py", "--steps", "1000"]',
       jsonb_build_object('SEED', n::text) || %(environment)s::jsonb, '{}', false, 3, 30,
       n %% %(priorities)s - %(priorities)s / 2
  from generate_series(1, %(count)s) as n
"""
QUEUE = """
insert into queue (job_id, tenant_id, container_group, seq, heartbeat_interval, rank, parked)
select id, tenant_id, container_group, seq, heartbeat_interval, 1 - 2 * priority,
       case when row_number() over (order by seq) > %(pending)s then '{hold}'::text[] end
  from jobs
 where status = 'pending'
 order by seq
"""
BANS = """
insert into bans (job_id, machine_id, reason)
select job_id, %(machine)s, 'worker' from queue where parked is null order by rank, seq limit %(count)s
"""
FINISHED_JOBS = """
insert into jobs (id, tenant_id, container_group, command, arguments, environment, sync, compression,
                  max_failures, heartbeat_interval, status, created, started, completed, heartbeat,
                  num_heartbeats, machine_id, attempt)
select pg_temp.job_id(created), %(tenant_id)s, %(group)s, 'python', '["train.py", "--steps", "1000"]',
       jsonb_build_object('SEED', n::text), '{}', false, 3, 30, 'completed', created, created, created + age / 2,
       created + age / 2, 120, 'machine-' || n %% 1000, 1
  from generate_series(1, %(count)s) as n
 cross join lateral (select interval '1 second' * (%(count)s - n + 60) as age) a
 cross join lateral (select now() - age as created) c
"""
ATTEMPTS = """
insert into attempts (job_id, number, machine_id, container_group, claimed, last_heartbeat, ended, outcome,
                      exit_code)
select id, 1, machine_id, container_group, started, heartbeat, completed, 'completed', 0
  from jobs where status = 'completed' and seq % 5 = 0 order by seq
"""
EVENTS = """
insert into events (job_id, at, kind, actor, attempt, detail)
select id, at, kind, actor, n, '{}'
  from jobs
 cross join lateral (values ('submitted', 'user:bench', 0, created),
                            ('claimed', 'machine:' || machine_id, 1, started),
                            ('completed', 'machine:' || machine_id, 1, completed)) as e (kind, actor, n, at)
 where at is not null
   and (status = 'pending' or seq % 5 = 0)
 order by seq
"""

CONSTRAINTS = """
select conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid)
  from pg_constraint
 where (conrelid = any(%(tables)s::regclass[]) and contype in ('p', 'u'))
    or (confrelid = any(%(tables)s::regclass[]) and contype = 'f')
    or (conrelid = any(%(tables)s::regclass[]) and contype = 'f')
 order by contype = 'f', oid
"""
INDEXES = """
select indexrelid::regclass::text, pg_get_indexdef(indexrelid)
  from pg_index
 where indrelid = any(%(tables)s::regclass[])
   and not exists (select from pg_constraint where conindid = indexrelid)
"""


@dataclass(frozen=True)
class Contents:
    """How many jobs of each kind: pending ones over some priorities, parked ones, a history of finished ones.

    `banned_machine` is banned from the first `bans` of the pending ones; `environment` is of all open ones.
    """

    pending: int
    finished: int = 0
    parked: int = 0
    priorities: int = 1
    bans: int = 0
    banned_machine: str = "banned"
    environment: Mapping[str, str] = field(default_factory=dict)


def fill(url: str, tenant_id: int, contents: Contents, random_ids: bool = False) -> None:
    """Put jobs and a history into an empty migrated database, and analyze it."""
    values = {"tenant_id": tenant_id, "group": GROUP}
    with psycopg.connect(url) as connection:
        # Of this session only: the measurements afterwards commit as the server is configured.
        connection.execute("set synchronous_commit = off")
        connection.execute("set maintenance_work_mem = '256MB'")
        connection.execute(RANDOM_IDS if random_ids else ORDERED_IDS)
        constraints = connection.execute(CONSTRAINTS, {"tables": TABLES}).fetchall()
        indexes = connection.execute(INDEXES, {"tables": TABLES}).fetchall()
        for table, name, _ in reversed(constraints):
            run(connection, f"alter table {table} drop constraint {name}")
        for name, _ in indexes:
            run(connection, f"drop index {name}")
        connection.execute(FINISHED_JOBS, values | {"count": contents.finished})
        open_jobs = {
            "count": contents.pending + contents.parked,
            "priorities": contents.priorities,
            "environment": json.dumps(contents.environment),
        }
        connection.execute(PENDING_JOBS, values | open_jobs)
        connection.execute(QUEUE, {"pending": contents.pending})
        connection.execute(BANS, {"machine": contents.banned_machine, "count": contents.bans})
        connection.execute(ATTEMPTS)
        connection.execute(EVENTS)
        for table, name, definition in constraints:
            run(connection, f"alter table {table} add constraint {name} {definition}")
        for _, definition in indexes:
            run(connection, definition)
        connection.commit()
        connection.autocommit = True
        connection.execute("vacuum (analyze)")


def run(connection: psycopg.Connection[Any], statement: str) -> None:
    """Execute a statement that was built from the catalog."""
    connection.execute(statement.encode())


def sizes(url: str) -> list[tuple[str, int, str]]:
    """(table, rows, size with its indexes) of each table."""
    with psycopg.connect(url) as connection:
        return [
            (
                table,
                *connection.execute(
                    f"select count(*), pg_size_pretty(pg_total_relation_size('{table}')) from {table}".encode()
                ).fetchall()[0],
            )
            for table in TABLES
        ]


@click.command(help=__doc__, context_settings=HELP)
@click.option("--pending", default=PENDING, show_default=True)
@click.option("--finished", default=FINISHED, show_default=True)
@click.option("--small", is_flag=True, help=f"{SMALL:,} rows of each: to see that it works.")
@click.option("--random-ids", is_flag=True, help="Random ids, instead of those that begin with their time.")
@click.option("--keep", is_flag=True, help="Leave the database on the server of DATABASE_URL, and print its name.")
def main(pending: int, finished: int, small: bool, random_ids: bool, keep: bool) -> None:
    if small:
        pending = finished = SMALL
    with server() as server_url, own_database(server_url, keep) as url:
        with opened(url) as db:
            tenant = make_tenant(db)
        began = time.monotonic()
        fill(url, tenant.caller.tenant_id, Contents(pending, finished), random_ids)
        click.echo(f"{pending:,} pending and {finished:,} finished jobs in {time.monotonic() - began:.0f} s")
        for table, rows, size in sizes(url):
            click.echo(f"  {table:10} {rows:>12,} rows  {size}")
        if keep:
            click.echo(f"kept as database {psycopg.conninfo.conninfo_to_dict(url)['dbname']}")


if __name__ == "__main__":
    main()
