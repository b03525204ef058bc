"""A page of jobs costs what it answers, whatever the tenant has, what its statuses are, and what statistics say.

Every database here has the statuses where a plan without the right index would read most to find them: the rare
ones are the tenant's oldest jobs, and as many jobs of another tenant are newer than all of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from kelpie_api.db import SQL, SQL_FOLDER, Database, Transaction
from kelpie_api.migrations import migrate
from tests.conftest import own_database
from tests.helpers import Tenant, make_tenant

RARE = 20  # jobs of each rare status
PAGE = 50
INDEXES = (
    "jobs_pkey", "jobs_seq_key", "jobs_of_a_tenant", "jobs_of_a_group", "ended_jobs_of_a_tenant",
    "ended_jobs_of_a_group", "finished_jobs_of_a_group", "queue_pkey", "queue_claimable", "queue_leased",
    "queue_parked", "open_jobs_of_a_tenant", "open_jobs_of_a_group",
)  # fmt: skip
LOOK_UP = {"jobs_seq_key", "queue_pkey"}  # how each job of the page is looked up

JOBS = """
insert into jobs (id, tenant_id, container_group, command, arguments, environment, sync, compression, max_failures,
                  heartbeat_interval, status, attempt, started, completed, failed, canceled, num_failures)
select gen_random_uuid(), %(tenant_id)s,
       case when n %% 500 = 7 then 'rare' when n %% 3 = 0 then null else 'g' || n %% 3 end,
       'work', '[]', '{}', '{}', false, 3, 30, status::job_status, (status <> 'pending')::integer,
       case when status <> 'pending' then now() end, case when status = 'completed' then now() end,
       case when status = 'failed' then now() end, case when status = 'canceled' then now() end,
       case when status = 'failed' then 3 else 0 end
  from generate_series(1, %(count)s) as n
 cross join lateral (
       select case when n <= %(rare)s then 'failed' when n <= 2 * %(rare)s then 'canceled'
                   when n <= 3 * %(rare)s then 'running' when n <= %(completed)s then 'completed' else 'pending'
              end as status) s
 order by n
"""
QUEUE = """
insert into queue (job_id, tenant_id, container_group, seq, heartbeat_interval, rank, attempt, machine_id,
                   holder_group, heartbeat, parked)
select id, tenant_id, coalesce(container_group, ''), seq, 30, (status = 'pending')::integer, attempt,
       case when held then 'm1' end, case when held then 'g1' end, case when held then now() end,
       case when status = 'pending' and seq %% 5 = 0 then array['hold'] end
  from (select *, status = 'running' and seq %% 2 = 0 as held from jobs where status in ('pending', 'running')) j
"""
READS = """
select relname, pg_stat_get_xact_tuples_returned(oid) as entries, pg_stat_get_xact_blocks_fetched(oid) as pages
  from pg_class
 where relnamespace = 'public'::regnamespace and relkind in ('r', 'i')
"""
WHOLE = """
select relname
  from pg_class
 where oid in ('jobs'::regclass, 'queue'::regclass) and pg_stat_get_xact_numscans(oid) > 0
"""
KINDS = """
select tenant_id, coalesce(container_group_id, '') as container_group, status, array_agg(seq order by seq) as jobs
  from shown_jobs
 group by 1, 2, 3
