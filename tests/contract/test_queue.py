"""Section 3: states, claims, the fence, history, and the extensions."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from local_stack.processes import wait_for
from tests.contract.client import TIME, Answer, Api, Json, expect, expect_error, expect_invalid, unique
from tests.contract.stack import Stack, User

REPORTS = ("heartbeat", "completed", "failed", "released")


def ids(jobs: list[Json]) -> list[str]:
    return [job["id"] for job in jobs]


def moment(written: str) -> datetime:
    return datetime.fromisoformat(written.replace("Z", "+00:00"))


def wait_for_lapse(api: Api, *jobs: Json) -> None:
    """Until no heartbeat of these jobs is younger than two intervals. The clocks are of one machine."""
    lapses = [
        moment(job["heartbeat"]) + timedelta(seconds=2 * job["heartbeat_interval"] + 0.1)
        for job in [api.job(job) for job in jobs]
    ]
    wait_for(lambda: datetime.now(UTC) > max(lapses), "the leases to lapse")


def claim_all(api: Api, machine: str) -> list[str]:
    """Ids of everything that this machine is given, in order."""
    found: list[str] = []
    while jobs := api.claim(machine):
        found += ids(jobs)
    return found


# --- claim


def test_a_claim_answers_a_list_of_one_job_or_of_none(api: Api) -> None:
    assert api.claim("m") == []
    job = api.submit()
    [claimed] = api.claim("m")
    assert claimed == api.job(job)
    assert api.claim("m") == []


def test_a_claim_makes_a_job_running_on_the_machine(api: Api) -> None:
    submitted = api.submit()
    [job] = api.claim("m")
    added = {
        "name",
        "labels",
        "priority",
        "phase",
        "parked",
        "reason",
    }  # absent of a job that waits and uses none of them
    changed = {"status", "machine_id", "heartbeat", "attempt", "started"} | added
    assert {name: job[name] for name in set(job) - changed} == {
        name: submitted[name] for name in set(submitted) - changed
    }
    assert (job["status"], job["machine_id"], job["attempt"]) == ("running", "m", 1)
    assert job["heartbeat"] == job["started"]
    assert TIME.fullmatch(job["started"])
    assert job["num_heartbeats"] == 0


@pytest.mark.parametrize("missing", ["machine_id", "container_group_id"])
def test_a_claim_names_its_machine_and_its_group(api: Api, missing: str) -> None:
    job = api.submit()
    query = {"machine_id": "m", "container_group_id": api.group}
    del query[missing]
    expect_invalid(missing, api.get("/work", **query))
    assert api.job(job)["status"] == "pending"


@pytest.mark.parametrize("value", ["", "x" * 256, "\0"])
@pytest.mark.parametrize("name", ["machine_id", "container_group_id"])
def test_a_machine_and_a_group_have_1_to_255_characters(api: Api, name: str, value: str) -> None:
    expect_error(400, api.get("/work", **{"machine_id": "m", "container_group_id": "g", name: value}))


@pytest.mark.parametrize("value", ["x", "x" * 255, "free text: ü/%?#", "null"])
def test_a_machine_and_a_group_are_free_text(api: Api, value: str) -> None:
    job = api.submit(container_group_id=value)
    [claimed] = api.claim(value, value)
    assert (claimed["id"], claimed["machine_id"]) == (job["id"], value)


def test_an_answer_to_a_claim_is_never_stored_by_anyone(api: Api) -> None:
    answer = api.get("/work", machine_id="m", container_group_id=api.group)
    assert "no-store" in answer.headers["Cache-Control"]


def test_pending_jobs_are_handed_out_oldest_first(api: Api) -> None:
    jobs = [*api.submit_many(5), api.submit(), *api.submit_many(3)]
    assert claim_all(api, "m") == ids(jobs)


def test_a_group_gets_its_own_jobs_and_those_of_the_null_group_oldest_first(api: Api) -> None:
    own, anyone, own_again, others = (
        api.submit(container_group_id=group) for group in (api.group, None, api.group, unique("other"))
    )
    last = api.submit(container_group_id=None)
    assert claim_all(api, "m") == ids([own, anyone, own_again, last])
    assert api.job(others)["status"] == "pending"


def test_a_job_of_the_null_group_stays_one_when_it_is_claimed(api: Api) -> None:
    api.submit(container_group_id=None)
    [job] = api.claim("m")
    assert job["container_group_id"] is None


def test_running_jobs_that_wait_come_before_pending_ones(api: Api) -> None:
    """Failed and released ones, at once, without waiting for a lapse; oldest first."""
    waiting = [api.claimed("m1") for _ in range(4)]
    pending = api.submit_many(2)
    for job, kind, status in zip(waiting[::-1], ("failed", "released") * 2, (202, 200) * 2, strict=True):
        expect(status, api.report(kind, job, "m1"))
    assert claim_all(api, "m2") == ids([*waiting, *pending])


def test_a_waiting_job_of_the_null_group_comes_before_a_pending_one_of_the_group(api: Api) -> None:
    waiting = api.claimed("m1", container_group_id=None)
    pending = api.submit()
    expect(200, api.report("released", waiting, "m1"))
    assert claim_all(api, "m2") == ids([waiting, pending])


def test_lapsed_jobs_come_before_pending_ones_and_a_live_lease_is_left_alone(api: Api) -> None:
    live = api.claimed("m1", heartbeat_interval=60)
    lapsed = [api.claimed("m1", heartbeat_interval=1) for _ in range(2)]
    pending = api.submit()
    assert api.job(lapsed[0])["status"] == "running"
    wait_for_lapse(api, *lapsed)
    assert all(api.job(job)["status"] == "running" for job in lapsed)
    assert claim_all(api, "m2") == ids([*lapsed, pending])
    assert api.job(live)["machine_id"] == "m1"


def test_a_job_that_lapsed_is_no_failure_and_its_machine_may_have_it_again(api: Api) -> None:
    job = api.claimed("m", heartbeat_interval=1)
    wait_for_lapse(api, job)
    [again] = api.claim("m")
    assert (again["id"], again["attempt"], again["num_failures"]) == (job["id"], 2, 0)


def test_a_heartbeat_keeps_a_lease(api: Api) -> None:
    job = api.claimed("m1", heartbeat_interval=1)
    first = moment(job["heartbeat"])
    end = first + timedelta(seconds=2.5)  # beyond the lapse of a lease that was not renewed
    while datetime.now(UTC) < end:
        assert api.report("heartbeat", job, "m1").json == {"status": "running"}
        assert api.claim("m2") == []
        time.sleep(0.2)
    assert api.job(job)["attempt"] == 1


def test_a_lapse_alone_ends_no_lease(api: Api) -> None:
    revived, completed, failed = (api.claimed("m", heartbeat_interval=1) for _ in range(3))
    wait_for_lapse(api, revived, completed, failed)
    assert api.report("heartbeat", revived, "m").json == {"status": "running"}
    expect(200, api.report("completed", completed, "m"))
    expect(202, api.report("failed", failed, "m"))
    assert api.job(revived)["heartbeat"] > revived["heartbeat"]
    assert api.job(completed)["status"] == "completed"
    assert api.job(failed)["num_failures"] == 1


def test_a_lease_that_was_revived_is_not_handed_out(api: Api) -> None:
    job = api.claimed("m1", heartbeat_interval=1)
    wait_for_lapse(api, job)
    expect(200, api.report("heartbeat", job, "m1"))
    assert api.claim("m2") == []


def test_a_machine_never_gets_a_job_again_that_it_failed(api: Api) -> None:
    job = api.claimed("m1")
    expect(202, api.report("failed", job, "m1"))
    assert api.claim("m1") == []
    [again] = api.claim("m2")
    assert (again["id"], again["attempt"], again["num_failures"]) == (job["id"], 2, 1)
    expect(200, api.report("released", again, "m2"))
    assert api.claim("m1") == []


def test_a_ban_is_of_one_job_only(api: Api) -> None:
    job = api.claimed("m1")
    other = api.submit()
    expect(202, api.report("failed", job, "m1"))
    assert claim_all(api, "m1") == [other["id"]]


def test_a_machine_gets_what_it_is_not_banned_from_behind_what_it_is(api: Api) -> None:
    banned = [api.claimed("m1") for _ in range(3)]
    for job in banned:
        expect(202, api.report("failed", job, "m1"))
    pending = api.submit()
    assert claim_all(api, "m1") == [pending["id"]]


def test_nobody_gets_the_jobs_of_another_user_or_project(user: User, stranger: Api) -> None:
    api, other = user.api("one"), user.api("two")
    for group in ("shared-name", None):
        job = api.submit(container_group_id=group)
        assert other.claim("m", "shared-name") == []
        assert stranger.claim("m", "shared-name") == []
        assert ids(api.claim("m", "shared-name")) == [job["id"]]


def test_concurrent_claims_hand_each_job_out_once(api: Api) -> None:
    jobs = [*api.submit_many(30), *api.submit_many(30, container_group_id=None)]
    start = threading.Barrier(12)

    def worker(number: int) -> list[str]:
        start.wait()
        return claim_all(api, f"m{number}")

    with ThreadPoolExecutor(12) as pool:
        claimed = [job for found in pool.map(worker, range(12)) for job in found]
    assert sorted(claimed) == sorted(ids(jobs))
    assert {job["attempt"] for job in api.listed()} == {1}


def test_final_states_are_final(api: Api) -> None:
    for end in ("completed", "failed", "canceled"):
        job = api.claimed("m", max_failures=1)
        if end == "canceled":
            expect(202, api.delete(f"/jobs/{job['id']}"))
        else:
            api.report(end, job, "m")
        before = api.job(job)
        assert before["status"] == end
        for kind in REPORTS:
            for fields in ({}, {"attempt": 1}):
                for machine in ("m", "another"):
                    api.report(kind, job, machine, **fields)
        assert api.job(job) == before
        assert api.claim("m") == api.claim("m3") == []


def test_leases_get_time_to_be_heard_again_after_an_outage(other_stack: Stack) -> None:
    """The database is away for longer than a lease lasts: nobody could be heard, so nobody is given up at once."""
    api = other_stack.new_api()
    job = api.claimed("m1", heartbeat_interval=2)
    name = conninfo_to_dict(other_stack.database_url)["dbname"]
    lapse = moment(job["heartbeat"]) + timedelta(seconds=5)
    with psycopg.connect(make_conninfo(other_stack.database_url, dbname="postgres"), autocommit=True) as server:
        server.execute(f'alter database "{name}" allow_connections false'.encode())
        try:
            server.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
            wait_for(lambda: other_stack.admin.get("/readyz").status == 503, "the database to be missed")
            assert expect(200, other_stack.admin.get("/healthz"))
            refused = api.report("heartbeat", job, "m1")
            expect_error(503, refused)
            assert "Retry-After" in refused.headers
            wait_for(lambda: datetime.now(UTC) > lapse, "the lease to lapse")
        finally:
            server.execute(f'alter database "{name}" allow_connections true'.encode())
    place = {"machine_id": "m2", "container_group_id": api.group}
    wait_for(lambda: other_stack.admin.get("/readyz").status == 200, "the database to be found again")
    first = wait_for(lambda: answered(api.get("/work", **place)), "a claim to be answered")
    assert first.json == []
    assert api.report("heartbeat", job, "m1").json == {"status": "running"}
    assert ids(wait_for(lambda: api.claim("m2"), "the lease to lapse after all")) == [job["id"]]


def answered(answer: Answer) -> Answer | None:
    return answer if answer.status == 200 else None


# --- the fence: what each report is answered, row by row of the contract's table

Claimed = Callable[[Api], Json]


def running(api: Api) -> Json:
    return api.claimed("holder")


def handed_on(api: Api) -> Json:
    """Attempt 1 was another machine's, attempt 2 is running."""
    job = api.claimed("before")
    expect(200, api.report("released", job, "before"))
    [job] = api.claim("holder")
    return job


