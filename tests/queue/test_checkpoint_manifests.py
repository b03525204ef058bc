"""Manifests of committed checkpoints: which caller may report one, which are kept, which claim gets the newest
(docs/design/protocol.md, Checkpoint manifests)."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from kelpie_api.db import Database
from tests.helpers import Client, Job, Tenant, make_job, make_tenant, refused, rows_of_jobs

FILE = {"bucket": "b", "key": "c/weights", "size": 12, "etag": "abc-2", "version_id": "v1"}


def put(
    api: Client, job: Job, generation: int, attempt: int = 1, machine: str = "m1", more: Job | None = None
) -> TestResponse:
    body = {"machine_id": machine, "container_group_id": "g1", "attempt": attempt, "generation": generation}
    return api.call("PUT", f"/jobs/{job['id']}/checkpoint", body | {"files": [FILE]} | (more or {}))


def kept(db: Database) -> list[tuple[int, int]]:
    rows = db.all("select attempt, generation from checkpoints order by attempt, generation")
    return [(row["attempt"], row["generation"]) for row in rows]


def kinds(db: Database, job: Job) -> list[str]:
    return [
        row["kind"] for row in db.all("select kind from events where job_id = %(id)s order by id", id=job["id"])
    ]


@pytest.fixture
def job(api: Client) -> Job:
    api.submit()
    claimed = api.claim()
    assert claimed
    return claimed


def test_a_first_claim_brings_no_manifest(job: Job) -> None:
    assert "checkpoint" not in job


def test_the_next_claim_brings_the_newest_manifest_as_it_was_reported(api: Client, job: Job) -> None:
    for generation in (1, 2):
        answer = put(api, job, generation, more={"files": [FILE | {"etag": f"etag-{generation}"}]})
        assert (answer.status_code, answer.json) == (200, {"generation": generation})
    api.report(job, "released", attempt=1)
    claim_id = uuid.uuid4()
    for _ in range(2):  # also where the first answer was lost
        again = api.claim("m2", claim_id=claim_id)
        assert again
        shown = again["checkpoint"]
        assert (shown["attempt"], shown["generation"]) == (1, 2)
        assert shown["files"] == [FILE | {"etag": "etag-2"}]
        assert shown["reported"].endswith("Z")
    read = (api.get(f"/jobs/{job['id']}").json or {})["checkpoint"]
    assert (read["generation"], read["bytes"]) == (2, FILE["size"]) and "files" not in read


def test_a_later_attempts_manifest_is_newer_whatever_its_number(api: Client, job: Job) -> None:
    put(api, job, 50)
    api.report(job, "released", attempt=1)
    api.claim("m2")
    assert put(api, job, 1, attempt=2, machine="m2").status_code == 200
    api.report(job, "released", "m2", attempt=2)
    third = api.claim("m3")
    assert third and (third["checkpoint"]["attempt"], third["checkpoint"]["generation"]) == (2, 1)


def test_the_two_newest_are_kept(api: Client, db: Database, job: Job) -> None:
    for generation in range(1, 5):
        put(api, job, generation)
    assert kept(db) == [(1, 3), (1, 4)]
    api.report(job, "released", attempt=1)
    api.claim("m2")
    put(api, job, 1, attempt=2, machine="m2")
    assert kept(db) == [(1, 4), (2, 1)]


def test_one_that_comes_late_writes_nothing_and_is_told_what_is_newer(api: Client, db: Database, job: Job) -> None:
    put(api, job, 7)
    before = rows_of_jobs(db)
    late = put(api, job, 6)
    assert (late.status_code, late.json) == (200, {"generation": 7})
    assert rows_of_jobs(db) == before


def test_a_generation_reported_again_replaces_itself(api: Client, db: Database, job: Job) -> None:
    put(api, job, 3)
    assert put(api, job, 3, more={"files": [FILE, FILE | {"key": "c/more"}]}).status_code == 200
    assert kept(db) == [(1, 3)]
    assert len(db.all("select jsonb_array_elements(files) from checkpoints")) == 2


def test_sizes_that_no_number_can_hold_together_are_no_defect(api: Client, job: Job) -> None:
    huge = FILE | {"size": 2**63 - 1}
    assert put(api, job, 1, more={"files": [huge, huge | {"key": "c/more"}]}).status_code == 200
    assert (api.get(f"/jobs/{job['id']}").json or {})["checkpoint"]["bytes"] == 2**63 - 1


def test_the_first_manifest_of_each_attempt_is_an_event_and_no_other(api: Client, db: Database, job: Job) -> None:
    for generation in (1, 2, 3):
        put(api, job, generation)
    assert kinds(db, job) == ["submitted", "claimed", "checkpointed"]


@pytest.mark.parametrize("state", ["waiting", "completed", "failed", "canceled", "pending"])
def test_only_a_holder_is_answered(api: Client, db: Database, tenant: Tenant, state: str) -> None:
    job = {"id": make_job(db, tenant, state)}
    before = rows_of_jobs(db)
    assert refused(put(api, job, 1), 409)["error"] == "Not The Holder"
    refused(api.report(job, "resumed", attempt=1, checkpoint="torn"), 409)
    assert rows_of_jobs(db) == before


@pytest.mark.parametrize(("machine", "attempt"), [("m2", 2), ("m1", 1), ("m1", 3)])
def test_an_attempt_without_a_lease_cannot_report_a_manifest(
    api: Client, db: Database, tenant: Tenant, machine: str, attempt: int
) -> None:
    job = {"id": make_job(db, tenant, "held", attempt=2)}
    before = rows_of_jobs(db)
    refused(put(api, job, 1, attempt, machine), 409)
    refused(api.report(job, "resumed", machine, attempt=attempt, checkpoint="torn"), 409)
    assert rows_of_jobs(db) == before


@pytest.mark.parametrize("job_id", ["9d3b1f0e-4c52-4b7e-9a51-6c1f4b1f2a77", "no-uuid"])
def test_an_unknown_job_is_a_404(api: Client, job_id: str) -> None:
    refused(put(api, {"id": job_id}, 1), 404)
    refused(api.report({"id": job_id}, "resumed", attempt=1, checkpoint="torn"), 404)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attempt", None),
        ("attempt", "1"),
        ("generation", 0),
        ("generation", 2**63),
        ("generation", None),
        ("files", None),
        ("files", {}),
        ("files", [{}]),
        ("files", ["c/weights"]),
        ("files", [FILE | {"size": -1}]),
        ("files", [FILE | {"size": 2**63}]),
        ("files", [FILE | {"key": ""}]),
        ("files", [FILE | {"key": "k" * 1025}]),
        ("files", [FILE | {"etag": "\0"}]),
        ("files", [FILE] * 20_001),
    ],
)
def test_a_manifest_that_is_none_is_a_400(api: Client, db: Database, job: Job, field: str, value: Any) -> None:
    before = rows_of_jobs(db)
    assert refused(put(api, job, 1, more={field: value}), 400)["errors"]
    assert rows_of_jobs(db) == before


def test_how_an_attempt_found_its_checkpoint_is_an_event_once(api: Client, db: Database, job: Job) -> None:
    for _ in range(2):
        answer = api.report(job, "resumed", attempt=1, checkpoint="torn", detail="c/weights is another version")
        assert answer.status_code == 200
    assert kinds(db, job) == ["submitted", "claimed", "resumed"]
    [event] = db.all("select detail from events where kind = 'resumed'")
    assert event["detail"] == {
        "machine_id": "m1",
        "checkpoint": "torn",
        "detail": "c/weights is another version",
    }
    refused(api.report(job, "resumed", attempt=1, checkpoint="fine"), 400)


def test_manifests_go_with_their_job(api: Client, admin: Client, db: Database, job: Job) -> None:
    put(api, job, 1)
    assert admin.delete("/jobs").status_code == 204
    assert kept(db) == []


def test_the_newest_manifest_is_read_by_the_project_and_by_no_other(
    app: Flask, api: Client, db: Database, job: Job
) -> None:
    path = f"/jobs/{job['id']}/checkpoint"
    assert "has no checkpoint yet" in refused(api.get(path), 404)["message"]
    put(api, job, 1)
    put(api, job, 2)
    found = api.get(path).json or {}
    assert (found["attempt"], found["generation"]) == (1, 2) and found["files"]
    rival = Client(app.test_client(), make_tenant(db, "rival", "default").key)
    assert "There is no job" in refused(rival.get(path), 404)["message"]