"""


@dataclass(frozen=True)
class Filled:
    db: Database
    tenant: Tenant
    middle: int  # a number between the tenant's oldest and newest jobs
    kinds: dict[tuple[int, str, str], list[int]]  # the jobs of each tenant, container group ('': none) and status

    def expected(self, values: dict[str, Any]) -> list[int]:
        """What a page is, said without regard to its costs."""

        def asked_for(tenant_id: int, group: str, status: str) -> bool:
            return (
                values["scope"] in (None, tenant_id)
                and (values["groups"] is None or group in values["groups"])
                and values["status"] in (None, status)
                and values["container_group"] in (None, group)
            )

        oldest_first, beyond = values["oldest_first"], values["beyond"]
        jobs = [seq for kind, jobs in self.kinds.items() if asked_for(*kind) for seq in jobs]
        if beyond is not None:
            jobs = [seq for seq in jobs if (seq > beyond if oldest_first else seq < beyond)]
        jobs.sort(reverse=not oldest_first)
        return jobs[values["skipped"] :][: values["most"]]


@dataclass(frozen=True)
class Filter:
    """What is asked for, and the indexes that may be read to find it."""

    name: str
    indexes: set[str]
    status: str | None = None
    container_group: str | None = None
    groups: list[str] | None = None
    of_all: bool = field(default=False, kw_only=True)

    def values(self, filled: Filled, **how: Any) -> dict[str, Any]:
        return {
            "scope": None if self.of_all else filled.tenant.caller.tenant_id,
            "groups": self.groups,
            "status": self.status,
            "container_group": self.container_group,
            "beyond": None,
            "oldest_first": False,
            "most": PAGE,
            "skipped": 0,
        } | how


OPEN, OPEN_OF_GROUP = {"open_jobs_of_a_tenant"}, {"open_jobs_of_a_group"}
ENDED, ENDED_OF_GROUP = {"ended_jobs_of_a_tenant"}, {"ended_jobs_of_a_group"}
FILTERS = [
    Filter("none", {"jobs_of_a_tenant"}),
    Filter("group", {"jobs_of_a_group"}, None, "g1"),
    Filter("rare group", {"jobs_of_a_group"}, None, "rare"),
    *(Filter(status, OPEN, status) for status in ("pending", "running")),
    *(Filter(f"{status} of a group", OPEN_OF_GROUP, status, "g1") for status in ("pending", "running")),
    *(Filter(status, ENDED, status) for status in ("completed", "failed", "canceled")),
    *(
        Filter(f"{status} of a group", ENDED_OF_GROUP, status, "g2")
        for status in ("completed", "failed", "canceled")
    ),
    Filter("completed of a rare group", ENDED_OF_GROUP, "completed", "rare"),
    Filter("groups of a token", {"jobs_of_a_group"}, None, None, ["g1", ""]),
    Filter("failed of the groups of a token", ENDED_OF_GROUP, "failed", None, ["g1", ""]),
    Filter("running of the null group", OPEN_OF_GROUP, "running", None, [""]),
    Filter("a group that a token may not see", set(), None, "g2", ["g1", ""]),
    Filter("all tenants", {"jobs_seq_key"}, of_all=True),
    Filter("failed of all tenants", ENDED, "failed", of_all=True),
    Filter("a group of all tenants", {"jobs_of_a_group"}, None, "g1", of_all=True),
]


def fill(db: Database, tenant: Tenant, count: int, completed: int) -> None:
    values = {"tenant_id": tenant.caller.tenant_id, "count": count, "rare": RARE, "completed": completed}
    db.unrepeatable(lambda tx: tx.execute(JOBS, **values), limit=300)


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """One session: a function keeps its plan for as long as the session lasts."""
    with closing(Database(url, connections=1)) as db:
        db.open()
        yield db


@contextmanager
def filled_database(url: str, count: int, analyzed: str) -> Iterator[Filled]:
    migrate(url, lambda line: None)
    with opened(url) as db:
        tenant, rival = make_tenant(db, "acme", "default"), make_tenant(db, "rival", "default")
        for table in ("jobs", "queue", "tenants"):
            db.unrepeatable(
                lambda tx, t=table: tx.connection.execute(f"alter table {t} set (autovacuum_enabled = off)")
            )
        if analyzed == "emptied":
            fill(db, tenant, count, count // 2)
            db.unrepeatable(lambda tx: tx.execute("delete from jobs"), limit=300)
        if analyzed in ("empty", "emptied"):
            db.execute("analyze")
        fill(db, tenant, count, count // 2)
        fill(db, rival, count, 4 * RARE)
        db.unrepeatable(lambda tx: tx.execute(QUEUE), limit=300)
        kinds = {(row["tenant_id"], row["container_group"], row["status"]): row["jobs"] for row in db.all(KINDS)}
        first = min(jobs[0] for (tenant_id, *_), jobs in kinds.items() if tenant_id == tenant.caller.tenant_id)
        yield Filled(db, tenant, first + count // 2, kinds)


Databases = dict[int, tuple[str, Filled]]  # the address and what is in it, by the number of jobs


@pytest.fixture(scope="module")
def databases() -> Iterator[tuple[ExitStack, Databases]]:
    with ExitStack() as stack:
        yield stack, {}


@pytest.fixture(
    scope="module",
    params=[(5_000, "never"), (5_000, "full"), (20_000, "emptied"), (100_000, "empty"), (100_000, "full")],
    ids=[
        "5000 never analyzed",
        "5000 analyzed",
        "20000 analyzed when as many were gone",
        "100000 analyzed while empty",
        "100000 analyzed",
    ],
)
def filled(
    server_url: str, databases: tuple[ExitStack, Databases], request: pytest.FixtureRequest
) -> Iterator[Filled]:
    """A database whose tables were never analyzed, while they were `empty`, `emptied`, or when they were `full`.

    One that is analyzed when it is full is the one that was not before, with the same rows.
    """
    (stack, made), (count, analyzed) = databases, request.param
    if analyzed != "full" or count not in made:
        url = stack.enter_context(own_database(server_url))
        made[count] = url, stack.enter_context(filled_database(url, count, analyzed))
    url, found = made[count]
    with opened(url) as db:
        if analyzed == "full":
            db.unrepeatable(lambda tx: tx.execute("analyze"), limit=300)
        yield replace(found, db=db)


def listed(tx: Transaction, values: dict[str, Any]) -> list[int]:
    return [job["seq"] for job in tx.all(SQL.list_jobs, **values)]


@dataclass(frozen=True)
class Costs:
    answered: list[int]
    entries: dict[str, int]  # of each index that was read
    whole: list[str]  # tables that were read from end to end
    pages: int  # of tables and indexes, without catalogs


def reads(tx: Transaction) -> tuple[Counter[str], Counter[str]]:
    """Entries read of each index, and pages of each relation, since the session's counts were last sent away."""
    rows = tx.all(READS)
    entries = {row["relname"]: row["entries"] for row in rows if row["relname"] in INDEXES}
    return Counter(entries), Counter({row["relname"]: row["pages"] for row in rows})


