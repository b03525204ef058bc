"""A standby takes over while machines claim and report: no job is in two hands, and meanwhile none is lost."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask import Flask
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kelpie_api.app import create_app
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.migrations import migrate
from local_stack.postgres import EmbeddedPostgres
from local_stack.processes import scratch_folder, wait_for
from tests.helpers import Client, definition, make_tenant, refused

JOBS, MACHINES = 300, 6
REQUESTS = [
    ("POST", "/jobs", definition()),
    ("GET", "/work?machine_id=m1&container_group_id=g1", None),
    ("GET", "/jobs", None),
]


class Server(EmbeddedPostgres):
    """A database server that begins as a copy of another one, and can be made its standby."""

    def __init__(self, directory: Path, primary: EmbeddedPostgres | None = None) -> None:
        super().__init__(directory, {"fsync": "off"})
        self._primary = primary

    def _make_database(self, programs: Path) -> None:
        if self._primary is None:
            super()._make_database(programs)
            return
        self._password_file.write_text(self._primary._password_file.read_text())
        self._hand_over(self._password_file)
        target, source = f"--pgdata={self._data}", f"--dbname={self._primary.url}"
        copied = self._run([str(programs / "pg_basebackup"), target, source, "--write-recovery-conf", "--no-sync"])
        assert copied.returncode == 0, copied.stderr

    def start_read_only(self) -> None:
        """As a standby that no primary feeds."""
        (self._data / "standby.signal").touch()
        self.start()

    def run(self, *statements: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as operator:
            for statement in statements:
                operator.execute(statement.encode())

    def has_noted_recovery(self) -> bool:
        with psycopg.connect(self.url) as operator:
            return operator.execute("select from coordinator where recovered is not null").fetchone() is not None

    def has_standby(self) -> bool:
        with psycopg.connect(self.url) as operator:
            synchronous = "select from pg_stat_replication where sync_state in ('sync', 'quorum')"
            return operator.execute(synchronous).fetchone() is not None


@dataclass
class Pair:
    """A primary with a synchronous standby, and an API that knows the addresses of both."""

    primary: Server
    standby: Server
    app: Flask
    key: str

    def client(self) -> Client:
        return Client(self.app.test_client(), self.key)

    def is_ready(self) -> bool:
        return self.client().get("/readyz").status_code == 200


@pytest.fixture
def pair() -> Iterator[Pair]:
    with scratch_folder() as folder:
        primary = Server(folder / "first")
        primary.start()
        migrate(primary.url, lambda line: None)
        standby = Server(folder / "second", primary)
        standby.start()
        primary.run("alter system set synchronous_standby_names = '*'", "select pg_reload_conf()")
        wait_for(primary.has_standby, "the standby to follow")
        url = make_conninfo(
            primary.url,
            host="127.0.0.1,127.0.0.1",
            port=f"{primary.port},{conninfo_to_dict(standby.url)['port']}",
            target_session_attrs="read-write",
        )
        db = Database(url)
        db.open()
        key = make_tenant(db, "acme", "default").key
        db.close()
        app = create_app(Config(database_url=url, secret_key="x" * 32))
        yield Pair(primary, standby, app, key)
        app.extensions["kelpie"].end()
        standby.stop(immediate=True)
        primary.stop(immediate=True)


@dataclass
class Machine:
    """Claims and completes until there is no work, and repeats what was not answered, as workers do."""

    name: str
    client: Client
    go_on: threading.Event
    held: list[tuple[str, int]] = field(default_factory=list)  # each job with its attempt
    answers: Counter[int] = field(default_factory=Counter)

    def work(self) -> None:
        while job := self.claim():
            self.held.append((job["id"], job["attempt"]))
            for report in ("heartbeat", "completed"):
                self.repeat(
                    "POST",
                    f"/jobs/{job['id']}/{report}",
                    {"machine_id": self.name, "container_group_id": "g1", "attempt": job["attempt"]},
                )

    def claim(self) -> dict[str, Any] | None:
        claim = f"/work?machine_id={self.name}&container_group_id=g1&claim_id={uuid.uuid4()}"
        found = self.repeat("GET", claim)
        return found[0] if found else None

    def repeat(self, method: str, path: str, body: Any = None) -> Any:
        while True:
            answer = self.client.call(method, path, body)
            self.answers[answer.status_code] += 1
            if answer.status_code == 200:
                return answer.json
            refused(answer, 503)
            self.go_on.wait(0.2)


def test_a_standby_takes_over_and_no_job_is_in_two_hands(pair: Pair) -> None:
    submitted = pair.client().post("/jobs/batch", [definition() for _ in range(JOBS)])
    assert submitted.status_code == 202
    go_on = threading.Event()
    machines = [Machine(f"m{number}", pair.client(), go_on) for number in range(MACHINES)]
    with ThreadPoolExecutor(MACHINES) as pool:
        working = [pool.submit(machine.work) for machine in machines]
        wait_for(lambda: sum(len(machine.held) for machine in machines) >= MACHINES, "the machines to work")
        pair.primary.stop(immediate=True)
        assert all(pair.client().call(*request).status_code == 503 for request in REQUESTS)
        pair.primary.start_read_only()
        answers = [pair.client().call(*request) for request in REQUESTS]
        assert all(refused(answer, 503) and answer.headers["Retry-After"] for answer in answers)
        assert not all(future.done() for future in working)
        pair.standby.run("select has_crashed()", "select pg_promote()")  # a standby reads no unlogged table
        wait_for(pair.is_ready, "the API to find the new primary")
        wait_for(pair.standby.has_noted_recovery, "a beat to note that heartbeats may be lost")
        for future in working:
            future.result(60)
    handed_out = Counter(job for machine in machines for job, _ in machine.held)
    assert len(handed_out) == JOBS and set(handed_out.values()) == {1}
    assert {attempt for machine in machines for _, attempt in machine.held} == {1}
    assert sum((machine.answers for machine in machines), Counter()).keys() == {200, 503}
    jobs = [pair.client().get(f"/jobs/{job}").json or {} for job in handed_out]
    assert {(job["status"], job["num_failures"]) for job in jobs} == {("completed", 0)}


def test_connections_that_still_lead_to_the_old_primary_are_given_up(pair: Pair) -> None:
    """It takes no changes any more, and stays up."""
    pair.client().submit()
    pair.primary.run("alter system set default_transaction_read_only = on", "select pg_reload_conf()")
    wait_for(
        lambda: pair.client().post("/jobs", definition()).status_code == 503, "the old one to take no changes"
    )
    pair.standby.run("select pg_promote()")
    wait_for(lambda: pair.client().post("/jobs", definition()).status_code == 202, "a submission to be taken")
    assert pair.client().claim() is not None
