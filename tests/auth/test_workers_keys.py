"""Keys with the role `worker`, so that no node needs a key of its user (docs/design/protocol.md, Callers)."""

from __future__ import annotations

import uuid

import pytest
from flask import Flask

from kelpie_api.auth import users
from kelpie_api.auth.caller import Role
from kelpie_api.db import Database
from kelpie_api.web import access
from kelpie_api.web.sessions import is_page
from tests.helpers import Client, Tenant, refused

SECRET = {"environment": {"HF_TOKEN": "hf_secret"}, "webhook": "https://me:hf_secret@example.com/"}


@pytest.fixture
def worker(app: Flask, db: Database, tenant: Tenant) -> Client:
    """A node's client, of the same user and project as `api`."""
    return Client(app.test_client(), users.create_token(db, tenant.caller.user_id, "acme", "default", Role.WORKER))


def test_it_claims_and_reports_jobs_of_its_tenant_and_gets_them_whole(api: Client, worker: Client) -> None:
    job = api.submit(**SECRET)
    handed = worker.claim()
    assert handed and handed["environment"] == SECRET["environment"] and handed["webhook"] == SECRET["webhook"]
    assert (worker.report(job, "heartbeat", attempt=1).json or {})["status"] == "running"
    assert worker.report(job, "completed", attempt=1).status_code == 200


def test_it_reads_what_was_handed_out_without_secrets_and_nothing_else(api: Client, worker: Client) -> None:
    job = api.submit(**SECRET)
    refused(worker.get(f"/jobs/{job['id']}"), 404)
    worker.claim()
    shown = worker.get(f"/jobs/{job['id']}")
    assert "hf_secret" not in shown.text and (shown.json or {})["status"] == "running"
    for path in ("/jobs", f"/jobs/{job['id']}/attempts", f"/jobs/{job['id']}/events", "/machines"):
        assert "worker's key" in refused(worker.get(path), 403)["message"]


def test_every_route_is_closed_to_it_that_is_not_a_workers(app: Flask, worker: Client) -> None:
    open_to = {endpoint for endpoint, to in access.OPEN.items() if to & (access.To.ALL | access.To.WORKERS)}
    for rule in app.url_map.iter_rules():
        if rule.endpoint in open_to or is_page(rule.endpoint):
            continue
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            path = rule.rule
            for name in rule.arguments:
                path = path.replace(f"<{name}>", str(uuid.uuid4())).replace("<text:", "").replace(">", "")
            assert worker.call(method, path, {}).status_code == 403, (method, rule.rule)


def test_the_administrator_makes_one_by_its_role(app: Flask, admin: Client, api: Client, tenant: Tenant) -> None:
    names = {"org_name": "acme", "project_name": "default"}
    made = admin.post(f"/users/{tenant.caller.user_id}/token", names | {"role": "worker"})
    assert made.status_code == 201 and "warnings" not in (made.json or {})
    refused(Client(app.test_client(), (made.json or {})["token"]).post("/jobs", {}), 403)
    body = refused(admin.post(f"/users/{tenant.caller.user_id}/token", names | {"role": "king"}), 400)
    assert "role" in body["errors"]


def test_one_of_the_administrators_user_is_no_administrator(app: Flask, admin: Client, db: Database) -> None:
    me = (admin.get("/users/me").json or {})["id"]
    worker = Client(app.test_client(), users.create_token(db, uuid.UUID(me), "acme", "default", Role.WORKER))
    refused(worker.delete("/jobs"), 403)
    refused(worker.post("/users", {"username": "new"}), 403)
