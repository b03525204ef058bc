"""Counts and changes of all jobs that match."""

from __future__ import annotations

import threading
from typing import Any
from uuid import UUID, uuid4

import pytest

from kelpie_api.db import Database
from kelpie_api.encryption import Seal
from kelpie_api.queue import bulk
from kelpie_api.queue.filters import Filters
from kelpie_api.queue.identity import IdempotencyKey
from kelpie_api.queue.reruns import rerun
from kelpie_api.queue.submissions import OpenJobLimits
from kelpie_api.sealed.environments import Environments
from tests.helpers import (
    Client,
    Tenant,
    at_once,
    claim_in,
    claimed_id,
    make_job,
    make_tenant,
    refused,
    row,
    while_open,
)


def counted(api: Client, query: str) -> Any:
    answer = api.get(f"/jobs/counts?{query}")
    assert answer.status_code == 200, answer.text
    return answer.json


@pytest.fixture
def labeled(db: Database, tenant: Tenant) -> dict[str, UUID]:
    """A job in each state with the label n:1, and two without it."""
    states = ("pending", "held", "waiting", "completed", "failed", "canceled")
    made = {state: make_job(db, tenant, state, machine=f"m-{state}", labels={"n": "1"}) for state in states}
    for group in ("g1", "g2"):
        make_job(db, tenant, group=group, labels={"n": "2"})
    make_job(db, make_tenant(db, "other", ""), labels={"n": "1"})
    return made


def test_counts_are_of_the_jobs_that_match(api: Client, labeled: dict[str, UUID]) -> None:
    assert counted(api, "label=n:1") == {"count": 6}
    assert counted(api, "label=n:1&open=true") == {"count": 3}
    assert counted(api, "phase=waiting") == {"count": 1}
    assert counted(api, "phase=pending&phase=completed") == {"count": 4}
    assert counted(api, "container_group_id=g2") == {"count": 1}
    assert counted(api, "") == {"count": 8}
    assert counted(api, "sweep=none&status=running") == {"count": 2}
    assert counted(api, "nmae=x")["warnings"]