def same_machine_again(api: Api) -> Json:
    """Attempt 1 and attempt 2 were claimed by workers on one machine."""
    job = api.claimed("holder")
    expect(200, api.report("released", job, "holder"))
    [job] = api.claim("holder")
    return job


def waiting(api: Api) -> Json:
    job = api.claimed("holder")
    expect(202, api.report("failed", job, "holder"))
    return job


def released(api: Api) -> Json:
    job = api.claimed("holder")
    expect(200, api.report("released", job, "holder"))
    return job


def pending(api: Api) -> Json:
    return api.submit()


def completed(api: Api) -> Json:
    job = api.claimed("holder")
    expect(200, api.report("completed", job, "holder"))
    return job


def failed(api: Api) -> Json:
    job = api.claimed("holder", max_failures=1)
    expect(202, api.report("failed", job, "holder"))
    return job


def canceled(api: Api) -> Json:
    job = api.claimed("holder")
    expect(202, api.delete(f"/jobs/{job['id']}"))
    return job


@pytest.mark.parametrize("given", [{}, {"attempt": 1}], ids=["machine", "attempt"])
def test_a_heartbeat_of_the_holder_renews_the_lease(api: Api, given: Json) -> None:
    job = running(api)
    for number in (1, 2):
        before = api.job(job)
        assert expect(200, api.report("heartbeat", job, "holder", **given)).json == {"status": "running"}
        after = api.job(job)
        assert after["num_heartbeats"] == number
        assert after["heartbeat"] >= before["heartbeat"]
        assert {**after, "heartbeat": 0, "num_heartbeats": 0} == {**before, "heartbeat": 0, "num_heartbeats": 0}


