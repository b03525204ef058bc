"""Scaling rules over HTTP (docs/design/protocol.md, Scaling)."""

from __future__ import annotations

import re
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from kelpie_api.app import create_app
from kelpie_api.auth import users
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.salad.request_budget import PERSON, RequestBudget
from kelpie_api.scaling import rules
from tests.doubles.double import page
from tests.doubles.fleet import KEY, FleetDouble
from tests.doubles.salad import trouble
from tests.doubles.tokens import TokenDouble
from tests.helpers import Client, Tenant, at_once, make_job, make_rule, make_tenant, refused, with_token

FIELDS = {
    "container_group_id",
    "user_id",
    "org_name",
    "project_name",
    "container_group_name",
    "min_replicas",
    "max_replicas",
    "idle_threshold_seconds",
    "created",
    "updated",
}


@pytest.fixture
def settings(fleet: FleetDouble, tokens: TokenDouble) -> dict[str, Any]:
    return {"salad_api_url": fleet.api_url, "salad_api_key": KEY, "salad_jwks_url": tokens.jwks_url}


@pytest.fixture
def group(fleet: FleetDouble) -> str:
    return fleet.make_group()


def wanted(group_id: object, **fields: Any) -> dict[str, Any]:
    return {"container_group_id": group_id, "min_replicas": 0, "max_replicas": 5} | fields


def test_a_rule_is_made_for_a_group_that_salad_shows_and_has_its_name(
    api: Client, tenant: Tenant, fleet: FleetDouble, group: str
) -> None:
    answer = api.post("/scaling-rules", wanted(group, idle_threshold_seconds=300))
    assert answer.status_code == 201, answer.text
    rule = dict(answer.json or {})
    assert rule.keys() == FIELDS
    assert (rule["container_group_id"], rule["container_group_name"]) == (group, fleet.group(group)["name"])
    assert (rule["org_name"], rule["project_name"]) == ("acme", "default")
    assert rule["user_id"] == str(tenant.caller.user_id)
    assert (rule["min_replicas"], rule["max_replicas"], rule["idle_threshold_seconds"]) == (0, 5, 300)
    assert rule["created"] == rule["updated"] and rule["created"].endswith("Z")
    assert api.get(f"/scaling-rules/{group}").json == rule
    assert api.get("/scaling-rules").json == {"_count": 1, "rules": [rule]}
    assert fleet.changes == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"min_replicas": -1}, "min_replicas"),
        ({"min_replicas": 501}, "min_replicas"),
        ({"min_replicas": "1"}, "min_replicas"),
        ({"min_replicas": True}, "min_replicas"),
        ({"min_replicas": None}, "min_replicas"),
        ({"max_replicas": -1}, "max_replicas"),
        ({"max_replicas": 501}, "max_replicas"),
        ({"max_replicas": 1.5}, "max_replicas"),
        ({"max_replicas": 10**30}, "max_replicas"),
        ({"idle_threshold_seconds": -1}, "idle_threshold_seconds"),
        ({"idle_threshold_seconds": 3601}, "idle_threshold_seconds"),
        ({"min_replicas": 3, "max_replicas": 2}, "min_replicas"),
        ({"container_group_id": "g1"}, "container_group_id"),
        ({"container_group_id": None}, "container_group_id"),
        ({"container_group_id": "9d3b1f0e-4c52-4b7e-9a51-6c1f4b1f2a77"}, "container_group_id"),  # unknown
    ],
    ids=str,
)
def test_what_breaks_a_rule_of_the_table_is_a_400_that_names_the_field(
    api: Client, group: str, fields: dict[str, Any], named: str
) -> None:
    body = refused(api.post("/scaling-rules", wanted(group) | fields), 400)
    assert list(body["errors"]) == [named]
    assert api.get("/scaling-rules").json == {"_count": 0, "rules": []}


@pytest.mark.parametrize("missing", ["container_group_id", "min_replicas", "max_replicas"])
def test_a_required_field_is_missed(api: Client, group: str, missing: str) -> None:
    body = {name: value for name, value in wanted(group).items() if name != missing}
    assert missing in refused(api.post("/scaling-rules", body), 400)["errors"]


