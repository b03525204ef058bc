"""Runs of the autoscaler against a Salad that has trouble, and against itself
(docs/design/protocol.md, Scaling)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID

import pytest
from werkzeug.wrappers import Response

from kelpie_api.auth import users
from kelpie_api.backoff import Backoff
from kelpie_api.db import SQL, Database, Row
from kelpie_api.salad.client import LIMIT, GroupName, Salad
from kelpie_api.salad.request_budget import AUTOSCALER, RequestBudget
from kelpie_api.scaling.autoscaler import Autoscaler, RunInProgress, RunLock, all_applied, repeat
from kelpie_api.scaling.decision import Demand
from kelpie_api.scaling.groups import ContainerGroups
from local_stack.processes import wait_for
from tests.conftest import SECRET_KEY
from tests.doubles.double import page
from tests.doubles.fleet import KEY, FleetDouble
from tests.doubles.salad import trouble
from tests.helpers import (
    Tenant,
    claim,
    claim_in,
    make_job,
    make_rule,
    make_tenant,
    new_claim_id,
    row,
    wait_until_blocked,
    while_open,
)

SHORT = Backoff(timedelta(seconds=0.01), timedelta(seconds=0.01))
SCRIPT = Path(__file__).parents[2] / "scripts" / "autoscale"


@pytest.fixture
def autoscaler(db: Database, fleet: FleetDouble) -> Autoscaler:
    return make_autoscaler(db, fleet)


def make_autoscaler(
    db: Database, fleet: FleetDouble, stopped: threading.Event | None = None, limit: float = LIMIT
) -> Autoscaler:
    """One that hardly pauses between tries, and may ask as often as it likes."""
    stopped = stopped or threading.Event()
    request_budget = RequestBudget(db, replace(AUTOSCALER, at_once=100_000), a_second=10_000)
    return Autoscaler(
        db, ContainerGroups(Salad(fleet.api_url, limit), KEY, stopped, request_budget, SHORT), stopped
    )


def decisions(db: Database, group: str) -> list[Row]:
    return db.all("select * from scaling_decisions where container_group_id = %(group)s order by id", group=group)


def rule_of(db: Database, group: str) -> Row | None:
    return db.one_or_none("select * from scaling_rules where container_group_id = %(group)s", group=group)


def jobs(db: Database, tenant: Tenant, group: str, state: str = "pending", count: int = 1) -> None:
    for _ in range(count):
        make_job(db, tenant, state, group=group)


def held(until: threading.Event) -> Callable[[], Any]:
    """An answer that is none, and does not come either."""

    def answer() -> Any:
        until.wait(60)
        return page(503)()

    return answer


# Following the queue


def test_a_group_is_started_scaled_followed_down_and_stopped(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group = fleet.make_group("stopped", 0)
    make_rule(db, tenant, group, 0, 3)
    jobs(db, tenant, group, count=5)
    assert all_applied(autoscaler.run())
    assert fleet.standing(group) == ("deploying", 3)
    db.execute("delete from queue where seq in (select seq from queue order by seq limit 4)")
    autoscaler.run()
    assert fleet.standing(group) == ("deploying", 1)
    db.execute("delete from queue")
    autoscaler.run()
    autoscaler.run()
    assert fleet.standing(group)[0] == "stopped"
    assert [change[0] for change in fleet.changes] == ["start", "scale", "scale", "stop"]
    assert {(d["observed_running"], d["observed_allocating"]) for d in decisions(db, group)} == {(1, 0)}
    seen = [(d["active"], d["desired_replicas"], d["action"], d["outcome"]) for d in decisions(db, group)]
    assert seen == [
        (5, 3, "start_and_scale", "ok"),
        (1, 1, "scale", "ok"),
        (0, 0, "stop", "ok"),
        (0, 0, "none", "ok"),
    ]


@pytest.mark.parametrize("state", ["pending", "running", "stopped", "succeeded", "failed", "deploying"])
def test_a_group_in_any_state_gets_what_its_jobs_need(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler, state: str
) -> None:
    group = fleet.make_group(state, 1)
    make_rule(db, tenant, group)
    jobs(db, tenant, group, count=2)
    autoscaler.run()
    is_up = state in {"pending", "running", "deploying"}
    assert [change[0] for change in fleet.changes] == (["scale"] if is_up else ["start", "scale"])
    assert fleet.standing(group) == (state if is_up else "deploying", 2)


def test_what_counts_as_active_and_what_keeps_warm(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group = fleet.make_group("running", 9)
    make_rule(db, tenant, group, idle=600)
    for state in ("pending", "held", "waiting"):  # three active
        jobs(db, tenant, group, state)
    for state in ("completed", "failed", "canceled"):  # three that finished just now
        jobs(db, tenant, group, state)
    long_ago = make_job(db, tenant, "pending", group=group)
    db.execute("delete from queue where job_id = %(id)s", id=long_ago)
    db.execute(
        "update jobs set status = 'canceled', canceled = now() - interval '11 minutes' where id = %(id)s",
        id=long_ago,
    )
    make_job(db, tenant, "pending", group=None)  # of the null group: counts for no rule
    make_job(db, tenant, "waiting", group=None)
    held, finished = make_job(db, tenant, "held", group=None), make_job(db, tenant, "completed", group=None)
    db.execute("update queue set holder_group = %(group)s where job_id = %(id)s", group=group, id=held)
    db.execute("update attempts set container_group = %(group)s where job_id = %(id)s", group=group, id=finished)
    stranger = make_tenant(db, "rival", "default")
    jobs(db, stranger, group, "pending", 4)
    make_job(db, stranger, "completed", group=group)
    [result] = autoscaler.run()
    assert result.demand
    assert (result.demand.active, result.demand.warm, result.demand.leases) == (4, 8, 2)
    assert fleet.standing(group) == ("running", 8)


def test_a_rule_sees_only_its_own_group(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    idle, busy = fleet.make_group("stopped", 0), fleet.make_group("stopped", 0)
    for group in (idle, busy):
        make_rule(db, tenant, group)
    jobs(db, tenant, busy, count=2)
    autoscaler.run()
    assert (fleet.standing(idle), fleet.standing(busy)) == (("stopped", 0), ("deploying", 2))


# A live lease is never stopped (docs/design/guarantees.md, I17)


def test_a_group_in_which_a_job_of_any_user_runs_keeps_its_machine_and_no_other(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    ours, shared = fleet.make_group("running", 4), fleet.make_group("running", 2)
    make_rule(db, tenant, ours, 0, 0)
    make_rule(db, tenant, shared)
    jobs(db, tenant, ours, "held")
    jobs(db, colleague(db), shared, "held")
    for _ in range(2):
        assert all_applied(autoscaler.run())
    for group in (ours, shared):
        assert fleet.standing(group) == ("running", 1)
        seen = [(decision["action"], decision["desired_replicas"]) for decision in decisions(db, group)]
        assert seen == [("scale", 1), ("hold", 1)]
    assert {change[0] for change in fleet.changes} == {"scale"}


def test_a_lease_that_lapsed_holds_no_group(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group = fleet.make_group("running", 4)
    make_rule(db, tenant, group, 0, 0)
    make_job(db, tenant, "held", group=group, silent_for=61)
    autoscaler.run()
    assert fleet.standing(group)[0] == "stopped"


@pytest.mark.parametrize("arrived", ["held", "pending"])
def test_a_job_that_comes_between_the_decision_and_the_stop_is_seen(
    db: Database, tenant: Tenant, fleet: FleetDouble, arrived: str
) -> None:
    """The first try of the stop is refused; before the second the job is there."""
    group = fleet.make_group("running", 2)
    make_rule(db, tenant, group)

    def come_again() -> Any:
        jobs(db, tenant, group, arrived)
        return page(503)()

    fleet.trouble.append(("/stop", come_again))
    [result] = make_autoscaler(db, fleet).run()
    assert result.decision and result.decision.action == "hold"
    assert fleet.standing(group) == ("running", 2)
    [decision] = decisions(db, group)
    assert (decision["action"], decision["outcome"]) == ("hold", "failed")
    assert "it is not known whether it was carried out" in decision["error"]


def claimed(db: Database, tenant: Tenant, group: str) -> Row | None:
    return claim(db, tenant, "m1", group)


def colleague(db: Database) -> Tenant:
    """Another user with a key of the same organization and project."""
    user = users.create_user(db, "colleague")
    users.create_token(db, UUID(str(user["id"])), "acme", "default")
    return make_tenant(db, "colleague", "default")


def mark_stopping(db: Database, tenant: Tenant, group: str) -> list[Row]:
    names = {"tenant_id": tenant.caller.tenant_id, "org_name": "acme", "project_name": "default"}
    return db.all(SQL.mark_stopping, **names, container_group=group, length=timedelta(minutes=1))


def test_a_strangers_lease_that_names_a_group_does_not_keep_it_from_being_stopped(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    """Ids of groups are callers' text. Neither another organization's nor another project's machines are in it."""
    group = fleet.make_group("running", 2)
    make_rule(db, tenant, group)
    jobs(db, make_tenant(db, "rival", "default"), group, "held")
    jobs(db, make_tenant(db, "acme", "other"), group.upper(), "held")
    [result] = autoscaler.run()
    assert result.demand and result.demand.leases == 0
    assert fleet.standing(group)[0] == "stopped"


