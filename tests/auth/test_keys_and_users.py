"""Keys and users (docs/design/protocol.md, Callers)."""

from __future__ import annotations

import time

import pytest
from flask import Flask

from kelpie_api import logs
from kelpie_api.auth import users
from kelpie_api.auth.authenticator import REMEMBERED_FOR, Authenticator
from kelpie_api.db import SQL, Database
from tests.conftest import ADMIN_KEY, SECRET_KEY
from tests.helpers import Client, Tenant, definition, refused

NAMES = {"org_name": "acme", "project_name": "default"}


@pytest.fixture
def authenticator(app: Flask) -> Authenticator:
    found: Authenticator = app.extensions["kelpie"].authenticator
    return found


def grow_old(authenticator: Authenticator) -> None:
    """Whatever is remembered was looked up long ago."""
    authenticator.remembered.clock = lambda: time.monotonic() + REMEMBERED_FOR


def everything_stored(db: Database) -> str:
    """All rows of all tables as text; bytes are hexadecimal there."""
    tables = db.all("select table_name as name from information_schema.tables where table_schema = 'public'")
    rows = [row["text"] for table in tables for row in db.all(f"select t::text as text from {table['name']} t")]
    assert rows
    return "\n".join(rows)


@pytest.mark.parametrize("path", ["/jobs", "/users/me", "/work?machine_id=m1&container_group_id=g1"])
def test_without_a_key_the_answer_is_401(app: Flask, path: str) -> None:
    refused(Client(app.test_client(), None).get(path), 401)
    refused(Client(app.test_client(), None).get(path, **{"X-Kelpie-Key": ""}), 401)


WRONG_KEYS = [
    "g1|acme",
    "' or true --",
    "ÿþ",
]


@pytest.mark.parametrize("key", WRONG_KEYS)
def test_a_wrong_key_is_a_403(app: Flask, key: str) -> None:
    refused(Client(app.test_client(), key).get("/jobs"), 403)


def test_a_part_of_a_key_is_no_key(app: Flask, tenant: Tenant) -> None:
    for key in (tenant.key[:-1], tenant.key + "x", tenant.key.upper(), f"{tenant.key},{tenant.key}"):
        refused(Client(app.test_client(), key).get("/jobs"), 403)


def test_the_digest_of_a_key_is_no_key(app: Flask, tenant: Tenant) -> None:
    refused(Client(app.test_client(), users.digest(tenant.key).hex()).get("/jobs"), 403)


def test_without_an_administrators_key_no_caller_is_administrator(migrated_url: str, db: Database) -> None:
    from kelpie_api.app import create_app
    from kelpie_api.config import Config

    app = create_app(Config(database_url=migrated_url, secret_key=SECRET_KEY, admin_key=None))
    refused(Client(app.test_client(), ADMIN_KEY).get("/jobs"), 403)
    refused(Client(app.test_client(), None).get("/jobs"), 401)
    app.extensions["kelpie"].end()


class TestARemovedKey:
    def test_is_refused_when_its_memory_ends(
        self, api: Client, db: Database, tenant: Tenant, authenticator: Authenticator
    ) -> None:
        assert api.get("/jobs").status_code == 200
        db.execute("delete from api_keys where digest = %(digest)s", digest=users.digest(tenant.key))
        grow_old(authenticator)
        refused(api.get("/jobs"), 403)

    def test_is_remembered_for_half_a_minute_at_most(self) -> None:
        assert REMEMBERED_FOR <= 30

    def test_a_refusal_is_not_remembered(self, app: Flask, db: Database, tenant: Tenant) -> None:
        client = Client(app.test_client(), "kelpie_made_a_moment_later")
        refused(client.get("/jobs"), 403)
        db.execute(
            "insert into api_keys (tenant_id, org_name, digest) values (%(tenant)s, 'acme', %(digest)s)",
            tenant=tenant.caller.tenant_id,
            digest=users.digest("kelpie_made_a_moment_later"),
        )
        assert client.get("/jobs").status_code == 200

    def test_of_removed_users_is_refused_at_once_by_the_process_that_removed_them(
        self, api: Client, admin: Client
    ) -> None:
        assert api.get("/users/me").status_code == 200
        assert admin.delete("/users").status_code == 204
        refused(api.get("/users/me"), 403)


