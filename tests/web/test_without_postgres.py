"""Without Postgres: the API starts, says so, and recovers by itself."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from flask import Flask
from psycopg.conninfo import conninfo_to_dict
from werkzeug.test import TestResponse

from kelpie_api.app import create_app
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.migrations import migrate
from local_stack.postgres import EmbeddedPostgres
from local_stack.processes import scratch_folder, wait_for
from tests.conftest import own_database
from tests.helpers import Client, definition, make_tenant, refused

REQUESTS = [
    ("GET", "/jobs", None),
    ("POST", "/jobs", definition()),
    ("GET", "/work?machine_id=m1&container_group_id=g1", None),
    ("GET", "/users/me", None),
    ("DELETE", "/jobs/8b9c902c-7da6-4af3-be0b-59cd4487895a", None),
]


@dataclass
class Site:
    """An API and the database server that comes and goes beneath it."""

    server: EmbeddedPostgres
    app: Flask
    key: str

    def client(self) -> Client:
        return Client(self.app.test_client(), self.key)

    def is_ready(self) -> bool:
        return self.client().get("/readyz").status_code == 200


def site_with(server: EmbeddedPostgres, url: str, key: str) -> Site:
    return Site(server, create_app(Config(database_url=url, secret_key="x" * 32)), key)


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    """A migrated database server of this test's own."""
    with scratch_folder() as folder:
        server = EmbeddedPostgres(folder / "postgres")
        server.start()
        migrate(server.url, lambda line: None)
        yield server
        server.stop(immediate=True)


@pytest.fixture
def key(server: EmbeddedPostgres) -> str:
    db = Database(server.url)
    db.open()
    key = make_tenant(db, "acme", "default").key
    db.close()
    return key


@pytest.fixture
def site(server: EmbeddedPostgres, key: str) -> Iterator[Site]:
    """Up and in use."""
    site = site_with(server, server.url, key)
    assert site.is_ready()
    yield site
    site.app.extensions["kelpie"].end()


def restart(site: Site) -> None:
    """Kill the server and start it; if the API noticed, wait until it knows that the server is back."""
    site.server.stop(immediate=True)
    site.server.start()
    db: Database = site.app.extensions["kelpie"].db
    wait_for(lambda: not db.away, "the API to have a connection again")


def assert_all_are_unavailable(site: Site) -> None:
    for answer in call_at_once(site, [*REQUESTS, ("GET", "/readyz", None)]):
        refused(answer, 503)
        assert int(answer.headers["Retry-After"]) > 0


def call_at_once(site: Site, requests: list[tuple[str, str, object]]) -> list[TestResponse]:
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda request: site.client().call(*request), requests))


def test_the_api_starts_without_a_database_and_recovers_when_it_comes_up(
    server: EmbeddedPostgres, key: str
) -> None:
    server.stop()
    site = site_with(server, server.url, key)
    assert site.client().get("/healthz").status_code == 200
    assert_all_are_unavailable(site)
    server.start()
    wait_for(site.is_ready, "the API to be ready again")
    assert site.client().submit()["status"] == "pending"
    site.app.extensions["kelpie"].end()


def test_a_database_that_goes_away_is_said_and_missed_in_the_same_words(site: Site) -> None:
    site.client().submit()
    site.server.stop(immediate=True)
    assert site.client().get("/healthz").status_code == 200
    assert_all_are_unavailable(site)
    site.server.start()
    wait_for(site.is_ready, "the API to be ready again")
    assert site.client().claim() is not None


def test_a_database_that_goes_away_is_logged_once_with_its_reason_and_once_when_it_is_back(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.getMessage().startswith("database_")]

    db = site.app.extensions["kelpie"].db
    caplog.clear()
    site.server.stop(immediate=True)
    # Housekeeping, requests and the look at the queue notice it, each more than once.
    wait_for(lambda: len(db.outage.without) >= 2, "parts of the process that the database does not serve")
    for _ in range(3):
        assert_all_are_unavailable(site)
    assert [record.getMessage() for record in said()] == ["database_away"]
    reason = said()[0].__dict__["facts"]["message"]
    assert "refused" in reason or "terminat" in reason
    site.server.start()
    wait_for(site.is_ready, "the API to be ready again")
    wait_for(lambda: not db.outage.without, "the database to serve every part")
    assert [record.getMessage() for record in said()] == ["database_away", "database_back"]
    assert said()[1].__dict__["facts"]["seconds"] > 0


