"""Ending all the jobs of one container group."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from flask import Flask

from kelpie_api.db import SQL, Database
from kelpie_api.queue import jobs, submissions
from tests.helpers import (
    Client,
    Tenant,
    as_row,
    claim_in,
    make_job,
    make_tenant,
    refused,
    row,
    rows_of_jobs,
    while_open,
)

PATH = "/jobs/container-groups/"


def purge(client: Client, group: str = "g1") -> int:
    answer = client.delete(PATH + quote(group, safe=""))
    assert answer.status_code == 200, answer.text
    body = answer.json or {}
    assert body.keys() == {"count"}
    return int(body["count"])


def test_pending_jobs_are_removed_and_running_ones_canceled(api: Client, db: Database, tenant: Tenant) -> None:
    pending, held, waiting = (make_job(db, tenant, state) for state in ("pending", "held", "waiting"))
    assert purge(api) == 3
    refused(api.get(f"/jobs/{pending}"), 404)
    for job_id in (held, waiting):
        job = api.get(f"/jobs/{job_id}").json or {}
        assert job["status"] == "canceled" and job["canceled"]
        [*_, event] = (api.get(f"/jobs/{job_id}/events").json or {})["events"]
        assert (event["kind"], event["actor"], event["attempt"]) == ("canceled", "user:acme", 1)
    assert rows_of_jobs(db)["queue"] == []
    assert pending not in {event["job_id"] for event in rows_of_jobs(db)["events"]}


def test_the_holder_of_a_canceled_job_drops_it(api: Client, db: Database) -> None:
    job = api.submit()
    api.claim("m1")
    purge(api)
    assert api.report(job, "heartbeat", "m1", attempt=1).json == {"status": "canceled"}
    assert (row(db, "attempts", job["id"]) or {})["outcome"] == "canceled"
    assert rows_of_jobs(db)["bans"] == []


@pytest.mark.parametrize("state", ["completed", "failed", "canceled"])
def test_history_stays(api: Client, db: Database, tenant: Tenant, state: str) -> None:
    make_job(db, tenant, state)
    before = rows_of_jobs(db)
    assert purge(api) == 0
    assert rows_of_jobs(db) == before


@pytest.mark.parametrize("state", ["pending", "held"])
def test_other_groups_and_the_null_group_stay(api: Client, db: Database, tenant: Tenant, state: str) -> None:
    make_job(db, tenant, state, group="g2")
    make_job(db, tenant, state, group=None)  # held by a machine of g1, but of no group
    before = rows_of_jobs(db)
    assert purge(api) == 0
    assert rows_of_jobs(db) == before


def test_only_the_callers_own_jobs_end(stranger: Client, app: Flask, db: Database, tenant: Tenant) -> None:
    make_job(db, tenant)
    make_job(db, tenant, "held")
    other_project = Client(app.test_client(), make_tenant(db, tenant.caller.username, "other").key)
    before = rows_of_jobs(db)
    assert purge(stranger) == purge(other_project) == 0
    assert rows_of_jobs(db) == before


def test_the_administrators_purge_ends_the_jobs_of_all_tenants(
    admin: Client, stranger: Client, db: Database, tenant: Tenant
) -> None:
    make_job(db, tenant, "held")
    stranger.submit()
    assert purge(admin) == 2
    assert rows_of_jobs(db)["queue"] == []


@pytest.mark.parametrize(
    "group",
    [
        "a/b",
        "/a",
        "a//b",
        "a b",
        "100%",
        "Grüße",
        "attempts",
        "x" * 255,
        "a?b#c",
        "1/attempts",
        "a\nb",
        "\na",
        "a\n",
    ],
)
def test_the_name_of_a_group_is_free_text(api: Client, group: str) -> None:
    api.submit(container_group_id=group)
    other = api.submit(container_group_id="a")
    assert purge(api, group) == 1
    assert api.get(f"/jobs/{other['id']}").status_code == 200


@pytest.mark.parametrize("group", ["x" * 256, "a%00b", "a%FF", "%ED%A0%80"])
def test_a_name_that_no_group_can_have_is_a_400(api: Client, group: str) -> None:
    refused(api.delete(PATH + group), 400)


def test_more_jobs_than_end_in_one_round_all_end(
    api: Client, db: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PURGED_AT_ONCE", 3)
    submissions.submit(db, tenant.caller, [as_row()] * 10)
    for machine in "abcdefg":
        api.claim(machine)
    submissions.submit(db, tenant.caller, [as_row()] * 10)
    assert purge(api) == 20
    assert [job["status"] for job in rows_of_jobs(db)["jobs"]] == ["canceled"] * 7


def test_a_job_claimed_meanwhile_is_canceled_and_its_attempt_ended(db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant)
    _, ended = while_open(
        db, lambda tx: claim_in(tx, tenant, "m1"), lambda: jobs.purge_group(db, tenant.caller, "g1")
    )
    assert ended == 1
    assert (row(db, "jobs", job_id) or {})["status"] == "canceled"
    assert (row(db, "attempts", job_id) or {})["outcome"] == "canceled"


def test_a_claim_does_not_wait_for_a_purge(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant)
    with db.transaction() as tx:
        line = tx.one_or_none("select tenant_id, container_group, seq as last_seq from queue")
        assert tx.one_or_none(SQL.remove_pending_jobs, most=10, after_seq=-1, **(line or {}))
        make_job(db, tenant)
        assert jobs.claim(db, tenant.caller, "m1", "g1", None)


@pytest.mark.usefixtures("new_tables")
@pytest.mark.parametrize("statement", ["remove_pending_jobs", "cancel_jobs"])
@pytest.mark.parametrize("joins", ["as the planner likes", "by merging"])
def test_a_round_reads_no_more_of_the_queue_than_it_ends(
    db: Database, tenant: Tenant, statement: str, joins: str
) -> None:
    """Else a purge of a million jobs would read the rest of them in each of its rounds.

    What the planner believes of the tables, it may join by merging: then a join with `jobs` reads all of them.
    """
    for _ in range(5):
        submissions.submit(db, tenant.caller, [as_row()] * 1000)
    if statement == "cancel_jobs":
        for _ in range(20):
            jobs.claim(db, tenant.caller, "m1", "g1", None)
    db.execute("analyze queue")
    line = db.one_or_none("select tenant_id, container_group, max(seq) as last_seq from queue group by 1, 2") or {}
    with db.transaction() as tx:
        if joins == "by merging":
            tx.all("select set_config('enable_nestloop', 'off', true), set_config('enable_hashjoin', 'off', true)")
        plan = tx.all(
            f"explain (analyze, costs off, timing off) {SQL.by_name[statement]}",
            **line, most=10, after_seq=line["last_seq"] - 3000, actor="user:acme", sealed_key=None,
        )  # fmt: skip
        text = "\n".join(str(step["QUERY PLAN"]) for step in plan)
        tx.connection.execute("rollback")
        tx.connection.execute("begin")
    assert "Seq Scan" not in text, text
    assert max(int(rows) for rows in re.findall(r"(?:actual rows=|Rows Removed by \w+: )(\d+)", text)) <= 10, text
