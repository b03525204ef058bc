"""Which credentials each route is open to (docs/design/protocol.md, Callers)."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from flask import Flask

from kelpie_api.auth import users
from kelpie_api.auth.caller import Role
from kelpie_api.db import Database
from kelpie_api.web.access import OPEN, To
from kelpie_api.web.sessions import is_page
from tests.helpers import Client, Tenant, refused


def calls(app: Flask) -> list[tuple[str, str, str]]:
    """Every route of the API: endpoint, method, and a path with ids of nothing."""
    found = []
    for rule in app.url_map.iter_rules():
        if is_page(rule.endpoint):
            continue  # they know no keys: tests/dashboard
        path = rule.rule
        for name in rule.arguments:
            path = path.replace(f"<text:{name}>", "x").replace(f"<{name}>", str(uuid.uuid4()))
        found += [(rule.endpoint, method, path) for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}]
    return found


def client_of(app: Flask, db: Database, tenant: Tenant, role: Role) -> Client:
    return Client(app.test_client(), users.create_token(db, tenant.caller.user_id, "acme", "default", role))


@pytest.fixture
def viewer(app: Flask, db: Database, tenant: Tenant) -> Client:
    """A client of the same user and project as `api`, that reads."""
    return client_of(app, db, tenant, Role.VIEWER)


def test_the_table_names_every_route_and_no_other(app: Flask) -> None:
    assert OPEN.keys() == {rule.endpoint for rule in app.url_map.iter_rules()}


@pytest.mark.parametrize(
    ("role", "kind"),
    [(Role.OPERATOR, To.OPERATORS), (Role.VIEWER, To.VIEWERS), (Role.WORKER, To.WORKERS)],
)
def test_a_route_is_open_to_a_role_as_the_table_says(
    app: Flask, db: Database, tenant: Tenant, role: Role, kind: To
) -> None:
    client = client_of(app, db, tenant, role)
    for endpoint, method, path in calls(app):
        is_open = bool(OPEN[endpoint] & (To.ALL | kind))
        status = client.call(method, path, {}).status_code
        assert (status != 403) is is_open, (method, path, status)


def test_no_row_opens_a_change_to_viewers(app: Flask) -> None:
    for endpoint, method, path in calls(app):
        if OPEN[endpoint] & To.VIEWERS:
            assert method == "GET" and path != "/work" and "signing-secret" not in path, (method, path)


def test_no_setting_lets_a_token_manage_keys_secrets_sweeps_usage_or_many_jobs(app: Flask) -> None:
    closed = []
    for endpoint, method, path in calls(app):
        room, name = endpoint.split(".")
        if room in {"keys", "secrets", "sweeps", "usage", "bulk"} or name == "change_group":
            closed.append(endpoint)
            assert not OPEN[endpoint] & (To.TOKENS | To.SUBMITTING_TOKENS), (method, path)
    assert {"bulk.cancel_jobs", "steering.change_group", "secrets.put_secret"} <= set(closed)


SECRET: dict[str, Any] = {
    "environment": {"HF_TOKEN": "hf_secret", "STEPS": "7"},
    "webhook": "https://me:hf_secret@example.com/",
}


class TestAViewer:
    def test_reads_names_of_environments_with_null_values(self, api: Client, viewer: Client) -> None:
        job = api.submit(**SECRET)
        nothing = {"HF_TOKEN": None, "STEPS": None}
        assert (viewer.get(f"/jobs/{job['id']}").json or {})["environment"] == nothing
        [listed] = (viewer.get("/jobs").json or {})["jobs"]
        assert listed["environment"] == nothing

    def test_reads_no_value_of_an_environment_anywhere(self, api: Client, viewer: Client) -> None:
        job = api.submit(**SECRET)
        api.claim()
        paths = ["/jobs", *(f"/jobs/{job['id']}{part}" for part in ("", "/attempts", "/events", "/webhooks"))]
        answers = [viewer.get(path) for path in paths]
        assert [answer.status_code for answer in answers] == [200] * 5
        assert not any("hf_secret" in answer.text for answer in answers)

    def test_of_the_administrators_user_is_no_administrator(self, app: Flask, admin: Client, db: Database) -> None:
        me = (admin.get("/users/me").json or {})["id"]
        viewer = Client(app.test_client(), users.create_token(db, uuid.UUID(me), "acme", "default", Role.VIEWER))
        refused(viewer.get("/users"), 403)
        refused(viewer.delete("/jobs"), 403)


def test_a_key_of_an_operator_may_be_asked_for_by_its_older_name(
    app: Flask, admin: Client, tenant: Tenant
) -> None:
    names = {"org_name": "acme", "project_name": "default", "role": "user"}
    made = admin.post(f"/users/{tenant.caller.user_id}/token", names)
    assert made.status_code == 201
    assert Client(app.test_client(), (made.json or {})["token"]).submit()