@pytest.mark.parametrize("limit", [0, 500])
def test_the_ends_of_the_range_are_in_it(api: Client, group: str, limit: int) -> None:
    body = wanted(group, min_replicas=limit, max_replicas=limit, idle_threshold_seconds=3600)
    assert api.post("/scaling-rules", body).status_code == 201


def test_unknown_fields_are_ignored_and_named(api: Client, group: str) -> None:
    made = api.post("/scaling-rules", wanted(group, replicas=3)).json or {}
    assert any("replicas" in sentence for sentence in made["warnings"])
    changed = api.patch(f"/scaling-rules/{group}", {"max_replicas": 7, "container_group_id": "x"}).json or {}
    assert changed["max_replicas"] == 7
    assert any("container_group_id" in sentence for sentence in changed["warnings"])
    assert "warnings" not in (api.get(f"/scaling-rules/{group}").json or {})
    many = api.patch(f"/scaling-rules/{group}", {f"field {number}": number for number in range(300)}).json or {}
    assert len(many["warnings"]) == 101 and "100" in many["warnings"][-1]


def test_a_group_has_one_rule_also_when_two_ask_at_once(api: Client, app: Flask, group: str) -> None:
    clients = [Client(app.test_client(), api.key) for _ in range(4)]
    answers = at_once([lambda c=client: c.post("/scaling-rules", wanted(group)).status_code for client in clients])
    assert sorted(answers) == [201, 409, 409, 409]
    refused(api.post("/scaling-rules", wanted(group.upper())), 409)


def test_a_caller_that_cannot_see_a_groups_rule_learns_that_it_is_anothers_and_not_whose(
    api: Client, app: Flask, db: Database, group: str
) -> None:
    """Two users whose keys name the same organization and project."""
    api.post("/scaling-rules", wanted(group))
    rival = make_tenant(db, "rival", "default").caller.user_id
    other = Client(app.test_client(), users.create_token(db, rival, "acme", "default"))
    assert "change that one" in refused(api.post("/scaling-rules", wanted(group)), 409)["message"]
    said = refused(other.post("/scaling-rules", wanted(group)), 409)["message"]
    assert "Another user's rule" in said and "acme" not in said


def test_a_group_of_another_project_is_unknown(api: Client, fleet: FleetDouble) -> None:
    elsewhere = fleet.make_group(project=("acme", "other"))
    fleet.allow(KEY, "acme", "default")
    assert "default" in refused(api.post("/scaling-rules", wanted(elsewhere)), 400)["message"]


def test_a_project_that_salad_does_not_show_the_coordinator_is_a_400_that_says_what_to_do(
    api: Client, fleet: FleetDouble
) -> None:
    fleet.make_group(project=("rival", "default"))  # the key is known, but not good for this project
    assert (
        "add the coordinator's user"
        in refused(api.post("/scaling-rules", wanted(str(uuid.uuid4()))), 400)["message"]
    )


@pytest.mark.parametrize(
    "what", [page(502), page(200), trouble(429, "Too Many Requests", Retry_After="9"), trouble(500, "Oh")]
)
def test_while_salad_gives_no_answer_the_client_is_asked_to_come_again(
    api: Client, db: Database, fleet: FleetDouble, group: str, what: Any
) -> None:
    fleet.trouble.append(("GET", what))
    answer = api.post("/scaling-rules", wanted(group))
    refused(answer, 503)
    assert int(answer.headers["Retry-After"]) >= 2
    db.execute("update salad_requests set silent_until = now()")  # the moment is over
    assert api.post("/scaling-rules", wanted(group)).status_code == 201


def test_a_rule_that_can_be_looked_up_only_later_is_refused_with_the_moment_and_without_a_request(
    api: Client, db: Database, fleet: FleetDouble, group: str
) -> None:
    RequestBudget(db, PERSON).reserve()
    db.execute("update salad_requests set silent_until = now() + interval '20 seconds'")
    answer = api.post("/scaling-rules", wanted(group))
    assert "used up" in refused(answer, 503)["message"]
    assert 15 < int(answer.headers["Retry-After"]) <= 20
    assert fleet.requests == []


