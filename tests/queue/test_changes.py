"""Changes of open jobs and of container groups, and final jobs that are run again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from kelpie_api.db import SQL, Database
from tests.helpers import (
    Client,
    Job,
    Tenant,
    ban,
    claim_in,
    make_job,
    refused,
    row,
    wait_until_blocked,
    while_open,
)
from tests.queue.test_wishes import beat, claimed, events, read, running, use_up


def change(api: Client, job: Job, **fields: Any) -> Job:
    answer = api.patch(f"/jobs/{job['id']}", fields)
    assert answer.status_code == 200, answer.text
    return dict(answer.json or {})


# --- one job


def test_what_is_said_of_an_open_job_can_be_changed_and_taken_back(api: Client, db: Database) -> None:
    job = api.submit(name="a", labels={"team": "x", "run": "1"}, priority=3, max_attempts=5, on_stall="notify")
    new = {"name": "b", "labels": {"team": "x", "run": "2"}, "priority": -1, "max_attempts": 7, "max_failures": 9}
    changed = change(api, job, **new)
    assert {name: changed[name] for name in new} == new and changed["on_stall"] == "notify"
    assert read(api, job) == changed
    labels = db.all("select key, value from job_labels order by key")
    assert labels == [{"key": "run", "value": "2"}, {"key": "team", "value": "x"}]
    queued = row(db, "queue", job["id"]) or {}
    assert (queued["rank"], queued["ends_from_attempt"]) == (3, 7)
    taken_back = change(api, job, name=None, labels=None, priority=None, max_attempts=None)
    assert (taken_back["name"], taken_back["labels"], taken_back["priority"]) == (None, {}, 0)
    assert "max_attempts" not in taken_back and db.all("select from job_labels") == []
    assert events(api, job)[1:] == [("changed", "user:acme")] * 2


def test_a_change_of_nothing_answers_the_job_and_an_unknown_field_is_named(api: Client) -> None:
    job = api.submit(name="a")
    assert change(api, job) == read(api, job)
    [warning] = change(api, job, command="other")["warnings"]
    assert "command" in warning and read(api, job)["command"] == "work"
    assert len(events(api, job)) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"labels": {"a b": ""}},
        {"priority": 101},
        {"max_runtime": 0},
        {"max_failures": 0},
        {"max_failures": None},
    ],
)
def test_what_a_submission_may_not_say_a_change_may_not(api: Client, fields: Job) -> None:
    job = api.submit(name="a")
    refused(api.patch(f"/jobs/{job['id']}", fields), 400)
    assert read(api, job) == job


def test_a_higher_priority_moves_a_job_to_the_front(api: Client) -> None:
    first, second = api.submit(), api.submit()
    change(api, second, priority=1)
    assert [(api.claim() or {})["id"] for _ in range(2)] == [second["id"], first["id"]]


def test_as_many_failures_as_there_were_cannot_be_the_most(api: Client) -> None:
    job = running(api)
    api.report(job, "failed", attempt=1)
    assert "has failed 1 times" in refused(api.patch(f"/jobs/{job['id']}", {"max_failures": 1}), 409)["message"]
    assert change(api, job, max_failures=2)["max_failures"] == 2


def test_a_final_job_is_not_changed(api: Client) -> None:
    job = running(api)
    api.report(job, "completed", attempt=1)
    refused(api.patch(f"/jobs/{job['id']}", {"name": "late"}), 409)
    refused(api.patch(f"/jobs/{UUID(int=7)}", {"name": "late"}), 404)
    refused(api.delete(f"/jobs/{job['id']}/bans"), 409)


def test_a_limit_of_time_that_is_changed_while_a_machine_holds_the_job_counts_from_its_handout(
    api: Client, db: Database
) -> None:
    job = running(api)
    db.execute("update attempts set claimed = claimed - interval '100 seconds'")
    change(api, job, max_runtime=150)
    assert 45 < beat(api, job)["deadline"] <= 50
    change(api, job, max_attempt_runtime=120)
    assert 15 < beat(api, job)["deadline"] <= 20
    change(api, job, max_runtime=None, max_attempt_runtime=None)
    assert beat(api, job) == {"status": "running"}


def test_time_that_was_used_before_there_was_a_limit_counts(api: Client, db: Database) -> None:
    job = running(api, max_runtime=1000)
    use_up(db, job, 400)
    api.report(job, "released", attempt=1)
    change(api, job, max_runtime=500)
    assert 95 < beat(api, claimed(api))["deadline"] <= 100


@pytest.mark.parametrize(
    ("limit", "reason"), [({"max_attempts": 1}, "attempts"), ({"max_runtime": 1}, "time_limit")]
)
def test_a_limit_that_is_reached_already_ends_a_job_that_waits(
    api: Client, db: Database, limit: Job, reason: str
) -> None:
    job = running(api)
    db.execute("update attempts set claimed = claimed - interval '10 seconds'")
    api.report(job, "released", attempt=1)
    ended = change(api, job, **limit)
    assert (ended["status"], ended["reason"]) == ("failed", reason)


def test_a_change_that_waited_for_a_claim_keeps_what_the_claim_did(
    db: Database, tenant: Tenant, api: Client
) -> None:
    job = api.submit()
    _, answer = while_open(
        db,
        lambda tx: claim_in(tx, tenant, "m1"),
        lambda: api.patch(f"/jobs/{job['id']}", {"priority": 5, "max_attempts": 1}),
    )
    assert answer.status_code == 200
    queued = row(db, "queue", job["id"]) or {}
    assert (queued["rank"], queued["attempt"], queued["ends_on_lapse"]) == (-10, 1, True)


# --- bans


def test_a_ban_is_lifted_for_one_machine_or_for_all(api: Client, db: Database, tenant: Tenant) -> None:
    job = {"id": str(make_job(db, tenant))}
    for machine in ("m1", "m2", "m/3 ü"):
        ban(db, UUID(job["id"]), machine)
    db.execute("update queue set banned = true")
    assert api.delete(f"/jobs/{job['id']}/bans/m%2F3%20%C3%BC").json == {"count": 1}
    assert api.delete(f"/jobs/{job['id']}/bans/unknown").json == {"count": 0}
    assert (row(db, "queue", job["id"]) or {})["banned"] is True
    assert api.delete(f"/jobs/{job['id']}/bans").json == {"count": 2}
    assert (row(db, "queue", job["id"]) or {})["banned"] is False
    assert events(api, job)[-2:] == [("unbanned", "user:acme")] * 2
    assert api.claim(machine="m1")


def test_a_machine_that_was_left_out_of_the_path_lifts_no_ban_of_all(
    api: Client, db: Database, tenant: Tenant
) -> None:
    job = make_job(db, tenant)
    ban(db, job, "m1")
    assert "machine_id" in refused(api.delete(f"/jobs/{job}/bans/"), 400)["errors"]
    assert len(db.all("select from bans")) == 1


# --- a final job again


SYNC = {
    "before": [
        {"bucket": "b", "prefix": "in/", "local_path": "/in", "direction": "download"},
        {"bucket": "b", "prefix": "ck/", "local_path": "/ck", "direction": "download"},
    ],
    "during": [{"bucket": "b", "prefix": "ck/", "local_path": "/ck", "direction": "upload"}],
}


def test_a_job_that_has_ended_is_run_again_as_a_new_one(api: Client) -> None:
    said = {
        "arguments": ["a"],
        "environment": {"A": "1"},
        "sync": SYNC,
        "max_failures": 7,
        "webhook": "http://receiver/",
        "name": "n",
        "labels": {"a": "b"},
        "priority": 4,
        "max_attempts": 2,
    }
    job = running(api, **said)
    refused(api.post(f"/jobs/{job['id']}/rerun"), 409)
    api.report(job, "completed", attempt=1)
    answer = api.post(f"/jobs/{job['id']}/rerun")
    again = dict(answer.json or {})
    assert answer.status_code == 202 and again["id"] != job["id"]
    assert {name: again[name] for name in said} == said
    assert (again["rerun_of"], again["phase"], again["num_failures"]) == (job["id"], "pending", 0)
    assert read(api, again) == again
    fresh = dict(api.post(f"/jobs/{job['id']}/rerun", {"fresh": True}).json or {})
    assert fresh["sync"] == SYNC | {"before": SYNC["before"][:1]}


def test_a_job_with_legacy_fields_cannot_be_run_again_without_its_checkpoints(api: Client) -> None:
    legacy = {f"{part}_{what}": f"{part}/" if what == "prefix" else part
              for part in ("input", "checkpoint", "output") for what in ("bucket", "prefix")}  # fmt: skip
    job = running(api, **legacy)
    api.report(job, "completed", attempt=1)
    refused(api.post(f"/jobs/{job['id']}/rerun", {"fresh": True}), 409)
    assert (api.post(f"/jobs/{job['id']}/rerun").json or {})["checkpoint_prefix"] == "checkpoint/"


def test_a_rerun_with_a_key_makes_one_job(api: Client) -> None:
    job = running(api)
    api.report(job, "completed", attempt=1)
    path, key = f"/jobs/{job['id']}/rerun", {"Idempotency-Key": "k"}
    first, second = (api.call("POST", path, body, key) for body in ({}, None))
    assert first.status_code == second.status_code == 202
    assert (first.json or {})["id"] == (second.json or {})["id"]
    assert [answer.headers.get("Idempotent-Replayed") for answer in (first, second)] == [None, "true"]
    refused(api.call("POST", path, {"fresh": True}, key), 422)


def test_a_rerun_stays_in_its_sweep_where_it_is_to(api: Client) -> None:
    sweep = (api.post("/sweeps", {}).json or {})["id"]
    job = running(api, sweep=sweep)
    api.report(job, "completed", attempt=1)
    path = f"/jobs/{job['id']}/rerun"
    again = [(api.post(path, body).json or {}).get("sweep") for body in ({}, {"sweep": True})]
    assert again == [None, sweep]
    api.patch(f"/sweeps/{sweep}", {"closed": True})
    assert "closed" in refused(api.post(path, {"sweep": True}), 400)["message"]


# --- a container group


def set_group(api: Client, group: str = "g1", **fields: Any) -> Job:
    answer = api.patch(f"/container-groups/{group}", fields)
    assert answer.status_code == 200, answer.text
    return dict(answer.json or {})


def test_a_paused_group_gets_no_job_until_it_is_unpaused(api: Client) -> None:
    job = api.submit()
    paused = set_group(api, "G1", paused=True)
    assert paused["paused"] is True and paused["paused_by"] == "user:acme" and paused["paused_since"]
    assert api.claim() is None
    found = read(api, job)
    assert (found["phase"], found["parked"]) == ("parked", ["paused"])
    metrics = api.get("/container-groups/g1/metrics").json or {}
    assert {name: metrics[name] for name in ("pending", "active", "parked")} == {
        "pending": 0,
        "active": 0,
        "parked": 1,
    }
    assert set_group(api) == set_group(api, paused=True) | {"container_group_id": "g1"}
    assert set_group(api, paused=False) == {
        "container_group_id": "g1",
        "paused": False,
        "paused_since": None,
        "paused_by": None,
        "defaults": {},
        "price_per_hour": None,
    }
    assert api.claim()


def test_a_pause_is_answered_once_no_claim_that_began_before_can_hand_out_a_job(
    db: Database, tenant: Tenant, api: Client
) -> None:
    api.submit()
    api.submit()
    _, answer = while_open(
        db, lambda tx: claim_in(tx, tenant, "m1"), lambda: api.patch("/container-groups/g1", {"paused": True})
    )
    assert answer.status_code == 200 and api.claim() is None


def test_what_a_submission_leaves_out_is_the_default_of_its_group(api: Client, db: Database) -> None:
    defaults = {"priority": 5, "labels": {"team": "x"}, "max_attempts": 3, "retry": [{"do": "free"}]}
    assert set_group(api, defaults=defaults)["defaults"] == defaults
    plain = api.submit()
    assert {name: plain[name] for name in defaults} == defaults and read(api, plain) == plain
    assert (row(db, "queue", plain["id"]) or {})["ends_from_attempt"] == 3
    own = api.submit(priority=0, labels={}, max_attempts=7)
    assert (own["priority"], own["labels"], own["max_attempts"]) == (0, {}, 7)
    assert "retry" in own and "retry" not in api.submit(container_group_id="g2")
    assert set_group(api, defaults={})["defaults"] == {}
    assert "priority" not in api.submit()


@pytest.mark.parametrize(
    "fields", [{"paused": 1}, {"paused": None}, {"defaults": []}, {"defaults": {"priority": "high"}}]
)
def test_what_cannot_be_set_of_a_group_is_refused(api: Client, fields: Job) -> None:
    refused(api.patch("/container-groups/g1", fields), 400)


def test_a_change_waits_for_the_report_that_ends_the_job_and_then_finds_it_final(
    db: Database, tenant: Tenant, api: Client
) -> None:
    job = running(api)
    with ThreadPoolExecutor(1) as pool:
        with db.transaction() as tx:
            values = {"job_id": UUID(job["id"]), "actor": "user:acme", "sealed_key": None, **tenant.caller.scope}
            assert tx.one_or_none(SQL.cancel_job, **values)
            answer = pool.submit(api.patch, f"/jobs/{job['id']}", {"name": "late"})
            wait_until_blocked(db)
        refused(answer.result(), 409)
