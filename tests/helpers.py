"""Rows in any legal state, callers, and a client: what tests start from instead of acting their way there."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from kelpie_api.auth import users
from kelpie_api.auth.caller import Caller
from kelpie_api.db import SQL, Database, Row, Transaction
from kelpie_api.queue import jobs, submissions
from kelpie_api.queue.states import Report
from local_stack.processes import wait_for

S = TypeVar("S")
T = TypeVar("T")

Job = dict[str, Any]


@dataclass(frozen=True)
class Tenant:
    caller: Caller
    key: str


@dataclass
class Client:
    """Calls the API with one key, or other credentials; `.get("/jobs").json` and so on."""

    http: FlaskClient
    key: str | None
    credentials: dict[str, str] = field(default_factory=dict)

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> TestResponse:
        key = self.credentials | ({"X-Kelpie-Key": self.key} if self.key else {})
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        return self.http.open(path, method=method, data=data, headers=key | (headers or {}))

    def get(self, path: str, **headers: str) -> TestResponse:
        return self.call("GET", path, headers=headers)

    def post(self, path: str, body: Any = None, **headers: str) -> TestResponse:
        return self.call("POST", path, body, headers)

    def patch(self, path: str, body: Any = None, **headers: str) -> TestResponse:
        return self.call("PATCH", path, body, headers)

    def delete(self, path: str) -> TestResponse:
        return self.call("DELETE", path)

    def submit(self, **fields: Any) -> Job:
        answer = self.post("/jobs", definition(**fields))
        assert answer.status_code == 202, answer.text
        return dict(answer.json or {})

    def claim(self, machine: str = "m1", group: str = "g1", claim_id: UUID | None = None) -> Job | None:
        wanted = "" if claim_id is None else f"&claim_id={claim_id}"
        answer = self.get(f"/work?machine_id={machine}&container_group_id={group}{wanted}")
        assert answer.status_code == 200, answer.text
        return answer.json[0] if answer.json else None

    def report(
        self, job: Job, what: str, machine: str = "m1", group: str = "g1", attempt: int | None = None, **more: Any
    ) -> TestResponse:
        fence = {} if attempt is None else {"attempt": attempt}
        return self.post(
            f"/jobs/{job['id']}/{what}", {"machine_id": machine, "container_group_id": group} | fence | more
        )


def refused(answer: TestResponse, status: int) -> Job:
    """The body of a refusal, after a look at what all of them have in common (docs/design/protocol.md, Errors)."""
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "application/json"
    assert answer.headers["Kelpie-Extensions"]
    body = dict(answer.json or {})
    assert body.keys() <= {"error", "message", "errors", "index"}
    assert body["error"] and body["message"]
    assert ("errors" in body) is (status == 400)
    return body


def definition(**fields: Any) -> Job:
    """A job as it is submitted; without anything said, for group g1 and without files."""
    return {"command": "work", "container_group_id": "g1"} | fields


def as_row(**fields: Any) -> Job:
    """A job as `jobs.submit` takes it."""
    from kelpie_api.schemas.submission import JobDefinition

    return dict(JobDefinition().load(definition(**fields)))


# Deleting a few rows takes a tenth of the time that truncating so many tables takes. Those that refer come first.
EMPTY = """
    delete from deliveries; delete from webhooks; delete from events; delete from bans;
    delete from checkpoints;
    delete from attempts; delete from queue; delete from pauses; delete from checkpoint_marks;
    delete from during_prefixes; delete from job_labels; delete from job_secrets; delete from incomplete_sweeps;
    delete from dependencies; delete from dependency_endings;
    delete from open_job_counts; delete from submissions;
    delete from jobs; delete from sweeps; delete from lapse_horizons; delete from machines;
    delete from reallocations; delete from usage_of_days; delete from usage_to_add; delete from group_prices;
    delete from scaling_decisions; delete from scaling_rules;
    delete from sessions; delete from api_keys;
    delete from users where not is_admin; delete from tenants where project <> '';
    delete from salad_proofs; delete from jwks; delete from outages; delete from autoscaler_turn;
    delete from salad_requests; delete from stopping_groups; delete from paused_groups; delete from group_settings;
    delete from secret_key;
    delete from progress; delete from progress_points;
    delete from outputs; delete from output_pieces; delete from output_sizes;
    delete from secrets; delete from signing_secrets; -- the administrator's
    insert into since_crash default values on conflict do nothing;
    update coordinator set seen = now(), recovered = null;
"""
MANY = 1000  # rows, from which on a truncate is faster


def empty_tables(db: Database) -> None:
    """All rows gone but the administrator's, and the coordinator seen just now, without outages."""
    if db.one_or_none("select from jobs offset %(many)s limit 1", many=MANY) is not None:
        jobs.purge(db)
    with db.transaction() as tx:
        tx.connection.execute(EMPTY)


def set_for_all_tables(db: Database, setting: str) -> None:
    """`alter table` with this clause, for each table of the schema."""
    for table in db.all("select tablename as name from pg_tables where schemaname = 'public'"):
        db.execute(f"alter table {table['name']} {setting}")


