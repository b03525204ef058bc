"""Behind PgBouncer in transaction mode: every statement may meet another session
(docs/design/protocol.md, Operating).

These run always; `KELPIE_TEST_PGBOUNCER=1` puts it before the database of all tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask

from kelpie_api.app import create_app
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.migrations import migrate
from local_stack.processes import wait_for
from tests.conftest import ADMIN_KEY, SECRET_KEY
from tests.helpers import Client, Tenant
from tests.pgbouncer import SERVER_CONNECTIONS, pgbouncer


@pytest.fixture(scope="module")
def bounced_url(migrated_url: str) -> Iterator[str]:
    with pgbouncer(migrated_url) as url:
        yield url


@pytest.fixture
def bounced(bounced_url: str, db: Database) -> Iterator[Flask]:
    """An application that reaches its database through PgBouncer."""
    app = create_app(Config(database_url=bounced_url, secret_key=SECRET_KEY, admin_key=ADMIN_KEY))
    yield app
    app.extensions["kelpie"].end()


@pytest.fixture
def client(bounced: Flask, tenant: Tenant) -> Client:
    return Client(bounced.test_client(), tenant.key)


def test_a_submission_reaches_a_waiting_claim_although_no_notification_does(
    bounced: Flask, client: Client
) -> None:
    room = bounced.extensions["kelpie"].waiting
    with ThreadPoolExecutor(1) as pool:
        path = "/work?machine_id=m1&container_group_id=g1&wait=30"
        waiter = pool.submit(lambda: Client(bounced.test_client(), client.key).get(path))
        wait_for(lambda: len(room) == 1, "the request to wait")
        submitted = client.submit()
        answer = waiter.result(15)
    assert [job["id"] for job in answer.json or []] == [submitted["id"]]
    assert not room.listener.proven


def test_a_listener_does_not_take_its_listen_for_a_proof(bounced: Flask) -> None:
    """LISTEN succeeds there."""
    listener = bounced.extensions["kelpie"].waiting.listener
    bounced.extensions["kelpie"].begin()
    listener.listen()  # comes back once the proof has failed
    assert not listener.proven


def test_jobs_from_submission_to_end_beside_each_other(bounced: Flask, client: Client) -> None:
    """More clients at once than there are sessions of the server, so each meets what others left there."""
    crowd = SERVER_CONNECTIONS * 3

    def live(number: int) -> list[int]:
        own = Client(bounced.test_client(), client.key)
        group, machine = f"g{number}", f"m{number}"
        job = own.submit(container_group_id=group)
        claimed = own.claim(machine, group)
        assert claimed and claimed["id"] == job["id"]
        return [
            own.report(job, report, machine, group, attempt=claimed["attempt"]).status_code
            for report in ("heartbeat", "released", "completed")
        ]

    with ThreadPoolExecutor(crowd) as pool:
        assert list(pool.map(live, range(crowd * 3))) == [[200, 200, 409]] * crowd * 3


def test_housekeeping_goes_on_there(bounced: Flask, db: Database) -> None:
    db.execute("update coordinator set seen = now() - interval '1 hour'")
    bounced.extensions["kelpie"].begin()
    wait_for(lambda: db.one_or_none("select from outages") is not None, "the outage to be noted")
    bounced.extensions["kelpie"].maintenance.vacuum()


def test_a_database_is_migrated_through_it(empty_database: str) -> None:
    with pgbouncer(empty_database) as url:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda _: migrate(url, lambda line: None), range(3)))
        app = create_app(Config(database_url=url, secret_key=SECRET_KEY))
        assert Client(app.test_client(), None).get("/readyz").status_code == 200
        app.extensions["kelpie"].end()
