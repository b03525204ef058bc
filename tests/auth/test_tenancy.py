"""What each kind of caller may see and change, on every route (docs/design/protocol.md, Callers)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask

from kelpie_api.db import Database, Row
from kelpie_api.web.sessions import is_page
from tests.conftest import ADMIN_KEY
from tests.doubles.salad import SaladDouble
from tests.doubles.tokens import TokenDouble
from tests.helpers import (
    Client,
    Tenant,
    definition,
    make_job,
    make_rule,
    make_tenant,
    refused,
    rows_of_jobs,
    with_salad_key,
    with_token,
)

RULE_ID = "97f504e8-6de6-4322-b5d5-1777a59a7ad3"
NEW_RULE = {"container_group_id": str(uuid.uuid4()), "min_replicas": 0, "max_replicas": 3}
CALLERS = ("nobody", "wrong key", "other user", "other project", "owner", "administrator")
SALADS_CALLERS = (
    "Salad key",  # of the owner's organization and project
    "another organization's Salad key",
    "machine",  # the job's holder, with its token
    "machine of another group",
    "machine of another project",
    "another machine of the group",
    "machine with a wrong token",
)


# The holder's ids: what its token says, and what the requests name.
HOLDER, GROUP = "m1", "g1"
REPORT = {"machine_id": HOLDER, "container_group_id": GROUP, "attempt": 1}


@dataclass(frozen=True)
class Route:
    """What is sent to a route whose `<job_id>` is a running job of the owner's; the status for each of CALLERS,
    and for each of SALADS_CALLERS if they differ from what follows of the others."""

    method: str
    path: str
    body: Any
    statuses: tuple[int, int, int, int, int, int]
    salads: tuple[int, ...] | None = None

    def of_salads_callers(self) -> tuple[int, ...]:
        """A Salad key is the owner's or another tenant's; a route opens to machines only if it says so."""
        if self.salads:
            return self.salads
        other, owner = self.statuses[2], self.statuses[4]
        public = self.statuses[0] == 200
        return (owner, other, *[200 if public else 403] * 5)


FOREIGN = (401, 403, 404, 404)  # another tenant's job is answered like an unknown one
READ = (200, 404, 200, 404, 404, 200, 403)  # jobs of its own group are there for all machines of it
# the report names the holder, and a machine may only report for itself
REPORTED = (200, 404, 200, 403, 404, 403, 403)
ANYONES = (200, 200, 200, 200, 200, 200, 403)
ROUTES = [
    Route("GET", "/jobs/<job_id>", None, (*FOREIGN, 200, 200), READ),
    Route("DELETE", "/jobs/<job_id>", None, (*FOREIGN, 202, 202)),
    Route("GET", "/jobs/<job_id>/attempts", None, (*FOREIGN, 200, 200), READ),
    Route("GET", "/jobs/<job_id>/events", None, (*FOREIGN, 200, 200), READ),
    Route("POST", "/jobs/<job_id>/heartbeat", REPORT, (*FOREIGN, 200, 200), REPORTED),
    Route("POST", "/jobs/<job_id>/completed", REPORT, (*FOREIGN, 200, 200), REPORTED),
    Route("POST", "/jobs/<job_id>/failed", REPORT, (*FOREIGN, 202, 202), (202, 404, 202, 403, 404, 403, 403)),
    Route("POST", "/jobs/<job_id>/released", REPORT, (*FOREIGN, 200, 200), REPORTED),
    Route(
        "PUT",
        "/jobs/<job_id>/checkpoint",
        {**REPORT, "generation": 1, "files": [{"key": "c/weights", "size": 1}]},
        (*FOREIGN, 200, 200),
        REPORTED,
    ),
    Route("POST", "/jobs/<job_id>/resumed", {**REPORT, "checkpoint": "torn"}, (*FOREIGN, 200, 200), REPORTED),
    Route("GET", "/jobs/<job_id>/webhooks", None, (*FOREIGN, 200, 200)),
    Route("POST", "/jobs/<job_id>/webhooks/<webhook_id>/redeliver", None, (*FOREIGN, 404, 404)),  # it has none
    Route("GET", "/users/me/signing-secret", None, (401, 403, 200, 200, 200, 200)),
    Route("POST", "/users/me/signing-secret", None, (401, 403, 200, 200, 200, 200)),
    Route("POST", "/jobs", definition(), (401, 403, 202, 202, 202, 202)),
    Route("POST", "/job", definition(), (401, 403, 202, 202, 202, 202)),
    Route("POST", "/jobs/batch", [definition()], (401, 403, 202, 202, 202, 202)),
    Route("GET", "/jobs", None, (401, 403, 200, 200, 200, 200), ANYONES),
    Route("GET", "/work", None, (401, 403, 200, 200, 200, 200), (200, 200, 200, 403, 200, 403, 403)),
    Route("GET", "/machines", None, (401, 403, 200, 200, 200, 200)),
    Route("GET", "/users/me", None, (401, 403, 200, 200, 200, 200), ANYONES),
    Route("DELETE", "/jobs", None, (401, 403, 403, 403, 403, 204)),
    Route("DELETE", "/jobs/container-groups/<text:container_group_id>", None, (401, 403, 200, 200, 200, 200)),
    Route("POST", "/users", {"username": "new"}, (401, 403, 403, 403, 403, 201)),
    Route("DELETE", "/users", None, (401, 403, 403, 403, 403, 204)),
    Route("DELETE", "/users/<user_id>", None, (401, 403, 403, 403, 403, 204)),
    Route(
        "POST",
        "/users/<user_id>/token",
        {"org_name": "o", "project_name": "p"},
        (401, 403, 403, 403, 403, 201),
    ),
    # To look a group up the coordinator needs a key of its own, which it has not here.
    Route("POST", "/scaling-rules", NEW_RULE, (401, 403, 503, 503, 503, 400)),
    Route("GET", "/scaling-rules", None, (401, 403, 200, 200, 200, 200)),
    Route("DELETE", "/scaling-rules", None, (401, 403, 403, 403, 403, 204)),
    Route("GET", "/scaling-rules/<container_group_id>", None, (*FOREIGN, 200, 200)),
    Route("PATCH", "/scaling-rules/<container_group_id>", {"max_replicas": 9}, (*FOREIGN, 200, 200)),
    Route("DELETE", "/scaling-rules/<container_group_id>", None, (*FOREIGN, 204, 204)),
    Route("GET", "/scaling-rules/<container_group_id>/decisions", None, (*FOREIGN, 200, 200)),
    Route("GET", "/container-groups/<text:container_group_id>/metrics", None, (401, 403, 200, 200, 200, 200)),
    Route("GET", "/healthz", None, (200,) * 6),
    Route("GET", "/readyz", None, (200,) * 6),
    Route("GET", "/metrics", None, (200,) * 6),
    Route("GET", "/openapi.json", None, (200,) * 6),
    Route("GET", "/openapi.yaml", None, (200,) * 6),
    Route("GET", "/docs", None, (200,) * 6),
    Route("GET", "/redocs", None, (200,) * 6),
    Route("GET", "/docs/<name>", None, (404,) * 6, (404,) * 7),
]
CASES = [
    pytest.param(route, caller, status, id=f"{route.method} {route.path} {caller}")
    for route in ROUTES
    for caller, status in [
        *zip(CALLERS, route.statuses, strict=True),
        *zip(SALADS_CALLERS, route.of_salads_callers(), strict=True),
    ]
]


@pytest.fixture
def settings(salad: SaladDouble, tokens: TokenDouble) -> dict[str, Any]:
    salad.allow("salad-key", "acme", "default")
    salad.allow("salad-key", "rival", "default")
    tokens.machine, tokens.workload = HOLDER, GROUP
    return {"salad_api_url": salad.api_url, "salad_jwks_url": tokens.jwks_url}


def client_of(caller: str, app: Flask, db: Database, owner: Tenant, tokens: TokenDouble) -> Client:
    match caller:
        case "Salad key":
            return with_salad_key(app)
        case "another organization's Salad key":
            return with_salad_key(app, organization="rival")
        case "machine":
            return with_token(app, tokens.token())
        case "machine of another group":
            return with_token(app, tokens.token(salad_workload_id="g2"))
        case "machine of another project":
            return with_token(app, tokens.token(), "other")
        case "another machine of the group":
            return with_token(app, tokens.token(salad_machine_id="m2"))
        case "machine with a wrong token":
            return with_token(app, tokens.token(aud="another"))
    return Client(app.test_client(), key_of(caller, db, owner))


def key_of(caller: str, db: Database, owner: Tenant) -> str | None:
    match caller:
        case "nobody":
            return None
        case "other user":
            return make_tenant(db, "rival", "default").key
        case "other project":
            return make_tenant(db, owner.caller.username, "other").key
        case "owner":
            return owner.key
        case "administrator":
            return ADMIN_KEY
    return "kelpie_wrong"


def rules(db: Database) -> list[Row]:
    return db.all("select * from scaling_rules order by container_group_id")


# Routes whose tenants are tried where their rules are. Which credentials open them stands in
# tests/auth/test_access.py.
BESIDE = {
    ("GET", "/jobs/counts"),
    *(("POST", f"/jobs/{verb}") for verb in ("cancel", "hold", "resume", "rerun")),
    *(("POST", f"/jobs/<job_id>/{verb}") for verb in ("hold", "resume", "interrupt", "rerun")),
    ("PATCH", "/jobs/<job_id>"),
    ("DELETE", "/jobs/<job_id>/bans"),
    ("DELETE", "/jobs/<job_id>/bans/<text:machine_id>"),
    *(("GET", f"/jobs/<job_id>/{what}") for what in ("why", "progress", "output", "checkpoint")),
    ("PUT", "/jobs/<job_id>/output"),
    ("PATCH", "/container-groups/<text:container_group_id>"),
    ("GET", "/usage"),
    ("GET", "/users"),
    ("GET", "/keys"),
    ("POST", "/keys"),
    ("DELETE", "/keys/<key_id>"),
    ("GET", "/secrets"),
    ("PUT", "/secrets/<secret_name>"),
    ("DELETE", "/secrets/<secret_name>"),
    ("GET", "/sweeps"),
    ("POST", "/sweeps"),
    ("GET", "/sweeps/<sweep_id>"),
    ("PATCH", "/sweeps/<sweep_id>"),
    ("DELETE", "/sweeps/<sweep_id>"),
}


def test_no_route_is_missing_from_the_table(app: Flask) -> None:
    there = {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        if not is_page(rule.endpoint)  # tests/dashboard
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert there - BESIDE == {(route.method, route.path) for route in ROUTES}
    assert there >= BESIDE


@pytest.mark.parametrize(("route", "caller", "status"), CASES)
def test_every_caller_gets_the_status_of_the_table_and_writes_nothing_where_it_is_refused(
    app: Flask, db: Database, tenant: Tenant, tokens: TokenDouble, route: Route, caller: str, status: int
) -> None:
    job_id = make_job(db, tenant, "held")
    make_rule(db, tenant, RULE_ID)
    client = client_of(caller, app, db, tenant, tokens)
    path = route.path.replace("<job_id>", str(job_id)).replace("<user_id>", str(tenant.caller.user_id))
    path = path.replace("/scaling-rules/<container_group_id>", f"/scaling-rules/{RULE_ID}")
    query = f"?machine_id={HOLDER}&container_group_id={GROUP}" if path == "/work" else ""
    before = rows_of_jobs(db), rules(db)
    answer = client.call(route.method, path + query, route.body)
    assert answer.status_code == status, answer.text
    if status >= 400:
        refused(answer, status)
        assert (rows_of_jobs(db), rules(db)) == before


@pytest.mark.parametrize("route", [route for route in ROUTES if "<job_id>" in route.path], ids=lambda r: r.path)
def test_a_foreign_job_answers_exactly_like_an_unknown_one(
    stranger: Client, db: Database, tenant: Tenant, route: Route
) -> None:
    foreign, unknown = make_job(db, tenant, "held"), uuid.uuid4()
    answers = [
        stranger.call(route.method, route.path.replace("<job_id>", str(job_id)), route.body)
        for job_id in (foreign, unknown)
    ]
    assert answers[0].text.replace(str(foreign), str(unknown)) == answers[1].text
    assert answers[0].status_code == answers[1].status_code == 404


def test_a_list_has_the_callers_own_jobs_and_the_administrators_has_all(
    app: Flask, db: Database, tenant: Tenant, api: Client, stranger: Client, admin: Client
) -> None:
    project = Client(app.test_client(), make_tenant(db, tenant.caller.username, "other").key)
    ids = {client.submit()["id"]: client for client in (api, stranger, project)}
    for job_id, client in ids.items():
        assert [job["id"] for job in (client.get("/jobs").json or {})["jobs"]] == [job_id]
    assert {job["id"] for job in (admin.get("/jobs").json or {})["jobs"]} == ids.keys()