def test_a_lease_of_another_user_of_the_rules_organization_and_project_keeps_the_group(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group = fleet.make_group("running", 2)
    make_rule(db, tenant, group)
    jobs(db, colleague(db), group.upper(), "held")
    [result] = autoscaler.run()
    assert result.demand and result.demand.leases == 1
    assert fleet.standing(group) == ("running", 1)


def test_a_stop_takes_one_lock_for_a_tenant_however_many_spellings_machines_made_known(
    db: Database, tenant: Tenant
) -> None:
    group, stranger = str(uuid.uuid4()), make_tenant(db, "rival", "default")
    for of in (tenant, stranger):
        db.execute(
            "insert into machines (tenant_id, container_group, machine_id)"
            " select %(tenant)s, spelling, 'm' from unnest(%(spellings)s::text[]) spelling",
            tenant=of.caller.tenant_id,
            spellings=sorted({group[:n].upper() + group[n:] for n in range(len(group))}),
        )
    jobs(db, stranger, group.upper())
    administrators = db.all("select t.id from tenants t join users u on u.id = t.user_id where u.is_admin")
    in_the_project = {tenant.caller.tenant_id, *(row["id"] for row in administrators)}
    marks = [mark["container_group"] for mark in mark_stopping(db, tenant, group)]
    assert sorted(marks) == sorted(f"{tenant_id}/{group}" for tenant_id in in_the_project)
    jobs(db, tenant, group.upper())
    assert claimed(db, tenant, group.upper()) is None
    assert claimed(db, stranger, group.upper()), "a stranger's machines are none of the group's"


def test_a_claim_that_is_under_way_at_the_last_look_is_waited_for_and_keeps_its_group(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    """Shown step by step: the job is claimed but not committed, so no look at the leases could see it."""
    group = fleet.make_group("running", 2)
    make_rule(db, tenant, group, 0, 0)
    jobs(db, tenant, group)
    job, results = while_open(db, lambda tx: claim_in(tx, tenant, "m1", group=group), autoscaler.run)
    assert job
    assert results[0].decision and results[0].decision.action == "hold"
    assert fleet.changes == []


def test_a_group_that_is_being_stopped_is_handed_no_job_and_is_again_once_it_is_not_stopped(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group, other = fleet.make_group("running", 2), str(uuid.uuid4())
    make_rule(db, tenant, group)
    meanwhile: list[Row | None] = []

    def claim_meanwhile() -> Any:
        jobs(db, tenant, group)
        make_job(db, tenant, "pending", group=None)
        meanwhile.extend(claimed(db, tenant, of) for of in (group, other))
        return trouble(403, "Forbidden")()

    fleet.trouble.append(("/stop", claim_meanwhile))
    autoscaler.run()
    ours, others = meanwhile
    assert ours is None
    assert others and others["container_group_id"] is None
    assert fleet.changes == []
    assert claimed(db, tenant, group)


@pytest.mark.parametrize("then", ["a job comes", "a refusal"])
def test_a_group_whose_stop_may_have_been_carried_out_is_handed_no_job_for_a_moment(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler, then: str
) -> None:
    """Salad stops the group, but its answer is lost; the second try is called off, or refused."""
    group = fleet.make_group("running", 2)
    make_rule(db, tenant, group)

    def lost() -> Any:
        if then == "a job comes":
            jobs(db, tenant, group)
        return page(504)()

    fleet.trouble.extend([("/stop", lost), ("/stop", trouble(403, "Forbidden"))])
    [result] = autoscaler.run()
    jobs(db, tenant, group)
    assert claimed(db, tenant, group) is None
    assert result.error and "it is not known whether it was carried out" in result.error
    db.execute("update stopping_groups set until = until - interval '15 seconds'")
    assert claimed(db, tenant, group)


def test_a_claim_that_is_repeated_while_its_group_is_being_stopped_is_answered(
    db: Database, tenant: Tenant
) -> None:
    job_id, claim_id = make_job(db, tenant), new_claim_id()
    claim(db, tenant, claim_id=claim_id)
    mark_stopping(db, tenant, "g1")
    again = claim(db, tenant, claim_id=claim_id)
    assert again and again["id"] == job_id


def test_a_group_whose_stop_was_never_confirmed_is_handed_jobs_after_a_moment(
    db: Database, tenant: Tenant
) -> None:
    make_job(db, tenant)
    mark_stopping(db, tenant, "g1")
    assert claim(db, tenant) is None
    db.execute("update stopping_groups set until = until - interval '61 seconds'")
    assert claim(db, tenant)


def test_a_group_that_is_started_right_after_its_stop_is_handed_jobs_at_once(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group = fleet.make_group("running", 2)
    make_rule(db, tenant, group)
    autoscaler.run()
    jobs(db, tenant, group)
    assert claimed(db, tenant, group) is None
    autoscaler.run()
    assert [change[0] for change in fleet.changes] == ["stop", "start", "scale"]
    assert claimed(db, tenant, group)


def mixed(group: str) -> str:
    return "".join(letter.upper() if place % 2 else letter for place, letter in enumerate(group))


@pytest.mark.parametrize("spelled", [str.upper, mixed], ids=["in capitals", "mixed"])
def test_a_job_that_runs_under_another_spelling_of_the_group_holds_it(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler, spelled: Callable[[str], str]
) -> None:
    group = fleet.make_group("running", 1)
    make_rule(db, tenant, group, 0, 0)
    jobs(db, tenant, spelled(group), "held")
    autoscaler.run()
    assert (fleet.changes, decisions(db, group)[0]["action"]) == ([], "hold")


def test_jobs_that_spell_the_group_in_capitals_count_for_its_rule(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group = fleet.make_group("running", 9)
    make_rule(db, tenant, group, idle=600)
    for state in ("pending", "held", "completed"):
        jobs(db, tenant, group.upper(), state)
    [result] = autoscaler.run()
    assert result.demand == Demand(active=2, warm=3, leases=1)


@pytest.mark.parametrize("spelled", [str.upper, mixed], ids=["in capitals", "mixed"])
def test_a_claim_under_another_spelling_is_waited_for_and_then_refused_while_the_group_is_being_stopped(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler, spelled: Callable[[str], str]
) -> None:
    group = fleet.make_group("running", 2)
    name = spelled(group)
    make_rule(db, tenant, group, 0, 0)
    jobs(db, tenant, name, count=2)
    db.execute(
        "insert into machines (tenant_id, container_group, machine_id) values (%(tenant)s, %(name)s, 'm1')",
        tenant=tenant.caller.tenant_id,
        name=name,
    )
    job, results = while_open(db, lambda tx: claim_in(tx, tenant, "m1", group=name), autoscaler.run)
    assert job
    assert results[0].decision and results[0].decision.action == "hold"
    db.execute("delete from queue where job_id = %(id)s", id=job["id"])
    autoscaler.run()
    assert [change[0] for change in fleet.changes] == ["stop"]
    assert claimed(db, tenant, name) is None


# The rule as it is


@pytest.mark.parametrize(
    "change",
    [
        "delete from scaling_rules",
        "update scaling_rules set max_replicas = 3",
        "update scaling_rules set idle_threshold_seconds = 600",
    ],
)
@pytest.mark.parametrize("call", ["/stop", "/start", "PATCH"])
def test_a_rule_that_is_removed_or_changed_during_a_run_is_applied_no_more(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler, change: LiteralString, call: str
) -> None:
    """It changes while Salad gives no answer; the next try would be as wrong as the rule was."""
    group = fleet.make_group("stopped" if call == "/start" else "running", 1)
    make_rule(db, tenant, group)
    if call != "/stop":
        jobs(db, tenant, group, count=5)

    def meanwhile() -> Any:
        db.execute(change)
        return page(503)()

    fleet.trouble.append((call, meanwhile))
    [result] = autoscaler.run()
    assert result.decision and result.decision.action in {"none", "hold"}
    assert fleet.changes == []
    assert bool(result.error) is (call == "/stop")  # what became of that try is not known


# Trouble


@pytest.mark.parametrize(
    "answers",
    [
        [trouble(429, "Too Many Requests", Retry_After="1")],
        [trouble(429, "Too Many Requests")],
        [trouble(500, "Oh"), page(502)],
        [page(200)],
        [page(503), page(200), trouble(500, "Oh")],
    ],
    ids=["429 with Retry-After", "429", "500 and HTML", "HTML for good", "three in a row"],
)
@pytest.mark.parametrize("call", ["GET", "/start", "PATCH"])
def test_passing_trouble_is_passed_over(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler, answers: list[Any], call: str
) -> None:
    group = fleet.make_group("stopped", 0)
    make_rule(db, tenant, group)
    jobs(db, tenant, group)
    fleet.trouble.extend((call, answer) for answer in answers)
    assert all_applied(autoscaler.run())
    assert fleet.standing(group) == ("deploying", 1)
    assert fleet.trouble == []


def test_who_is_asked_to_wait_waits_as_long(db: Database, tenant: Tenant, fleet: FleetDouble) -> None:
    make_rule(db, tenant, fleet.make_group("stopped", 0))
    fleet.trouble.append(("GET", trouble(429, "Too Many Requests", Retry_After="1")))
    assert all_applied(make_autoscaler(db, fleet).run())
    (first, _), (second, _) = fleet.requests
    assert second - first >= 1


def test_who_is_asked_to_wait_for_long_leaves_it_to_the_next_run(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group = fleet.make_group("running", 1)
    make_rule(db, tenant, group)
    fleet.trouble.append(("GET", trouble(429, "Too Many Requests", Retry_After="3600")))
    assert not all_applied(autoscaler.run())
    assert not all_applied(autoscaler.run())  # nor does that one ask while Salad wants silence
    assert len(fleet.requests) == 1
    db.execute("update salad_requests set silent_until = now()")
    assert all_applied(autoscaler.run())
    assert [decision["outcome"] for decision in decisions(db, group)] == ["failed", "failed", "ok"]


@pytest.mark.parametrize("call", ["GET", "/start", "PATCH"])
def test_an_answer_that_does_not_come_in_time_is_asked_for_again(
    db: Database, tenant: Tenant, fleet: FleetDouble, call: str
) -> None:
    autoscaler = make_autoscaler(db, fleet, limit=0.5)
    group = fleet.make_group("stopped", 0)
    make_rule(db, tenant, group)
    jobs(db, tenant, group)
    asked_again = threading.Event()

    def late() -> Any:
        asked_again.wait(30)
        return page(500)()

    fleet.trouble.append((call, late))
    assert all_applied(autoscaler.run())
    asked_again.set()
    assert fleet.standing(group) == ("deploying", 1)
    assert sum(1 for _, line in fleet.requests if call in line) == 2


def test_trouble_that_stays_is_written_down_and_stops_no_other_rule(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    broken, fine = fleet.make_group("stopped", 0), fleet.make_group("stopped", 0)
    for group in (broken, fine):
        make_rule(db, tenant, group)
        jobs(db, tenant, group)
    fleet.trouble.extend([(f"{broken[:8]}/start", page(500))] * 4)
    results = autoscaler.run()
    assert not all_applied(results)
    assert fleet.standing(broken) == ("stopped", 0)
    assert fleet.standing(fine) == ("deploying", 1)
    [decision] = decisions(db, broken)
    assert (decision["outcome"], decision["action"]) == ("failed", "start_and_scale")
    assert "500" in decision["error"]


@pytest.mark.parametrize(("status", "said"), [(401, "renew it"), (403, "add its user"), (400, "400")])
def test_a_refusal_is_not_repeated_and_says_what_to_do(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler, status: int, said: str
) -> None:
    group = fleet.make_group("running", 1)
    make_rule(db, tenant, group)
    fleet.trouble.append(("/stop", trouble(status, "No")))
    autoscaler.run()
    assert said in decisions(db, group)[0]["error"]
    assert sum(1 for _, line in fleet.requests if line.endswith("/stop")) == 1


def test_a_refusal_carries_salads_own_reason_on_one_short_line_without_the_key(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group = fleet.make_group("running", 1)
    make_rule(db, tenant, group, 5, 5)
    detail = f"The quota of {KEY}\nis used\x00 up. {'x' * 5000}"
    body = json.dumps({"status": 400, "title": "Bad Request", "detail": detail})
    fleet.trouble.append(("PATCH", lambda: Response(body, 400, content_type="application/json")))
    autoscaler.run()
    error = decisions(db, group)[0]["error"]
    assert "Bad Request: The quota of *** is used up." in error
    assert len(error) < 300 and error.isprintable()


def test_a_key_without_permission_for_one_project_leaves_the_others_alone(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    fine = fleet.make_group("running", 1)
    hidden = str(uuid.uuid4())
    make_rule(db, tenant, fine)
    make_rule(db, tenant, hidden, project="hidden")
    autoscaler.run()
    assert fleet.standing(fine)[0] == "stopped"
    assert "403" in decisions(db, hidden)[0]["error"]
    rule = rule_of(db, hidden)
    assert rule and rule["missing_runs"] == 0


def test_what_was_carried_out_before_a_rule_was_changed_is_written_down(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group = fleet.make_group("stopped", 1)
    make_rule(db, tenant, group)
    jobs(db, tenant, group, count=3)
    fleet.start_held = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(autoscaler.run)
        wait_for(lambda: fleet.changes, "the group to be started")
        db.execute("update scaling_rules set max_replicas = 2")
        fleet.start_held.set()
        [result] = run.result()
    assert result.rule_moved and [change[0] for change in fleet.changes] == ["start"]
    [decision] = decisions(db, group)
    assert (decision["action"], decision["desired_replicas"], decision["outcome"]) == ("start", 1, "ok")


def test_projects_that_give_no_answer_keep_no_other_waiting(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    over = threading.Event()
    for project in ("anaemic", "breathless"):
        fleet.trouble += [(f"/projects/{project}/containers", held(over))] * 4
        for _ in range(6):
            make_rule(db, tenant, fleet.make_group("stopped", 0, ("acme", project)), project=project)
    group = fleet.make_group("stopped", 1)
    make_rule(db, tenant, group)
    jobs(db, tenant, group)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(autoscaler.run)
        try:
            wait_for(lambda: fleet.changes, "the healthy group to be started", timeout=LIMIT * 2)
        finally:
            over.set()
        assert sum(result.error is not None for result in run.result()) == 12


def test_a_salad_that_is_away_is_written_down_for_every_rule(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    groups = [fleet.make_group("running", 1) for _ in range(7)]
    for group in groups:
        make_rule(db, tenant, group)
    fleet.stop()
    assert len([result for result in autoscaler.run() if result.error]) == 7
    assert all(decisions(db, group)[0]["outcome"] == "failed" for group in groups)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({"current_state": {"status": "hibernating"}}, "hibernating"),
        ({"current_state": {"status": ["running"]}}, "status"),
        ({"current_state": None}, "status"),
        ({"replicas": 2**40}, str(2**40)),
        ({"replicas": -1}, "-1"),
        ({"replicas": True}, "True"),
        ({"replicas": 2.5}, "2.5"),
    ],
)
def test_a_state_that_salad_never_spoke_of_is_trouble_of_this_rule(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler, said: Any, shown: str
) -> None:
    group = fleet.make_group("running", 1)
    make_rule(db, tenant, group)
    strange = json.dumps({"items": [fleet.group(group) | said]})

    def answer() -> Any:
        return Response(strange, content_type="application/json")

    fleet.trouble.append(("GET", answer))
    autoscaler.run()
    [decision] = decisions(db, group)
    assert shown in decision["error"] and "defect" not in decision["error"]
    assert decision["observed_running"] is None
    assert fleet.changes == []


def test_a_group_that_vanished_loses_its_rule_after_three_runs_in_a_row(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group = fleet.make_group("running", 1)
    make_rule(db, tenant, group, 1, 1)
    known = fleet.group(group)
    fleet.vanish(group)
    for _ in range(2):
        assert not all_applied(autoscaler.run())
    fleet.groups["acme", "default"].append(known)  # it was a hiccup: the count begins anew
    assert all_applied(autoscaler.run())
    fleet.vanish(group)
    for _ in range(2):
        assert not all_applied(autoscaler.run())
    assert rule_of(db, group)
    assert all_applied(autoscaler.run())
    assert rule_of(db, group) is None
    last = decisions(db, group)[-1]
    assert (last["action"], last["outcome"]) == ("remove_rule", "ok")
    assert "404" in decisions(db, group)[-2]["error"]


def test_two_runs_are_too_few_for_a_rule_to_go_however_long_ago_the_first_was(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group = fleet.make_group("running", 1)
    make_rule(db, tenant, group)
    fleet.vanish(group)
    autoscaler.run()
    db.execute("update scaling_rules set missing_since = missing_since - interval '1 day'")
    autoscaler.run()
    assert rule_of(db, group)


def test_a_404_that_is_not_salads_own_costs_no_rule(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group = fleet.make_group("running", 1)
    make_rule(db, tenant, group)
    fleet.instead = page(404)
    for _ in range(4):
        autoscaler.run()
    db.execute("update scaling_rules set missing_since = now() - interval '1 day'")
    autoscaler.run()
    rule = rule_of(db, group)
    assert rule and rule["missing_runs"] == 0
    assert "something else than Salad" in decisions(db, group)[-1]["error"]


def test_groups_that_vanish_together_lose_their_rules_each_after_its_own_three_runs(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    first, second = (fleet.make_group("running", 1) for _ in range(2))
    for group in (first, second):
        make_rule(db, tenant, group, 1, 1)
    fleet.vanish(first)
    autoscaler.run()
    fleet.vanish(second)
    for _ in range(2):
        autoscaler.run()
    assert (rule_of(db, first), bool(rule_of(db, second))) == (None, True)
    autoscaler.run()
    assert rule_of(db, second) is None


def test_a_rule_that_is_another_tenants_by_now_is_neither_counted_nor_removed(
    db: Database, tenant: Tenant
) -> None:
    group = str(uuid.uuid4())
    make_rule(db, make_tenant(db, "rival", "default"), group)
    db.execute("update scaling_rules set missing_runs = 2, missing_since = now()")
    read = {"container_group_id": group, "tenant_id": tenant.caller.tenant_id}
    assert db.one_or_none(SQL.note_group_missing, **read, long=timedelta()) is None
    db.execute(SQL.note_group_found, **read)
    rule = rule_of(db, group)
    assert rule and rule["missing_runs"] == 2


def test_where_salad_does_not_know_the_project_either_the_rules_stay_for_a_day(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    """A setting that is wrong looks like this, and must not cost all rules."""
    groups = [fleet.make_group("running", 1) for _ in range(2)]
    for group in groups:
        make_rule(db, tenant, group, 1, 1)
    fleet.instead = trouble(404, "Not Found")
    for _ in range(2):
        autoscaler.run()
    for ago, left in (("23 hours", 2), ("2 hours", 0)):
        db.execute("update scaling_rules set missing_since = missing_since - %(ago)s::interval", ago=ago)
        autoscaler.run()
        assert len(db.all("select from scaling_rules")) == left
    assert "SALAD_API_URL" in decisions(db, groups[0])[-2]["error"]


def test_another_group_of_the_same_name_is_not_the_group(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    gone, new = str(uuid.uuid4()), fleet.make_group("running", 3)
    make_rule(db, tenant, gone, name=fleet.group(new)["name"])
    autoscaler.run()
    assert fleet.changes == []
    assert "404" in decisions(db, gone)[0]["error"]


def test_a_group_that_the_projects_list_leaves_out_is_asked_for_by_name(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group = fleet.make_group("running", 3)
    make_rule(db, tenant, group)
    fleet.trouble.append(("GET", lambda: trouble(404, "Not Found")()))
    autoscaler.run()
    assert fleet.standing(group)[0] == "stopped"


def test_a_crash_between_start_and_set_replicas_is_healed_by_the_next_run(
    db: Database, tenant: Tenant, fleet: FleetDouble
) -> None:
    group = fleet.make_group("stopped", 1)
    make_rule(db, tenant, group)
    jobs(db, tenant, group, count=4)
    fleet.start_held = threading.Event()
    with subprocess.Popen([sys.executable, SCRIPT], env=environment(db, fleet)) as run:
        wait_for(lambda: ("start", fleet.group(group)["name"], None) in fleet.changes, "the group to be started")
        run.kill()
    assert fleet.standing(group) == ("deploying", 1)
    fleet.start_held.set()
    db.execute("update autoscaler_turn set until = now() - interval '1 second'")  # two minutes later
    assert all_applied(make_autoscaler(db, fleet).run())
    assert fleet.standing(group) == ("deploying", 4)


# One run at a time


def test_of_two_runs_one_leaves_the_rules_to_the_other(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group = fleet.make_group("running", 1)
    make_rule(db, tenant, group)
    fleet.hold()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(autoscaler.run)
        wait_for(lambda: fleet.asked, "the first run to ask Salad")
        with pytest.raises(RunInProgress):
            make_autoscaler(db, fleet).run()
        fleet.let_go()
        assert all_applied(first.result())
    assert [change[0] for change in fleet.changes] == ["stop"]
    assert all_applied(autoscaler.run())  # and the turn was given back


def test_two_that_reach_for_the_turn_at_the_same_moment_do_not_both_get_it(db: Database) -> None:
    """Shown step by step: ours is taken but not committed, theirs waits for it and is refused."""
    ours, theirs = uuid.uuid4(), RunLock(db)
    with ThreadPoolExecutor(1) as pool:
        with db.transaction() as tx:
            assert tx.one_or_none(SQL.take_turn, owner=ours, length=timedelta(minutes=1))
            rival = pool.submit(theirs.__enter__)
            wait_until_blocked(db)
        with pytest.raises(RunInProgress):
            rival.result()


@pytest.mark.parametrize(
    "until", ["-1 second", "1 hour"], ids=["silent too long", "before the clock was set back"]
)
def test_a_turn_whose_owner_cannot_have_it_any_more_is_free(db: Database, until: str) -> None:
    crashed = RunLock(db)
    crashed.__enter__()
    db.execute("update autoscaler_turn set until = now() + %(until)s::interval", until=until)
    with RunLock(db):
        with pytest.raises(RunInProgress):
            crashed.renew()
        with pytest.raises(RunInProgress):
            RunLock(db).__enter__()


def test_a_run_that_was_silent_too_long_changes_nothing_any_more(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group = fleet.make_group("running", 1)
    make_rule(db, tenant, group)
    rival = RunLock(db)
    fleet.hold()
    with ThreadPoolExecutor(1) as pool:
        frozen = pool.submit(autoscaler.run)
        wait_for(lambda: fleet.asked, "the run to ask Salad")
        db.execute("update autoscaler_turn set until = now() - interval '1 second'")
        with rival:
            fleet.let_go()
            with pytest.raises(RunInProgress):
                frozen.result()
            rival.renew()  # the one that lost its turn did not end the other's
    assert fleet.changes == []


# The program


def environment(db: Database, fleet: FleetDouble, **more: str) -> dict[str, str]:
    return os.environ | {
        "DATABASE_URL": db.pool.conninfo,
        "KELPIE_SECRET_KEY": SECRET_KEY,
        "SALAD_API_URL": fleet.api_url,
        "SALAD_API_KEY": KEY,
        "KELPIE_LOG_LEVEL": "info",
        **more,
    }


def autoscale(db: Database, fleet: FleetDouble, *flags: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *flags], env=environment(db, fleet, **more), capture_output=True, text=True
    )


def test_the_program_prints_what_it_did_and_its_exit_code_says_whether_it_could(
    db: Database, tenant: Tenant, fleet: FleetDouble
) -> None:
    group = fleet.make_group("stopped", 0)
    make_rule(db, tenant, group, 0, 4)
    jobs(db, tenant, group, count=9)
    rehearsed = autoscale(db, fleet, "--dry-run")
    assert rehearsed.returncode == 0, rehearsed.stderr
    head, line = rehearsed.stdout.splitlines()
    assert head.split() == ["group", "id", "active", "warm", "observed", "decision", "why"]
    assert line.split() == [
        *(fleet.group(group)["name"], group, "9", "9", "stopped,", "0", "start_and_scale,", "4"),
        *("9", "active,", "at", "most", "4"),
    ]
    assert (fleet.changes, decisions(db, group)) == ([], [])

    done = autoscale(db, fleet, "--json", "--rule", group)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["action"] == "start_and_scale"
    assert fleet.standing(group) == ("deploying", 4)
    assert KEY not in done.stdout + done.stderr

    fleet.revoke(KEY)
    refused = autoscale(db, fleet)
    assert refused.returncode == 1
    assert "SALAD_API_KEY" in refused.stdout
    assert KEY not in refused.stdout + refused.stderr


def test_the_program_says_in_a_sentence_what_keeps_it_from_running(db: Database, fleet: FleetDouble) -> None:
    keyless = autoscale(db, fleet, SALAD_API_KEY="")
    assert keyless.returncode == 1 and "SALAD_API_KEY is not set" in keyless.stderr
    unknown = autoscale(db, fleet, "--rule", str(uuid.uuid4()))
    assert unknown.returncode == 1 and "no scaling rule" in unknown.stderr
    with RunLock(db):
        elsewhere = autoscale(db, fleet)
        assert elsewhere.returncode == 0 and "Another run" in elsewhere.stderr


def test_a_run_that_is_stopped_finishes_the_rules_that_were_begun_and_begins_no_other(
    db: Database, tenant: Tenant, fleet: FleetDouble
) -> None:
    groups = [fleet.make_group("stopped", 0) for _ in range(12)]
    for group in groups:
        make_rule(db, tenant, group, 1, 1)
    fleet.start_held, stopped = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(make_autoscaler(db, fleet, stopped).run)
        wait_for(lambda: len(fleet.changes) == 5, "five rules to be under way")
        stopped.set()
        fleet.start_held.set()
        done = {str(result.rule["container_group_id"]) for result in run.result()}
    assert len(done) == 5
    assert {group for group in groups if fleet.standing(group) == ("deploying", 1)} == done
    assert all(fleet.standing(group) == ("stopped", 0) for group in groups if group not in done)


def test_sigterm_ends_the_program_between_two_runs(db: Database, tenant: Tenant, fleet: FleetDouble) -> None:
    group = fleet.make_group("running", 1)
    make_rule(db, tenant, group)
    with subprocess.Popen([sys.executable, SCRIPT, "--interval", "3600"], env=environment(db, fleet)) as run:
        wait_for(lambda: decisions(db, group), "the first run")
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 0
    assert db.all("select * from autoscaler_turn") == []


def test_a_reader_that_goes_away_does_not_end_the_program(
    db: Database, tenant: Tenant, fleet: FleetDouble
) -> None:
    group = fleet.make_group("running", 1)
    make_rule(db, tenant, group)
    command = [sys.executable, SCRIPT, "--interval", "1"]
    with subprocess.Popen(command, env=environment(db, fleet), stdout=subprocess.PIPE) as run:
        assert run.stdout
        run.stdout.close()
        wait_for(lambda: len(decisions(db, group)) >= 3, "runs whose results are not read")
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 0


def test_runs_are_repeated_until_the_program_is_stopped_also_after_one_that_failed() -> None:
    stopped, runs = threading.Event(), []

    def run() -> None:
        runs.append(1)
        if len(runs) == 3:
            stopped.set()
        raise RunInProgress

    repeat(run, stopped, timedelta(seconds=0.01))
    assert len(runs) == 3


def test_instances_have_an_id_of_their_own_beside_their_machines(fleet: FleetDouble) -> None:
    group = fleet.make_group("running", 2)
    name = GroupName("acme", "default", fleet.group(group)["name"])
    found = Salad(fleet.api_url).instances(KEY, name)
    assert len(found) == 2
    assert all(instance["id"] != instance["machine_id"] for instance in found)


def test_requests_are_few_however_many_rules_a_project_has(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    for _ in range(60):
        make_rule(db, tenant, fleet.make_group("stopped", 0))
    assert len(autoscaler.run()) == 60
    assert len(fleet.requests) == 1


def test_a_job_keeps_its_lease_through_a_run(
    db: Database, tenant: Tenant, fleet: FleetDouble, autoscaler: Autoscaler
) -> None:
    group = fleet.make_group("running", 3)
    make_rule(db, tenant, group)
    held = make_job(db, tenant, "held", group=group)
    before = row(db, "queue", held)
    autoscaler.run()
    assert fleet.standing(group) == ("running", 1)
    assert row(db, "queue", held) == before
