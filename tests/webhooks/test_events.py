"""The events that a job names itself are told, whether a job was changed alone or with others."""

from __future__ import annotations

from typing import Any

import pytest

from kelpie_api.db import Database
from kelpie_api.queue import dependencies
from tests.doubles.receiver import Receiver, outbox
from tests.helpers import Client, Tenant, be_seen, make_job

URL = "http://receiver/"


def told(db: Database) -> list[tuple[str, str, str]]:
    return [(webhook["event"], webhook["status"], webhook["machine_id"]) for webhook in outbox(db)]


def job_with(db: Database, tenant: Tenant, event: str, state: str = "pending", **fields: Any) -> str:
    return str(make_job(db, tenant, state, webhook=URL, webhook_events=[event], name="run", **fields))


def cancel_singly(api: Client, job: str) -> None:
    assert api.delete(f"/jobs/{job}").status_code == 202


def cancel_in_bulk(api: Client, job: str) -> None:
    assert (api.post("/jobs/cancel", {"name": "run"}).json or {})["count"] == 1


def cancel_with_its_group(api: Client, job: str) -> None:
    assert (api.delete("/jobs/container-groups/g1").json or {})["count"] == 1


@pytest.mark.parametrize("cancel", [cancel_singly, cancel_in_bulk, cancel_with_its_group])
def test_canceled_is_told_once_however_the_job_was_canceled(
    api: Client, db: Database, tenant: Tenant, cancel: Any
) -> None:
    cancel(api, job_with(db, tenant, "canceled", "held"))
    api.post("/jobs/cancel", {"name": "run"})
    assert told(db) == [("canceled", "canceled", "m1")]


def hold_singly(api: Client, job: str) -> None:
    assert api.post(f"/jobs/{job}/hold").status_code == 202


def hold_in_bulk(api: Client, job: str) -> None:
    assert (api.post("/jobs/hold", {"name": "run"}).json or {})["count"] == 1


@pytest.mark.parametrize("hold", [hold_singly, hold_in_bulk])
def test_held_is_told_once_of_a_job_that_waits(api: Client, db: Database, tenant: Tenant, hold: Any) -> None:
    job = job_with(db, tenant, "held")
    hold(api, job)
    hold(api, job)
    assert told(db) == [("held", "running", "")]


@pytest.mark.parametrize("hold", [hold_singly, hold_in_bulk])
def test_held_is_told_of_a_job_that_runs_once_it_was_given_back(
    api: Client, db: Database, tenant: Tenant, hold: Any
) -> None:
    job = job_with(db, tenant, "held", "held")
    hold(api, job)
    assert told(db) == []
    api.report({"id": job}, "released", attempt=1)
    assert told(db) == [("held", "running", "m1")]


def test_interrupted_is_told_when_the_next_machine_takes_over(api: Client, db: Database, tenant: Tenant) -> None:
    make_job(db, tenant, "held", silent_for=61, webhook=URL, webhook_events=["running", "interrupted"])
    be_seen(db)
    assert api.claim("m2") is not None
    assert told(db) == [("interrupted", "running", "m1"), ("running", "running", "m2")]


def test_canceled_is_told_of_a_job_whose_dependency_failed(api: Client, db: Database) -> None:
    first = api.submit()
    api.submit(depends_on=[first["id"]], webhook=URL, webhook_events=["canceled"])
    api.delete(f"/jobs/{first['id']}")
    dependencies.settle_all(db)
    assert told(db) == [("canceled", "canceled", "")]


def test_without_names_a_bulk_cancel_and_hold_tell_nothing(
    api: Client, db: Database, tenant: Tenant, receiver: Receiver
) -> None:
    make_job(db, tenant, name="run", webhook=receiver.url)
    hold_in_bulk(api, "")
    cancel_in_bulk(api, "")
    assert outbox(db) == []
