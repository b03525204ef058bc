"""The cost of a claim from a short queue, and from a long queue with a long history.

One run claims from both databases in turns, so that other load on the machine affects both. Each claim is one
statement of the API with its commit, on one connection.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import click
import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from bench.fill import FINISHED, PENDING, SMALL, Contents, fill
from bench.harness import GROUP, HELP, Goals, make_tenant, opened, own_database, server
from kelpie_api.db import SQL, Transaction
from kelpie_api.queue.maintenance import Maintenance
from kelpie_api.queue.progress import told
from kelpie_api.queue.states import Report

SHORT = 1_000  # pending jobs of the short queue
ROUNDS, CLAIMS_A_ROUND, WARM_UP = 9, 60, 20
HEARTBEATS_A_JOB = 20
WORST_RATIO = 1.5
HOT_SHARE = 0.95
PRIORITIES = 200  # beside parked jobs
BANS = 1000  # of one machine, of the first jobs beside parked ones
NO_MORE_THAN = 10  # index entries that a claim may read to find its job

INDEX_READS = """
select indexrelname as name, idx_tup_read as entries
  from pg_stat_user_indexes where relname = 'queue' and idx_tup_read > 0
"""
READ_WHOLE = "select relname as name, seq_scan as scans from pg_stat_user_tables where seq_scan > 0"
# Taking the setting ends a run of autovacuum that is under way.
FOR_ALL_TABLES = """
do $$ declare one regclass; begin
  for one in select oid from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace loop
    execute format('alter table %s {}', one);
  end loop;
