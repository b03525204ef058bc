"""How far a job is: what heartbeats tell of it, its course, and the estimate
(docs/design/protocol.md, Progress)."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from flask import Flask

from kelpie_api.auth import users
from kelpie_api.auth.caller import Role
from kelpie_api.db import Database
from tests.helpers import Client, Job, Tenant, refused, row, rows_of_jobs


@pytest.fixture
def job(api: Client) -> Job:
    api.submit()
    claimed = api.claim()
    assert claimed
    return claimed


def beat(api: Client, job: Job, machine: str = "m1", attempt: int = 1, **news: Any) -> Job:
    answer = api.report(job, "heartbeat", machine, attempt=attempt, **news)
    assert answer.status_code == 200, answer.text
    return dict(answer.json or {})


def shown(api: Client, job: Job) -> Job:
    return dict(api.get(f"/jobs/{job['id']}").json or {})


def course(api: Client, job: Job) -> Job:
    answer = api.get(f"/jobs/{job['id']}/progress")
    assert answer.status_code == 200, answer.text
    return dict(answer.json or {})


def let_pass(db: Database, seconds: float) -> None:
    """As if all that was told had been told so much earlier."""
    db.execute(
        "update progress set said_at = said_at - %(s)s * interval '1 second',"
        " changed_at = changed_at - %(s)s * interval '1 second',"
        " first_at = first_at - %(s)s * interval '1 second',"
        " last_point = last_point - %(s)s * interval '1 second'",
        s=seconds,
    )


def test_a_heartbeat_whose_sender_has_given_up_renews_the_lease_and_tells_no_older_progress(
    api: Client, job: Job, db: Database
) -> None:
    """It waited in a crowd, and the next one, with newer progress, was served before it."""
    beat(api, job, phase="running", progress={"fraction": 0.79})
    server_side, client_side = socket.socketpair()
    client_side.close()
    with server_side:
        answer = api.http.post(
            f"/jobs/{job['id']}/heartbeat",
            json={
                **{"machine_id": "m1", "container_group_id": "g1", "attempt": 1, "phase": "downloading"},
                "progress": {"fraction": 0.69},
            },
            headers={"X-Kelpie-Key": str(api.key)},
            environ_overrides={"gunicorn.socket": server_side},
        )
    assert answer.json == {"status": "running"}
    job = shown(api, job)
    assert (job["phase"], job["progress"]["fraction"], job["num_heartbeats"]) == ("running", 0.79, 2)


def test_a_job_shows_what_its_command_told(api: Client, job: Job) -> None:
    assert "progress" not in shown(api, job)
    said = {"step": 41000, "total": 3e7, "fraction": 0.25, "loss": 0.23, "message": "warming up"}
    assert beat(api, job, progress=said) == {"status": "running"}
    for answer in (shown(api, job), (api.get("/jobs").json or {})["jobs"][0]):
        told = answer["progress"]
        assert {name: told[name] for name in said} == said
        assert told["at"].endswith("Z") and told["eta"] is None


def test_a_heartbeat_without_progress_keeps_what_was_told(api: Client, job: Job) -> None:
    beat(api, job, progress={"fraction": 0.5})
    at = shown(api, job)["progress"]["at"]
    beat(api, job)
    assert shown(api, job)["progress"]["fraction"] == 0.5
    assert shown(api, job)["progress"]["at"] == at


def test_progress_without_a_fraction_keeps_the_fraction(api: Client, job: Job) -> None:
    beat(api, job, progress={"fraction": 0.5})
    beat(api, job, progress={"message": "saving"})
    told = shown(api, job)["progress"]
    assert (told["fraction"], told["message"]) == (0.5, "saving")


def test_the_queue_keeps_the_fraction_and_when_it_changed(api: Client, db: Database, job: Job) -> None:
    beat(api, job, progress={"fraction": 0.5})
    first = row(db, "queue", job["id"])
    beat(api, job, progress={"fraction": 0.5, "loss": 1})
    same = row(db, "queue", job["id"])
    beat(api, job, progress={"fraction": 0.625})
    moved = row(db, "queue", job["id"])
    assert first and same and moved
    assert (first["fraction"], moved["fraction"]) == (0.5, 0.625)
    assert first["fraction_at"] == same["fraction_at"] < moved["fraction_at"]


@pytest.mark.parametrize("end", ["completed", "failed", "released"])
def test_what_was_told_last_comes_with_the_report_of_the_end(api: Client, job: Job, end: str) -> None:
    """A command that tells it and exits leaves no time for a heartbeat."""
    beat(api, job, progress={"step": 3, "fraction": 0.75})
    last = {"progress": {"step": 4, "fraction": 1}, "output_bytes": 900}
    assert api.report(job, end, attempt=1, **last).status_code < 300
    told = shown(api, job)["progress"]
    assert (told["step"], told["fraction"], course(api, job)["output_bytes"]) == (4, 1, 900)


def test_what_a_heartbeat_told_is_not_told_anew_by_the_report(api: Client, job: Job) -> None:
    beat(api, job, progress={"step": 3, "fraction": 0.75}, output_bytes=9)
    before = course(api, job)
    api.report(job, "completed", attempt=1, progress={"step": 3, "fraction": 0.75}, output_bytes=10)
    after = course(api, job)
    assert after["progress"]["at"] == before["progress"]["at"] and after["points"] == before["points"]
    assert after["output_bytes"] == 10


def test_a_report_with_what_is_no_progress_is_a_400_and_can_be_sent_without(api: Client, job: Job) -> None:
    refused(api.report(job, "completed", attempt=1, progress={"fraction": 2}), 400)
    assert api.report(job, "completed", attempt=1).status_code == 200


def test_the_last_progress_of_a_finished_job_stays(api: Client, job: Job) -> None:
    beat(api, job, progress={"fraction": 0.9})
    api.report(job, "completed", attempt=1)
    assert shown(api, job)["progress"]["fraction"] == 0.9
    assert shown(api, job)["progress"]["eta"] is None


@pytest.mark.parametrize(
    "news",
    [
        {"progress": 0.5},
        {"progress": [0.5]},
        {"progress": {"fraction": 1.5}},
        {"progress": {"fraction": "0.5"}},
        {"progress": {"fraction": True}},
        {"progress": {"message": "x" * 2048}},
        {"output_bytes": -1},
        {"output_bytes": "5"},
        {"phase": "stalled"},
        {"phase": 1},
        {"stalled": "yes"},
    ],
    ids=str,
)
def test_what_is_no_progress_is_a_400_and_writes_nothing(
    api: Client, db: Database, job: Job, news: dict[str, Any]
) -> None:
    before = rows_of_jobs(db)
    answer = refused(api.report(job, "heartbeat", attempt=1, **news), 400)
    assert answer["errors"].keys() == news.keys()
    assert rows_of_jobs(db) == before


def test_an_object_of_two_kibibytes_is_taken_whatever_its_characters(api: Client, job: Job) -> None:
    said = {"message": "ä" * ((2048 - len('{"message":""}')) // 2)}
    beat(api, job, progress=said)
    assert shown(api, job)["progress"]["message"] == said["message"]


def test_numbers_that_no_answer_can_carry_are_null(api: Client, job: Job) -> None:
    body = (
        b'{"machine_id": "m1", "container_group_id": "g1", "attempt": 1,'
        b' "progress": {"loss": 1e999, "inner": [-1e999], "step": ' + b"9" * 400 + b"}}"
    )
    assert api.call("POST", f"/jobs/{job['id']}/heartbeat", body).status_code == 200
    told = shown(api, job)["progress"]
    assert (told["loss"], told["inner"]) == (None, [None])
    assert course(api, job)["points"][0]["step"] is None


def test_only_the_holder_tells_progress(api: Client, db: Database, job: Job) -> None:
    before = rows_of_jobs(db)
    for machine, attempt in (("m2", 1), ("m1", 2)):
        told = beat(api, job, machine, attempt, progress={"fraction": 1}, phase="uploading", output_bytes=1)
        assert told == {"status": "canceled"}
    assert rows_of_jobs(db) == before


def test_the_rate_of_the_present_attempt_says_when_it_will_be_done(api: Client, db: Database, job: Job) -> None:
    beat(api, job, progress={"fraction": 0.2})
    let_pass(db, 100)
    beat(api, job, progress={"fraction": 0.4})
    at, eta = (
        db.one_or_none(
            "select extract(epoch from %(at)s::timestamptz)::float as n", at=shown(api, job)["progress"][at]
        )
        for at in ("at", "eta")
    )
    assert at and eta
    assert eta["n"] - at["n"] == pytest.approx(300, abs=2)


def test_an_estimate_of_years_is_none(api: Client, db: Database, job: Job) -> None:
    beat(api, job, progress={"fraction": 0})
    let_pass(db, 1e6)
    beat(api, job, progress={"fraction": 1e-9})
    assert shown(api, job)["progress"]["eta"] is None


def test_a_resume_says_from_where_to_where_it_went(api: Client, db: Database, job: Job) -> None:
    beat(api, job, progress={"fraction": 0.25})
    beat(api, job, progress={"fraction": 0.5}, output_bytes=10)
    assert course(api, job)["resumed"] is None
    api.report(job, "released", attempt=1)
    assert shown(api, job)["progress"]["fraction"] == 0.5
    assert api.claim("m2")
    let_pass(db, 100)
    beat(api, job, "m2", 2, output_bytes=3)  # before its first fraction
    assert course(api, job)["output_bytes"] == 3
    beat(api, job, "m2", 2, progress={"fraction": 0.375})
    assert shown(api, job)["progress"]["fraction"] == 0.375
    assert shown(api, job)["progress"]["eta"] is None  # the rate of the attempt before does not count
    beat(api, job, "m2", 2, progress={"fraction": 0.4})
    assert course(api, job)["resumed"] == {"attempt": 2, "from": 0.5, "to": 0.375}
    assert course(api, job)["attempt"] == 2


def test_a_first_fraction_after_other_progress_is_no_resume(api: Client, job: Job) -> None:
    beat(api, job, progress={"message": "loading"})
    beat(api, job, progress={"fraction": 0.25})
    assert course(api, job)["resumed"] is None


def test_a_point_is_written_once_its_interval_has_passed(api: Client, db: Database, job: Job) -> None:
    assert course(api, job)["points"] == []
    said = {"fraction": 0.1, "step": 10, "loss": 2.5, "name": "x", "metrics": {"accuracy": 0.5, "total": 3}}
    beat(api, job, progress=said)
    beat(api, job, progress={"fraction": 0.2})
    let_pass(db, 5)
    beat(api, job, progress={"fraction": 0.3})
    first, second = course(api, job)["points"]
    assert first.pop("at").endswith("Z")
    assert first == {"attempt": 1, "fraction": 0.1, "step": 10, "metrics": {"loss": 2.5, "accuracy": 0.5}}
    assert (second["fraction"], second["metrics"]) == (0.3, {})
    assert course(api, job)["point_seconds"] == 5


def test_of_five_hundred_points_each_second_one_goes_and_the_interval_doubles(
    api: Client, db: Database, job: Job
) -> None:
    for tens, seconds in ((1, 10), (2, 20)):
        beat(api, job, progress={"fraction": 0})
        kept = len(course(api, job)["points"])
        db.execute(
            "insert into progress_points (job_id, number, attempt, at)"
            " select job_id, point_number + n, 1, now() from progress, generate_series(1, %(more)s) n",
            more=499 - kept,
        )
        db.execute("update progress set points = 499, point_number = point_number + %(more)s", more=499 - kept)
        let_pass(db, 1000)
        beat(api, job, progress={"fraction": tens / 10})
        points = course(api, job)
        assert (len(points["points"]), points["point_seconds"]) == (250, seconds)
    let_pass(db, 19)
    beat(api, job, progress={"fraction": 0.5})
    assert len(course(api, job)["points"]) == 250
    let_pass(db, 1)
    beat(api, job, progress={"fraction": 0.6})
    assert course(api, job)["points"][-1]["fraction"] == 0.6


def test_the_phase_is_what_the_holder_said_last(api: Client, db: Database, job: Job) -> None:
    assert phase(db, job) == "running"
    for said in ("downloading", "running", "uploading"):
        beat(api, job, phase=said)
        assert phase(db, job) == said
    beat(api, job)
    assert phase(db, job) == "uploading"
    api.report(job, "released", attempt=1)
    assert phase(db, job) == "waiting"


def test_a_stall_is_a_phase_and_one_event_until_it_goes_on(api: Client, db: Database, job: Job) -> None:
    for stalled in (True, True, False, True):
        beat(api, job, phase="running", stalled=stalled)
        assert phase(db, job) == ("stalled" if stalled else "running")
    beat(api, job, stalled=False)
    assert phase(db, job) == "running"
    beat(api, job, phase="uploading", stalled=True)
    assert phase(db, job) == "uploading"
    events = [event for event in api.get(f"/jobs/{job['id']}/events").json["events"] if event["kind"] == "stalled"]
    assert [(event["actor"], event["attempt"]) for event in events] == [("machine:m1", 1)] * 2


def phase(db: Database, job: Job) -> str:
    found = db.one_or_none("select phase from job_phases where job_id = %(id)s", id=job["id"])
    assert found
    return str(found["phase"])


def test_progress_of_another_tenants_job_is_unknown(stranger: Client, job: Job) -> None:
    refused(stranger.get(f"/jobs/{job['id']}/progress"), 404)


def test_a_viewer_reads_progress(app: Flask, api: Client, db: Database, tenant: Tenant, job: Job) -> None:
    beat(api, job, progress={"fraction": 0.5})
    key = users.create_token(db, tenant.caller.user_id, "acme", "default", Role.VIEWER)
    viewer = Client(app.test_client(), key)
    assert course(viewer, job)["progress"]["fraction"] == 0.5


def test_progress_goes_with_its_job(api: Client, db: Database, job: Job) -> None:
    beat(api, job, progress={"fraction": 0.5})
    api.report(job, "completed", attempt=1)
    db.execute("delete from jobs")
    for table in ("progress", "progress_points"):
        assert db.all(f"select * from {table}") == []


def test_a_claim_says_what_its_worker_speaks(api: Client, db: Database) -> None:
    job = api.submit()
    answer = api.get("/work?machine_id=m1&container_group_id=g1&speaks=steer,phase,,dance, output")
    assert answer.json and answer.json[0]["id"] == job["id"]
    for table in ("queue", "attempts"):
        assert (row(db, table, job["id"]) or {})["speaks"] == ["output", "phase", "steer"]


def test_a_claim_that_says_nothing_speaks_nothing(db: Database, job: Job) -> None:
    assert (row(db, "attempts", job["id"]) or {})["speaks"] in (None, [])