def vacuum_whole(db: Database, table: str) -> None:
    """Vacuum until no dead row is left: the snapshot of another session may keep some for a moment."""
    for _ in range(600):
        db.execute(f"vacuum (index_cleanup on, truncate off) {table}")
        found = db.one_or_none("select pg_stat_get_dead_tuples(%(table)s::regclass) as dead", table=table)
        if found == {"dead": 0}:
            return
        time.sleep(0.1)
    raise AssertionError(f"{table}: {found} after a minute of vacuums")


def be_seen(db: Database) -> None:
    db.execute("update coordinator set seen = now()")


def make_tenant(db: Database, username: str, project: str) -> Tenant:
    user = db.one_or_none("select id, username from users where username = %(name)s", name=username)
    if user is None:
        user = users.create_user(db, username)
    key = users.create_token(db, UUID(str(user["id"])), username, project)
    found = db.one_or_none("select tenant_id from api_keys where digest = %(digest)s", digest=users.digest(key))
    assert found
    return Tenant(Caller(UUID(str(user["id"])), username, found["tenant_id"]), key)


def make_job(
    db: Database,
    tenant: Tenant,
    state: str = "pending",
    *,
    machine: str = "m1",
    group: str | None = "g1",
    attempt: int = 1,
    silent_for: float = 0.0,
    **fields: Any,
) -> UUID:
    """Insert a legal row in any state, with what belongs to it: `pending`, `held`, `waiting` (handed out before,
    no machine holds it now), `completed`, `failed`, `canceled`. `silent_for`: seconds since the holder's last
    heartbeat."""
    row = submissions.submit(db, tenant.caller, [as_row(container_group_id=group, **fields)])[0]
    make: dict[str, Callable[[], None]] = {
        "pending": lambda: None,
        "held": lambda: _hold(db, row, machine, group or "g1", attempt, silent_for),
        "waiting": lambda: _wait(db, row, machine, group or "g1", attempt),
        "completed": lambda: _end(db, row, machine, group or "g1", attempt, "completed"),
        "failed": lambda: _end(db, row, machine, group or "g1", attempt, "failed"),
        "canceled": lambda: _end(db, row, machine, group or "g1", attempt, "canceled"),
    }
    make[state]()
    return UUID(str(row["id"]))


def _hold(db: Database, row: Row, machine: str, group: str, attempt: int, silent_for: float) -> None:
    values = {"id": row["id"], "machine": machine, "group": group, "attempt": attempt, "silent": silent_for}
    with db.transaction() as tx:
        tx.execute(
            "update queue set rank = rank & -2, machine_id = %(machine)s, holder_group = %(group)s,"
            " attempt = %(attempt)s, heartbeat = now() - %(silent)s * interval '1 second' where job_id = %(id)s",
            **values,
        )
        tx.execute(
            "update jobs set status = 'running', started = now(), machine_id = %(machine)s, attempt = %(attempt)s"
            " where id = %(id)s",
            **values,
        )
        tx.execute(
            "insert into attempts (job_id, number, machine_id, container_group)"
            " values (%(id)s, %(attempt)s, %(machine)s, %(group)s)",
            **values,
        )


def _wait(db: Database, row: Row, machine: str, group: str, attempt: int) -> None:
    _hold(db, row, machine, group, attempt, 0)
    with db.transaction() as tx:
        tx.execute(
            "update queue set machine_id = null, holder_group = null, heartbeat = null where job_id = %(id)s",
            id=row["id"],
        )
        tx.execute("update attempts set ended = now(), outcome = 'released' where job_id = %(id)s", id=row["id"])


def _end(db: Database, row: Row, machine: str, group: str, attempt: int, status: str) -> None:
    _hold(db, row, machine, group, attempt, 0)
    values = {"id": row["id"], "status": status}
    with db.transaction() as tx:
        tx.execute("delete from queue where job_id = %(id)s", **values)
        tx.execute(
            "update jobs set status = %(status)s::job_status,"
            " completed = case when %(status)s = 'completed' then now() end,"
            " failed = case when %(status)s = 'failed' then now() end,"
            " canceled = case when %(status)s = 'canceled' then now() end,"
            " num_failures = case when %(status)s = 'failed' then max_failures else 0 end"
            " where id = %(id)s",
            **values,
        )
        tx.execute(
            "update attempts set ended = now(), outcome = %(status)s::attempt_outcome where job_id = %(id)s",
            **values,
        )


