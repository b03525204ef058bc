"""The open jobs of a user's project, and the size of their definitions, have a limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from kelpie_api.db import Database
from kelpie_api.errors import TooManyOpenJobs
from kelpie_api.queue import jobs, submissions
from kelpie_api.queue.identity import IdempotencyKey
from kelpie_api.queue.maintenance import Maintenance
from kelpie_api.queue.submissions import OpenJobLimits
from tests.helpers import Client, Tenant, as_row, at_once, claim, definition, make_job, refused, report

MOST = 10
MEBIBYTE = 2**20


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"max_open_jobs": MOST, "max_open_mebibytes": 1}


def counted(db: Database, tenant: Tenant) -> tuple[int, int]:
    """Open jobs and their bytes, as they are counted."""
    found = db.one_or_none(
        "select coalesce(sum(jobs), 0)::bigint as jobs, coalesce(sum(bytes), 0)::bigint as bytes"
        " from open_job_counts where tenant_id = %(tenant)s",
        tenant=tenant.caller.tenant_id,
    )
    assert found
    return found["jobs"], found["bytes"]


def in_the_queue(db: Database, tenant: Tenant) -> tuple[int, int]:
    found = db.one_or_none(
        "select count(*) as jobs, coalesce(sum(bytes), 0)::bigint as bytes"
        "  from queue where tenant_id = %(tenant)s",
        tenant=tenant.caller.tenant_id,
    )
    assert found
    return found["jobs"], found["bytes"]


def batch(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [definition(**fields)] * count


def test_a_submission_beyond_the_limit_is_refused_whole_with_a_sentence(api: Client, db: Database) -> None:
    assert api.post("/jobs/batch", batch(MOST - 1)).status_code == 202
    answer = api.post("/jobs/batch", batch(2))
    refusal = refused(answer, 429)
    assert refusal["error"] == "Too Many Open Jobs"
    assert "9 open jobs" in refusal["message"] and "KELPIE_MAX_OPEN_JOBS" in refusal["message"]
    assert int(answer.headers["Retry-After"]) > 0
    assert len(db.all("select from jobs")) == MOST - 1
    assert api.post("/jobs", definition()).status_code == 202
    refused(api.post("/jobs", definition()), 429)
    refused(api.post("/job", definition()), 429)


def test_definitions_together_have_an_end_too(api: Client, db: Database) -> None:
    large = definition(environment={"X": "x" * 200_000})
    assert api.post("/jobs/batch", [large] * 5).status_code == 202
    refusal = refused(api.post("/jobs", large), 429)
    assert "1 MiB" in refusal["message"] and "KELPIE_MAX_OPEN_MIB" in refusal["message"]
    assert api.post("/jobs", definition()).status_code == 202
    assert len(db.all("select from jobs")) == 6


def test_projects_are_limited_apart(api: Client, stranger: Client) -> None:
    assert api.post("/jobs/batch", batch(MOST)).status_code == 202
    assert stranger.post("/jobs/batch", batch(MOST)).status_code == 202


@pytest.mark.parametrize("end", ["complete", "fail", "cancel", "purge_group", "remove"])
def test_a_job_that_has_ended_makes_room(api: Client, db: Database, tenant: Tenant, end: str) -> None:
    job_id = make_job(db, tenant, "held", max_failures=1)
    api.post("/jobs/batch", batch(MOST - 1, container_group_id="g2"))
    refused(api.post("/jobs", definition()), 429)
    ends: dict[str, Callable[[], object]] = {
        "complete": lambda: jobs.complete(db, tenant.caller, job_id, report(attempt=1)),
        "fail": lambda: jobs.fail(db, tenant.caller, job_id, report(attempt=1)),
        "cancel": lambda: jobs.cancel(db, tenant.caller, job_id),
        "purge_group": lambda: jobs.purge_group(db, tenant.caller, "g2"),
        "remove": lambda: db.execute("delete from jobs where id = %(id)s", id=job_id),
    }
    ends[end]()
    assert counted(db, tenant) == in_the_queue(db, tenant)
    assert api.post("/jobs", definition()).status_code == 202


def test_claims_releases_and_failures_that_are_not_the_last_change_no_count(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant)
    before = counted(db, tenant)
    for end in (jobs.release, jobs.fail):
        taken = claim(db, tenant)
        assert taken
        end(db, tenant.caller, taken["id"], report(attempt=taken["attempt"]))
    assert counted(db, tenant) == before == in_the_queue(db, tenant)


def test_all_jobs_removed_leave_nothing_counted(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant)
    jobs.purge(db)
    assert db.all("select from open_job_counts") == []


@pytest.mark.parametrize("once", [False, True])
def test_submissions_at_the_same_moment_do_not_get_beyond_the_limit(
    db: Database, tenant: Tenant, once: bool
) -> None:
    def submit(number: int) -> int:
        rows = [as_row()] * (1 + number % 3)
        limits = OpenJobLimits(MOST, 0)
        try:
            if once:
                key = IdempotencyKey(f"key {number}", b"digest")
                return len(submissions.submit_once(db, tenant.caller, rows, key, limits)[0])
            return len(submissions.submit(db, tenant.caller, rows, limits))
        except TooManyOpenJobs:
            return 0

    created = at_once([lambda number=number: submit(number) for number in range(20)])  # type: ignore[misc]
    assert sum(created) == len(db.all("select from jobs")) == MOST
    assert counted(db, tenant)[0] == MOST


def test_a_refused_submission_leaves_its_key_unused(api: Client, db: Database) -> None:
    api.post("/jobs/batch", batch(MOST))
    refused(api.call("POST", "/jobs", definition(), {"Idempotency-Key": "k"}), 429)
    assert db.all("select from submissions") == []


def test_a_submission_that_was_created_is_answered_again_also_where_there_is_no_room(api: Client) -> None:
    first = api.call("POST", "/jobs/batch", batch(MOST), {"Idempotency-Key": "k"})
    again = api.call("POST", "/jobs/batch", batch(MOST), {"Idempotency-Key": "k"})
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")
    assert again.json == first.json


def test_a_key_of_the_day_before_answers_no_old_jobs_where_there_is_no_room(api: Client, db: Database) -> None:
    api.call("POST", "/jobs/batch", batch(MOST), {"Idempotency-Key": "k"})
    db.execute("update submissions set created = created - interval '24 hours 1 minute'")
    refused(api.call("POST", "/jobs/batch", batch(MOST), {"Idempotency-Key": "k"}), 429)


@pytest.mark.parametrize("limits", [OpenJobLimits(0, 0), OpenJobLimits()])
def test_no_limit_and_the_default_let_many_in(db: Database, tenant: Tenant, limits: OpenJobLimits) -> None:
    assert len(submissions.submit(db, tenant.caller, [as_row()] * 1000, limits)) == 1000


def test_counts_are_added_up_and_those_of_tenants_without_jobs_go(db: Database, tenant: Tenant) -> None:
    for _ in range(101):
        make_job(db, tenant)
    was = counted(db, tenant)
    Maintenance(db).settle()
    assert len(db.all("select from open_job_counts")) == 1
    assert counted(db, tenant) == was == in_the_queue(db, tenant)
    jobs.purge_group(db, tenant.caller, "g1")
    Maintenance(db).settle()
    assert db.all("select from open_job_counts") == []


def test_a_user_that_is_removed_leaves_no_count(app: Flask, admin: Client, db: Database, tenant: Tenant) -> None:
    make_job(db, tenant)
    assert admin.delete(f"/users/{tenant.caller.user_id}").status_code == 204
    Maintenance(db).settle()
    assert db.all("select from open_job_counts") == []


def test_the_bytes_of_a_job_are_those_of_its_definition(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant, command="é", arguments=["ü"], environment={"A": "b"}, webhook="http://x/")
    assert counted(db, tenant)[1] == len('é["ü"]{"A": "b"}{}http://x/'.encode())
