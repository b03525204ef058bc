"""A crash of Postgres: what a heartbeat told may be lost with it, the lease and the progress are not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import LiteralString
from uuid import UUID

import psycopg
import pytest

from kelpie_api.db import SQL, Database, Row
from kelpie_api.migrations import migrate
from kelpie_api.queue import jobs, output
from kelpie_api.queue.states import Report
from local_stack.postgres import EmbeddedPostgres
from local_stack.processes import scratch_folder, wait_for
from tests.helpers import Tenant, claim, make_job, make_tenant

INTERVAL = 600  # seconds; a crash and a recovery are no outage that would matter to it
# What is not waited for is written ten seconds later, and nothing else commits meanwhile.
SHOWN: LiteralString = "select current_setting('synchronous_standby_names')"
SETTINGS = {"wal_writer_delay": "10s", "autovacuum": "off", "fsync": "off"}


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    with scratch_folder() as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres", SETTINGS)
        server.start()
        migrate(server.url, lambda line: None)
        yield server
        server.stop(immediate=True)


@pytest.fixture
def db(server: EmbeddedPostgres) -> Iterator[Database]:
    """Without the housekeeping of a web process, which writes to the log all the time."""
    database = Database(server.url)
    database.open()
    yield database
    database.close()


def crash(server: EmbeddedPostgres) -> None:
    server.stop(immediate=True)
    server.start()


def set_standby(server: EmbeddedPostgres, name: LiteralString) -> None:
    with psycopg.connect(server.url, autocommit=True) as operator:
        operator.execute(f"alter system set synchronous_standby_names = {name}")
        operator.execute("select pg_reload_conf()")
        wait_for(lambda: operator.execute(SHOWN).fetchone() == (name.strip("'"),), "the setting to be read")


def silence(db: Database, job_id: UUID) -> timedelta:
    found = db.one_or_none("select now() - heartbeat as silence from queue where job_id = %(id)s", id=job_id)
    assert found
    return timedelta(seconds=found["silence"].total_seconds())


def held_job(db: Database, tenant: Tenant) -> UUID:
    """A job whose lease lapses in a moment, unless its holder is heard."""
    job_id = make_job(db, tenant, "held", machine="m1", heartbeat_interval=INTERVAL)
    almost = "update queue set heartbeat = now() - interval '1 second' * (2 * heartbeat_interval - 0.01)"
    db.execute(almost)
    db.execute("update coordinator set seen = now()")
    return job_id


def tell(db: Database, tenant: Tenant, job_id: UUID, **news: object) -> None:
    report = Report("m1", "g1", 1, checkpoint_lag=7, **news)  # type: ignore[arg-type]
    assert jobs.heartbeat(db, tenant.caller, job_id, report)["status"] == "running"


def test_a_heartbeat_that_is_lost_costs_no_lease(server: EmbeddedPostgres, db: Database) -> None:
    tenant = make_tenant(db, "acme", "default")
    job_id = held_job(db, tenant)
    tell(db, tenant, job_id)
    assert silence(db, job_id) < timedelta(seconds=INTERVAL)
    crash(server)
    assert silence(db, job_id) > timedelta(seconds=2 * INTERVAL)  # else nothing is shown here
    assert claim(db, tenant, "m2") is None
    wait_for(lambda: db.one_or_none(SQL.be_seen) is not None, "a beat to note the crash")
    assert claim(db, tenant, "m2") is None
    tell(db, tenant, job_id)


def test_a_primary_that_lost_its_synchronous_standby_confirms_no_lease(
    server: EmbeddedPostgres, db: Database
) -> None:
    """The standby may be the primary by now, and hand the job out."""
    tenant = make_tenant(db, "acme", "default")
    job_id = held_job(db, tenant)
    over = threading.Event()

    def tell_again_and_again() -> None:
        while not over.is_set():  # each process of Postgres hears of the standby in its own time
            tell(db, tenant, job_id)

    set_standby(server, "'absent'")
    with ThreadPoolExecutor(1) as pool:
        telling = pool.submit(tell_again_and_again)
        waits = "select from pg_stat_activity where wait_event = 'SyncRep'"
        try:
            wait_for(lambda: db.one_or_none(waits) is not None, "a heartbeat to wait for the standby")
        finally:
            over.set()
            set_standby(server, "''")
        telling.result()


def test_progress_that_was_told_is_kept(server: EmbeddedPostgres, db: Database) -> None:
    """A worker tells it once."""
    tenant = make_tenant(db, "acme", "default")
    job_id = held_job(db, tenant)
    tell(db, tenant, job_id, progress={"fraction": 0.75})
    crash(server)
    kept: list[Row] = db.all("select said_fraction from progress")
    assert kept == [{"said_fraction": 0.75}]
    assert silence(db, job_id) < timedelta(seconds=INTERVAL)


def test_a_piece_of_output_that_is_lost_leaves_a_hole(server: EmbeddedPostgres, db: Database) -> None:
    tenant = make_tenant(db, "acme", "default")
    job_id = held_job(db, tenant)
    db.execute("update jobs set options = '{\"keep_output\": 65536}'")
    told = Report("m1", "g1", 1)
    assert output.keep(db, tenant.caller, job_id, told, 0, b"lost") == {"next": 4, "watched": False}
    crash(server)
    assert output.keep(db, tenant.caller, job_id, told, 4, b" and found") == {"next": 14, "watched": False}
    found = output.read(db, job_id, 1, 0)
    assert (found.content, found.next, found.left_out) == (b" and found", 14, 4)


def test_the_output_before_the_report_of_the_end_is_kept(server: EmbeddedPostgres, db: Database) -> None:
    tenant = make_tenant(db, "acme", "default")
    job_id = held_job(db, tenant)
    db.execute("update jobs set options = '{\"keep_output\": 65536}'")
    output.keep(db, tenant.caller, job_id, Report("m1", "g1", 1), 0, b"the last words")
    jobs.complete(db, tenant.caller, job_id, Report("m1", "g1", 1))
    crash(server)
    assert output.read(db, job_id, 1, 0).content == b"the last words"


def test_a_clean_stop_is_no_crash(server: EmbeddedPostgres, db: Database) -> None:
    tenant = make_tenant(db, "acme", "default")
    job_id = held_job(db, tenant)
    tell(db, tenant, job_id)
    server.stop()
    server.start()
    db.execute(SQL.be_seen)
    assert silence(db, job_id) < timedelta(seconds=INTERVAL)
    assert db.all("select recovered from coordinator") == [{"recovered": None}]
