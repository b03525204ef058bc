"""Canceling a job, and removing all of them."""

from __future__ import annotations

import pytest

from kelpie_api.db import Database
from tests.helpers import Client, Tenant, make_job, refused, row, rows_of_jobs


@pytest.mark.parametrize("state", ["pending", "held", "waiting"])
def test_a_job_that_is_not_final_is_canceled_and_never_handed_out(
    api: Client, db: Database, tenant: Tenant, state: str
) -> None:
    job_id = make_job(db, tenant, state, silent_for=3600)
    answer = api.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json) == (202, {"message": "Job canceled"})
    job = api.get(f"/jobs/{job_id}").json or {}
    assert job["status"] == "canceled" and job["canceled"]
    assert api.claim("m2") is None


def test_canceling_again_is_fine_and_changes_nothing(api: Client, db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant)
    api.delete(f"/jobs/{job_id}")
    before = rows_of_jobs(db)
    answer = api.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json) == (202, {"message": "Job canceled"})
    assert rows_of_jobs(db) == before


@pytest.mark.parametrize("state", ["completed", "failed"])
def test_a_job_that_ended_otherwise_is_a_conflict(api: Client, db: Database, tenant: Tenant, state: str) -> None:
    job_id = make_job(db, tenant, state)
    before = rows_of_jobs(db)
    refused(api.delete(f"/jobs/{job_id}"), 409)
    assert rows_of_jobs(db) == before


def test_a_cancel_is_no_failure(api: Client, db: Database) -> None:
    job = api.submit()
    api.claim()
    api.delete(f"/jobs/{job['id']}")
    assert (row(db, "jobs", job["id"]) or {})["num_failures"] == 0
    assert rows_of_jobs(db)["bans"] == []


def test_the_administrator_removes_all_jobs_of_all_users(
    admin: Client, stranger: Client, api: Client, db: Database
) -> None:
    stranger.submit(webhook="http://receiver/")
    api.submit()
    api.claim()
    assert admin.delete("/jobs").status_code == 204
    assert rows_of_jobs(db) == {table: [] for table in rows_of_jobs(db)}
