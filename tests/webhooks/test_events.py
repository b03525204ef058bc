"""The events that a job names itself are told, whether a job was changed alone or with others."""

from __future__ import annotations

from typing import Any

import pytest

from kelpie_api.db import SQL, Database, Transaction
from kelpie_api.queue import dependencies
from kelpie_api.webhooks.sender import Sender
from tests.doubles.receiver import Receiver, outbox, send_round
from tests.helpers import Client, Tenant, at_once, be_seen, definition, make_job, refused, while_open

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


def swept(api: Client, reports: list[str], **fields: Any) -> str:
    """A sweep whose jobs were reported so; it is open."""
    sweep = str((api.post("/sweeps", {"name": "grid"} | fields).json or {})["id"])
    for said in reports:
        job = api.submit(sweep=sweep, max_failures=1)
        api.claim()
        api.report(job, said, attempt=1)
    return sweep


def test_the_end_of_a_closed_sweep_is_told_once(
    api: Client, db: Database, receiver: Receiver, sender: Sender
) -> None:
    sweep = swept(api, ["completed", "failed"], webhook=receiver.url)
    open_job = api.submit(sweep=sweep)
    api.patch(f"/sweeps/{sweep}", {"closed": True})
    dependencies.settle_all(db)
    assert outbox(db) == [], "a job of it is open"
    api.delete(f"/jobs/{open_job['id']}")
    at_once([lambda: dependencies.settle_all(db)] * 3)
    assert "has ended" in refused(api.patch(f"/sweeps/{sweep}", {"closed": False}), 409)["message"]
    assert (api.patch(f"/sweeps/{sweep}", {"closed": True, "labels": {"a": "b"}}).json or {})["closed"] is True
    dependencies.settle_all(db)
    send_round(sender)
    jobs = {"total": 3, "completed": 1, "failed": 1, "canceled": 1}
    assert [webhook["body"] for webhook in receiver.got] == [
        {
            "status": "failed",
            "job_id": open_job["id"],
            "machine_id": "",
            "container_group_id": "",
            "event": "sweep_ended",
            "sweep": {"id": sweep, "name": "grid"} | jobs,
        }
    ]
    assert receiver.got[0]["headers"]["x-kelpie-key"] == ""
    (listed,) = (api.get(f"/jobs/{open_job['id']}/webhooks").json or {})["webhooks"]
    assert (listed["event"], listed["state"]) == ("sweep_ended", "delivered")


def test_a_sweep_that_is_opened_again_as_its_end_is_noticed_is_told_of_or_open_never_both(
    api: Client, db: Database
) -> None:
    sweep = swept(api, ["completed"], webhook=URL)
    api.patch(f"/sweeps/{sweep}", {"closed": True})
    with db.transaction() as opening:
        assert opening.execute("update sweeps set closed = null") == 1
        dependencies.settle_all(db)
    dependencies.settle_all(db)
    assert told(db) == []
    api.patch(f"/sweeps/{sweep}", {"closed": True})

    def end(tx: Transaction) -> None:
        tx.one_or_none(SQL.end_sweeps, ids=[row["id"] for row in tx.all(SQL.lock_sweeps_to_end)])

    _, answer = while_open(db, end, lambda: api.patch(f"/sweeps/{sweep}", {"closed": False}))
    refused(answer, 409)
    assert told(db) == [("sweep_ended", "completed", "")]
    refused(api.post("/jobs", definition(sweep=sweep)), 400)


@pytest.mark.parametrize(
    ("reports", "status"), [(["completed", "completed"], "completed"), (["completed", "failed"], "failed")]
)
def test_a_sweep_completed_if_all_of_its_jobs_did(
    api: Client, db: Database, reports: list[str], status: str
) -> None:
    sweep = swept(api, reports, webhook=URL)
    assert (api.get(f"/sweeps/{sweep}").json or {})["webhook"] == URL
    api.delete(f"/sweeps/{sweep}")
    dependencies.settle_all(db)
    assert told(db) == [("sweep_ended", status, "")]


def test_a_sweep_without_a_job_or_a_webhook_tells_nothing(api: Client, db: Database) -> None:
    for sweep in (swept(api, [], webhook=URL), swept(api, ["completed"]), swept(api, ["completed"], webhook="")):
        api.delete(f"/sweeps/{sweep}")
    dependencies.settle_all(db)
    assert outbox(db) == []


@pytest.mark.parametrize("url", ["ftp://receiver/", 5, "http://localhost/jobs"])
def test_a_webhook_of_a_sweep_goes_to_a_receiver_elsewhere(api: Client, url: object) -> None:
    assert refused(api.post("/sweeps", {"webhook": url}), 400)["errors"].keys() == {"webhook"}