def test_of_final_jobs_so_many_are_counted(
    api: Client, labeled: dict[str, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MOST_COUNTED", 2)
    assert counted(api, "label=n:1") == {"count": 5, "more": True}
    assert counted(api, "label=n:1&open=true") == {"count": 3}
    body = refused(api.post("/jobs/cancel", {"label": "n:1", "expect": 5}), 400)
    assert body["errors"].keys() == {"expect"}


def test_cancel_ends_the_open_jobs_that_match(api: Client, db: Database, labeled: dict[str, UUID]) -> None:
    answer = api.post("/jobs/cancel", {"label": ["n:1"], "expect": 6})
    assert answer.status_code == 200, answer.text
    assert answer.json and answer.json["count"] == 3
    assert {one["id"] for one in answer.json["refused"]} == {str(labeled["completed"]), str(labeled["failed"])}
    assert counted(api, "open=true") == {"count": 2}
    for state in ("pending", "held", "waiting"):
        found = row(db, "jobs", labeled[state])
        assert found and found["status"] == "canceled"
        assert api.get(f"/jobs/{labeled[state]}/events").json["events"][-1]["kind"] == "canceled"  # type: ignore[index]
    assert api.get(f"/jobs/{labeled['held']}/attempts").json["attempts"][0]["outcome"] == "canceled"  # type: ignore[index]
    assert api.post("/jobs/cancel", {"label": ["n:1"]}).json["count"] == 0  # type: ignore[index]


def test_hold_parks_what_waits_and_asks_for_what_runs(
    api: Client, db: Database, tenant: Tenant, labeled: dict[str, UUID]
) -> None:
    answer = api.post("/jobs/hold", {"label": "n:1", "open": True})
    assert answer.json == {"count": 3, "refused": []}
    assert counted(api, "phase=parked") == {"count": 2}
    held = row(db, "queue", labeled["held"])
    assert held and (held["wish"], held["ends_on_lapse"], held["parked"]) == ("hold", True, None)
    assert claimed_id(db, tenant, "m9") not in labeled.values()
    assert claimed_id(db, tenant, "m9") is None
    assert api.post("/jobs/resume", {"label": "n:1"}).json["count"] == 3  # type: ignore[index]
    held = row(db, "queue", labeled["held"])
    assert held and (held["wish"], held["ends_on_lapse"]) == (None, False)
    assert {claimed_id(db, tenant, "m9"), claimed_id(db, tenant, "m9")} == {labeled["waiting"], labeled["pending"]}


def test_rerun_submits_what_has_ended_once_more(api: Client, db: Database, labeled: dict[str, UUID]) -> None:
    answer = api.post("/jobs/rerun", {"label": "n:1", "expect": 6})
    assert answer.status_code == 200, answer.text
    assert answer.json and answer.json["count"] == 3
    open_ones = {str(labeled[state]) for state in ("pending", "held", "waiting")}
    assert {one["id"] for one in answer.json["refused"]} == open_ones
    made = db.all("select rerun_of, labels from jobs where rerun_of is not null")
    assert {one["rerun_of"] for one in made} == {labeled[state] for state in ("completed", "failed", "canceled")}
    assert all(one["labels"] == {"n": "1"} for one in made)


def test_another_number_than_expected_changes_nothing(api: Client, labeled: dict[str, UUID]) -> None:
    body = refused(api.post("/jobs/cancel", {"label": "n:1", "expect": 5}), 409)
    assert body["message"].startswith("6 jobs match")
    assert counted(api, "open=true") == {"count": 5}


@pytest.mark.parametrize("verb", ["cancel", "hold", "resume"])
def test_a_filter_must_be_there_and_known(api: Client, verb: str) -> None:
    refused(api.post(f"/jobs/{verb}", {}), 400)
    refused(api.post(f"/jobs/{verb}", {"expect": 0}), 400)
    body = refused(api.post(f"/jobs/{verb}", {"label": "n:1", "grop": "g1"}), 400)
    assert body["errors"].keys() == {"grop"}
    refused(api.post(f"/jobs/{verb}", []), 400)


def test_an_empty_variable_of_a_script_means_neither_all_jobs_nor_those_of_the_null_group(api: Client) -> None:
    api.submit(container_group_id=None)
    for empty in ({"container_group_id": ""}, {"status": ""}):
        refused(api.post("/jobs/cancel", empty), 400)
    for name in ("id", "phase"):
        refused(api.post("/jobs/cancel", {"open": True, name: []}), 400)


def test_the_administrator_must_name_a_user(
    admin: Client, db: Database, tenant: Tenant, labeled: dict[str, UUID]
) -> None:
    assert refused(admin.post("/jobs/cancel", {"label": "n:1"}), 400)["errors"].keys() == {"user_id"}
    user = str(tenant.caller.user_id)
    refused(admin.post("/jobs/cancel", {"user_id": user}), 400)
    assert admin.post("/jobs/cancel", {"label": "n:1", "user_id": user}).json["count"] == 3  # type: ignore[index]
    assert admin.post("/jobs/cancel", {"label": "n:1", "user_id": str(uuid4())}).json["count"] == 0  # type: ignore[index]


def test_rounds_reach_all_jobs_and_none_that_comes_meanwhile(
    db: Database, tenant: Tenant, api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "AT_ONCE", 3)
    for _ in range(8):
        make_job(db, tenant, name="run")
    assert bulk.cancel(db, tenant.caller, Filters(name="ru*"), 8).count == 8


def test_jobs_are_canceled_beside_claims_and_each_has_one_end(db: Database, tenant: Tenant) -> None:
    made = {make_job(db, tenant, name="run") for _ in range(60)}
    taken: set[UUID] = set()
    lock = threading.Lock()

    def work(machine: str) -> None:
        while found := claimed_id(db, tenant, machine):
            with lock:
                assert found not in taken
                taken.add(found)

    def cancel() -> int:
        return bulk.cancel(db, tenant.caller, Filters(name="run")).count

    _, _, first, second = at_once([lambda: work("m1"), lambda: work("m2"), cancel, cancel])
    assert (first or 0) + (second or 0) == len(made)
    assert db.all("select from queue") == []
    ends = db.all("select job_id, count(*) as n from events where kind = 'canceled' group by job_id")
    assert [end["n"] for end in ends] == [1] * len(made)
    claims = db.all("select a.outcome from attempts a")
    assert len(claims) == len(taken) and all(attempt["outcome"] == "canceled" for attempt in claims)


def test_a_cancel_of_many_waits_for_a_claim_and_cancels_what_it_took(db: Database, tenant: Tenant) -> None:
    made = [make_job(db, tenant, name="run") for _ in range(3)]
    taken, answer = while_open(
        db, lambda tx: claim_in(tx, tenant, "m1"), lambda: bulk.cancel(db, tenant.caller, Filters(name="run"))
    )
    assert answer.count == len(made) and (taken or {})["id"] == made[0]
    assert db.all("select outcome from attempts") == [{"outcome": "canceled"}]


def test_two_bulk_changes_of_the_same_jobs_do_not_block_each_other(db: Database, tenant: Tenant) -> None:
    for _ in range(40):
        make_job(db, tenant, name="run")
    wanted = Filters(name="run")
    at_once(
        [
            lambda: bulk.hold(db, tenant.caller, wanted),
            lambda: bulk.resume(db, tenant.caller, wanted),
            lambda: bulk.hold(db, tenant.caller, wanted),
        ]
    )
    assert bulk.cancel(db, tenant.caller, wanted).count == 40


def with_key(api: Client, verb: str, body: dict[str, Any], key: str = "k") -> Any:
    answer = api.call("POST", f"/jobs/{verb}", body, {"Idempotency-Key": key})
    assert answer.status_code == 200, answer.text
    return answer.json, answer.headers.get("Idempotent-Replayed")


def reruns(db: Database) -> int:
    (found,) = db.all("select count(*) as n from jobs where rerun_of is not null")
    return int(found["n"])


@pytest.mark.parametrize("expect", [{}, {"expect": 6}])
def test_a_rerun_with_a_key_is_made_once(
    api: Client, db: Database, labeled: dict[str, UUID], expect: dict[str, int]
) -> None:
    body = {"label": "n:1"} | expect
    answer, replayed = with_key(api, "rerun", body)
    assert (answer["count"], len(answer["refused"]), replayed, reruns(db)) == (3, 3, None, 3)
    assert with_key(api, "rerun", body) == (answer, "true")
    assert reruns(db) == 3
    assert with_key(api, "rerun", body | {"expect": None}, "another")[0]["count"] == 3
    assert reruns(db) == 6


def test_a_rerun_that_broke_off_goes_on_with_the_jobs_of_then(
    db: Database, tenant: Tenant, labeled: dict[str, UUID]
) -> None:
    """What was submitted before it broke off has failed meanwhile, and matches; it is not run again."""
    once, wanted = IdempotencyKey("k", b"digest"), Filters(labels=[("n", "1")])
    submitted: list[UUID] = []

    def again(job_id: UUID, own: IdempotencyKey | None) -> None:
        if len(submitted) == 2:
            raise RuntimeError
        made, existed = submit_again(job_id, own)
        if not existed:
            submitted.append(made)

    def submit_again(job_id: UUID, own: IdempotencyKey | None) -> tuple[UUID, bool]:
        made, existed = rerun(
            db, tenant.caller, job_id, Environments(db, Seal("secret")), OpenJobLimits(), once=own
        )
        return made["id"], existed

    with pytest.raises(RuntimeError):
        bulk.rerun(db, tenant.caller, wanted, 6, again, once)
    bulk.cancel(db, tenant.caller, Filters(ids=submitted))
    assert bulk.rerun(db, tenant.caller, wanted, 6, submit_again, once).count == 3
    assert reruns(db) == 3


def test_the_same_rerun_at_the_same_time_is_made_once(api: Client, db: Database, labeled: dict[str, UUID]) -> None:
    answers = at_once([lambda: with_key(api, "rerun", {"label": "n:1"})[0]["count"]] * 3)
    assert (answers, reruns(db)) == ([3, 3, 3], 3)


@pytest.mark.parametrize("verb", ["cancel", "hold", "resume"])
def test_a_change_with_a_key_is_answered_again_and_meets_no_job_that_came_later(
    api: Client, db: Database, tenant: Tenant, labeled: dict[str, UUID], verb: str
) -> None:
    api.post("/jobs/hold", {"label": "n:1"}) if verb == "resume" else None
    answer, _ = with_key(api, verb, {"label": "n:1", "expect": 6})
    assert answer["count"] == 3
    late = make_job(db, tenant, labels={"n": "1"})
    assert with_key(api, verb, {"label": "n:1", "expect": 6}) == (answer, "true")
    assert claimed_id(db, tenant, "m9", "g1") is not None
    found = row(db, "jobs", late)
    assert found and found["status"] != "canceled"


def test_a_key_is_of_one_change(api: Client, labeled: dict[str, UUID]) -> None:
    with_key(api, "hold", {"label": "n:1"})
    for verb, body in (("hold", {"label": "n:2"}), ("cancel", {"label": "n:1"})):
        refused(api.call("POST", f"/jobs/{verb}", body, {"Idempotency-Key": "k"}), 422)
    assert counted(api, "open=true") == {"count": 5}


def test_a_refused_change_leaves_its_key_unused(api: Client, labeled: dict[str, UUID]) -> None:
    refused(api.call("POST", "/jobs/hold", {"label": "n:1", "expect": 9}, {"Idempotency-Key": "k"}), 409)
    assert with_key(api, "hold", {"label": "n:1", "expect": 6})[0]["count"] == 3


def test_the_administrators_key_is_one_of_the_user(
    admin: Client, db: Database, tenant: Tenant, labeled: dict[str, UUID]
) -> None:
    body = {"label": "n:1", "user_id": str(tenant.caller.user_id)}
    assert [with_key(admin, "rerun", body)[0]["count"] for _ in range(2)] == [3, 3]
    assert reruns(db) == 3
    assert with_key(admin, "rerun", body | {"user_id": str(uuid4())}, "no-user")[0]["count"] == 0