def test_a_database_that_takes_no_changes_is_said_and_missed_in_the_same_words(site: Site) -> None:
    """As while a standby takes over."""
    with psycopg.connect(site.server.url, autocommit=True) as operator:
        operator.execute("alter system set default_transaction_read_only = on")
        operator.execute("select pg_reload_conf()")
        wait_for(lambda: site.client().post("/jobs", definition()).status_code == 503, "the setting to be known")
        answers = [site.client().call(method, path, body) for method, path, body in REQUESTS[1:3]]
        for answer in answers:
            assert refused(answer, 503)["message"].startswith("The database takes no changes")
            assert answer.headers["Retry-After"]
        operator.execute("alter system reset default_transaction_read_only")
        operator.execute("select pg_reload_conf()")
    wait_for(lambda: site.client().post("/jobs", definition()).status_code == 202, "the database to take changes")


def test_after_a_restart_the_first_requests_succeed(site: Site) -> None:
    """Every pooled connection is dead then, and none has been used since."""
    fill_the_pool(site.app.extensions["kelpie"].db)
    restart(site)
    answers = call_at_once(site, REQUESTS[:4] * 4)
    assert [answer.status_code for answer in answers] == [200, 202, 200, 200] * 4


def test_one_request_alone_finds_every_pooled_connection_dead_and_gets_a_new_one(server_url: str) -> None:
    """As after a silence, where the server or something on the way ends idle sessions."""
    with own_database(server_url) as url, closing(Database(url)) as db:
        db.open()
        fill_the_pool(db)
        with psycopg.connect(server_url, autocommit=True) as operator:
            name = [conninfo_to_dict(url)["dbname"]]
            operator.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", name)
            left = "select pid from pg_stat_activity where datname = %s"
            wait_for(lambda: not operator.execute(left, name).fetchall(), "the sessions to end")
        assert db.one_or_none("select 1 as one") == {"one": 1}


def fill_the_pool(db: Database, connections: int = 8) -> None:
    """Use so many connections at the same moment that the pool holds as many."""
    gate = threading.Barrier(connections)

    def use_one() -> None:
        with db.transaction():
            gate.wait()

    with ThreadPoolExecutor(connections) as pool:
        for used in [pool.submit(use_one) for _ in range(connections)]:
            used.result()


def test_what_was_submitted_is_still_there_after_a_crash(site: Site) -> None:
    submitted = [site.client().submit(arguments=[str(number)])["id"] for number in range(5)]
    restart(site)
    page = site.client().get("/jobs?asc=true").json or {}
    assert [job["id"] for job in page["jobs"]] == submitted


def test_a_submission_with_a_key_that_a_restart_interrupts_creates_one_job(site: Site) -> None:
    client = site.client()

    def submit() -> TestResponse:
        return client.call("POST", "/jobs", definition(), {"Idempotency-Key": "once"})

    with ThreadPoolExecutor(1) as pool:
        rival = psycopg.connect(site.server.url)
        rival.execute("lock table queue in exclusive mode")
        interrupted = pool.submit(submit)
        wait_for(lambda: blocked_sessions(site.server.url), "the submission to wait for the lock")
        restart(site)
        rival.close()
        assert interrupted.result().status_code in (202, 503)
    assert submit().status_code == 202
    assert (client.get("/jobs").json or {})["_count"] == 1


def blocked_sessions(url: str) -> int:
    with psycopg.connect(url) as connection:
        return connection.execute("select from pg_stat_activity where wait_event_type = 'Lock'").rowcount


def test_a_running_job_is_not_handed_out_again_because_everything_was_away(site: Site) -> None:
    """Its worker's heartbeats could not arrive for an hour, and a claim comes before the first heartbeat."""
    site.client().submit()
    assert site.client().claim("m1")
    site.app.extensions["kelpie"].end()
    with psycopg.connect(site.server.url) as connection:
        connection.execute("update queue set heartbeat = heartbeat - interval '1 hour'")
        connection.execute("update coordinator set seen = seen - interval '1 hour'")
    site.server.stop(immediate=True)
    site.server.start()
    back = site_with(site.server, site.server.url, site.key)
    assert back.client().claim("m2") is None
    wait_for(lambda: noted_outages(site.server.url), "the outage to be noted")
    assert back.client().claim("m2") is None
    back.app.extensions["kelpie"].end()


def noted_outages(url: str) -> int:
    with psycopg.connect(url) as connection:
        return connection.execute("select from outages").rowcount


def test_a_frozen_server_does_not_hang_a_request(site: Site) -> None:
    """Its kernel still acknowledges everything, so no time-out of the network would ever come."""
    processes = [site.server.pid, *children_of(site.server.pid)]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        refused(site.client().post("/jobs", definition()), 503)
        refused(site.client().get("/readyz"), 503)
        assert site.client().get("/healthz").status_code == 200
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
    wait_for(site.is_ready, "the API to recover")


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