# The job, who reports, and what the heartbeat says.
HEARTBEATS_OF_OTHERS: list[tuple[Claimed, str, Json, str]] = [
    (running, "another", {}, "canceled"),
    (running, "another", {"attempt": 1}, "canceled"),
    (running, "holder", {"attempt": 2}, "canceled"),
    (handed_on, "before", {}, "canceled"),
    (handed_on, "before", {"attempt": 1}, "canceled"),
    (handed_on, "holder", {"attempt": 1}, "canceled"),
    (same_machine_again, "holder", {"attempt": 1}, "canceled"),
    (waiting, "holder", {}, "canceled"),
    (waiting, "holder", {"attempt": 1}, "canceled"),
    (released, "holder", {}, "canceled"),
    (released, "another", {}, "canceled"),
    (pending, "holder", {}, "pending"),
    (completed, "holder", {}, "completed"),
    (completed, "holder", {"attempt": 1}, "completed"),
    (completed, "another", {}, "completed"),
    (failed, "holder", {}, "failed"),
    (failed, "another", {"attempt": 1}, "failed"),
    (canceled, "holder", {}, "canceled"),
    (canceled, "holder", {"attempt": 1}, "canceled"),
]


@pytest.mark.parametrize(("make", "machine", "given", "status"), HEARTBEATS_OF_OTHERS)
def test_a_heartbeat_of_anybody_else_hears_what_became_of_the_job_and_writes_nothing(
    api: Api, make: Claimed, machine: str, given: Json, status: str
) -> None:
    job = make(api)
    before = api.job(job)
    assert expect(200, api.report("heartbeat", job, machine, **given)).json == {"status": status}
    assert api.job(job) == before