def test_a_caller_that_has_many_groups_looked_up_is_slowed_down_and_no_other(
    api: Client, app: Flask, db: Database, fleet: FleetDouble
) -> None:
    fleet.allow(KEY, "acme", "default")
    elsewhere = fleet.make_group(project=("rival", "default"))
    answers = [api.post("/scaling-rules", wanted(str(uuid.uuid4()))) for _ in range(rules.LOOKUPS_AT_ONCE + 20)]
    assert {answer.status_code for answer in answers} == {400, 429}
    assert "many groups" in refused(answers[-1], 429)["message"]
    assert int(answers[-1].headers["Retry-After"]) >= rules.LOOKUP_PAUSE
    assert len(fleet.requests) < len(answers)
    other = make_tenant(db, "rival", "default")
    assert Client(app.test_client(), other.key).post("/scaling-rules", wanted(elsewhere)).status_code == 201


def test_a_coordinator_with_a_wrong_key_or_none_says_so(
    api: Client, app: Flask, config: Config, fleet: FleetDouble, group: str
) -> None:
    fleet.revoke(KEY)
    assert "SALAD_API_KEY" in refused(api.post("/scaling-rules", wanted(group)), 503)["message"]
    keyless = create_app(replace(config, salad_api_key=None))
    answer = Client(keyless.test_client(), api.key).post("/scaling-rules", wanted(group))
    assert "SALAD_API_KEY" in refused(answer, 503)["message"]
    keyless.extensions["kelpie"].end()


def test_the_administrator_has_no_organization_to_look_a_group_up_in(admin: Client, group: str) -> None:
    refused(admin.post("/scaling-rules", wanted(group)), 400)


def test_a_salad_key_makes_rules_of_its_organization(app: Flask, fleet: FleetDouble, group: str) -> None:
    fleet.allow("a user's key", "acme", "default")
    headers = {"Salad-Api-Key": "a user's key", "Salad-Organization": "acme", "Salad-Project": "default"}
    answer = Client(app.test_client(), None).call("POST", "/scaling-rules", wanted(group), headers)
    assert answer.status_code == 201, answer.text


def test_a_change_leaves_what_it_does_not_name_and_compares_the_limits_as_they_are_together(
    api: Client, group: str
) -> None:
    made = api.post("/scaling-rules", wanted(group, min_replicas=2, idle_threshold_seconds=60)).json or {}
    path = f"/scaling-rules/{group}"
    assert "min_replicas" in refused(api.patch(path, {"max_replicas": 1}), 400)["message"]
    assert "min_replicas" in refused(api.patch(path, {"min_replicas": 6}), 400)["message"]
    assert api.get(path).json == made
    changed = api.patch(path, {"min_replicas": 6, "max_replicas": 6}).json or {}
    assert changed == made | {"min_replicas": 6, "max_replicas": 6, "updated": changed["updated"]}
    assert changed["updated"] >= made["updated"]
    for wrong in ({"max_replicas": None}, {"min_replicas": 501}, {"idle_threshold_seconds": "1"}):
        refused(api.patch(path, wrong), 400)
    assert (api.patch(path, {}).json or {})["min_replicas"] == 6


def test_a_removed_rule_is_unknown_and_the_group_stays_as_it_is(
    api: Client, fleet: FleetDouble, group: str
) -> None:
    api.post("/scaling-rules", wanted(group))
    answer = api.delete(f"/scaling-rules/{group}")
    assert (answer.status_code, answer.data) == (204, b"")
    for again in (
        api.delete(f"/scaling-rules/{group}"),
        api.get(f"/scaling-rules/{group}"),
        api.patch(f"/scaling-rules/{group}", {}),
        api.get(f"/scaling-rules/{group}/decisions"),
    ):
        refused(again, 404)
    assert fleet.changes == []


@pytest.mark.parametrize("odd", ["g1", "%00", "1", "x" * 300, "9d3b1f0e-4c52-4b7e-9a51-6c1f4b1f2a77x"])
def test_an_id_that_is_no_uuid_names_no_rule(api: Client, odd: str) -> None:
    refused(api.get(f"/scaling-rules/{odd}"), 404)
    refused(api.delete(f"/scaling-rules/{odd}"), 404)
    refused(api.patch(f"/scaling-rules/{odd}", {}), 404)
    refused(api.get(f"/scaling-rules/{odd}/decisions"), 404)


