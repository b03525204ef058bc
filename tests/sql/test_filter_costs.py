"""A search reads what it looks at, however long the history is, before and after `analyze`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from kelpie_api.db import SQL, Database, Transaction
from kelpie_api.migrations import migrate
from kelpie_api.queue import sweeps
from tests.conftest import own_database
from tests.helpers import Tenant, make_tenant

JOBS = """
insert into jobs (id, tenant_id, container_group, command, arguments, environment, sync, compression, max_failures,
                  heartbeat_interval, status, attempt, created, started, completed, name, labels, sweep_id)
select gen_random_uuid(), %(tenant_id)s, 'g1', 'work', '[]', '{}', '{}', false, 3, 30, 'completed', 1,
       now() - interval '2 days', now(), now(),
       case when n <= 20 then 'rare-' || n else 'common' end,
       jsonb_build_object('kind', case when n <= 20 then 'rare' else 'common' end),
       case when n %% 120 = 0 then %(sweep)s::uuid end
  from generate_series(1, %(count)s) n
"""
ATTEMPTS = """
insert into attempts (job_id, number, machine_id, container_group, claimed, ended, outcome, tenant_id)
select id, 1, 'm1', 'g1', now() - interval '100 s', now(), 'completed', tenant_id from jobs
"""
# Ten of the sweep are held, forty wait; the others are of no sweep.
OPEN = """
insert into jobs (id, tenant_id, container_group, command, arguments, environment, sync, compression, max_failures,
                  heartbeat_interval, status, attempt, started, sweep_id)
select gen_random_uuid(), %(tenant_id)s, 'g1', 'work', '[]', '{}', '{}', false, 3, 30,
       case when n <= 10 then 'running' else 'pending' end::job_status, (n <= 10)::integer,
       case when n <= 10 then now() end, case when n <= 50 then %(sweep)s::uuid end
  from generate_series(1, 1000) n
"""
QUEUE = """
insert into queue (job_id, tenant_id, container_group, seq, heartbeat_interval, rank, attempt, machine_id,
                   holder_group, heartbeat, sweep_id)
select id, tenant_id, container_group, seq, 600, (status = 'pending')::integer, attempt,
       case when status = 'running' then 'm1' end, case when status = 'running' then 'g1' end,
       case when status = 'running' then now() end, sweep_id
  from jobs
 where status <> 'completed'
"""
LABELS = """
insert into job_labels
select j.tenant_id, l.key, l.value, j.seq from jobs j cross join lateral jsonb_each_text(j.labels) l
"""
ENTRIES = """
select coalesce(sum(pg_stat_get_xact_tuples_returned(oid)), 0)::bigint as entries
  from pg_class
 where relnamespace = 'public'::regnamespace and relkind = 'i'
"""
WHOLE = """
select sum(pg_stat_get_xact_numscans(oid)) as scans
  from pg_class
 where oid in ('jobs'::regclass, 'queue'::regclass, 'attempts'::regclass)
