"""Reading jobs: one, pages of them, and the history of one."""

from __future__ import annotations

import re
import uuid
from itertools import chain
from typing import Any

import pytest

from kelpie_api.db import Database
from tests.helpers import Client, Tenant, make_job, refused

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def listed(api: Client, query: str = "") -> list[str]:
    """The ids on a page, whose `_count` is right."""
    answer = api.get(f"/jobs{query}")
    assert answer.status_code == 200, answer.text
    page = answer.json or {}
    assert page.keys() == {"_count", "jobs"}
    assert page["_count"] == len(page["jobs"])
    return [job["id"] for job in page["jobs"]]


@pytest.fixture
def seven(db: Database, tenant: Tenant) -> list[str]:
    """Seven jobs, oldest first."""
    return [str(make_job(db, tenant)) for _ in range(7)]


def test_jobs_are_listed_newest_first(api: Client, seven: list[str]) -> None:
    assert listed(api) == seven[::-1]


@pytest.mark.parametrize("asc", ["true", "True", "1"])
def test_or_oldest_first(api: Client, seven: list[str], asc: str) -> None:
    assert listed(api, f"?asc={asc}") == seven


@pytest.mark.parametrize("asc", ["true", "false"])
def test_the_pages_together_are_the_list(api: Client, seven: list[str], asc: str) -> None:
    pages = [listed(api, f"?page_size=3&page={number}&asc={asc}") for number in (1, 2, 3, 4)]
    assert [len(page) for page in pages] == [3, 3, 1, 0]
    assert list(chain(*pages)) == listed(api, f"?asc={asc}")


def test_a_page_has_a_hundred_jobs_unless_asked_otherwise(api: Client) -> None:
    api.post("/jobs/batch", [{"command": "work", "container_group_id": None}] * 101)
    assert len(listed(api)) == 100
    assert len(listed(api, "?page_size=10000")) == 101


@pytest.mark.parametrize(
    "query",
    [
        "page=0",
        "page=-1",
        "page=x",
        "page=1.5",
        "page=99999999999999999999",
        "page_size=0",
        "page_size=10001",
        "asc=perhaps",
        "status=asleep",
        "container_group_id=%00",
        f"container_group_id={'x' * 256}",
    ],
)
def test_a_bad_query_is_a_400_that_names_the_parameter(api: Client, query: str) -> None:
    assert query.split("=")[0] in refused(api.get(f"/jobs?{query}"), 400)["errors"]


def test_an_empty_parameter_asks_for_nothing_in_particular(api: Client, seven: list[str]) -> None:
    assert listed(api, "?status=&container_group_id=&page_size=&page=&asc=") == listed(api)


def test_the_last_page_that_can_be_asked_for_is_empty(api: Client, seven: list[str]) -> None:
    assert listed(api, f"?page={2**31 - 1}&page_size=10000") == []


@pytest.mark.parametrize("status", ["pending", "running", "completed", "failed", "canceled"])
def test_a_status_filters(api: Client, db: Database, tenant: Tenant, status: str) -> None:
    states = {
        "pending": "pending",
        "running": "held",
        "completed": "completed",
        "failed": "failed",
        "canceled": "canceled",
    }
    made = {status: str(make_job(db, tenant, state)) for status, state in states.items()}
    assert listed(api, f"?status={status}") == [made[status]]


def test_a_job_that_waits_for_its_next_machine_is_running(api: Client, db: Database, tenant: Tenant) -> None:
    assert (
        listed(api, "?status=running")
        == []
        != [str(make_job(db, tenant, "waiting"))]
        == listed(api, "?status=running")
    )


def test_a_container_group_filters(api: Client, db: Database, tenant: Tenant) -> None:
    mine = str(make_job(db, tenant, group="g1"))
    make_job(db, tenant, group="g2")
    make_job(db, tenant, group=None)
    assert listed(api, "?container_group_id=g1") == [mine]
    assert listed(api, "?container_group_id=g1&status=completed") == []