def test_a_list_has_the_callers_rules_and_the_administrators_has_all(
    api: Client, stranger: Client, admin: Client, db: Database, tenant: Tenant
) -> None:
    rival = make_tenant(db, "rival", "default")
    ours, theirs = str(uuid.uuid4()), str(uuid.uuid4())
    make_rule(db, tenant, ours)
    make_rule(db, rival, theirs)

    def ids(client: Client) -> list[str]:
        return [rule["container_group_id"] for rule in (client.get("/scaling-rules").json or {})["rules"]]

    assert (ids(api), ids(stranger), ids(admin)) == ([ours], [theirs], [ours, theirs])
    refused(stranger.patch(f"/scaling-rules/{ours}", {"max_replicas": 0}), 404)
    refused(stranger.delete(f"/scaling-rules/{ours}"), 404)
    assert ids(admin) == [ours, theirs]
    refused(api.delete("/scaling-rules"), 403)
    assert admin.delete("/scaling-rules").status_code == 204
    assert ids(admin) == []


def decided(db: Database, tenant: Tenant, group: str, ago: float, **fields: Any) -> None:
    """A decision that was made `ago` hours ago."""
    row = {
        "active": 1,
        "warm": 1,
        "state": "running",
        "observed": 2,
        "desired": 2,
        "action": "none",
        "outcome": "ok",
        "error": None,
    } | fields
    db.execute(
        "insert into scaling_decisions (at, tenant_id, container_group_id, rule_created, active, warm,"
        "  observed_state, observed_replicas, desired_replicas, action, outcome, error)"
        " values (now() - %(ago)s * interval '1 hour', %(tenant)s, %(group)s,"
        "  (select created from scaling_rules where container_group_id = %(group)s),"
        "  %(active)s, %(warm)s, %(state)s, %(observed)s, %(desired)s, %(action)s, %(outcome)s, %(error)s)",
        **row,
        ago=ago,
        tenant=tenant.caller.tenant_id,
        group=group,
    )


def test_decisions_come_newest_first_and_in_pages(
    api: Client, stranger: Client, db: Database, tenant: Tenant, group: str
) -> None:
    make_rule(db, tenant, group)
    assert (api.get(f"/scaling-rules/{group}/decisions").json or {})["decisions"] == []
    for hours in range(5, 0, -1):
        decided(db, tenant, group, hours, active=hours)
    first = api.get(f"/scaling-rules/{group}/decisions?page_size=2").json or {}
    assert [decision["active"] for decision in first["decisions"]] == [1, 2]
    assert first["_count"] == 2
    last = api.get(f"/scaling-rules/{group}/decisions?page_size=2&page=3").json or {}
    assert [decision["active"] for decision in last["decisions"]] == [5]
    refused(stranger.get(f"/scaling-rules/{group}/decisions"), 404)
    for bad in ("page=0", "page_size=0", "page_size=10001", "page=x"):
        refused(api.get(f"/scaling-rules/{group}/decisions?{bad}"), 400)


def test_links_lead_through_all_decisions_also_while_new_ones_come(
    api: Client, db: Database, tenant: Tenant, group: str
) -> None:
    for hours in range(5, 0, -1):
        decided(db, tenant, group, hours, active=hours)
    path, seen = f"/scaling-rules/{group}/decisions?page_size=2", []
    while path:
        answer = api.get(path)
        assert answer.status_code == 200 and answer.json
        seen += [decision["active"] for decision in answer.json["decisions"]]
        decided(db, tenant, group, 0, active=9)
        link = re.fullmatch('<(.*)>; rel="next"', answer.headers.get("Link", ""))
        path = link[1] if link else ""
    assert seen == [1, 2, 3, 4, 5]
    for bad in ("cursor=-1", "cursor=x", "cursor=99999999999999999999"):
        assert refused(api.get(f"/scaling-rules/{group}/decisions?{bad}"), 400)["errors"]


