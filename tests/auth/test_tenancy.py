"""What each kind of caller may see and change, on every route (docs/design/protocol.md, Callers)."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask

from kelpie_api.auth import keys
from kelpie_api.auth.caller import Role
from kelpie_api.db import Database, Row
from kelpie_api.queue import sweeps
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
BY_HOLDER = f"?machine_id={HOLDER}&container_group_id={GROUP}"
QUERIES = {("GET", "/work"): BY_HOLDER, ("PUT", "/jobs/<job_id>/output"): f"{BY_HOLDER}&attempt=1&from=0"}
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
    Route("GET", "/jobs/<job_id>/why", None, (*FOREIGN, 200, 200)),
    Route("GET", "/jobs/<job_id>/progress", None, (*FOREIGN, 200, 200), READ),
    # A machine reads the output of what it holds.
    Route("GET", "/jobs/<job_id>/output", None, (*FOREIGN, 200, 200), (200, 404, 200, 404, 404, 403, 403)),
    Route("GET", "/jobs/<job_id>/checkpoint", None, (*FOREIGN, 404, 404), (*[404] * 6, 403)),  # it has none
    Route("PUT", "/jobs/<job_id>/output", b"line", (*FOREIGN, 200, 200), REPORTED),
    Route("POST", "/jobs/<job_id>/hold", None, (*FOREIGN, 202, 202)),
    Route("POST", "/jobs/<job_id>/resume", None, (*FOREIGN, 202, 202)),
    Route("POST", "/jobs/<job_id>/interrupt", None, (*FOREIGN, 409, 409)),  # its worker cannot be told
    Route("POST", "/jobs/<job_id>/rerun", None, (*FOREIGN, 409, 409)),  # it runs
    Route("PATCH", "/jobs/<job_id>", {"name": "new"}, (*FOREIGN, 200, 200)),
    Route("DELETE", "/jobs/<job_id>/bans", None, (*FOREIGN, 200, 200)),
    Route("DELETE", "/jobs/<job_id>/bans/<text:machine_id>", None, (*FOREIGN, 200, 200)),
    Route("GET", "/jobs/counts", None, (401, 403, 200, 200, 200, 200)),
    *(
        # The administrator must name a user.
        Route("POST", f"/jobs/{verb}", {"open": True}, (401, 403, 200, 200, 200, 400))
        for verb in ("cancel", "hold", "resume", "rerun")
    ),
    Route("GET", "/sweeps", None, (401, 403, 200, 200, 200, 200)),
    Route("POST", "/sweeps", {}, (401, 403, 201, 201, 201, 201)),
    Route("GET", "/sweeps/<sweep_id>", None, (*FOREIGN, 200, 200)),
    Route("PATCH", "/sweeps/<sweep_id>", {"closed": True}, (*FOREIGN, 200, 200)),
    Route("DELETE", "/sweeps/<sweep_id>", None, (*FOREIGN, 200, 200)),
    Route("GET", "/secrets", None, (401, 403, 200, 200, 200, 200)),
    Route("PUT", "/secrets/<secret_name>", {"value": "v"}, (401, 403, 200, 200, 200, 200)),
    Route("DELETE", "/secrets/<secret_name>", None, (*FOREIGN, 204, 404)),  # the administrator has its own
    Route("GET", "/keys", None, (401, 403, 200, 200, 200, 200)),
    Route("POST", "/keys", {"name": "new", "role": "viewer"}, (401, 403, 201, 201, 201, 201)),
    Route("DELETE", "/keys/<key_id>", None, (*FOREIGN, 204, 204)),
    Route("GET", "/usage", None, (401, 403, 200, 200, 200, 200)),
    Route(
        "PATCH", "/container-groups/<text:container_group_id>", {"paused": True}, (401, 403, 200, 200, 200, 200)
    ),
    Route("GET", "/users", None, (401, 403, 403, 403, 403, 200)),
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


def cases(route: Route) -> list[tuple[str, int]]:
    """Each caller and the status of its answer."""
    return [
        *zip(CALLERS, route.statuses, strict=True),
        *zip(SALADS_CALLERS, route.of_salads_callers(), strict=True),
    ]


def changes(route: Route, status: int) -> bool:
    """Whether the answer leaves other rows behind than were there: the next caller needs them made anew."""
    return status < 400 and (route.method != "GET" or route.path == "/work")


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


def others(db: Database) -> dict[str, list[Row]]:
    """What is kept beside jobs."""
    tables = ("scaling_rules", "sweeps", "secrets", "api_keys", "paused_groups", "group_settings")
    return {table: db.all(f"select * from {table} as t order by t::text") for table in tables}


def test_no_route_is_missing_from_the_table(app: Flask) -> None:
    there = {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        if not is_page(rule.endpoint)  # tests/dashboard
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert there == {(route.method, route.path) for route in ROUTES}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_caller_gets_the_status_of_the_table_and_writes_nothing_where_it_is_refused(
    app: Flask, db: Database, tenant: Tenant, tokens: TokenDouble, route: Route
) -> None:
    path = path_of(route, app, db, tenant)
    asked = [(caller, status) for caller, status in cases(route) if not changes(route, status)]
    clients = {caller: client_of(caller, app, db, tenant, tokens) for caller, _ in asked}
    before = rows_of_jobs(db), others(db)
    for caller, status in asked:
        answer = clients[caller].call(route.method, path, route.body)
        assert answer.status_code == status, f"{caller}: {answer.text}"
        if status >= 400:
            refused(answer, status)
            assert (rows_of_jobs(db), others(db)) == before, caller


@pytest.mark.parametrize(
    ("route", "caller", "status"),
    [
        pytest.param(route, caller, status, id=f"{route.method} {route.path} {caller}")
        for route in ROUTES
        for caller, status in cases(route)
        if changes(route, status)
    ],
)
def test_every_caller_who_changes_something_gets_the_status_of_the_table(
    app: Flask, db: Database, tenant: Tenant, tokens: TokenDouble, route: Route, caller: str, status: int
) -> None:
    path = path_of(route, app, db, tenant)
    answer = client_of(caller, app, db, tenant, tokens).call(route.method, path, route.body)
    assert answer.status_code == status, answer.text


def path_of(route: Route, app: Flask, db: Database, owner: Tenant) -> str:
    """The route's path to what it names, all of which is the owner's and is made here."""
    make_rule(db, owner, RULE_ID)
    path = route.path.replace("/scaling-rules/<container_group_id>", f"/scaling-rules/{RULE_ID}")
    make: dict[str, Callable[[], object]] = {
        "<job_id>": lambda: make_job(db, owner, "held"),
        "<user_id>": lambda: owner.caller.user_id,
        "<sweep_id>": lambda: sweeps.create(db, owner.caller, {}, None)[0]["id"],
        "<key_id>": lambda: keys.create(db, owner.caller, "ann", Role.OPERATOR)["id"],
        "<secret_name>": lambda: make_secret(app, owner),
    }
    for name in make.keys() & set(re.findall("<[a-z_]+>", path)):
        path = path.replace(name, str(make[name]()))
    return path + QUERIES.get((route.method, route.path), "")


def make_secret(app: Flask, owner: Tenant) -> str:
    assert Client(app.test_client(), owner.key).call("PUT", "/secrets/TOKEN", {"value": "v"}).status_code == 200
    return "TOKEN"


@pytest.mark.parametrize("route", [route for route in ROUTES if "<job_id>" in route.path], ids=lambda r: r.path)
def test_a_foreign_job_answers_exactly_like_an_unknown_one(
    stranger: Client, db: Database, tenant: Tenant, route: Route
) -> None:
    foreign, unknown = make_job(db, tenant, "held"), uuid.uuid4()
    answers = [
        stranger.call(
            route.method,
            route.path.replace("<job_id>", str(job_id)) + QUERIES.get((route.method, route.path), ""),
            route.body,
        )
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