@pytest.mark.parametrize("given", [{}, {"attempt": 1}], ids=["machine", "attempt"])
def test_the_holder_completes_a_job_and_says_so_again(api: Api, given: Json) -> None:
    job = running(api)
    answer = expect(200, api.report("completed", job, "holder", **given))
    assert answer.json == {"message": "Completed reported"}
    after = api.job(job)
    assert after["status"] == "completed"
    assert TIME.fullmatch(after["completed"])
    again = expect(200, api.report("completed", job, "holder", **given)).json
    assert not again["message"].startswith("Ignored")
    assert api.job(job) == after


@pytest.mark.parametrize("given", [{}, {"attempt": 1}], ids=["machine", "attempt"])
def test_a_failure_is_counted_once_and_the_job_waits_for_another_machine_at_once(api: Api, given: Json) -> None:
    job = running(api)
    answer = expect(202, api.report("failed", job, "holder", **given))
    assert answer.json == {"message": "Failure reported"}
    after = api.job(job)
    assert (after["status"], after["num_failures"], after["failed"]) == ("running", 1, None)
    again = expect(202, api.report("failed", job, "holder", **given)).json
    assert not again["message"].startswith("Ignored")
    assert api.job(job) == after
    assert api.claim("holder") == []
    assert ids(api.claim("another")) == [job["id"]]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_job_is_failed_when_its_failures_reach_their_limit(api: Api, limit: int) -> None:
    job = api.submit(max_failures=limit)
    for number in range(1, limit + 1):
        [claimed] = api.claim(f"m{number}")
        expect(202, api.report("failed", job, f"m{number}", attempt=claimed["attempt"]))
        now = api.job(job)
        assert now["num_failures"] == number
        assert now["status"] == ("failed" if number == limit else "running")
    assert TIME.fullmatch(now["failed"])
    assert api.claim("a fresh machine") == []
    expect(202, api.report("failed", job, f"m{limit}", attempt=limit))
    assert api.job(job) == now


@pytest.mark.parametrize("given", [{}, {"attempt": 1}], ids=["machine", "attempt"])
def test_a_released_job_waits_for_any_holder_without_a_failure(api: Api, given: Json) -> None:
    job = running(api)
    expect(200, api.report("released", job, "holder", **given))
    after = api.job(job)
    assert (after["status"], after["num_failures"]) == ("running", 0)
    expect(200, api.report("released", job, "holder", **given))
    assert api.job(job) == after
    [again] = api.claim("holder")
    assert (again["id"], again["attempt"]) == (job["id"], 2)


# The job, who reports, with which attempt: what none of completed, failed and released may change.
NOT_THE_HOLDER: list[tuple[Claimed, str, int]] = [
    (running, "another", 1),
    (handed_on, "before", 1),
    (completed, "another", 1),
    (failed, "another", 1),
    (canceled, "another", 1),
    (canceled, "holder", 1),
]
# On one machine only the attempt tells workers apart, so these are refused by it alone.
NOT_THE_ATTEMPT: list[tuple[Claimed, str, int]] = [
    (running, "holder", 2),
    (handed_on, "holder", 1),
    (same_machine_again, "holder", 1),
    (completed, "holder", 2),
]
# What was said already and is not repeated here.
SAID_OTHERWISE: list[tuple[Claimed, str]] = [
    (completed, "failed"),
    (completed, "released"),
    (failed, "completed"),
    (failed, "released"),
    (waiting, "completed"),
    (released, "completed"),
]