end $$
"""
WITHOUT_AUTOVACUUM = FOR_ALL_TABLES.format("set (autovacuum_enabled = off)")
WITH_AUTOVACUUM = FOR_ALL_TABLES.format("reset (autovacuum_enabled)")
UPDATES = "select n_tup_upd as updates, n_tup_hot_upd as hot from pg_stat_user_tables where relname = 'queue'"
# Of the oldest waiting jobs, those that no transaction has locked.
UNLOCKED = """
with oldest as (
  select job_id
    from queue
   where machine_id is null and parked is null
   order by tenant_id, container_group, rank, seq
   limit %(limit)s
),
unlocked as (
  select job_id from queue where job_id in (select job_id from oldest) for update skip locked
)
select (select count(*) from oldest) as oldest, (select count(*) from unlocked) as unlocked
"""

Row = dict[str, Any]


@dataclass
class Case:
    """One database, and what was measured on it."""

    name: str
    url: str
    tenant_id: int
    machine: str = "machine-1"
    connection: psycopg.Connection[Row] = field(init=False)
    medians: list[float] = field(default_factory=list)  # milliseconds, one of each round

    def __post_init__(self) -> None:
        self.connection = psycopg.connect(self.url, autocommit=True, prepare_threshold=None, row_factory=dict_row)

    def values(self) -> Row:
        return {
            "tenant_id": self.tenant_id,
            "container_group": GROUP,
            "machine_id": self.machine,
            "claim_id": uuid4(),
            "actor": f"machine:{self.machine}",
            "sealed_key": None,
            "lines": [GROUP, ""],
            "user_id": None,
            "speaks": [],
        }

    def claim(self) -> Row:
        job = self.connection.execute(SQL.claim_job, self.values()).fetchone()
        if job is None:
            raise RuntimeError(f"{self.name}: a claim came back empty while there is work")
        return job

    def round(self, claims: int) -> list[Row]:
        """Claim so many jobs, and record the median of their times."""
        jobs, times = [], []
        for _ in range(claims):
            began = time.perf_counter()
            jobs.append(self.claim())
            times.append((time.perf_counter() - began) * 1000)
        self.medians.append(statistics.median(times))
        return jobs

    def counted(self, query: Any) -> dict[str, int]:
        """A counter of Postgres's statistics, by name. This session's own work is flushed to it first."""
        self.connection.execute("select pg_stat_force_next_flush()")
        return {
            row["name"]: next(v for k, v in row.items() if k != "name") for row in self.connection.execute(query)
        }


@dataclass(frozen=True)
class Reads:
    """What a claim reads: entries of each index of the queue, tables in sequential scans, pages."""

    entries: dict[str, float]
    whole_tables: list[str]
    pages: int


def reads(case: Case, claims: int) -> Reads:
    """What claims read, each right after a round of housekeeping, which says until when no lease can have lapsed.

    All of it on one session: others flush their counters late.
    """
    entries: Counter[str] = Counter()
    tables: set[str] = set()
    pages = []
    with opened(case.url) as db:
        maintenance = Maintenance(db)
        for _ in range(claims):
            with case.connection.transaction():
                maintenance.beat(Transaction(case.connection))
            before, scans_before = case.counted(INDEX_READS), case.counted(READ_WHOLE)
            pages.append(pages_touched(case))
            entries.update(case.counted(INDEX_READS))
            entries.subtract(before)
            tables.update(
                name for name, now in case.counted(READ_WHOLE).items() if now > scans_before.get(name, 0)
            )
    return Reads(
        {name: count / claims for name, count in entries.items() if count},
        sorted(tables),
        int(statistics.median(pages)),
    )


def pages_touched(case: Case) -> int:
    """Claim a job; returns how many pages that touched."""
    statement = f"explain (analyze, buffers, format json) {SQL.claim_job}"
    found = case.connection.execute(statement.encode(), case.values()).fetchone()
    if found is None:
        raise RuntimeError("an explanation without a row")
    plan = found["QUERY PLAN"][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def locked_rows(case: Case, limit: int = 10_000) -> int:
    """How many of the oldest waiting rows an uncommitted claim keeps locked."""
    with (
        psycopg.connect(case.url, row_factory=dict_row) as observer,
        case.connection.transaction(force_rollback=True),
    ):
        case.claim()
        found = observer.execute(UNLOCKED, {"limit": limit}).fetchone()
        observer.rollback()
    if found is None:
        raise RuntimeError("a count without a row")
    return int(found["oldest"] - found["unlocked"])


def beat(case: Case, jobs: list[Row]) -> None:
    for job in jobs:
        renewed = case.connection.execute(
            SQL.renew_lease,
            {
                "job_id": job["id"],
                "scope": case.tenant_id,
                "groups": None,
                "machine_id": "machine-1",
                "attempt": job["attempt"],
                "checkpoint_lag": 1,
                **told(Report("machine-1", "")),
            },
        ).fetchone()
        if renewed is None:
            raise RuntimeError(f"{case.name}: a holder's heartbeat was refused")


@contextmanager
def without_autovacuum(cases: Sequence[Case]) -> Iterator[None]:
    """Nothing is analyzed meanwhile: its snapshot keeps dead index entries, which claims then read, and old
    versions of rows, until their pages are full."""
    for case in cases:
        case.connection.execute(WITHOUT_AUTOVACUUM)
    try:
        yield
    finally:
        for case in cases:
            case.connection.execute(WITH_AUTOVACUUM)


def hot_share(case: Case, jobs: list[Row]) -> float:
    """The share of these jobs' heartbeats that were HOT updates, which write no index.

    The first of each counts not: pages that were filled in one go have no room, so it moves the row.
    """
    beat(case, jobs)
    before = updates(case)
    for _ in range(HEARTBEATS_A_JOB):
        beat(case, jobs)
    after = updates(case)
    return float((after["hot"] - before["hot"]) / (after["updates"] - before["updates"]))


def updates(case: Case) -> Row:
    case.connection.execute("select pg_stat_force_next_flush()")
    found = case.connection.execute(UPDATES).fetchone()
    if found is None:
        raise RuntimeError("the queue has no statistics")
    return found


def prepare(url: str, contents: Contents, random_ids: bool) -> int:
    """A filled database's tenant."""
    with opened(url) as db:
        tenant_id = make_tenant(db).caller.tenant_id
    fill(url, tenant_id, contents, random_ids)
    return tenant_id


def contents_of(small: bool, parked: bool) -> tuple[Contents, str]:
    """What the long queue is of, and its name."""
    pending, finished = (SMALL, SMALL) if small else (PENDING, FINISHED)
    if parked:
        name = f"{pending:,} pending over {PRIORITIES} priorities, {pending:,} parked"
        return Contents(pending, 0, pending, PRIORITIES, BANS), name
    return Contents(pending, finished), f"{pending:,} pending, {finished:,} finished"


def tell_of_banned(case: Case, machine: str) -> None:
    """Say what a claim reads that steps over jobs from which its machine is banned; three others are claimed."""
    usual, case.machine = case.machine, machine
    read = reads(case, 3)
    case.machine = usual
    entries = read.entries.get("queue_claimable", 0)
    click.echo(
        f"{case.name}: {entries:.0f} index entries and {read.pages} pages by a machine banned from {BANS:,} jobs"
    )


