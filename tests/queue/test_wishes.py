"""What people wish of jobs, limits and retry rules: what becomes of the attempt and of the job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from kelpie_api.db import SQL, Database
from kelpie_api.machines.sightings import Sightings
from kelpie_api.queue import jobs, wishes
from kelpie_api.queue.progress import told
from tests.helpers import (
    Client,
    Job,
    Tenant,
    be_seen,
    claim,
    claim_in,
    claimed_id,
    refused,
    report,
    row,
    while_open,
)

STEERED = "phase,progress,output,steer"
LAPSED = 61


def claimed(api: Client, speaks: str = STEERED, machine: str = "m1") -> Job:
    answer = api.get(f"/work?machine_id={machine}&container_group_id=g1&speaks={speaks}").json
    assert answer, "no job was handed out"
    return dict(answer[0])


def running(api: Client, speaks: str = STEERED, **fields: Any) -> Job:
    api.submit(**fields)
    return claimed(api, speaks)


def asked(api: Client, job: Job, what: str, body: Any = None) -> Job:
    answer = api.post(f"/jobs/{job['id']}/{what}", body)
    assert answer.status_code == 202, answer.text
    return dict(answer.json or {})


def beat(api: Client, job: Job, **more: Any) -> Job:
    return dict(api.report(job, "heartbeat", attempt=job["attempt"], **more).json or {})


def read(api: Client, job: Job) -> Job:
    return dict(api.get(f"/jobs/{job['id']}").json or {})


def history(api: Client, job: Job) -> list[dict[str, Any]]:
    return list((api.get(f"/jobs/{job['id']}/events").json or {})["events"])


def events(api: Client, job: Job) -> list[tuple[str, str]]:
    return [(event["kind"], event["actor"]) for event in history(api, job)]


def be_silent(db: Database, job: Job, seconds: int = LAPSED) -> None:
    db.execute(
        "update queue set heartbeat = heartbeat - %(s)s * interval '1 second',"
        " wished_at = wished_at - %(s)s * interval '1 second' where job_id = %(id)s",
        id=job["id"],
        s=seconds,
    )
    be_seen(db)


def use_up(db: Database, job: Job, seconds: int) -> None:
    """Have the attempt begun so many seconds earlier."""
    values = {"id": job["id"], "s": seconds}
    db.execute(
        "update queue set deadline = deadline - %(s)s * interval '1 second' where job_id = %(id)s", **values
    )
    db.execute(
        "update attempts set claimed = claimed - %(s)s * interval '1 second' where job_id = %(id)s", **values
    )


# --- a job without a holder


def test_a_held_job_is_parked_until_it_is_resumed(api: Client) -> None:
    job = api.submit()
    assert asked(api, job, "hold") == {"message": "Job held"} == asked(api, job, "hold")
    assert (read(api, job)["phase"], read(api, job)["parked"]) == ("parked", ["hold"])
    assert api.claim() is None
    assert asked(api, job, "resume") == {"message": "Job resumed"}
    assert asked(api, job, "resume") == {"message": "The job was not held."}
    assert (api.claim() or {})["id"] == job["id"]
    assert events(api, job)[:3] == [("submitted", "user:acme"), ("parked", "user:acme"), ("unparked", "user:acme")]


def test_a_graceful_cancel_of_a_job_without_a_holder_cancels_it_at_once(api: Client) -> None:
    job = api.submit()
    for _ in range(2):
        answer = api.delete(f"/jobs/{job['id']}?graceful=true")
        assert (answer.status_code, answer.json) == (202, {"message": "Job canceled"})
    assert read(api, job)["status"] == "canceled"


def test_a_job_that_no_machine_holds_cannot_be_interrupted(api: Client) -> None:
    assert "No machine holds" in refused(api.post(f"/jobs/{api.submit()['id']}/interrupt"), 409)["message"]


@pytest.mark.parametrize("what", ["hold", "resume", "interrupt"])
def test_a_final_job_cannot_be_steered_and_another_users_is_unknown(api: Client, db: Database, what: str) -> None:
    job = running(api)
    api.report(job, "completed", attempt=1)
    assert "has completed already" in refused(api.post(f"/jobs/{job['id']}/{what}"), 409)["message"]
    other = api.submit()
    api.delete(f"/jobs/{other['id']}")
    assert "was canceled already" in refused(api.post(f"/jobs/{other['id']}/{what}"), 409)["message"]
    refused(api.post(f"/jobs/{UUID(int=7)}/{what}"), 404)


# --- a wish that a worker hears


@pytest.mark.parametrize(
    ("wish", "phase", "then"),
    [("interrupt", "waiting", None), ("hold", "parked", ["hold"]), ("cancel", "canceled", None)],
)
def test_the_worker_hears_a_wish_and_its_release_carries_it_out(
    api: Client, wish: str, phase: str, then: list[str] | None
) -> None:
    job = running(api, heartbeat_interval=60)
    assert beat(api, job) == {"status": "running"}
    path = f"/jobs/{job['id']}"
    answer = (api.delete(f"{path}?graceful=true") if wish == "cancel" else api.post(f"{path}/{wish}")).json or {}
    assert answer["heard_by"]
    assert read(api, job)["phase"] == "running"
    assert beat(api, job) == {"status": "running", "stop": {"why": wish}}
    assert api.report(job, "released", attempt=1, reason=wish, stop={"why": wish}).status_code == 200
    found = read(api, job)
    assert (found["phase"], found["parked"]) == (phase, then)
    kinds = events(api, job)
    assert ("asked", "user:acme") in kinds and ("released", "machine:m1") in kinds
    if phase != "waiting":
        assert kinds[-1] == ("parked" if wish == "hold" else "canceled", "user:acme")
    assert (api.claim() is None) == (phase != "waiting")


def test_an_interrupted_job_goes_to_the_same_machine_unless_it_is_banned(api: Client) -> None:
    job = running(api)
    asked(api, job, "interrupt", {"ban": True})
    assert beat(api, job)["stop"] == {"why": "interrupt"}
    api.report(job, "released", attempt=1)
    assert api.claim() is None
    assert (api.claim(machine="m2") or {})["attempt"] == 2


@pytest.mark.parametrize("first", [None, "interrupt", "hold"])
def test_a_machine_that_is_banned_on_request_is_told_of_like_one_where_the_job_failed(
    api: Client, db: Database, tenant: Tenant, first: str | None
) -> None:
    """Also where its worker was asked to stop before, and no new wish is noted."""
    job = running(api)
    if first:
        asked(api, job, first)
    asked(api, job, "interrupt", {"ban": True})
    asked(api, job, "interrupt", {"ban": True})
    told = [event for event in history(api, job) if event["kind"] == "asked" and "ban" in event["detail"]]
    assert [(event["actor"], event["detail"]["machine_id"]) for event in told] == [("user:acme", "m1")]
    assert beat(api, job)["stop"] == {"why": first or "interrupt"}
    api.report(job, "released", attempt=1)
    if first == "hold":
        asked(api, job, "resume")
    sightings = Sightings(db)
    sightings.note(tenant.caller.tenant_id, "g1", "m1")
    sightings.write()
    assert read(api, job)["blocked_on_machines"] == ["m1"]
    sightings.record_sightings()
    assert events(api, job)[-1] == ("blocked", "coordinator")


@pytest.mark.parametrize(
    ("first", "second", "heard"), [("hold", "interrupt", "hold"), ("interrupt", "hold", "hold")]
)
def test_a_stronger_wish_replaces_a_weaker_one(api: Client, first: str, second: str, heard: str) -> None:
    job = running(api)
    asked(api, job, first)
    asked(api, job, second)
    assert beat(api, job)["stop"] == {"why": heard}
    api.delete(f"/jobs/{job['id']}?graceful=true")
    asked(api, job, first)
    assert beat(api, job)["stop"] == {"why": "cancel"}


def test_a_hold_is_withdrawn_by_a_resume(api: Client) -> None:
    job = running(api)
    asked(api, job, "hold")
    assert "not held any more" in asked(api, job, "resume")["message"]
    assert beat(api, job) == {"status": "running"}
    api.report(job, "released", attempt=1)
    assert (api.claim() or {})["attempt"] == 2


@pytest.mark.parametrize("wish", ["hold", "cancel"])
def test_a_completion_wins_over_a_wish(api: Client, wish: str) -> None:
    job = running(api)
    path = f"/jobs/{job['id']}"
    assert (
        api.delete(f"{path}?graceful=true") if wish == "cancel" else api.post(f"{path}/hold")
    ).status_code == 202
    assert api.report(job, "completed", attempt=1).status_code == 200
    assert read(api, job)["status"] == "completed"


def test_a_worker_that_cannot_be_told_is_not_interrupted_and_a_hold_acts_when_its_attempt_ends(
    api: Client,
) -> None:
    job = running(api, speaks="")
    assert "cannot be told" in refused(api.post(f"/jobs/{job['id']}/interrupt"), 409)["message"]
    answer = asked(api, job, "hold")
    assert "when its attempt ends" in answer["message"] and "heard_by" not in answer
    assert beat(api, job) == {"status": "running"}
    api.report(job, "failed", attempt=1)
    assert (read(api, job)["phase"], read(api, job)["parked"]) == ("parked", ["hold"])


# --- silence


@pytest.mark.parametrize(
    ("wish", "status", "phase"), [("hold", "running", "parked"), ("cancel", "canceled", "canceled")]
)
def test_a_lapse_carries_a_wish_out_and_no_claim_takes_the_job_before(
    api: Client, db: Database, wish: str, status: str, phase: str
) -> None:
    job = running(api)
    path = f"/jobs/{job['id']}"
    assert (
        api.delete(f"{path}?graceful=true") if wish == "cancel" else api.post(f"{path}/hold")
    ).status_code == 202
    be_silent(db, job)
    assert api.claim(machine="m2") is None
    wishes.end_due(db)
    found = read(api, job)
    assert (found["status"], found["phase"]) == (status, phase)
    [attempt] = (api.get(f"{path}/attempts").json or {})["attempts"]
    assert attempt["outcome"] == "interrupted"
    assert ("interrupted", "coordinator") in events(api, job)
    assert beat(api, job)["status"] == "canceled"


def test_a_wish_that_is_not_heard_for_interval_and_grace_ends_the_attempt_before_its_lease_lapses(
    api: Client, db: Database
) -> None:
    job = running(api, heartbeat_interval=3600)
    asked(api, job, "interrupt")
    be_silent(db, job, 3600 + 80)
    wishes.end_due(db)
    assert read(api, job)["phase"] == "running"
    be_silent(db, job, 20)
    wishes.end_due(db)
    assert read(api, job)["phase"] == "waiting"


def test_a_wish_is_no_reason_to_end_an_attempt_during_an_outage(api: Client, db: Database) -> None:
    job = running(api)
    asked(api, job, "hold")
    be_silent(db, job)
    db.execute("insert into outages (began, ended) values (now() - interval '1 minute', now())")
    wishes.end_due(db)
    assert read(api, job)["phase"] == "running"


# --- limits


def test_a_job_that_was_handed_out_often_enough_fails_when_its_attempt_ends(api: Client, db: Database) -> None:
    job = running(api, max_attempts=2)
    api.report(job, "released", attempt=1)
    assert read(api, job)["phase"] == "waiting"
    job = claimed(api)
    be_silent(db, job)
    assert api.claim(machine="m2") is None
    wishes.end_due(db)
    found = read(api, job)
    assert (found["status"], found["reason"], found["num_failures"]) == ("failed", "attempts", 0)
    assert events(api, job)[-1] == ("failed", "coordinator")


def test_the_holder_hears_how_much_time_is_left_and_that_it_is_over(api: Client, db: Database) -> None:
    job = running(api, max_runtime=3600, max_attempt_runtime=60)
    assert 55 < beat(api, job)["deadline"] <= 60
    use_up(db, job, 60)
    assert beat(api, job) == {"status": "running", "stop": {"why": "time_limit"}, "deadline": 0.0}
    api.report(job, "released", attempt=1, stop={"why": "time_limit"})
    assert read(api, job)["phase"] == "waiting"
    job = claimed(api)
    use_up(db, job, 3541)
    assert beat(api, job)["stop"] == {"why": "time_limit"}
    api.report(job, "released", attempt=2, stop={"why": "time_limit"})
    found = read(api, job)
    assert (found["status"], found["reason"], found["num_failures"]) == ("failed", "time_limit", 0)


@pytest.mark.parametrize(("speaks", "patience"), [("", 0), (STEERED, 119)])
def test_a_worker_that_goes_on_beyond_its_time_loses_the_job(
    api: Client, db: Database, speaks: str, patience: int
) -> None:
    job = running(api, speaks, max_runtime=60)
    use_up(db, job, 59 + patience)
    wishes.end_due(db)
    assert read(api, job)["status"] == "running"
    use_up(db, job, 2)
    wishes.end_due(db)
    assert (read(api, job)["status"], read(api, job)["reason"]) == ("failed", "time_limit")
    assert beat(api, job)["status"] == "failed"


def test_a_job_whose_attempts_come_to_nothing_is_held_and_begins_to_count_anew_when_it_is_resumed(
    api: Client, db: Database
) -> None:
    job = running(api, max_fruitless_attempts=2, webhook="http://receiver/", webhook_events=["held"])

    def fall_silent() -> str:
        be_silent(db, claimed(api))
        wishes.end_due(db)
        return str(read(api, job)["phase"])

    be_silent(db, job)
    assert fall_silent() == "parked"
    assert (read(api, job)["parked"], read(api, job)["reason"]) == (["hold"], "fruitless")
    assert db.all("select event, status from webhooks") == [{"event": "held", "status": "running"}]
    asked(api, job, "resume")
    assert read(api, job)["reason"] is None
    assert [fall_silent(), fall_silent()] == ["waiting", "parked"]
    asked(api, job, "resume")
    saved = claimed(api)
    fence = {"machine_id": "m1", "container_group_id": "g1", "attempt": saved["attempt"], "generation": 1}
    assert api.call("PUT", f"/jobs/{job['id']}/checkpoint", fence | {"files": []}).status_code == 200
    be_silent(db, saved)
    wishes.end_due(db)
    assert [fall_silent(), fall_silent()] == ["waiting", "parked"]


# --- retry rules


# rules, exit code, reason; status, num_failures, counted, parked, banned
RULES: list[tuple[list[Job], int | None, str | None, tuple[str, int, bool, list[str] | None, bool]]] = [
    ([], 1, "exit_code", ("running", 1, True, None, True)),
    ([{"exit_code": 3, "do": "fail"}], 1, "exit_code", ("running", 1, True, None, True)),
    ([{"exit_code": 3, "do": "fail"}], 3, "exit_code", ("failed", 0, False, None, False)),
    ([{"exit_code": [1, 3], "reason": "oom", "do": "fail"}], 3, "exit_code", ("running", 1, True, None, True)),
    ([{"exit_code": [1, 3], "reason": "oom", "do": "fail"}], 3, "oom", ("failed", 0, False, None, False)),
    (
        [{"reason": "upload", "do": "free", "backoff": 60}],
        None,
        "upload",
        ("running", 0, False, ["backoff"], False),
    ),
    ([{"exit_code": 137, "do": "free", "backoff": 0}], -9, "signal", ("running", 0, False, None, False)),
    ([{"do": "retry", "backoff": 5}], None, None, ("running", 1, True, ["backoff"], True)),
    ([{"exit_code": 3, "do": "free"}, {"do": "hold"}], 4, "exit_code", ("running", 0, False, ["hold"], False)),
    ([{"exit_code": 3, "do": "free"}], None, None, ("running", 1, True, None, True)),
]


@pytest.mark.parametrize(("rules", "exit_code", "reason", "expected"), RULES)
def test_the_first_rule_that_matches_says_what_a_failure_does(
    api: Client,
    db: Database,
    rules: list[Job],
    exit_code: int | None,
    reason: str | None,
    expected: tuple[str, int, bool, list[str] | None, bool],
) -> None:
    job = running(api, retry=rules)
    answers = [
        api.report(job, "failed", attempt=1, exit_code=exit_code, reason=reason).json or {} for _ in range(2)
    ]
    assert answers[0] == answers[1]
    found = read(api, job)
    banned = db.all("select from bans")
    parked = found["parked"]
    counted = answers[0]["counted"]
    assert (found["status"], found["num_failures"], counted, parked, bool(banned)) == expected


def test_a_pause_after_free_failures_doubles_and_its_end_is_seen_to(api: Client, db: Database) -> None:
    api.submit(retry=[{"do": "free"}])
    for expected in (10, 20, 40, 80, 160, 300, 300):
        job = claimed(api)
        api.report(job, "failed", attempt=job["attempt"])
        waits = (
            db.one_or_none("select round(extract(epoch from backoff_until - now())) as seconds from queue") or {}
        )
        assert waits["seconds"] in (expected - 1, expected)
        assert read(api, job)["backoff_until"] and api.claim() is None
        wishes.end_due(db)
        assert api.claim() is None
        db.execute("update queue set backoff_until = now()")
        wishes.end_due(db)
    assert events(api, job)[-1] == ("unparked", "coordinator")


def test_a_resume_ends_a_pause(api: Client) -> None:
    job = running(api, retry=[{"do": "free", "backoff": 3600}])
    api.report(job, "failed", attempt=1)
    assert asked(api, job, "resume") == {"message": "Job resumed"}
    assert (api.claim() or {})["id"] == job["id"]


# --- stalls


def test_a_stall_is_a_phase_and_one_event_until_it_is_over(api: Client, db: Database) -> None:
    job = running(api, webhook="http://receiver/", webhook_events=["stalled"])
    beat(api, job, phase="running", stalled=False)
    for _ in range(2):
        beat(api, job, phase="running", stalled=True)
        assert read(api, job)["phase"] == "stalled"
    beat(api, job, phase="running", stalled=False)
    assert read(api, job)["phase"] == "running"
    assert events(api, job).count(("stalled", "machine:m1")) == 1
    assert db.all("select event from webhooks") == [{"event": "stalled"}]


def test_the_second_restart_for_a_stall_bans_the_machine(api: Client, db: Database) -> None:
    job = running(api, stall_after=60, on_stall="restart")
    api.report(job, "released", attempt=1, reason="stalled", stop={"why": "stalled"})
    job = claimed(api)
    beat(api, job, phase="running", progress={"fraction": 0.5})
    api.report(job, "released", attempt=2, reason="stalled", stop={"why": "stalled"})
    job = claimed(api)
    assert job["attempt"] == 3, "it came further than ever before, so this was the first stall again"
    api.report(job, "released", attempt=3, reason="stalled", stop={"why": "stalled"})
    assert db.all("select banned from queue") == [{"banned": True}]
    assert api.claim() is None and (api.claim(machine="m2") or {})["attempt"] == 4


def test_a_stall_that_is_to_fail_the_job_counts_as_no_failure(api: Client, db: Database) -> None:
    job = running(api, stall_after=60, on_stall="fail", retry=[{"do": "retry"}])
    answer = api.report(job, "failed", attempt=1, reason="stalled", stop={"why": "stalled"}).json or {}
    found = read(api, job)
    assert (found["status"], found["reason"], found["num_failures"]) == ("failed", "stalled", 0)
    assert answer["counted"] is False and db.all("select from bans") == []


ASKED_FOR: dict[str, Any] = {
    "stall_after": 60,
    "keep_output": 1000,
    "checkpoint_signal": "USR1",
    "max_runtime": 3600,
    "max_attempt_runtime": 3600,
    "retry": [{"exit_codes": [1], "do": "fail"}],
}


@pytest.mark.parametrize(
    ("speaks", "noted"),
    [
        (
            "",
            [
                "how far it is",
                "sends no output",
                "checkpoint signal",
                "time of the job",
                "time of the attempt",
                "retry",
            ],
        ),
        ("output,progress", ["checkpoint signal", "time of the job", "time of the attempt", "retry"]),
        ("steer", ["how far it is", "sends no output"]),
        (STEERED, []),
    ],
)
def test_what_a_worker_cannot_do_of_what_a_job_asks_for_is_noted(
    api: Client, speaks: str, noted: list[str]
) -> None:
    job = running(api, speaks=speaks, **ASKED_FOR)
    found = [event["detail"]["message"] for event in history(api, job) if event["kind"] == "noted"]
    assert len(found) == len(noted)
    assert all(part in message for part, message in zip(noted, found, strict=True)), found


def test_nothing_is_noted_of_a_job_that_asks_for_no_output(api: Client) -> None:
    job = running(api, speaks="", keep_output=0)
    assert [kind for kind, _ in events(api, job)] == ["submitted", "claimed"]


# --- races


def test_a_hold_waits_for_a_claim_and_then_asks_its_holder(db: Database, tenant: Tenant, api: Client) -> None:
    job = api.submit()
    path = UUID(job["id"])
    _, answer = while_open(db, lambda tx: claim_in(tx, tenant, "m1"), lambda: wishes.hold(db, tenant.caller, path))
    assert "when its attempt ends" in answer.message
    assert (row(db, "queue", path) or {})["wish"] == "hold"


@pytest.mark.parametrize("wish", ["hold", "interrupt", "cancel"])
def test_a_wish_that_waited_for_a_completion_finds_the_job_completed(
    db: Database, tenant: Tenant, api: Client, wish: str
) -> None:
    job = running(api)
    path = f"/jobs/{job['id']}"
    done = {"machine_id": "m1", "container_group": "g1", "attempt": 1, "actor": "machine:m1"}
    nothing = dict.fromkeys(("exit_code", "reason", "detail", "output", "sealed_key"))
    complete = {"job_id": UUID(job["id"]), **tenant.caller.scope, **done, **nothing, **told(report())}
    _, answer = while_open(
        db,
        lambda tx: tx.one_or_none(SQL.complete_job, **complete),
        lambda: api.delete(f"{path}?graceful=true") if wish == "cancel" else api.post(f"{path}/{wish}"),
    )
    assert "completed already" in refused(answer, 409)["message"]
    assert read(api, job)["status"] == "completed"


@pytest.mark.parametrize(("end", "expected"), [(jobs.release, ["hold"]), (jobs.complete, None)])
def test_a_report_that_waited_for_a_hold_parks_the_job_unless_it_is_done(
    db: Database, tenant: Tenant, api: Client, end: Callable[..., Any], expected: list[str] | None
) -> None:
    job = running(api)
    wish = {"wish": "hold", "ban_too": False, "sealed_key": None, "actor": "user:acme"}
    while_open(
        db,
        lambda tx: tx.one_or_none(SQL.wish_for_job, job_id=UUID(job["id"]), **tenant.caller.scope, **wish),
        lambda: end(db, tenant.caller, UUID(job["id"]), report(attempt=1)),
    )
    assert read(api, job)["parked"] == expected
    assert read(api, job)["status"] == ("running" if expected else "completed")
    assert claim(db, tenant) is None


def test_a_failure_that_is_reported_of_a_parked_job_leaves_it_parked(api: Client) -> None:
    """The original accepts a report for a pending job that no machine holds."""
    first, sweep = api.submit(), api.post("/sweeps", {"max_parallel": 1}).json or {}
    held = api.submit()
    asked(api, held, "hold")
    api.submit(sweep=sweep["id"])
    for job, reasons in (
        (held, ["hold"]),
        (api.submit(depends_on=[first["id"]]), ["depends"]),
        (api.submit(sweep=sweep["id"]), ["sweep"]),
    ):
        assert api.report(job, "failed").status_code == 202
        assert (read(api, job)["parked"], read(api, job)["num_failures"]) == (reasons, 1)


def test_maintenance_waits_for_no_heartbeat_that_comes_at_the_last_moment(
    db: Database, tenant: Tenant, api: Client
) -> None:
    job = running(api)
    asked(api, job, "hold")
    be_silent(db, job)
    held = {"machine_id": "m1", "attempt": 1, "checkpoint_lag": None, **told(report(attempt=1))}
    with db.transaction() as tx:
        assert tx.one_or_none(SQL.renew_lease, job_id=UUID(job["id"]), **tenant.caller.scope, **held)
        wishes.end_due(db)
    wishes.end_due(db)
    assert read(api, job)["phase"] == "running" and beat(api, job)["stop"] == {"why": "hold"}


def test_a_report_to_the_release_before_is_seen_to_by_maintenance(
    db: Database, tenant: Tenant, api: Client
) -> None:
    """It gives the job back and knows nothing of the wish; until then nothing hands the job out."""
    job = running(api)
    asked(api, job, "hold")
    db.execute("update queue set machine_id = null, holder_group = null, claim_id = null, heartbeat = null")
    assert claimed_id(db, tenant) is None
    wishes.end_due(db)
    assert read(api, job)["parked"] == ["hold"]
    asked(api, job, "resume")
    assert claimed_id(db, tenant) == UUID(job["id"])
