"""The API as it is deployed: gunicorn with its own settings."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.api import serve
from kelpie_api.db import Database
from kelpie_api.queue import submissions
from kelpie_api.queue.maintenance import BEAT
from local_stack.processes import Child, wait_for
from tests.helpers import Tenant, as_row, be_seen, make_job

WAIT = "/work?machine_id=m1&container_group_id=g1&wait=30"


@dataclass
class Server:
    """A gunicorn with one process, so that every request meets the same."""

    child: Child
    port: int
    key: str
    connections: ExitStack

    def ask(self, path: str, method: str = "GET", body: object = None) -> http.client.HTTPConnection:
        """Send a request; its answer is for the caller to read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.connections.callback(connection.close)
        data = None if body is None else json.dumps(body)
        connection.request(method, path, body=data, headers={"X-Kelpie-Key": self.key})
        return connection


@pytest.fixture
def server(app_url: str, db: Database, tenant: Tenant, tmp_path: Path) -> Iterator[Server]:
    with serve(app_url, tmp_path, {"WEB_CONCURRENCY": "1"}) as (child, port), ExitStack() as connections:
        yield Server(child, port, tenant.key, connections)


def answer_to(connection: http.client.HTTPConnection) -> list[dict[str, object]]:
    answer = connection.getresponse()
    assert answer.status == 200
    found: list[dict[str, object]] = json.loads(answer.read())
    return found


def test_a_submission_is_answered_to_a_client_that_waits_and_not_to_one_that_hung_up(
    server: Server, db: Database, tenant: Tenant
) -> None:
    """Many had waited and gone before, so the first that are called are not there any more."""
    for number in range(20):
        server.ask(WAIT.replace("m1", f"gone-{number}")).close()
    waiting = server.ask(WAIT)
    job_id = make_job(db, tenant)
    assert [job["id"] for job in answer_to(waiting)] == [str(job_id)]
    [attempt] = db.all("select number, machine_id from attempts")
    assert (attempt["number"], attempt["machine_id"]) == (1, "m1")


def test_sigterm_ends_a_process_with_fifty_waiting_claims_and_idle_connections(server: Server) -> None:
    waiting = [server.ask(WAIT.replace("m1", f"m{number}")) for number in range(50)]
    idle = [server.ask("/healthz") for _ in range(5)]
    for connection in idle:
        assert connection.getresponse().read()
    server.child.stop(signal.SIGTERM, timeout=20)  # kills what has not ended by then
    assert server.child.wait(0) == 0
    assert [answer_to(connection) for connection in waiting] == [[]] * 50
    log = server.child.log.read_text()
    assert "Worker exiting" in log and "Logging error" not in log


def test_requests_that_compute_for_long_are_no_outage(server: Server, db: Database, tenant: Tenant) -> None:
    """A large listing, from several clients in a loop, keeps the process busy for seconds. During each that takes
    long, and during all of a client, the process renews the liveness row, and not only once it has computed it."""
    submissions.submit(db, tenant.caller, [as_row(arguments=["x" * 500])] * 10_000)
    be_seen(db)
    wait_for(lambda: beats(db) > 0, "the first beat")
    over = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        watcher = pool.submit(all_beats, db, over)
        readers = [pool.submit(list_all, server) for _ in range(3)]
        wait(readers)
        over.set()
    seen = watcher.result()
    lists = [reader.result() for reader in readers]
    busy = [listing for some in lists for listing in some] + [(some[0][0], some[-1][1]) for some in lists]
    # What is over sooner may begin and end between two renewals.
    long = [(began, ended) for began, ended in busy if ended - began > 2 * BEAT]
    assert len(long) > 0, busy
    for began, ended in long:
        assert [moment for moment in seen if began < moment < ended], (began, ended, seen)


def all_beats(db: Database, over: threading.Event) -> set[float]:
    """When the liveness row was renewed, until it is over: seconds of this machine's clock, the database's too."""
    moments = set()
    while not over.wait(0.02):
        rows = db.all("select extract(epoch from seen)::float8 as at from coordinator")
        moments.update(row["at"] for row in rows)
    return moments


def list_all(server: Server, times: int = 3) -> list[tuple[float, float]]:
    """When the lists began and were whole. Where the machine is too busy for one, later ones are half as large."""
    lists: list[tuple[float, float]] = []
    size = 10_000
    while len(lists) < times:
        began = time.time()
        answer = server.ask(f"/jobs?page_size={size}").getresponse()
        content = answer.read()
        if answer.status == 503 and size > 1000:
            size //= 2
            continue
        assert answer.status == 200 and len(content) > 250 * size, answer.status
        lists.append((began, time.time()))
    return lists


def beats(db: Database) -> int:
    row = db.one_or_none("select count(*) as n from coordinator where seen > now() - interval '0.4 seconds'")
    return row["n"] if row else 0