def tenant_of(db: Database, job_id: str) -> int:
    row = db.one_or_none("select tenant_id from jobs where id = %(id)s", id=job_id)
    assert row is not None
    return int(row["tenant_id"])


class TestUsers:
    def test_a_name_that_is_taken_is_a_400(self, admin: Client, tenant: Tenant) -> None:
        body = refused(admin.post("/users", {"username": tenant.caller.username}), 400)
        assert body["errors"].keys() == {"username"}

    @pytest.mark.parametrize("name", ["x" * 256, "a\nb"])
    def test_a_bad_name_is_a_400(self, admin: Client, name: str) -> None:
        refused(admin.post("/users", {"username": name}), 400)

    @pytest.mark.parametrize("missing", ["org_name", "project_name"])
    def test_a_key_needs_an_organization_and_a_project(self, admin: Client, tenant: Tenant, missing: str) -> None:
        names = {name: value for name, value in NAMES.items() if name != missing}
        answer = admin.post(f"/users/{tenant.caller.user_id}/token", names)
        assert refused(answer, 400)["errors"].keys() == {missing}

    def test_removing_users_takes_their_keys_and_jobs_and_leaves_the_administrator(
        self, admin: Client, api: Client, db: Database
    ) -> None:
        api.submit()
        api.submit(webhook="http://receiver/")
        api.claim()
        own = admin.submit()
        assert admin.delete("/users").status_code == 204
        assert [job["id"] for job in (admin.get("/jobs").json or {})["jobs"]] == [own["id"]]
        assert (admin.get("/users/me").json or {})["username"] == "admin"
        assert db.all("select from api_keys") == []

    def test_a_key_that_another_process_still_remembers_is_refused_when_its_user_is_gone(
        self, api: Client, db: Database
    ) -> None:
        api.submit()
        users.delete_users(db)
        refused(api.post("/jobs", definition()), 403)
        refused(api.get("/users/me"), 403)

    def test_the_administrator_is_a_user_too(self, admin: Client) -> None:
        assert (admin.get("/users/me").json or {})["username"] == "admin"

    def test_a_key_of_the_administrator_sees_all_as_well(self, app: Flask, admin: Client, api: Client) -> None:
        me = admin.get("/users/me").json or {}
        key = (admin.post(f"/users/{me['id']}/token", NAMES).json or {})["token"]
        other = Client(app.test_client(), key)
        assert other.get(f"/jobs/{api.submit()['id']}").status_code == 200
        assert other.post("/users", {"username": "another"}).status_code == 201

    def test_the_administrators_own_jobs_stay_where_they_were(self, admin: Client, db: Database) -> None:
        """Whatever other projects were named in keys of the administrator's since, and wherever the rows lie."""
        first = admin.submit()
        me = admin.get("/users/me").json or {}
        admin.post(f"/users/{me['id']}/token", NAMES)
        db.execute("update tenants set project = project")
        assert (db.one_or_none(SQL.find_admin) or {})["tenant_id"] == tenant_of(db, first["id"])


def test_the_database_holds_no_issued_key(db: Database, tenant: Tenant, api: Client, admin: Client) -> None:
    """Also not the one that a webhook has to carry, nor the administrator's."""
    for client in (api, admin):
        job = client.submit(webhook="http://receiver/")
        client.claim()
        client.report(job, "completed", attempt=1)
    stored = everything_stored(db)
    for key in (tenant.key, ADMIN_KEY):
        for spelling in (key, key.removeprefix("kelpie_"), key.encode().hex()):
            assert spelling not in stored


def test_no_key_is_in_the_log(api: Client, tenant: Tenant, caplog: pytest.LogCaptureFixture) -> None:
    api.submit(webhook="http://receiver/")
    api.claim()
    logged = [logs.JsonLines().format(record) for record in caplog.records]
    assert any('"event": "request"' in line for line in logged)
    assert not any(tenant.key in line for line in logged)