def reports_of(cases: list[tuple[Claimed, str, int]]) -> list[tuple[Claimed, str, int, str]]:
    """Each case with each report, but for those that only say again what they said when they held the job."""
    said = {(handed_on, "released"), (same_machine_again, "released")}
    kinds = ("completed", "failed", "released")
    return [(*case, kind) for case in cases for kind in kinds if (case[0], kind) not in said or case[2] == 2]


@pytest.mark.parametrize(("make", "machine", "attempt", "kind"), reports_of(NOT_THE_HOLDER))
def test_a_refused_report_without_attempt_is_ignored_and_says_so(
    api: Api, make: Claimed, machine: str, attempt: int, kind: str
) -> None:
    job = make(api)
    before = api.job(job)
    answer = api.report(kind, job, machine)
    assert answer.status in (200, 202)
    assert answer.json["message"].startswith("Ignored: ")
    assert api.job(job) == before


@pytest.mark.parametrize(("make", "machine", "attempt", "kind"), reports_of([*NOT_THE_HOLDER, *NOT_THE_ATTEMPT]))
def test_a_refused_report_with_attempt_is_a_conflict(
    api: Api, make: Claimed, machine: str, attempt: int, kind: str
) -> None:
    job = make(api)
    before = api.job(job)
    expect_error(409, api.report(kind, job, machine, attempt=attempt))
    assert api.job(job) == before


@pytest.mark.parametrize(("make", "machine"), [(handed_on, "before"), (same_machine_again, "holder")])
def test_a_release_repeated_after_the_job_went_on_is_answered_and_changes_nothing(
    api: Api, make: Claimed, machine: str
) -> None:
    job = make(api)
    expect(200, api.report("released", job, machine, attempt=1))
    assert api.job(job) == job


@pytest.mark.parametrize(("make", "kind"), SAID_OTHERWISE)
def test_a_report_after_another_changes_nothing(api: Api, make: Claimed, kind: str) -> None:
    job = make(api)
    before = api.job(job)
    expect_error(409, api.report(kind, job, "holder", attempt=1))
    assert api.report(kind, job, "holder").json["message"].startswith("Ignored: ")
    assert api.job(job) == before


def test_a_refused_report_bans_nobody(api: Api) -> None:
    job = api.claimed("holder")
    api.report("failed", job, "another")
    api.report("failed", job, "another", attempt=1)
    expect(200, api.report("released", job, "holder"))
    assert ids(api.claim("another")) == [job["id"]]


def test_a_late_report_of_a_lost_attempt_changes_nothing_of_the_next(api: Api) -> None:
    job = api.claimed("zombie", heartbeat_interval=1)
    wait_for_lapse(api, job)
    [current] = api.claim("holder")
    for kind in ("completed", "failed", "released"):
        expect_error(409, api.report(kind, job, "zombie", attempt=1))
        assert api.report(kind, job, "zombie").json["message"].startswith("Ignored: ")
    assert api.job(job) == current


# --- reports for a pending job that nobody holds


def test_a_pending_job_can_be_reported_completed(api: Api) -> None:
    job = api.submit()
    assert expect(200, api.report("completed", job, "m")).json == {"message": "Completed reported"}
    assert api.job(job)["status"] == "completed"
    assert api.claim("m2") == []


def test_a_pending_job_can_be_reported_failed_and_stays_pending(api: Api) -> None:
    job = api.submit(max_failures=2)
    assert expect(202, api.report("failed", job, "m1")).json == {"message": "Failure reported"}
    assert (api.job(job)["status"], api.job(job)["num_failures"]) == ("pending", 1)
    assert api.claim("m1") == []
    expect(202, api.report("failed", job, "m2"))
    assert (api.job(job)["status"], api.job(job)["num_failures"]) == ("failed", 2)


def test_a_pending_job_cannot_be_released(api: Api) -> None:
    job = api.submit()
    assert api.report("released", job, "m").json["message"].startswith("Ignored: ")
    expect_error(409, api.report("released", job, "m", attempt=1))
    assert api.job(job) == job


# --- what a report must say


@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_for_an_unknown_job_is_404(api: Api, kind: str) -> None:
    unknown = {"id": str(uuid.uuid4())}
    expect_error(404, api.report(kind, unknown, "m", attempt=1))
    if kind != "completed":
        expect_error(404, api.report(kind, unknown, "m"))


def test_a_completion_of_an_unknown_job_without_an_attempt_is_ignored(api: Api, stranger: Api) -> None:
    """A 404 makes the original's worker exit. Another tenant's job is answered like an unknown one."""
    for job in ({"id": str(uuid.uuid4())}, stranger.submit()):
        assert expect(200, api.report("completed", job, "m")).json["message"].startswith("Ignored: ")
    assert stranger.job(job)["status"] == "pending"