def test_decisions_outlive_their_rule(api: Client, db: Database, tenant: Tenant, group: str) -> None:
    decided(db, tenant, group, 1, action="remove_rule", desired=0, state=None, observed=None)
    decisions = (api.get(f"/scaling-rules/{group}/decisions").json or {})["decisions"]
    assert [decision["action"] for decision in decisions] == ["remove_rule"]


def test_replica_hours_are_what_the_decisions_left_behind(
    api: Client, db: Database, tenant: Tenant, group: str
) -> None:
    decided(db, tenant, group, 10, action="start_and_scale", state="stopped", observed=0, desired=4)  # 4 for 2 h
    decided(
        db, tenant, group, 8, outcome="failed", error="away", action="scale", observed=4, desired=9
    )  # 4 for 3 h
    decided(db, tenant, group, 5, outcome="failed", error="away", action=None, state=None, observed=None)  # unseen
    decided(db, tenant, group, 4, action="hold", observed=3, desired=3)  # after an hour more of 4; 3 for 1 h
    decided(db, tenant, group, 3, action="stop", observed=3, desired=0)  # 0 for 3 h
    answer = api.get(f"/scaling-rules/{group}/decisions").json or {}
    assert answer["replica_hours"] == pytest.approx(4 * 2 + 4 * 4 + 3 * 1, abs=0.01)
    assert answer["since"] == answer["decisions"][-1]["at"]


def test_replica_hours_end_with_the_rule(api: Client, db: Database, tenant: Tenant, group: str) -> None:
    make_rule(db, tenant, group)
    for hours in (3, 2):
        decided(db, tenant, group, hours, action="scale", observed=1, desired=4)
    path = f"/scaling-rules/{group}"
    assert (api.get(f"{path}/decisions").json or {})["replica_hours"] == pytest.approx(4 * 3, abs=0.01)
    assert api.delete(path).status_code == 204
    assert (api.get(f"{path}/decisions").json or {})["replica_hours"] == pytest.approx(4 * 1, abs=0.01)


def test_replica_hours_of_a_rule_that_was_made_anew_leave_out_the_time_without_it(
    api: Client, db: Database, tenant: Tenant, group: str
) -> None:
    for ago in ((20, 18), (10, 9)):
        make_rule(db, tenant, group)
        for hours in ago:
            decided(db, tenant, group, hours, desired=4)
        assert api.delete(f"/scaling-rules/{group}").status_code == 204
    make_rule(db, tenant, group)
    decided(db, tenant, group, 1, desired=2)
    answer = api.get(f"/scaling-rules/{group}/decisions").json or {}
    assert answer["replica_hours"] == pytest.approx(4 * (2 + 1) + 2 * 1, abs=0.01)


def test_old_decisions_are_pruned_and_young_ones_kept(db: Database, tenant: Tenant, group: str) -> None:
    for hours in (50, 49, 47, 1):
        decided(db, tenant, group, hours, active=hours)
    assert rules.prune_decisions(db, timedelta(hours=48)) == 2
    assert [row["active"] for row in db.all("select active from scaling_decisions order by id")] == [47, 1]


def test_metrics_count_a_groups_jobs_as_the_autoscaler_does(
    api: Client, admin: Client, stranger: Client, db: Database, tenant: Tenant, group: str
) -> None:
    for state in ("pending", "pending", "held", "waiting", "completed", "failed", "canceled"):
        make_job(db, tenant, state, group=group)
    make_job(db, tenant, "pending", group=None)
    waiting = make_job(db, tenant, "waiting", group=None)
    held = make_job(db, tenant, "held", group=None)
    db.execute("update queue set holder_group = %(group)s where job_id = %(id)s", group=group, id=held)
    db.execute("update jobs set created = now() - interval '1 hour' where id = %(id)s", id=waiting)
    found = api.get(f"/container-groups/{group}/metrics").json or {}
    assert found.keys() == {
        "pending",
        "running",
        "active",
        "desired_replicas",
        "oldest_pending_seconds",
        "parked",
    }
    assert (found["pending"], found["running"], found["active"], found["desired_replicas"]) == (2, 3, 5, 5)
    assert 0 < found["oldest_pending_seconds"] < 600
    make_rule(db, tenant, group, max_replicas=3)
    assert (api.get(f"/container-groups/{group}/metrics").json or {})["desired_replicas"] == 3
    assert (admin.get(f"/container-groups/{group}/metrics").json or {})["active"] == 5
    assert (api.get(f"/container-groups/{group.upper()}/metrics").json or {})["active"] == 5
    make_job(db, tenant, "pending", group=group.upper())
    assert (api.get(f"/container-groups/{group}/metrics").json or {})["active"] == 6
    assert set((stranger.get(f"/container-groups/{group}/metrics").json or {}).values()) == {0}