def costs(db: Database, values: dict[str, Any]) -> Costs:
    """What a page costs once the plan of its function is made; less what the planner reads of an index.

    A session forgets its plan and what it read of the catalogs whenever other databases of the server change many
    relations, so the catalogs' pages are not counted.
    """
    with db.transaction() as tx:
        listed(tx, values)
    db.execute("select pg_stat_force_next_flush()")
    with db.transaction() as tx:
        tx.all(f"explain {SQL.list_jobs}", **values)
        planned_entries, planned_pages = reads(tx)
        answered = listed(tx, values)
        entries, pages = reads(tx)
        whole = tx.all(WHOLE)
    entries = entries - planned_entries - planned_entries
    return Costs(answered, dict(entries), [row["relname"] for row in whole], (pages - planned_pages).total())


@pytest.mark.parametrize("oldest_first", [False, True], ids=["newest", "oldest"])
@pytest.mark.parametrize("wanted", FILTERS, ids=lambda wanted: wanted.name)
def test_a_page_is_read_from_its_index_and_as_many_entries_as_it_answers(
    filled: Filled, wanted: Filter, oldest_first: bool
) -> None:
    values = wanted.values(filled, oldest_first=oldest_first)
    cost = costs(filled.db, values)
    assert cost.answered == filled.expected(values)
    assert cost.whole == []
    assert cost.entries.keys() <= wanted.indexes | LOOK_UP, json.dumps(cost.entries)
    streams = 1 if not wanted.groups else len(wanted.groups)
    streams *= 3 if wanted.of_all else 1  # two tenants, and the administrator's
    found = sum(cost.entries.get(index, 0) for index in wanted.indexes - LOOK_UP)
    assert found <= streams * PAGE, cost.entries
    looked_up = {index: cost.entries.get(index, 0) for index in LOOK_UP - wanted.indexes}
    assert all(read <= len(cost.answered) for read in looked_up.values()), cost.entries
    assert cost.pages <= 18 * len(cost.answered) + 2 * found + 60, cost