def times(job: dict[str, Any]) -> dict[str, bool]:
    """Which of a job's times are there; those that are have the right format."""
    names = ("created", "started", "completed", "canceled", "failed", "heartbeat")
    assert all(job[name] is None or RFC3339.fullmatch(job[name]) for name in names)
    return {name: job[name] is not None for name in names}


@pytest.mark.parametrize("status", ["completed", "canceled", "failed"])
def test_a_final_job_has_the_time_of_its_end_and_null_for_the_others(
    api: Client, db: Database, tenant: Tenant, status: str
) -> None:
    job = api.get(f"/jobs/{make_job(db, tenant, status)}").json or {}
    there = times(job)
    assert {name for name in ("completed", "canceled", "failed") if there[name]} == {status}
    assert there["created"] and there["started"]


def test_heartbeats_are_shown_while_a_job_runs_and_kept_when_it_ended(api: Client) -> None:
    job = api.submit()
    api.claim()
    for _ in range(3):
        api.report(job, "heartbeat", attempt=1)
    running = api.get(f"/jobs/{job['id']}").json or {}
    api.report(job, "completed", attempt=1)
    completed = api.get(f"/jobs/{job['id']}").json or {}
    assert running["num_heartbeats"] == completed["num_heartbeats"] == 3
    assert running["heartbeat"] == completed["heartbeat"] is not None


def test_an_unknown_job_is_a_404(api: Client) -> None:
    for rest in ("", "/attempts", "/events"):
        assert refused(api.get(f"/jobs/{uuid.uuid4()}{rest}"), 404)["error"] == "Job Not Found"


def test_the_attempts_of_a_job_tell_how_each_ended(api: Client, db: Database) -> None:
    job = api.submit(max_failures=2)
    path = f"/jobs/{job['id']}/attempts"
    assert api.get(path).json == {"_count": 0, "attempts": []}
    api.claim("m1")
    api.report(job, "failed", "m1", attempt=1, exit_code=137, reason="oom")
    api.claim("m2", "g1")
    api.report(job, "released", "m2", attempt=2, reason="shutdown")
    api.claim("m3", "g1")
    db.execute("update queue set heartbeat = now() - interval '1 hour'")
    api.claim("m4", "g1")
    api.report(job, "heartbeat", "m4", attempt=4)
    page = api.get(path).json or {}
    assert page["_count"] == 4
    shown = [
        (attempt["number"], attempt["machine_id"], attempt["outcome"], attempt["exit_code"], attempt["reason"])
        for attempt in page["attempts"]
    ]
    assert shown == [
        (1, "m1", "failed", 137, "oom"),
        (2, "m2", "released", None, "shutdown"),
        (3, "m3", "interrupted", None, None),
        (4, "m4", None, None, None),
    ]
    for attempt in page["attempts"]:
        assert attempt["container_group_id"] == "g1"
        assert RFC3339.fullmatch(attempt["claimed"]) and RFC3339.fullmatch(attempt["last_heartbeat"])
        assert (attempt["ended"] is None) == (attempt["outcome"] is None)


def test_the_events_of_a_job_tell_who_changed_it_and_leave_heartbeats_out(api: Client) -> None:
    job = api.submit(max_failures=2)
    api.claim("m1")
    api.report(job, "heartbeat", "m1", attempt=1)
    api.report(job, "failed", "m1", attempt=1, reason="oom")
    api.claim("m2")
    api.report(job, "failed", "m2", attempt=2)
    page = api.get(f"/jobs/{job['id']}/events").json or {}
    assert page["_count"] == len(page["events"])
    assert [(event["kind"], event["actor"], event["attempt"]) for event in page["events"]] == [
        ("submitted", "user:acme", 0),
        ("claimed", "machine:m1", 1),
        ("attempt_failed", "machine:m1", 1),
        ("claimed", "machine:m2", 2),
        ("attempt_failed", "machine:m2", 2),
        ("failed", "machine:m2", 2),
    ]
    assert all(RFC3339.fullmatch(event["at"]) for event in page["events"])
    assert page["events"][2]["detail"]["reason"] == "oom"