@pytest.mark.parametrize("missing", ["machine_id", "container_group_id"])
@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_names_its_machine_and_its_group(api: Api, kind: str, missing: str) -> None:
    job = running(api)
    body = {"machine_id": "holder", "container_group_id": api.group}
    del body[missing]
    expect_invalid(missing, api.post(f"/jobs/{job['id']}/{kind}", body))
    assert api.job(job) == job


@pytest.mark.parametrize("kind", REPORTS)
def test_the_group_of_a_report_is_not_compared(api: Api, kind: str) -> None:
    job = running(api)
    answer = api.report(kind, job, "holder", container_group_id="another group")
    assert answer.status in (200, 202)
    assert not answer.json.get("message", "").startswith("Ignored")


BAD_REPORTS: list[tuple[str, Any]] = [
    ("machine_id", ""),
    ("machine_id", "m" * 256),
    ("machine_id", 5),
    ("machine_id", None),
    ("container_group_id", ""),
    ("container_group_id", "g" * 256),
    ("container_group_id", None),
    ("attempt", "one"),
    ("attempt", 1.5),
    ("attempt", 10**30),
    ("exit_code", "zero"),
    ("exit_code", 10**30),
    ("reason", 5),
]


@pytest.mark.parametrize(("name", "value"), BAD_REPORTS)
@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_with_a_bad_value_is_refused(api: Api, kind: str, name: str, value: Any) -> None:
    job = running(api)
    expect_invalid(name, api.report(kind, job, "holder", **{name: value}))
    assert api.job(job) == job


REASONS = ["exit_code", "signal", "oom", "not_found", "download", "upload", "pattern", "a reason of tomorrow"]


@pytest.mark.parametrize("reason", REASONS)
def test_a_report_may_carry_an_exit_code_and_a_reason(api: Api, reason: str) -> None:
    job = running(api)
    expect(202, api.report("failed", job, "holder", attempt=1, exit_code=137, reason=reason))
    [attempt] = attempts(api, job)
    assert (attempt["exit_code"], attempt["reason"]) == (137, reason)


# --- history


def attempts(api: Api, job: Json) -> list[Json]:
    answer = expect(200, api.get(f"/jobs/{job['id']}/attempts")).json
    return answer["attempts"] if isinstance(answer, dict) else answer


def events(api: Api, job: Json) -> list[Json]:
    answer = expect(200, api.get(f"/jobs/{job['id']}/events")).json
    return answer["events"] if isinstance(answer, dict) else answer


def test_every_attempt_is_a_row_with_how_it_ended(api: Api) -> None:
    job = api.submit(heartbeat_interval=1)
    expect(200, api.report("released", api.claim("m1")[0], "m1"))
    api.claim("m2")
    wait_for_lapse(api, job)
    api.claim("m3")
    expect(202, api.report("failed", job, "m3", exit_code=1, reason="exit_code"))
    api.claim("m4")
    expect(200, api.report("heartbeat", job, "m4"))
    expect(200, api.report("completed", job, "m4", exit_code=0))

    rows = attempts(api, job)
    assert [(row["number"], row["machine_id"], row["outcome"]) for row in rows] == [
        (1, "m1", "released"),
        (2, "m2", "interrupted"),
        (3, "m3", "failed"),
        (4, "m4", "completed"),
    ]
    assert [(row["exit_code"], row["reason"]) for row in rows[2:]] == [(1, "exit_code"), (0, None)]
    for row in rows:
        assert row["container_group_id"] == api.group
        assert TIME.fullmatch(row["claimed"])
        assert TIME.fullmatch(row["last_heartbeat"])
        assert TIME.fullmatch(row["ended"])
    assert rows[3]["last_heartbeat"] == api.job(job)["heartbeat"]


def test_a_running_attempt_has_no_outcome_yet(api: Api) -> None:
    [row] = attempts(api, running(api))
    assert row["outcome"] is None
    assert row["ended"] is None


def test_the_attempt_of_a_canceled_job_is_canceled(api: Api) -> None:
    [row] = attempts(api, canceled(api))
    assert row["outcome"] == "canceled"


def test_a_pending_job_has_no_attempts(api: Api) -> None:
    assert attempts(api, pending(api)) == []


def test_every_change_is_an_event_with_its_actor_and_heartbeats_are_none(api: Api) -> None:
    job = api.submit()
    lengths = [len(events(api, job))]
    steps: list[Callable[[], Any]] = [
        lambda: api.claim("m1"),
        lambda: api.report("released", job, "m1"),
        lambda: api.claim("m2"),
        lambda: api.report("failed", job, "m2"),
        lambda: api.claim("m3"),
        lambda: api.delete(f"/jobs/{job['id']}"),
    ]
    for step in steps:
        step()
        lengths.append(len(events(api, job)))
        api.report("heartbeat", job, "m1")
        api.report("heartbeat", job, "m3")
        assert len(events(api, job)) == lengths[-1]
    assert lengths == sorted(set(lengths))
    assert all(event["actor"] for event in events(api, job))
    assert any("m2" in event["actor"] for event in events(api, job))