def test_metrics_of_a_group_without_jobs_are_zeros_and_an_impossible_one_is_a_400(api: Client) -> None:
    assert set((api.get("/container-groups/any/thing/metrics").json or {}).values()) == {0}
    for impossible in ("%00", "%ff", "x" * 256):
        refused(api.get(f"/container-groups/{impossible}/metrics"), 400)


def test_a_token_scales_its_own_group_and_only_if_the_operator_allows_it(
    app: Flask, config: Config, db: Database, tenant: Tenant, fleet: FleetDouble, tokens: TokenDouble
) -> None:
    own = str(uuid.uuid4())
    fleet.add_group("acme", "default", own)
    other = fleet.make_group()
    make_rule(db, tenant, other)
    token = tokens.token(salad_workload_id=own)
    refused(with_token(app, token).post("/scaling-rules", wanted(own)), 403)
    allowing = create_app(replace(config, jwt_can_submit=True))
    machine = with_token(allowing, token)
    assert machine.post("/scaling-rules", wanted(own)).status_code == 201
    refused(machine.post("/scaling-rules", wanted(other)), 403)
    assert [rule["container_group_id"] for rule in (machine.get("/scaling-rules").json or {})["rules"]] == [own]
    assert machine.patch(f"/scaling-rules/{own}", {"max_replicas": 1}).status_code == 200
    for path in (f"/scaling-rules/{other}", f"/scaling-rules/{other}/decisions"):
        refused(machine.get(path), 404)
    refused(machine.patch(f"/scaling-rules/{other}", {}), 404)
    refused(machine.delete(f"/scaling-rules/{other}"), 404)
    refused(machine.patch(f"/scaling-rules/{uuid.uuid4()}", {}), 404)
    assert machine.get(f"/container-groups/{own}/metrics").status_code == 200
    refused(machine.get(f"/container-groups/{other}/metrics"), 403)
    assert machine.delete(f"/scaling-rules/{own}").status_code == 204
    allowing.extensions["kelpie"].end()


def test_a_token_that_may_read_its_whole_project_changes_no_other_groups_rule(
    app: Flask, config: Config, db: Database, fleet: FleetDouble, tokens: TokenDouble
) -> None:
    own, other = str(uuid.uuid4()), fleet.make_group()
    fleet.add_group("acme", "default", own)
    fleet.allow("a user's key", "acme", "default")
    user = {"Salad-Api-Key": "a user's key", "Salad-Organization": "acme", "Salad-Project": "default"}
    assert Client(app.test_client(), None).call("POST", "/scaling-rules", wanted(other), user).status_code == 201
    allowing = create_app(replace(config, jwt_can_submit=True, jwt_strict=False))
    machine = with_token(allowing, tokens.token(salad_workload_id=own))
    before = machine.get(f"/scaling-rules/{other}")
    assert before.status_code == 200
    refused(machine.post("/scaling-rules", wanted(other)), 403)
    refused(machine.patch(f"/scaling-rules/{other}", {"max_replicas": 500}), 403)
    refused(machine.delete(f"/scaling-rules/{other}"), 403)
    assert machine.get(f"/scaling-rules/{other}").json == before.json
    refused(machine.patch(f"/scaling-rules/{uuid.uuid4()}", {}), 404)
    assert machine.post("/scaling-rules", wanted(own)).status_code == 201
    assert machine.patch(f"/scaling-rules/{own}", {"max_replicas": 1}).status_code == 200
    assert machine.delete(f"/scaling-rules/{own}").status_code == 204
    allowing.extensions["kelpie"].end()
