"""The claim over HTTP (docs/design/protocol.md, Claim)."""

from __future__ import annotations

import uuid

import pytest

from kelpie_api.db import Database
from kelpie_api.queue import jobs
from tests.helpers import Client, Tenant, make_job, refused, rows_of_jobs

WORK = "/work?machine_id=m1&container_group_id=g1"


def test_the_answer_is_a_list_of_the_whole_job_and_no_cache_may_keep_it(api: Client) -> None:
    submitted = api.submit(arguments=["a"], sync={"before": []}, webhook="https://receiver/")
    answer = api.get(WORK)
    [job] = answer.json or []
    assert answer.headers["Cache-Control"] == "no-store"
    changed = {"status", "started", "heartbeat", "machine_id", "attempt"}
    kept = submitted.keys() - changed
    assert {name: job[name] for name in kept} == {name: submitted[name] for name in kept}
    assert (job["status"], job["machine_id"], job["attempt"]) == ("running", "m1", 1)
    assert job["started"] == job["heartbeat"] is not None


def test_nothing_is_claimed_for_a_client_that_hung_up_while_it_waited_for_a_connection(
    db: Database, tenant: Tenant
) -> None:
    job_id = make_job(db, tenant)
    assert jobs.claim(db, tenant.caller, "m1", "g1", None, gone=lambda: bool(db.due)) is None
    claimed = jobs.claim(db, tenant.caller, "m2", "g1", None)
    assert claimed and (claimed["id"], claimed["attempt"]) == (job_id, 1)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("", {"machine_id", "container_group_id"}),
        ("machine_id=m1", {"container_group_id"}),
        ("container_group_id=g1", {"machine_id"}),
        ("machine_id=&container_group_id=g1", {"machine_id"}),
        (f"machine_id={'x' * 256}&container_group_id=g1", {"machine_id"}),
        (f"machine_id=m1&container_group_id={'x' * 256}", {"container_group_id"}),
        ("machine_id=m%00&container_group_id=g1", {"machine_id"}),
        ("machine_id=m1&container_group_id=g1&claim_id=1", {"claim_id"}),
        ("machine_id=m1&container_group_id=g1&claim_id=", {"claim_id"}),
    ],
)
def test_a_claim_without_a_machine_is_a_400_and_hands_out_nothing(
    api: Client, db: Database, query: str, named: set[str]
) -> None:
    api.submit()
    assert refused(api.get(f"/work?{query}"), 400)["errors"].keys() == named
    assert rows_of_jobs(db)["attempts"] == []


def test_machine_and_group_are_free_text(api: Client) -> None:
    api.submit(container_group_id="Gruppe ü/1")
    answer = api.get("/work?machine_id=m%20%F0%9F%9A%B2&container_group_id=Gruppe%20%C3%BC%2F1")
    assert [job["machine_id"] for job in answer.json or []] == ["m 🚲"]


def test_another_machines_claim_id_is_a_409(api: Client) -> None:
    api.submit()
    api.submit()
    claim_id = uuid.uuid4()
    api.claim("m1", claim_id=claim_id)
    answer = api.get(f"/work?machine_id=m2&container_group_id=g1&claim_id={claim_id}")
    assert refused(answer, 409)["error"] == "Claim Id Taken"


def test_the_administrator_claims_only_its_own_jobs(
    admin: Client, api: Client, db: Database, tenant: Tenant
) -> None:
    make_job(db, tenant)
    assert admin.claim() is None
    own = admin.submit()
    assert (admin.claim() or {})["id"] == own["id"]