@pytest.mark.parametrize("route", ["attempts", "events"])
def test_the_history_of_an_unknown_job_is_404(api: Api, route: str) -> None:
    expect_error(404, api.get(f"/jobs/{uuid.uuid4()}/{route}"))


# --- extensions

EXTENSIONS = {"attempt", "wait", "claim-id", "release"}


def test_the_server_names_the_extensions_it_speaks(api: Api) -> None:
    job = api.submit()
    answers = [
        api.get("/work", machine_id="m", container_group_id=api.group),
        *(api.report(kind, job, "m") for kind in ("heartbeat", "released", "completed")),
    ]
    for answer in answers:
        named = {name.strip() for name in answer.headers["Kelpie-Extensions"].split(",")}
        assert named >= EXTENSIONS


def new_id() -> str:
    return str(uuid.uuid4())


def test_the_same_claim_id_gives_the_same_attempt_while_it_is_live(api: Api) -> None:
    jobs = api.submit_many(2)
    claim = new_id()
    [first] = api.claim("m", claim_id=claim)
    [again] = api.claim("m", claim_id=claim)
    assert (first["id"], first["attempt"]) == (again["id"], again["attempt"]) == (jobs[0]["id"], 1)
    expect(200, api.report("heartbeat", first, "m", attempt=1))
    assert ids(api.claim("m", claim_id=claim)) == [jobs[0]["id"]]
    assert ids(api.claim("m", claim_id=new_id())) == [jobs[1]["id"]]


@pytest.mark.parametrize("kind", ["completed", "failed", "released"])
def test_a_claim_id_whose_attempt_is_over_claims_anew(api: Api, kind: str) -> None:
    claim = new_id()
    jobs = api.submit_many(2)
    api.claim("m", claim_id=claim)
    expect(202 if kind == "failed" else 200, api.report(kind, jobs[0], "m"))
    [next_one] = api.claim("m", claim_id=claim)
    expected = (jobs[0]["id"], 2) if kind == "released" else (jobs[1]["id"], 1)
    assert (next_one["id"], next_one["attempt"]) == expected


def test_a_claim_id_whose_job_was_canceled_claims_anew(api: Api) -> None:
    claim = new_id()
    jobs = api.submit_many(2)
    api.claim("m", claim_id=claim)
    expect(202, api.delete(f"/jobs/{jobs[0]['id']}"))
    assert ids(api.claim("m", claim_id=claim)) == [jobs[1]["id"]]


def test_a_claim_id_whose_attempt_went_to_another_machine_claims_anew(api: Api) -> None:
    claim = new_id()
    job = api.submit(heartbeat_interval=1)
    api.claim("m1", claim_id=claim)
    wait_for_lapse(api, job)
    api.claim("m2")
    assert api.claim("m1", claim_id=claim) == []


def test_concurrent_claims_with_one_id_get_one_attempt(api: Api) -> None:
    jobs = api.submit_many(8)
    claim = new_id()
    start = threading.Barrier(8)

    def ask(_: int) -> list[Json]:
        start.wait()
        return api.claim("m", claim_id=claim)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert {(job["id"], job["attempt"]) for [job] in answers} == {(answers[0][0]["id"], 1)}
    assert len(api.listed(status="running")) == 1
    assert len(api.listed(status="pending")) == len(jobs) - 1


def test_a_claim_id_of_another_user_shows_nothing(api: Api, stranger: Api) -> None:
    claim = new_id()
    api.submit()
    own = stranger.submit(container_group_id=api.group)
    api.claim("m", claim_id=claim)
    [job] = stranger.claim("m", api.group, claim_id=claim) or [own]
    assert job["id"] == own["id"]


@pytest.mark.parametrize("value", ["x", "1", "", "\0"])
def test_a_claim_id_is_a_uuid(api: Api, value: str) -> None:
    expect_error(400, api.get("/work", machine_id="m", container_group_id=api.group, claim_id=value))


class Waiter:
    """A claim that is held up, on a thread of its own."""

    def __init__(self, api: Api, machine: str = "waiter", group: str | None = None, **query: Any) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._future = self._pool.submit(api.claim, machine, group, **{"wait": 20, **query})

    def is_held(self) -> None:
        """No answer yet, though the server had the time for one."""
        with pytest.raises(TimeoutError):
            self._future.result(0.4)

    def answer(self, timeout: float = 10) -> list[Json]:
        """Half of the wait at most: what is heard by then is heard because something happened."""
        jobs = self._future.result(timeout)
        self._pool.shutdown()
        return jobs