def make_rule(
    db: Database,
    tenant: Tenant,
    group_id: str,
    min_replicas: int = 0,
    max_replicas: int = 10,
    idle: int = 0,
    *,
    name: str | None = None,
    project: str = "default",
) -> Row:
    """A scaling rule of a group, which Salad's double names after its id."""
    values = {"group": group_id, "tenant": tenant.caller.tenant_id, "project": project}
    made = db.one_or_none(
        "insert into scaling_rules (container_group_id, tenant_id, org_name, project_name, container_group_name,"
        "                           min_replicas, max_replicas, idle_threshold_seconds)"
        " values (%(group)s, %(tenant)s, 'acme', %(project)s, %(name)s, %(min)s, %(max)s, %(idle)s) returning *",
        **values,
        name=name or f"group-{group_id[:8].lower()}",
        min=min_replicas,
        max=max_replicas,
        idle=idle,
    )
    assert made
    return made


# Every table that says something about a job, in an order that makes two snapshots comparable.
JOB_TABLES = {
    "jobs": "id",
    "queue": "job_id",
    "attempts": "job_id, number",
    "bans": "job_id, machine_id",
    "checkpoints": "job_id, attempt, generation",
    "checkpoint_marks": "job_id, attempt, at",
    "progress": "job_id",
    "progress_points": "job_id, number",
    "outputs": "job_id, attempt",
    "output_pieces": "job_id, attempt, start",
    "events": "id",
    "webhooks": "id",
}


def rows_of_jobs(db: Database) -> dict[str, list[Row]]:
    """All that is kept about jobs: equal before and after whatever must write nothing."""
    return {table: db.all(f"select * from {table} order by {order}") for table, order in JOB_TABLES.items()}


def row(db: Database, table: str, job_id: object) -> Row | None:
    """The job's row of `jobs` or `queue`; its last one of `attempts`."""
    column, order = {"jobs": ("id", "id"), "queue": ("job_id", "job_id"), "attempts": ("job_id", "number desc")}[
        table
    ]
    return db.one_or_none(f"select * from {table} where {column} = %(id)s order by {order} limit 1", id=job_id)


def with_salad_key(
    app: Flask, key: str | None = "salad-key", organization: str | None = "acme", project: str | None = "default"
) -> Client:
    """A client that calls with a Salad API key; None leaves a header out."""
    headers = {"Salad-Api-Key": key, "Salad-Organization": organization, "Salad-Project": project}
    return Client(app.test_client(), None, {name: value for name, value in headers.items() if value is not None})


def with_token(app: Flask, token: str, project: str | None = "default") -> Client:
    """A client that calls with a machine's token."""
    named = {} if project is None else {"Salad-Project": project}
    return Client(app.test_client(), None, {"Authorization": f"Bearer {token}"} | named)


def ban(db: Database, job_id: UUID, machine: str) -> None:
    db.execute("insert into bans (job_id, machine_id) values (%(id)s, %(machine)s)", id=job_id, machine=machine)


def claim(
    db: Database, tenant: Tenant, machine: str = "m1", group: str = "g1", claim_id: UUID | None = None
) -> Row | None:
    return jobs.claim(db, tenant.caller, machine, group, claim_id)


def claimed_id(db: Database, tenant: Tenant, machine: str = "m1", group: str = "g1") -> UUID | None:
    """The id of the job that a claim hands out, or None."""
    job = claim(db, tenant, machine, group)
    return job["id"] if job else None


def claim_in(
    tx: Transaction, tenant: Tenant, machine: str, claim_id: UUID | None = None, group: str = "g1"
) -> Row | None:
    """A claim whose transaction the test ends when it likes."""
    return tx.one_or_none(
        SQL.claim_job,
        tenant_id=tenant.caller.tenant_id,
        container_group=group,
        machine_id=machine,
        claim_id=claim_id,
        actor=f"machine:{machine}",
        sealed_key=None,
        lines=tenant.caller.served_groups(group),
        user_id=tenant.caller.user_id,
        speaks=[],
    )


def while_open(db: Database, ours: Callable[[Transaction], S], theirs: Callable[[], T]) -> tuple[S, T]:
    """A race, shown step by step: our work is done but not committed, the rival starts and really waits for our
    lock, then we commit and it goes on. Both results."""
    with ThreadPoolExecutor(1) as pool:
        with db.transaction() as tx:
            our_result = ours(tx)
            their_result = pool.submit(theirs)
            wait_until_blocked(db)
            assert not their_result.done()
        return our_result, their_result.result()


def wait_until_blocked(db: Database, sessions: int = 1) -> None:
    """Wait until so many sessions of this database wait for a lock."""

    def blocked() -> bool:
        found = db.one_or_none(
            "select count(*) as n from pg_stat_activity"
            " where datname = current_database() and wait_event_type = 'Lock'"
        )
        return found is not None and found["n"] >= sessions

    wait_for(blocked, f"{sessions} sessions to wait for a lock", timeout=60, pause=0.01)


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """The results of calls that all start at the same moment, in threads."""
    gate = threading.Barrier(len(calls))

    def when_all_are_there(call: Callable[[], T]) -> T:
        gate.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(when_all_are_there, calls))


def report(machine: str = "m1", group: str = "g1", attempt: int | None = None) -> Report:
    return Report(machine, group, attempt)


def new_claim_id() -> UUID:
    return uuid.uuid4()
