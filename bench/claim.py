"""What a claim costs beside a short queue, and beside a long queue and a long history.

Both databases are claimed from in turns in one run, so that whatever else the machine does weighs on both. Each
claim is one statement of the API with its commit, on one connection.
"""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import click
import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from bench.fill import FINISHED, PENDING, SMALL, fill
from bench.stage import GROUP, Goals, make_tenant, opened, own_database, server
from kelpie_api.db import SQL, Transaction
from kelpie_api.queue.maintenance import Maintenance

SHORT = 1_000  # pending jobs of the short queue
ROUNDS, CLAIMS_A_ROUND, WARM_UP = 9, 60, 20
HEARTBEATS_A_JOB = 20
WORST_RATIO = 1.5
HOT_SHARE = 0.95
NO_MORE_THAN = 10  # index entries that a claim may read to find its job

INDEX_READS = """
select indexrelname as name, idx_tup_read as entries
  from pg_stat_user_indexes where relname = 'queue' and idx_tup_read > 0
"""
READ_WHOLE = "select relname as name, seq_scan as scans from pg_stat_user_tables where seq_scan > 0"
UPDATES = "select n_tup_upd as updates, n_tup_hot_upd as hot from pg_stat_user_tables where relname = 'queue'"
# Of the oldest waiting jobs, those that nobody has locked.
UNLOCKED = """
with oldest as (
  select job_id from queue where machine_id is null order by tenant_id, container_group, rank, seq limit %(limit)s
),
unlocked as (
  select job_id from queue where job_id in (select job_id from oldest) for update skip locked
)
select (select count(*) from oldest) as oldest, (select count(*) from unlocked) as unlocked
"""

Row = dict[str, Any]


@dataclass
class Line:
    """One database, and what was measured on it."""

    name: str
    url: str
    tenant_id: int
    connection: psycopg.Connection[Row] = field(init=False)
    medians: list[float] = field(default_factory=list)  # milliseconds, one of each round

    def __post_init__(self) -> None:
        self.connection = psycopg.connect(self.url, autocommit=True, prepare_threshold=None, row_factory=dict_row)

    def values(self) -> Row:
        return {
            "tenant_id": self.tenant_id,
            "container_group": GROUP,
            "machine_id": "machine-1",
            "claim_id": uuid4(),
            "actor": "machine:machine-1",
            "sealed_key": None,
            "lines": [GROUP, ""],
        }

    def claim(self) -> Row:
        job = self.connection.execute(SQL.claim_job, self.values()).fetchone()
        if job is None:
            raise RuntimeError(f"{self.name}: a claim came back empty while there is work")
        return job

    def round(self, claims: int) -> list[Row]:
        """Claim so many jobs; their median time is kept."""
        jobs, times = [], []
        for _ in range(claims):
            began = time.perf_counter()
            jobs.append(self.claim())
            times.append((time.perf_counter() - began) * 1000)
        self.medians.append(statistics.median(times))
        return jobs

    def counted(self, query: Any) -> dict[str, int]:
        """A counter of the statistics, by name; what this session did is in it."""
        self.connection.execute("select pg_stat_force_next_flush()")
        return {
            row["name"]: next(v for k, v in row.items() if k != "name") for row in self.connection.execute(query)
        }


@dataclass(frozen=True)
class Reads:
    """What a claim reads: entries of each index of the queue, tables from end to end, pages."""

    entries: dict[str, float]
    whole_tables: list[str]
    pages: int


def reads(line: Line, claims: int) -> Reads:
    """What claims read, right after a round of housekeeping, on this session: another's counters may come late."""
    with opened(line.url) as db, line.connection.transaction():
        Maintenance(db).beat(Transaction(line.connection))
    indexes, tables = line.counted(INDEX_READS), line.counted(READ_WHOLE)
    pages = [pages_touched(line) for _ in range(claims)]
    entries = {name: (now - indexes.get(name, 0)) / claims for name, now in line.counted(INDEX_READS).items()}
    return Reads(
        {name: count for name, count in entries.items() if count},
        [name for name, now in line.counted(READ_WHOLE).items() if now > tables.get(name, 0)],
        int(statistics.median(pages)),
    )


