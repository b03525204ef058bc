"""The claim reads a few index entries however long the queue is; a heartbeat writes no index."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kelpie_api.db import SQL, Database, Transaction
from tests.helpers import Tenant, claim_in, make_job, vacuum_whole

PENDING, HELD, PARKED = 20_000, 2_000, 5_000
TABLES = ("queue", "jobs", "bans", "attempts", "events")


@pytest.fixture
def one_session(migrated_url: str, new_tables: Database) -> Iterator[Database]:
    """A pool of one connection: a function keeps its plan for as long as the session lasts."""
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


def test_heartbeats_write_no_index(one_session: Database, tenant: Tenant) -> None:
    held = [make_job(one_session, tenant, "held") for _ in range(20)]
    begin_counting(one_session)
    before = queue_updates(one_session)
    for job_id in held * 50:
        assert one_session.one_or_none(
            SQL.renew_lease, job_id=job_id, scope=None, groups=None, machine_id="m1", attempt=1, checkpoint_lag=5
        )
    begin_counting(one_session)
    total, hot = (now - then for now, then in zip(queue_updates(one_session), before, strict=True))
    print(f"\n{hot} of {total} heartbeats were HOT updates: {100 * hot / total:.1f} %")
    assert total == 1000 and hot > 0.95 * total


def queue_updates(db: Database) -> tuple[int, int]:
    """All updates of the queue so far, and those that were HOT."""
    found = db.one_or_none("select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'queue'")
    assert found is not None
    return found["n_tup_upd"], found["n_tup_hot_upd"]
