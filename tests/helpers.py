"""Rows in any legal state, callers, and a client: what tests start from instead of acting their way there."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from kelpie_api import auth, jobs
from kelpie_api.auth import Caller
from kelpie_api.db import Database, Row
from kelpie_api.jobs import Report

Job = dict[str, Any]


@dataclass(frozen=True)
class Tenant:
    caller: Caller
    key: str


@dataclass
class Client:
    """Calls the API with one key; `.get("/jobs").json` and so on."""

    http: FlaskClient
    key: str | None

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> TestResponse:
        key = {"X-Kelpie-Key": self.key} if self.key else {}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        return self.http.open(path, method=method, data=data, headers=key | (headers or {}))

    def get(self, path: str, **headers: str) -> TestResponse:
        return self.call("GET", path, headers=headers)

    def post(self, path: str, body: Any = None, **headers: str) -> TestResponse:
        return self.call("POST", path, body, headers)

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


def definition(**fields: Any) -> Job:
    """A job as it is submitted; without anything said, for group g1 and without files."""
    return {"command": "work", "container_group_id": "g1"} | fields


def as_row(**fields: Any) -> Job:
    """A job as `jobs.submit` takes it."""
    from kelpie_api.schemas import JobDefinition

    return dict(JobDefinition().load(definition(**fields)))


def empty_tables(db: Database) -> None:
    """All rows gone but the administrator's, and the coordinator seen just now, without outages."""
    jobs.purge(db)
    auth.delete_users(db)
    db.execute("delete from outages")
    be_seen(db)


def be_seen(db: Database) -> None:
    db.execute("update coordinator set seen = now()")


def make_tenant(db: Database, username: str, project: str) -> Tenant:
    user = db.one_or_none("select id, username from users where username = %(name)s", name=username)
    if user is None:
        user = auth.create_user(db, username)
    key = auth.create_token(db, UUID(str(user["id"])), username, project)
    found = db.one_or_none("select tenant_id from api_keys where digest = %(digest)s", digest=auth.digest(key))
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
    """Insert a legal row in any state, with what belongs to it: `pending`, `held`, `waiting` (handed out before, nobody
    holds it now), `completed`, `failed`, `canceled`. `silent_for`: seconds since the holder's last heartbeat."""
    row = jobs.submit(db, tenant.caller, [as_row(container_group_id=group, **fields)])[0]
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
            "update queue set rank = 0, machine_id = %(machine)s, holder_group = %(group)s, attempt = %(attempt)s,"
            " heartbeat = now() - %(silent)s * interval '1 second' where job_id = %(id)s",
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


def report(machine: str = "m1", group: str = "g1", attempt: int | None = None) -> Report:
    return Report(machine, group, attempt)


def new_claim_id() -> UUID:
    return uuid.uuid4()