def pages_touched(line: Line) -> int:
    """Claim, and say how many pages that touched."""
    statement = f"explain (analyze, buffers, format json) {SQL.claim_job}"
    found = line.connection.execute(statement.encode(), line.values()).fetchone()
    if found is None:
        raise RuntimeError("an explanation without a row")
    plan = found["QUERY PLAN"][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def locked_rows(line: Line, limit: int = 10_000) -> int:
    """How many of the oldest waiting rows an uncommitted claim keeps locked."""
    with (
        psycopg.connect(line.url, row_factory=dict_row) as onlooker,
        line.connection.transaction(force_rollback=True),
    ):
        line.claim()
        found = onlooker.execute(UNLOCKED, {"limit": limit}).fetchone()
        onlooker.rollback()
    if found is None:
        raise RuntimeError("a count without a row")
    return int(found["oldest"] - found["unlocked"])


def hot_share(line: Line, jobs: list[Row]) -> float:
    """Of the heartbeats of these jobs, those that wrote no index."""
    before = updates(line)
    for _ in range(HEARTBEATS_A_JOB):
        for job in jobs:
            renewed = line.connection.execute(
                SQL.renew_lease,
                {
                    "job_id": job["id"],
                    "scope": line.tenant_id,
                    "groups": None,
                    "machine_id": "machine-1",
                    "attempt": job["attempt"],
                    "checkpoint_lag": 1,
                },
            ).fetchone()
            if renewed is None:
                raise RuntimeError(f"{line.name}: a holder's heartbeat was refused")
    after = updates(line)
    return float((after["hot"] - before["hot"]) / (after["updates"] - before["updates"]))


def updates(line: Line) -> Row:
    line.connection.execute("select pg_stat_force_next_flush()")
    found = line.connection.execute(UPDATES).fetchone()
    if found is None:
        raise RuntimeError("the queue has no statistics")
    return found


def prepare(url: str, pending: int, finished: int, random_ids: bool) -> int:
    """A filled database's tenant."""
    with opened(url) as db:
        tenant_id = make_tenant(db).caller.tenant_id
    fill(url, tenant_id, pending, finished, random_ids)
    return tenant_id


def tenant_of(url: str) -> int:
    """The tenant whose queue a kept database holds."""
    with psycopg.connect(url) as connection:
        found = connection.execute("select tenant_id from queue limit 1").fetchone()
    if found is None:
        raise click.ClickException("The database has no pending jobs; make one with bench.fill --keep.")
    return int(found[0])


def checkpoint(line: Line) -> None:
    """After one, the first change of each page writes the whole page to the log: the worst case for scattered ids.

    Without it a run measures how long ago the server's last one happened to be.
    """
    try:
        line.connection.execute("checkpoint")
    except psycopg.errors.InsufficientPrivilege:
        click.echo("This role may not checkpoint: the figures depend on when the server last did.")


def measure(short: Line, long: Line, rounds: int) -> list[Row]:
    """Claim from both in turns. Before each round housekeeping does what it does beside the web processes."""
    held: list[Row] = []
    checkpoint(long)
    with opened(short.url) as short_db, opened(long.url) as long_db:
        housekeepers = [(short, short_db), (long, long_db)]
        for number in range(rounds):
            for line, db in housekeepers if number % 2 else reversed(housekeepers):
                Maintenance(db).vacuum()
                db.repeatable(Maintenance(db).beat)
                if number == 0:
                    for _ in range(WARM_UP):
                        line.claim()
                jobs = line.round(CLAIMS_A_ROUND)
                if line is long:
                    held.extend(jobs)
    return held


def judge(short: Line, long: Line, held: list[Row], goals: Goals) -> None:
    ratio = statistics.median(b / a for a, b in zip(short.medians, long.medians, strict=True))
    for line in (short, long):
        spread = f"{min(line.medians):.2f} to {max(line.medians):.2f}"
        click.echo(f"{line.name}: {statistics.median(line.medians):.2f} ms a claim (rounds {spread})")
    goals.figure(
        f"a claim of the long queue takes {ratio:.2f}x as long (goal: {WORST_RATIO}x at most)",
        ratio <= WORST_RATIO,
    )
    for line in (short, long):
        read = reads(line, CLAIMS_A_ROUND)
        listed = ", ".join(f"{name} {count:.1f}" for name, count in sorted(read.entries.items()))
        goals.fact(
            f"{line.name}: index entries read by a claim: {listed} (goal: queue_waiting {NO_MORE_THAN} at most)",
            0 < read.entries.get("queue_waiting", 0) <= NO_MORE_THAN,
        )
        goals.fact(
            f"{line.name}: tables read from end to end: {', '.join(read.whole_tables) or 'none'}",
            not read.whole_tables,
        )
        click.echo(f"        {line.name}: {read.pages} pages touched by a claim")
        locked = locked_rows(line)
        goals.fact(f"{line.name}: rows locked by a claim: {locked}", locked == 1)
    share = hot_share(long, held)
    goals.fact(
        f"{share:.1%} of {len(held) * HEARTBEATS_A_JOB:,} heartbeats were HOT (goal: over {HOT_SHARE:.0%})",
        share > HOT_SHARE,
    )


@click.command(help=__doc__)
@click.option("--small", is_flag=True, help="A short history and three rounds: to see that it works.")
@click.option("--random-ids", is_flag=True, help="Random ids, instead of those that begin with their time.")
@click.option("--filled", help="A database that bench.fill --keep left on the server of DATABASE_URL.")
def main(small: bool, random_ids: bool, filled: str | None) -> None:
    pending, finished, rounds = (SMALL, SMALL, 3) if small else (PENDING, FINISHED, ROUNDS)
    goals = Goals(judged=not small)
    with ExitStack() as stack:
        server_url = stack.enter_context(server())
        if filled:
            long_url = make_conninfo(server_url, dbname=filled)
            long = Line(f"kept {filled}", long_url, tenant_of(long_url))
        else:
            long_url = stack.enter_context(own_database(server_url))
            long = Line(
                f"{pending:,} pending, {finished:,} finished",
                long_url,
                prepare(long_url, pending, finished, random_ids),
            )
        short_url = stack.enter_context(own_database(server_url))
        short = Line(f"{SHORT:,} pending", short_url, prepare(short_url, SHORT, 0, random_ids))
        held = measure(short, long, rounds)
        judge(short, long, held, goals)
        short.connection.close()
        long.connection.close()
    sys.exit(goals.verdict())


if __name__ == "__main__":
    main()
