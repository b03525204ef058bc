"""The optional fields of a submission (docs/design/protocol.md, Optional fields)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from kelpie_api.db import Database
from tests.helpers import Client, definition, refused, row

WHOLE: dict[str, Any] = {
    "name": "Größe 7",
    "labels": {"team": "vision", "exp/1.2": ""},
    "priority": -100,
    "max_runtime": 3600,
    "max_attempt_runtime": 600,
    "max_attempts": 5,
    "max_fruitless_attempts": 3,
    "stall_after": 900,
    "on_stall": "restart",
    "retry": [
        {"exit_code": [3.0, 137], "reason": "exit_code", "do": "fail"},
        {"exit_code": 1, "do": "free", "backoff": 60},
        {"do": "hold"},
    ],
    "keep_output": 65536,
    "checkpoint_signal": "USR1",
    "webhook_events": ["failed", "held"],
}


def test_what_was_said_of_a_job_is_answered_as_it_was_sent(api: Client) -> None:
    submitted = api.submit(**WHOLE)
    read = api.get(f"/jobs/{submitted['id']}").json or {}
    [listed] = (api.get("/jobs").json or {})["jobs"]
    assert {name: submitted[name] for name in WHOLE} == WHOLE
    assert read == submitted == listed
    claimed = api.claim() or {}
    assert {name: claimed[name] for name in WHOLE} == WHOLE


def test_a_job_of_which_nothing_was_said_is_answered_as_the_original_does_until_it_is_handed_out(
    api: Client,
) -> None:
    submitted = api.submit()
    added = {"name": None, "labels": {}, "priority": 0, "phase": "running", "parked": None, "reason": None}
    options = WHOLE.keys() - {"name", "labels", "priority"}
    others = {*options, "rerun_of", "backoff_until", "checkpoint", "options"}
    assert not submitted.keys() & {*added, *others}
    claimed = api.claim() or {}
    read = api.get(f"/jobs/{submitted['id']}").json or {}
    for answer in (claimed, read):
        assert {name: answer[name] for name in added} == added
        assert not answer.keys() & others


@pytest.mark.parametrize(
    ("field", "value"), [("name", "a"), ("labels", {"a": "b"}), ("priority", 1), ("max_runtime", 1)]
)
def test_one_optional_field_brings_the_phase(api: Client, field: str, value: Any) -> None:
    assert api.submit(**{field: value})["phase"] == "pending"


def test_an_answer_can_be_submitted_again(api: Client) -> None:
    first = api.submit(**WHOLE)
    again = api.submit(**first)
    assert {name: again[name] for name in WHOLE} == WHOLE
    assert not any("did you mean" in warning for warning in again["warnings"])
    nothing = api.submit(**dict.fromkeys(WHOLE))
    assert not nothing.keys() & WHOLE.keys()


# field, value
REFUSED = [
    ("name", ""),
    ("name", "n" * 101),
    ("name", 5),
    ("name", "a\0b"),
    ("labels", []),
    ("labels", {"": "x"}),
    ("labels", {"-a": "x"}),
    ("labels", {"a b": "x"}),
    ("labels", {"a\n": "x"}),
    ("labels", {"k" * 64: "x"}),
    ("labels", {"a": 5}),
    ("labels", {"a": None}),
    ("labels", {"a": "v" * 256}),
    ("labels", {f"k{n}": "" for n in range(33)}),
    *(("priority", value) for value in (101, -101, 1.5, "5", True)),
    *(
        (name, value)
        for name in ("max_runtime", "max_attempt_runtime", "stall_after")
        for value in (0, -1, 0.5, "60", True)
    ),
    *((name, value) for name in ("max_attempts", "max_fruitless_attempts") for value in (-1, 1.5, "1", False)),
    ("on_stall", "ignore"),
    ("on_stall", True),
    ("retry", {}),
    ("retry", [{}]),
    ("retry", [{"do": "again"}]),
    ("retry", [{"do": "retry", "exit_code": "3"}]),
    ("retry", [{"do": "retry", "exit_code": 256}]),
    ("retry", [{"do": "retry", "exit_code": []}]),
    ("retry", [{"do": "retry", "exit_code": [True]}]),
    ("retry", [{"do": "retry", "reason": ""}]),
    ("retry", [{"do": "retry", "backoff": -1}]),
    ("retry", [{"do": "fail", "backoff": 1}]),
    ("retry", [{"do": "retry"}] * 11),
    *(("keep_output", value) for value in (-1, 2**20 + 1, "1", True)),
    ("checkpoint_signal", "SIGUSR1"),
    ("webhook_events", "failed"),
    ("webhook_events", ["pending"]),
]


@pytest.mark.parametrize(("field", "value"), REFUSED)
def test_what_such_a_field_cannot_be_is_refused_with_a_sentence_that_names_it(
    api: Client, field: str, value: Any
) -> None:
    body = refused(api.post("/jobs", definition(**{field: value})), 400)
    assert all(path.split(".")[0] == field for path in body["errors"]), body
    assert (api.get("/jobs").json or {})["_count"] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "n" * 100),
        ("labels", {"k" * 63: "v" * 255}),
        ("priority", 100),
        ("max_attempts", 0),
        ("keep_output", 0),
        ("keep_output", 2**20),
        ("webhook_events", []),
        ("retry", []),
    ],
)
def test_the_ends_of_what_a_field_can_be_are_accepted(api: Client, field: str, value: Any) -> None:
    assert api.submit(**{field: value})[field] == value


def test_higher_priorities_are_handed_out_first(api: Client) -> None:
    jobs = {priority: api.submit(priority=priority)["id"] for priority in (0, -100, 100, 1)}
    assert [(api.claim() or {})["id"] for _ in jobs] == [jobs[priority] for priority in (100, 1, 0, -100)]


def test_labels_are_kept_where_they_are_looked_for(api: Client, db: Database) -> None:
    job = api.submit(labels={"team": "vision"})
    api.submit()
    found = db.all("select l.key, l.value, j.id from job_labels l join jobs j using (tenant_id, seq)")
    assert found == [{"key": "team", "value": "vision", "id": UUID(job["id"])}]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, (None, None, None)),
        ({"max_attempts": 4, "max_fruitless_attempts": 0}, (4, None, None)),
        ({"max_attempts": 4, "max_fruitless_attempts": 2}, (2, None, None)),
        ({"max_attempts": 4, "max_runtime": 60}, (1, None, 60)),
        ({"max_attempt_runtime": 60}, (None, 60, None)),
    ],
)
def test_limits_stand_in_the_queue(
    api: Client, db: Database, limits: dict[str, int], expected: tuple[Any, ...]
) -> None:
    queued = row(db, "queue", api.submit(**limits)["id"]) or {}
    assert (queued["ends_from_attempt"], queued["attempt_seconds"], queued["seconds_left"]) == expected


def test_a_read_tells_of_the_newest_checkpoint_and_a_claim_brings_its_manifest(api: Client) -> None:
    api.submit()
    job = api.claim() or {}
    assert "checkpoint" not in job
    files = [{"bucket": "b", "key": key, "size": size} for key, size in (("a", 5), ("b", 2**40))]
    fence = {"machine_id": "m1", "container_group_id": "g1", "attempt": 1, "generation": 7}
    assert api.call("PUT", f"/jobs/{job['id']}/checkpoint", fence | {"files": files}).status_code == 200
    read = (api.get(f"/jobs/{job['id']}").json or {})["checkpoint"]
    [listed] = (api.get("/jobs").json or {})["jobs"]
    assert read == listed["checkpoint"] and read.keys() == {"generation", "at", "bytes"}
    assert (read["generation"], read["bytes"]) == (7, 2**40 + 5)
    assert api.report(job, "released", attempt=1).status_code == 200
    claimed = (api.claim() or {})["checkpoint"]
    assert claimed.keys() == {"attempt", "generation", "reported", "files"} and len(claimed["files"]) == 2


def test_a_job_of_a_paused_group_is_answered_as_parked(api: Client, db: Database) -> None:
    tenant = (db.one_or_none("select id from tenants where project = 'default'") or {})["id"]
    db.execute("insert into paused_groups (tenant_id, container_group, by) values (%(id)s, 'g1', 'x')", id=tenant)
    job = api.submit(container_group_id="G1")
    assert (job["phase"], job["parked"]) == ("parked", ["paused"])
    assert api.get(f"/jobs/{job['id']}").json == job