@pytest.mark.parametrize("oldest_first", [False, True], ids=["newest", "oldest"])
@pytest.mark.parametrize("wanted", FILTERS, ids=lambda wanted: wanted.name)
def test_a_page_from_a_cursor_on_costs_what_the_first_one_does(
    filled: Filled, wanted: Filter, oldest_first: bool
) -> None:
    values = wanted.values(filled, oldest_first=oldest_first, beyond=filled.middle)
    cost = costs(filled.db, values)
    assert cost.answered == filled.expected(values)
    assert cost.whole == []
    assert max(cost.entries.values(), default=0) <= 3 * 2 * PAGE, cost.entries
    assert cost.pages <= 18 * len(cost.answered) + 500, cost


@pytest.mark.parametrize("wanted", FILTERS, ids=lambda wanted: wanted.name)
def test_a_later_page_steps_over_entries_and_looks_up_no_job_before_it(filled: Filled, wanted: Filter) -> None:
    values = wanted.values(filled, skipped=10 * PAGE)
    cost = costs(filled.db, values)
    assert cost.answered == filled.expected(values)
    assert cost.entries.get("queue_pkey", 0) <= len(cost.answered)
    assert max(cost.entries.values(), default=0) <= 3 * 2 * 11 * PAGE, cost.entries


BY_NUMBERS = ("ids_of_jobs", "digest_of_jobs", "changed_jobs", "hold_many", "resume_many", "cancel_many")


@pytest.mark.parametrize("statement", BY_NUMBERS)
def test_jobs_are_found_by_their_numbers_in_the_index_of_these(filled: Filled, statement: str) -> None:
    numbers = next(jobs for kind, jobs in filled.kinds.items() if kind[2] == "pending")[-20:]
    # What is changed is of another tenant than these jobs: they are found, and nothing is written.
    values = {"numbers": numbers, "scope": -1, "groups": None, "actor": "user:acme", "sealed_key": None}
    values["since"] = datetime(2026, 1, 1, tzinfo=UTC)
    for _ in range(2):  # the plan of a function is made by the first
        filled.db.execute("select pg_stat_force_next_flush()")
        with filled.db.transaction() as tx:
            tx.all(SQL.by_name[statement], **values)
            entries, _ = reads(tx)
    assert entries["jobs_seq_key"] <= 2 * len(numbers), entries
    assert sum(entries[index] for index in INDEXES if index.startswith("jobs_of")) == 0, entries


@pytest.mark.parametrize("beyond", [0, 2**63 - 1])
@pytest.mark.parametrize("oldest_first", [False, True])
def test_a_cursor_may_stand_beyond_all_jobs(filled: Filled, beyond: int, oldest_first: bool) -> None:
    values = FILTERS[0].values(filled, oldest_first=oldest_first, beyond=beyond)
    with filled.db.transaction() as tx:
        assert len(listed(tx, values)) == (PAGE if oldest_first == (beyond == 0) else 0)


def test_the_two_directions_differ_in_nothing_else() -> None:
    source = (SQL_FOLDER / "functions" / "page_of_jobs.sql").read_text()
    _, _, body = source.partition("if oldest_first then\n")
    oldest, _, newest = body.partition("else\n")
    assert newest.replace("\nend if;\nend $$;\n", "\n").replace(" desc", "") == oldest