"""
HISTORY = 6000
RARE = {"labels": [{"kind": "rare"}]}


@pytest.fixture(scope="module", params=[False, True], ids=["before analyze", "after analyze"])
def filled(request: pytest.FixtureRequest, server_url: str) -> Iterator[tuple[Database, Tenant]]:
    with own_database(server_url) as url:
        migrate(url, lambda line: None)
        with closing(Database(url, connections=2)) as db:
            db.open()
            tenant = make_tenant(db, "acme", "")
            sweep = sweeps.create(db, tenant.caller, {"name": "grid"}, None)[0]["id"]
            of_tenant = {"tenant_id": tenant.caller.tenant_id, "sweep": sweep}
            db.execute(JOBS, **of_tenant, count=HISTORY)
            for statement in (LABELS, ATTEMPTS):
                db.execute(statement)
            db.execute(OPEN, **of_tenant)
            db.execute(QUEUE)
            if request.param:
                db.execute("analyze")
            yield db, tenant


def searched(
    tx: Transaction, tenant: Tenant, wanted: dict[str, Any], to_look_at: int, *, oldest_first: bool = False
) -> Any:
    return tx.one_or_none(
        SQL.find_jobs,
        **tenant.caller.scope,
        wanted=json.dumps(wanted),
        beyond=None,
        oldest_first=oldest_first,
        most=51,
        skipped=0,
        to_look_at=to_look_at,
    )


@pytest.mark.parametrize(
    ("wanted", "found", "most_entries"),
    [
        (RARE, 20, 200),
        ({"name": "rare-7"}, 1, 100),
        ({"name_prefix": "rare"}, 20, 200),
        (RARE | {"name_prefix": "rare"}, 20, 1500),
        ({"name": "common"} | RARE, 0, 2500),
        ({"labels": [{"kind": "common"}]}, 51, 500),
        ({"phases": ["parked"]}, 0, 100),
        ({"phases": ["completed"], "since": "2000-01-01T00:00:00Z"}, 51, 500),
        ({"phases": ["completed"]}, 51, 150),
        ({"since": "2100-01-01T00:00:00Z"}, 0, 500),
        ({"sweep": "grid"}, 51, 500),
        ({"sweep": "none"}, 51, 500),
        ({"sweep": str(UUID(int=0))}, 0, 50),
        ({"container_group": "g1"}, 51, 500),
        ({"container_group": "g2"}, 0, 50),
        ({"statuses": ["completed"], "container_group": "g1"}, 51, 500),
        ({"statuses": ["failed"]}, 0, 50),
        ({"phases": ["running"]}, 10, 100),
        ({"phases": ["stalled"]}, 0, 100),
        ({"ids": [str(UUID(int=0))]}, 0, 50),
        ({"user_id": str(UUID(int=0))}, 0, 50),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else str(value),
)
def test_a_search_reads_little_of_a_long_history(
    filled: tuple[Database, Tenant], wanted: dict[str, Any], found: int, most_entries: int
) -> None:
    db, tenant = filled
    if wanted.get("sweep") == "grid":
        wanted = {"sweep": str(db.all("select id from sweeps")[0]["id"])}
    with db.transaction() as tx:
        before, scans = tx.one_or_none(ENTRIES), tx.one_or_none(WHOLE)  # with what the session did before
        answer = searched(tx, tenant, wanted, 500)
        after = tx.one_or_none(ENTRIES)
        assert tx.one_or_none(WHOLE) == scans
    assert before and after
    assert len(answer["numbers"]) == found and not answer["is_partial"]
    assert after["entries"] - before["entries"] <= most_entries


@pytest.mark.parametrize("what", ["ended_since", "changed_since"])
def test_a_search_for_what_is_not_there_ends_at_its_bound(filled: tuple[Database, Tenant], what: str) -> None:
    db, tenant = filled
    with db.transaction() as tx:
        before = tx.one_or_none(ENTRIES)
        answer = searched(tx, tenant, {what: "2100-01-01T00:00:00Z"}, 500)
        after = tx.one_or_none(ENTRIES)
    assert before and after and answer["is_partial"] and answer["looked"] == 500
    assert after["entries"] - before["entries"] <= 2000


def test_the_oldest_since_a_time_are_found_without_a_look_at_those_before(filled: tuple[Database, Tenant]) -> None:
    db, tenant = filled
    since = {"since": (datetime.now(UTC) - timedelta(days=1)).isoformat()}
    with db.transaction() as tx:
        before = tx.one_or_none(ENTRIES)
        answer = searched(tx, tenant, since, 500, oldest_first=True)
        after = tx.one_or_none(ENTRIES)
    assert before and after and len(answer["numbers"]) == 51 and not answer["is_partial"]
    assert after["entries"] - before["entries"] <= 500


def test_a_count_of_some_finds_a_beginning_of_names_by_itself(filled: tuple[Database, Tenant]) -> None:
    """A page looks from the newest job on instead, where so many names begin so."""
    db, tenant = filled
    with db.transaction() as tx:
        before = tx.one_or_none(ENTRIES)
        answer = searched(tx, tenant, {"name_prefix": "common", "any_order": True} | {"statuses": ["failed"]}, 500)
        after = tx.one_or_none(ENTRIES)
    assert before and after and (answer["looked"], answer["is_partial"]) == (500, True)
    assert after["entries"] - before["entries"] <= 1500


@pytest.mark.parametrize(("word", "most_entries"), [("common", 50), ("unknown", 50), ("abcdef", 100)])
def test_what_a_word_means_is_found_by_its_index(
    filled: tuple[Database, Tenant], word: str, most_entries: int
) -> None:
    db, tenant = filled
    with db.transaction() as tx:
        before, scans = tx.one_or_none(ENTRIES), tx.one_or_none(WHOLE)
        tx.all(SQL.jobs_called, **tenant.caller.scope, word=word, the_id=None, ending=word[-6:])
        after = tx.one_or_none(ENTRIES)
        assert tx.one_or_none(WHOLE) == scans
    assert before and after
    assert after["entries"] - before["entries"] <= most_entries


@pytest.mark.parametrize(
    ("wanted", "found", "most_entries"),
    [
        ({"labels": [{"kind": "common"}]}, 0, 1500),
        ({"name": "common"}, 0, 1500),
        ({"name_prefix": "common"}, 0, HISTORY + 1500),
        ({"since": "2000-01-01T00:00:00Z"}, 1000, 3000),
        ({"phases": ["running"]}, 10, 3000),
        ({"sweep": "grid"}, 50, 200),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else str(value),
)
def test_open_jobs_are_counted_by_one_pass_over_the_queue(
    filled: tuple[Database, Tenant], wanted: dict[str, Any], found: int, most_entries: int
) -> None:
    """Of a thousand each one's entry, and its job's where neither the queue nor an index of names or labels tells.
    Entries of final jobs are read for a beginning of names alone."""
    db, tenant = filled
    if "sweep" in wanted:
        wanted = {"sweep": str(db.all("select id from sweeps")[0]["id"])}
    with db.transaction() as tx:
        before, scans = tx.one_or_none(ENTRIES), tx.one_or_none(WHOLE)
        counted = tx.one_or_none(SQL.count_open, **tenant.caller.scope, wanted=json.dumps(wanted))
        after = tx.one_or_none(ENTRIES)
        assert tx.one_or_none(WHOLE) == scans
    assert before and after and counted == {"count": found}
    assert after["entries"] - before["entries"] <= most_entries


def test_a_sweep_is_shown_by_what_is_its_own(filled: tuple[Database, Tenant]) -> None:
    db, tenant = filled
    found = db.one_or_none("select id from sweeps")
    assert found
    with db.transaction() as tx:
        before, scans = tx.one_or_none(ENTRIES), tx.one_or_none(WHOLE)
        sweep = tx.one_or_none(SQL.get_sweep, id=found["id"], scope=tenant.caller.tenant_id)
        cells = tx.all(SQL.list_cells, sweep_id=found["id"], most=2000)
        after = tx.one_or_none(ENTRIES)
        assert tx.one_or_none(WHOLE) == scans
    assert before and after and sweep
    assert sweep["phases"] == {"completed": 50, "running": 10, "pending": 40}
    assert (sweep["attempts"], sweep["held"]) == (60, 50 * 100)
    assert [cell["phase"] for cell in cells] == 50 * ["completed"] + 10 * ["running"] + 40 * ["pending"]
    assert after["entries"] - before["entries"] <= 700
