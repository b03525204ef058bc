"""The claim reads a few index entries however long the queue is; a heartbeat writes no index."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from kelpie_api.db import SQL, Database, Transaction
from kelpie_api.queue import jobs, output, sweeps
from kelpie_api.queue.identity import new_id
from kelpie_api.queue.progress import told
from kelpie_api.queue.states import Report
from tests.helpers import Tenant, as_row, claim_in, make_job, vacuum_whole

PENDING, HELD, PARKED = 20_000, 2_000, 5_000
TABLES = ("queue", "jobs", "bans", "attempts", "events")
OF_HOLDER = Report("m1", "g1", attempt=1)


@pytest.fixture
def one_session(migrated_url: str, new_tables: Database) -> Iterator[Database]:
    """A pool of one connection: a function keeps its plan for as long as the session lasts.

    The other sessions end first: what one has counted may come seconds after it rested.
    """
    new_tables.all(
        "select pg_terminate_backend(pid, 30000) from pg_stat_activity"
        " where datname = current_database() and state = 'idle' and pid <> pg_backend_pid()"
    )
    database = Database(migrated_url, connections=1)
    database.open()
    yield database
    database.close()


def fill_queue(db: Database, tenant: Tenant) -> None:
    """A long queue, made of copies of two rows; half the pending jobs are of the null group, and a
    quarter of them, which would be the first, are parked."""
    make_job(db, tenant, "held")
    db.execute(
        "insert into jobs (id, tenant_id, container_group, command, arguments, environment, sync, compression,"
        "                  max_failures, heartbeat_interval)"
        " select gen_random_uuid(), tenant_id, case when n %% 2 = 0 then 'g1' end, command, arguments,"
        "        environment, sync, compression, max_failures, 3600"
        "   from jobs cross join generate_series(1, %(count)s) as n",
        count=PENDING + HELD,
    )
    db.execute(
        "insert into queue (job_id, tenant_id, container_group, seq, heartbeat_interval)"
        " select id, tenant_id, coalesce(container_group, ''), seq, heartbeat_interval from jobs"
        "  where attempt = 0"
    )
    db.execute(
        "update queue set parked = array['hold'], rank = -199 where job_id in ("
        "select job_id from queue where attempt = 0 order by seq desc limit %(count)s)",
        count=PARKED,
    )
    db.execute(
        "update queue set rank = 0, attempt = 1, machine_id = 'busy', holder_group = 'g1', heartbeat = now()"
        " where job_id in (select job_id from queue where attempt = 0 order by seq limit %(count)s)",
        count=HELD,
    )
    vacuum_whole(db, "queue")


def counted(tx: Transaction, what: str, name: str) -> int:
    """A counter of this transaction: entries read from an index, or sequential scans of a table."""
    found = tx.one_or_none(f"select {what}(%(name)s::regclass) as n", name=name)
    assert found is not None
    return int(found["n"])


def entries_read(tx: Transaction, index: str) -> int:
    return counted(tx, "pg_stat_get_xact_tuples_returned", index)


def tables_read_whole(tx: Transaction) -> list[str]:
    return [table for table in TABLES if counted(tx, "pg_stat_get_xact_numscans", table)]


def begin_counting(db: Database) -> None:
    """Hand over what this session counted so far, so that the next transaction begins at zero."""
    db.execute("select pg_stat_force_next_flush()")


def far_horizons(db: Database, tenant: Tenant) -> None:
    db.execute(
        "insert into lapse_horizons select %(tenant)s, name, now() + interval '1 hour'"
        " from unnest(array['g1', '']) as name",
        tenant=tenant.caller.tenant_id,
    )


@pytest.mark.parametrize("planned_on", ["an empty database", "a long queue"])
def test_a_claim_reads_a_few_entries_of_a_long_queue(
    one_session: Database, tenant: Tenant, planned_on: str
) -> None:
    if planned_on == "an empty database":
        with one_session.transaction() as tx:
            claim_in(tx, tenant, "m1")
    fill_queue(one_session, tenant)
    far_horizons(one_session, tenant)
    begin_counting(one_session)
    with one_session.transaction() as tx:
        assert claim_in(tx, tenant, "m1")
        assert 1 <= entries_read(tx, "queue_claimable") <= 10
        assert entries_read(tx, "queue_leased") == 0
        assert tables_read_whole(tx) == []


def test_without_a_horizon_a_claim_looks_at_each_held_job_of_its_lines_once(
    one_session: Database, tenant: Tenant
) -> None:
    fill_queue(one_session, tenant)
    begin_counting(one_session)
    with one_session.transaction() as tx:
        assert claim_in(tx, tenant, "m1")
        assert HELD <= entries_read(tx, "queue_leased") <= HELD + 10
        assert tables_read_whole(tx) == []


def beat(db: Database, job_id: UUID, **news: Any) -> None:
    lease = {"job_id": job_id, "scope": None, "groups": None, "machine_id": "m1", "attempt": 1}
    assert db.one_or_none(SQL.renew_lease, **lease, checkpoint_lag=5, **told(Report("m1", "g1", **news)))


def updates(db: Database, table: str) -> tuple[int, int]:
    """All updates of the table so far, and those that were HOT."""
    begin_counting(db)
    found = db.one_or_none(
        "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = %(table)s", table=table
    )
    assert found is not None
    return found["n_tup_upd"], found["n_tup_hot_upd"]


def hot_since(db: Database, table: str, before: tuple[int, int]) -> tuple[int, float]:
    """The updates since then, and the share of those that were HOT."""
    total, hot = (now - then for now, then in zip(updates(db, table), before, strict=True))
    print(f"\n{hot} of {total} updates of {table} were HOT: {100 * hot / total:.1f} %")
    return total, hot / total


def test_heartbeats_write_no_index(one_session: Database, tenant: Tenant) -> None:
    held = [make_job(one_session, tenant, "held") for _ in range(20)]
    before = updates(one_session, "queue")
    for job_id in held * 50:
        beat(one_session, job_id)
    total, share = hot_since(one_session, "queue", before)
    assert total == 1000 and share > 0.95


def test_heartbeats_that_tell_progress_write_no_index_either(one_session: Database, tenant: Tenant) -> None:
    """Objects of the largest size, each another one, that differ in length."""
    held = [make_job(one_session, tenant, "held") for _ in range(20)]
    for job_id in held:
        beat(one_session, job_id, progress={"fraction": 0})
    before = {table: updates(one_session, table) for table in ("queue", "progress")}
    for n in range(50):
        for job_id in held:
            said = {"fraction": n / 50, "message": secrets.token_hex(950 + n % 7)}
            beat(one_session, job_id, phase="running", progress=said, output_bytes=n)
    for table, then in before.items():
        total, share = hot_since(one_session, table, then)
        assert total == 1000 and share > 0.95, table


KEPT_WHILE_OPEN = {
    "dependencies": "insert into dependencies (job_id, on_job, needs) select %(id)s, gen_random_uuid(), 'ended'",
    "during_prefixes": "insert into during_prefixes select tenant_id, gen_random_uuid(), 'place'",
    "pauses": "insert into pauses select gen_random_uuid(), 'm', 1, now()",
    "job_secrets": "insert into job_secrets select gen_random_uuid(), tenant_id, 'TOKEN'",
}


def test_the_end_of_a_job_reads_what_is_kept_of_it_also_where_the_tables_are_believed_to_be_empty(
    one_session: Database, tenant: Tenant
) -> None:
    """Since a vacuum when they were; a session that plans the triggers then keeps their plans."""
    other, *ending = (make_job(one_session, tenant) for _ in range(3))
    one_session.execute(
        "insert into secrets (tenant_id, name, id, sealed, set_by)"
        " select tenant_id, 'TOKEN', gen_random_uuid(), '', '' from jobs limit 1"
    )

    def fill() -> None:
        for statement in KEPT_WHILE_OPEN.values():
            each = f"{statement} from jobs cross join generate_series(1, 2000) where jobs.id = %(id)s"
            one_session.execute(each, id=other)

    fill()
    for table in KEPT_WHILE_OPEN:
        one_session.execute(f"delete from {table}")
        vacuum_whole(one_session, table)
    jobs.cancel(one_session, tenant.caller, ending[0])
    fill()
    begin_counting(one_session)
    with one_session.transaction() as tx:
        values = {"scope": None, "groups": None, "actor": "user:acme", "sealed_key": None}
        assert tx.one_or_none(SQL.cancel_job, job_id=ending[1], **values)
        read = {
            row["name"]: row["n"]
            for row in tx.all(
                "select t.name, sum(pg_stat_get_xact_tuples_returned(r.oid))::integer as n"
                "  from unnest(%(tables)s::text[]) as t (name)"
                " cross join lateral (select t.name::regclass::oid union all"
                "                     select indexrelid from pg_index where indrelid = t.name::regclass) r (oid)"
                " group by t.name",
                tables=list(KEPT_WHILE_OPEN),
            )
        }
    one_session.execute("delete from job_secrets")
    assert max(read.values()) == 0, read


@pytest.mark.parametrize("change", ["cancel_many", "hold_many", "resume_many"])
def test_a_change_of_some_jobs_reads_these_also_where_the_queue_is_believed_to_be_empty(
    one_session: Database, tenant: Tenant, change: str
) -> None:
    fill_queue(one_session, tenant)
    one_session.execute("delete from queue")
    vacuum_whole(one_session, "queue")
    one_session.execute(
        "insert into queue (job_id, tenant_id, container_group, seq, heartbeat_interval, parked)"
        " select id, tenant_id, coalesce(container_group, ''), seq, heartbeat_interval,"
        "        case when %(change)s = 'resume_many' then array['hold'] end"
        "   from jobs order by seq limit 2000",
        change=change,
    )
    numbers = [row["seq"] for row in one_session.all("select seq from queue order by seq limit 20")]
    begin_counting(one_session)
    with one_session.transaction() as tx:
        values = {"scope": tenant.caller.tenant_id, "groups": None, "actor": "user:acme", "sealed_key": None}
        found = tx.one_or_none(SQL.by_name[change], numbers=numbers, **values)
        assert found and found["count"] == len(numbers)
        assert counted(tx, "pg_stat_get_xact_tuples_returned", "queue") == 0
        assert entries_read(tx, "queue_pkey") <= 4 * len(numbers)


TOLD: dict[str, Callable[[Database, Tenant, UUID], object]] = {
    "heartbeat": lambda db, tenant, job_id: jobs.heartbeat(db, tenant.caller, job_id, OF_HOLDER),
    "completed": lambda db, tenant, job_id: jobs.complete(db, tenant.caller, job_id, OF_HOLDER),
    "failed": lambda db, tenant, job_id: jobs.fail(db, tenant.caller, job_id, OF_HOLDER),
    "released": lambda db, tenant, job_id: jobs.release(db, tenant.caller, job_id, OF_HOLDER),
    "watched": lambda db, tenant, job_id: output.watch(db, job_id, 1),
    "canceled": lambda db, tenant, job_id: jobs.cancel(db, tenant.caller, job_id),
}


@pytest.mark.parametrize("what", TOLD)
def test_what_is_told_of_a_job_reads_no_others_also_where_none_was_held_when_it_was_planned(
    one_session: Database, tenant: Tenant, what: str
) -> None:
    """As in the quiet hours before a fleet starts, whose sessions keep their plans."""
    fill_queue(one_session, tenant)
    hold = "update queue set machine_id = {}, holder_group = {}, heartbeat = {} where attempt = 1 and {}"
    one_session.execute(hold.format("null", "null", "null", "machine_id is not null"))
    vacuum_whole(one_session, "queue")
    one_session.execute("analyze queue")
    first, second = (make_job(one_session, tenant, "held") for _ in range(2))
    one_session.execute(
        "update queue set speaks = '{output}', watched_until = now() + interval '10 seconds'"
        " where machine_id = 'm1'"
    )
    TOLD[what](one_session, tenant, first)
    one_session.execute(hold.format("'busy'", "'g1'", "now()", "machine_id is null"))
    begin_counting(one_session)
    before = entries_of_all_indexes(one_session)
    TOLD[what](one_session, tenant, second)
    begin_counting(one_session)
    assert 1 <= entries_of_all_indexes(one_session) - before <= 20


@pytest.mark.parametrize("limit", [None, 5], ids=["without a limit", "with one"])
def test_the_end_of_a_job_of_a_sweep_reads_no_parked_jobs_of_others_also_where_none_was_when_it_was_planned(
    one_session: Database, tenant: Tenant, limit: int | None
) -> None:
    fill_queue(one_session, tenant)
    parked = [row["job_id"] for row in one_session.all("select job_id from queue where parked is not null")]
    one_session.execute("update queue set parked = null where parked is not null")
    large = sweeps.create(one_session, tenant.caller, {}, None)[0]["id"]
    one_session.execute("update queue set sweep_id = %(id)s where attempt = 0 and seq %% 2 = 0", id=large)
    vacuum_whole(one_session, "queue")
    one_session.execute("analyze queue")
    sweep = sweeps.create(one_session, tenant.caller, {"max_parallel": limit}, None)[0]["id"]
    first, second = (make_job(one_session, tenant, "held", sweep=str(sweep)) for _ in range(2))
    waiting = [make_job(one_session, tenant, sweep=str(sweep)) for _ in range(20)]
    jobs.complete(one_session, tenant.caller, first, OF_HOLDER)
    one_session.execute("update queue set parked = '{hold}' where job_id = any (%(ids)s)", ids=parked)
    begin_counting(one_session)
    before = entries_of_all_indexes(one_session)
    jobs.complete(one_session, tenant.caller, second, OF_HOLDER)
    begin_counting(one_session)
    assert entries_of_all_indexes(one_session) - before <= 5 * len(waiting)


def entries_of_all_indexes(db: Database) -> int:
    found = db.one_or_none(
        "select sum(pg_stat_get_tuples_returned(indexrelid)) as n from pg_index where indrelid = 'queue'::regclass"
    )
    assert found is not None
    return int(found["n"])


def test_the_largest_batch_is_made_in_memory(db: Database, tenant: Tenant) -> None:
    """With Postgres's own 4 MB it wrote 42 MB of temporary files, which took a third of its time."""
    environment = {f"SETTING_{number}": secrets.token_hex(120) for number in range(16)}
    sealed = [secrets.token_bytes(4096) for _ in range(1000)]
    for stored, of_rows in ((environment, None), ({}, sealed)):
        submitted = [as_row() | {"id": str(new_id()), "environment": stored, "places": []} for _ in range(1000)]
        (plan,) = db.all(
            f"explain (analyze, buffers, format json) {SQL.submit_jobs}",
            tenant_id=tenant.caller.tenant_id, user_id=tenant.caller.user_id, actor="user:acme",
            key=None, digest=None, job_ids=None, submitted=json.dumps(submitted), sealed=of_rows,
            most_jobs=0, most_bytes=0,
        )  # fmt: skip
        top = plan["QUERY PLAN"][0]["Plan"]
        assert (top["Actual Rows"], top["Temp Written Blocks"]) == (1000, 0)