def test_a_claim_that_waits_is_answered_at_once_when_there_is_work(api: Api) -> None:
    job = api.submit()
    assert ids(Waiter(api).answer()) == [job["id"]]


def test_a_submission_wakes_a_claim_that_waits(api: Api) -> None:
    waiter = Waiter(api)
    waiter.is_held()
    job = api.submit()
    [claimed] = waiter.answer()
    assert (claimed["id"], claimed["attempt"]) == (job["id"], 1)


def test_a_job_of_the_null_group_wakes_a_claim_that_waits(api: Api) -> None:
    waiter = Waiter(api)
    waiter.is_held()
    job = api.submit(container_group_id=None)
    assert ids(waiter.answer()) == [job["id"]]


def test_a_batch_wakes_as_many_as_it_has_jobs(api: Api) -> None:
    waiters = [Waiter(api, f"m{number}") for number in range(5)]
    waiters[-1].is_held()
    jobs = api.submit_many(5)
    assert sorted(ids([job for waiter in waiters for job in waiter.answer()])) == sorted(ids(jobs))


@pytest.mark.parametrize("kind", ["failed", "released"])
def test_a_job_given_back_wakes_a_claim_that_waits(api: Api, kind: str) -> None:
    job = running(api)
    waiter = Waiter(api)
    waiter.is_held()
    api.report(kind, job, "holder")
    [claimed] = waiter.answer()
    assert (claimed["id"], claimed["attempt"]) == (job["id"], 2)


def test_a_lapse_is_seen_by_a_claim_that_waits(api: Api) -> None:
    job = api.claimed("m1", heartbeat_interval=1)
    assert ids(Waiter(api, "m2").answer()) == [job["id"]]


def test_a_claim_that_waits_in_vain_is_answered_with_an_empty_list_at_the_end(api: Api) -> None:
    began = time.monotonic()
    assert api.claim("m", wait=1) == []
    assert time.monotonic() - began >= 0.9
    assert api.claim("m", wait=0) == []


def test_a_stranger_s_submission_is_not_handed_to_a_claim_that_waits(api: Api, stranger: Api) -> None:
    waiter = Waiter(api, wait=3)
    waiter.is_held()
    job = stranger.submit(container_group_id=api.group)
    assert waiter.answer() == []
    assert stranger.job(job)["status"] == "pending"


def test_a_claim_id_is_looked_at_before_waiting(api: Api) -> None:
    claim = new_id()
    job = api.submit()
    api.claim("m", claim_id=claim)
    [again] = Waiter(api, "m", claim_id=claim).answer()
    assert (again["id"], again["attempt"]) == (job["id"], 1)


def test_a_claim_id_is_looked_at_again_on_waking(api: Api) -> None:
    """The same claim came twice, and both were held up: both get the one attempt."""
    claim = new_id()
    waiters = [Waiter(api, "m", claim_id=claim) for _ in range(2)]
    waiters[-1].is_held()
    job = api.submit()
    answers = [waiter.answer() for waiter in waiters]
    assert [[(one["id"], one["attempt"]) for one in answer] for answer in answers] == [[(job["id"], 1)]] * 2


@pytest.mark.parametrize("wait", ["long", "-1", "1.5"])
def test_a_wait_is_a_number_of_seconds(api: Api, wait: str) -> None:
    expect_error(400, api.get("/work", machine_id="m", container_group_id=api.group, wait=wait))


def test_a_wait_may_have_a_fraction_of_zero(api: Api) -> None:
    job = api.submit()
    assert ids(api.claim("m", wait="5.0")) == [job["id"]]


def test_a_wait_beyond_30_seconds_is_no_fault_of_the_server(api: Api) -> None:
    job = api.submit()
    answer = api.get("/work", machine_id="m", container_group_id=api.group, wait=100)
    assert answer.status in (200, 400)
    assert answer.status == 400 or ids(answer.json) == [job["id"]]


def test_beyond_a_number_of_waiters_the_answer_is_an_immediate_empty_list(other_stack: Stack) -> None:
    """Two waiters to each of two web processes are the most here."""
    api = other_stack.new_api()
    place = {"machine_id": "m", "container_group_id": api.group, "wait": 5}
    with ThreadPoolExecutor(12) as pool:
        answers = [future.result() for future in [pool.submit(api.get, "/work", **place) for _ in range(12)]]
    assert all(expect(200, answer).json == [] for answer in answers)
    turned_away = [answer for answer in answers if "Retry-After" in answer.headers]
    assert len(turned_away) >= 12 - 4
    assert all(int(answer.headers["Retry-After"]) >= 0 for answer in turned_away)
    assert len(turned_away) < 12