def tenant_of(url: str) -> int:
    """The tenant whose queue a kept database holds."""
    with psycopg.connect(url) as connection:
        found = connection.execute("select tenant_id from queue limit 1").fetchone()
    if found is None:
        raise click.ClickException("The database has no pending jobs; make one with bench.fill --keep.")
    return int(found[0])


def checkpoint(case: Case) -> None:
    """Write a checkpoint, after which the first change of each page writes the whole page to the log.

    That is the worst case for scattered ids. Without it the figures depend on when the server's last one was.
    """
    try:
        case.connection.execute("checkpoint")
    except psycopg.errors.InsufficientPrivilege:
        click.echo("This role may not checkpoint: the figures depend on when the server last did.")


def measure(short: Case, long: Case, rounds: int) -> list[Row]:
    """Claim from both in turns. Before each round, the housekeeping runs that web processes run in production."""
    held: list[Row] = []
    checkpoint(long)
    with opened(short.url) as short_db, opened(long.url) as long_db:
        housekeepers = [(short, short_db), (long, long_db)]
        for number in range(rounds):
            for case, db in housekeepers if number % 2 else reversed(housekeepers):
                Maintenance(db).vacuum()
                db.repeatable(Maintenance(db).beat)
                if number == 0:
                    for _ in range(WARM_UP):
                        case.claim()
                jobs = case.round(CLAIMS_A_ROUND)
                if case is long:
                    held.extend(jobs)
    return held


def judge(short: Case, long: Case, held: list[Row], goals: Goals) -> None:
    ratio = statistics.median(b / a for a, b in zip(short.medians, long.medians, strict=True))
    for case in (short, long):
        spread = f"{min(case.medians):.2f} to {max(case.medians):.2f}"
        click.echo(f"{case.name}: {statistics.median(case.medians):.2f} ms a claim (rounds {spread})")
    goals.figure(
        f"a claim of the long queue takes {ratio:.2f}x as long (goal: {WORST_RATIO}x at most)",
        ratio <= WORST_RATIO,
    )
    for case in (short, long):
        read = reads(case, CLAIMS_A_ROUND)
        listed = ", ".join(f"{name} {count:.1f}" for name, count in sorted(read.entries.items()))
        goals.fact(
            f"{case.name}: index entries read by a claim: {listed} (goal: queue_claimable {NO_MORE_THAN} at most)",
            0 < read.entries.get("queue_claimable", 0) <= NO_MORE_THAN,
        )
        goals.fact(
            f"{case.name}: tables read from end to end: {', '.join(read.whole_tables) or 'none'}",
            not read.whole_tables,
        )
        click.echo(f"        {case.name}: {read.pages} pages touched by a claim")
        locked = locked_rows(case)
        goals.fact(f"{case.name}: rows locked by a claim: {locked}", locked == 1)
    beating = held if goals.judged else held[:40]
    share = hot_share(long, beating)
    goals.fact(
        f"{share:.1%} of {len(beating) * HEARTBEATS_A_JOB:,} heartbeats were HOT (goal: over {HOT_SHARE:.0%})",
        share > HOT_SHARE,
    )


@click.command(help=__doc__, context_settings=HELP)
@click.option("--small", is_flag=True, help="A short history and three rounds: to see that it works.")
@click.option("--random-ids", is_flag=True, help="Random ids, instead of those that begin with their time.")
@click.option("--parked", is_flag=True, help="As many parked jobs, priorities and bans, instead of a history.")
@click.option("--filled", help="A database that bench.fill --keep left on the server of DATABASE_URL.")
def main(small: bool, random_ids: bool, parked: bool, filled: str | None) -> None:
    contents, name = contents_of(small, parked)
    rounds = 3 if small else ROUNDS
    goals = Goals(judged=not small)
    with ExitStack() as stack:
        server_url = stack.enter_context(server())
        if filled:
            long_url = make_conninfo(server_url, dbname=filled)
            long = Case(f"kept {filled}", long_url, tenant_of(long_url))
        else:
            long_url = stack.enter_context(own_database(server_url))
            long = Case(name, long_url, prepare(long_url, contents, random_ids))
        short_url = stack.enter_context(own_database(server_url))
        short = Case(f"{SHORT:,} pending", short_url, prepare(short_url, Contents(SHORT), random_ids))
        if contents.bans and not filled:
            tell_of_banned(long, contents.banned_machine)
        held = measure(short, long, rounds)
        with without_autovacuum((short, long)):
            judge(short, long, held, goals)
        short.connection.close()
        long.connection.close()
    sys.exit(goals.verdict())


if __name__ == "__main__":
    main()
