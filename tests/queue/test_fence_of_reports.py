"""Which machine may report what about a job, and what all others are answered
(docs/design/protocol.md, Attempt and fence)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import pytest

from kelpie_api.db import Database
from tests.helpers import Client, Tenant, ban, make_job, make_tenant, refused, row, rows_of_jobs

REPORTS = ("heartbeat", "completed", "failed", "released")
STATUS = {"heartbeat": 200, "completed": 200, "failed": 202, "released": 200}
DONE = {"completed": "Completed reported", "failed": "Failure reported", "released": "Release reported"}


@dataclass(frozen=True)
class Reporter:
    """The state of the job, which is or was held by m1 in attempt 2, and the machine that reports about it."""

    state: str
    machine: str = "m1"
    attempt: int | None = 2


HOLDER = Reporter("held")
# The machine that reports; the answer to its heartbeat; whether the reports completed, failed and released are
# carried out (`done`), accepted as repetitions (`again`), refused (`409`), or answered as if they were accepted
# (`ignored`).
FENCE = [
    (HOLDER, "running", "done", "done", "done"),
    (Reporter("held", attempt=None), "running", "done", "done", "done"),
    (Reporter("held", attempt=1), "canceled", "409", "409", "409"),
    (Reporter("held", attempt=3), "canceled", "409", "409", "409"),
    (Reporter("held", machine="m2"), "canceled", "409", "409", "409"),
    (Reporter("held", machine="m2", attempt=None), "canceled", "ignored", "ignored", "ignored"),
    (Reporter("lapsed"), "running", "done", "done", "done"),
    (Reporter("lapsed", attempt=None), "running", "done", "done", "done"),
    (Reporter("waiting"), "canceled", "409", "409", "again"),
    (Reporter("waiting", attempt=None), "canceled", "ignored", "ignored", "again"),
    (Reporter("waiting", machine="m2"), "canceled", "409", "409", "409"),
    (Reporter("waiting", machine="m2", attempt=None), "canceled", "ignored", "ignored", "ignored"),
    (Reporter("pending", attempt=1), "pending", "409", "409", "409"),
    (Reporter("pending", attempt=None), "pending", "done", "done", "ignored"),
    (Reporter("completed"), "completed", "again", "409", "409"),
    (Reporter("completed", attempt=None), "completed", "again", "ignored", "ignored"),
    (Reporter("completed", machine="m2"), "completed", "409", "409", "409"),
    (Reporter("completed", machine="m2", attempt=None), "completed", "ignored", "ignored", "ignored"),
    (Reporter("failed"), "failed", "409", "again", "409"),
    (Reporter("failed", attempt=None), "failed", "ignored", "again", "ignored"),
    (Reporter("failed", machine="m2"), "failed", "409", "409", "409"),
    (Reporter("failed", machine="m2", attempt=None), "failed", "ignored", "ignored", "ignored"),
    (Reporter("canceled"), "canceled", "409", "409", "409"),
    (Reporter("canceled", attempt=None), "canceled", "ignored", "ignored", "ignored"),
]
CASES = [
    pytest.param(reporter, report, answer, id=f"{reporter.state}-{reporter.machine}-{reporter.attempt}-{report}")
    for reporter, *answers in FENCE
    for report, answer in zip(REPORTS, answers, strict=True)
]


@pytest.mark.parametrize(("reporter", "report", "answer"), CASES)
def test_a_report_is_carried_out_for_the_holder_and_writes_nothing_for_anybody_else(
    api: Client, db: Database, tenant: Tenant, reporter: Reporter, report: str, answer: str
) -> None:
    state = "held" if reporter.state == "lapsed" else reporter.state
    silence = 3600 if reporter.state == "lapsed" else 0
    job_id = make_job(db, tenant, state, machine="m1", attempt=2, silent_for=silence, webhook="http://receiver/")
    before = rows_of_jobs(db)
    told = api.report({"id": job_id}, report, reporter.machine, "g1", reporter.attempt)
    if answer == "409":
        assert refused(told, 409)["error"] == "Not The Holder"
    else:
        assert told.status_code == STATUS[report], told.text
        body = told.json or {}
        if report == "heartbeat":
            assert body == {"status": answer}
        elif answer == "ignored":
            assert body["message"].startswith("Ignored: ")
        else:
            assert body == {"message": DONE[report]}
    assert (rows_of_jobs(db) != before) is (answer in {"done", "running"})


@pytest.mark.parametrize(
    ("report", "attempt"),
    [(report, attempt) for report in REPORTS for attempt in (1, None) if (report, attempt) != ("completed", None)],
)
def test_a_job_that_is_not_there_is_a_404_whatever_is_reported(
    api: Client, db: Database, report: str, attempt: int | None
) -> None:
    other = make_job(db, make_tenant(db, "rival", "default"), "held", machine="m1", attempt=1)
    before = rows_of_jobs(db)
    for job_id in (uuid.uuid4(), other, "not-a-uuid"):
        refused(api.report({"id": job_id}, report, "m1", "g1", attempt), 404)
    assert rows_of_jobs(db) == before


def test_a_completion_without_an_attempt_of_a_job_that_is_not_there_is_ignored(api: Client, db: Database) -> None:
    """A 404 makes the original's worker exit, and its next job with it."""
    other = make_job(db, make_tenant(db, "rival", "default"), "held", machine="m1", attempt=1)
    before = rows_of_jobs(db)
    for job_id in (uuid.uuid4(), other):
        answer = api.report({"id": job_id}, "completed", "m1", "g1", None)
        assert answer.status_code == 200 and (answer.json or {})["message"].startswith("Ignored: ")
    assert rows_of_jobs(db) == before


@pytest.mark.parametrize("report", ["completed", "failed", "released"])
@pytest.mark.parametrize("attempt", [2, None])
def test_a_report_whose_answer_was_lost_can_be_repeated_and_counts_once(
    api: Client, db: Database, tenant: Tenant, report: str, attempt: int | None
) -> None:
    job = {"id": make_job(db, tenant, "held", attempt=2, webhook="http://receiver/", max_failures=5)}
    first = api.report(job, report, attempt=attempt)
    before = rows_of_jobs(db)
    again = api.report(job, report, attempt=attempt)
    assert (again.status_code, again.json) == (first.status_code, first.json)
    assert rows_of_jobs(db) == before


@pytest.mark.parametrize("report", ["failed", "released"])
def test_it_can_be_repeated_also_after_another_machine_has_the_job(api: Client, db: Database, report: str) -> None:
    job = api.submit()
    api.claim("m1")
    first = api.report(job, report, "m1", attempt=1)
    api.claim("m2")
    before = rows_of_jobs(db)
    again = api.report(job, report, "m1", attempt=1)
    assert (again.status_code, again.json) == (first.status_code, first.json)
    assert rows_of_jobs(db) == before


def test_an_old_attempt_of_the_same_machine_cannot_release_what_that_machine_holds_now(
    api: Client, db: Database
) -> None:
    job = api.submit()
    api.claim("m1")
    api.report(job, "released", "m1", attempt=1)
    api.claim("m1")
    before = rows_of_jobs(db)
    assert api.report(job, "released", "m1", attempt=1).status_code == 200
    assert rows_of_jobs(db) == before


def test_the_group_of_a_report_with_an_attempt_is_not_compared(api: Client) -> None:
    job = api.submit()
    api.claim("m1", "g1")
    assert api.report(job, "completed", "m1", "another group", attempt=1).status_code == 200


class TestFailures:
    def test_each_machine_is_banned_and_the_last_failure_is_final(self, api: Client, db: Database) -> None:
        job = api.submit(max_failures=3)
        seen = []
        for number, machine in enumerate(["m1", "m2", "m3"], start=1):
            api.claim(machine)
            api.report(job, "failed", machine, attempt=number)
            assert api.claim(machine) is None
            shown = api.get(f"/jobs/{job['id']}").json or {}
            seen.append((shown["status"], shown["num_failures"], shown["failed"] is not None))
        assert seen == [("running", 1, False), ("running", 2, False), ("failed", 3, True)]
        assert {ban["machine_id"] for ban in rows_of_jobs(db)["bans"]} == {"m1", "m2", "m3"}
        assert api.claim("m4") is None

    def test_releases_and_interruptions_are_no_failures(self, api: Client, db: Database) -> None:
        job = api.submit(max_failures=1)
        for number in range(1, 6):
            api.claim("m1")
            if number % 2:
                api.report(job, "released", "m1", attempt=number)
            else:
                db.execute("update queue set heartbeat = now() - interval '1 hour'")
        shown = api.get(f"/jobs/{job['id']}").json or {}
        assert (shown["status"], shown["num_failures"], shown["attempt"]) == ("running", 0, 5)
        assert rows_of_jobs(db)["bans"] == []


class TestAPendingJobThatNobodyHolds:
    """The original's API accepts reports for it, and its clients rely on that."""

    def test_is_completed_without_a_claim(self, api: Client) -> None:
        job = api.submit()
        api.report(job, "completed", "m1")
        shown = api.get(f"/jobs/{job['id']}").json or {}
        assert (shown["status"], shown["machine_id"], shown["attempt"]) == ("completed", "m1", 0)
        assert api.report(job, "completed", "m1").json == {"message": "Completed reported"}

    def test_stays_pending_after_a_failure_and_is_kept_from_that_machine(self, api: Client, db: Database) -> None:
        job = api.submit()
        api.report(job, "failed", "m1")
        shown = api.get(f"/jobs/{job['id']}").json or {}
        assert (shown["status"], shown["num_failures"]) == ("pending", 1)
        assert api.claim("m1") is None
        before = rows_of_jobs(db)
        assert api.report(job, "failed", "m1").json == {"message": "Failure reported"}
        assert rows_of_jobs(db) == before

    def test_fails_for_good_after_the_last_failure(self, api: Client, db: Database) -> None:
        job = api.submit(max_failures=2)
        for machine in ("m1", "m2"):
            assert api.report(job, "failed", machine).status_code == 202
        shown = api.get(f"/jobs/{job['id']}").json or {}
        assert (shown["status"], shown["num_failures"], shown["attempt"]) == ("failed", 2, 0)
        assert row(db, "queue", job["id"]) is None


# what is sent beside or instead of a right report, and the field that the answer names
BAD_REPORTS = [
    ({"machine_id": None}, "machine_id"),
    ({"machine_id": ""}, "machine_id"),
    ({"machine_id": 1}, "machine_id"),
    ({"machine_id": "x" * 256}, "machine_id"),
    ({"container_group_id": None}, "container_group_id"),
    ({"container_group_id": ""}, "container_group_id"),
    ({"attempt": 0}, "attempt"),
    ({"attempt": -1}, "attempt"),
    ({"attempt": "1"}, "attempt"),
    ({"attempt": 1.5}, "attempt"),
    ({"attempt": True}, "attempt"),
    ({"attempt": 2**31}, "attempt"),
    ({"exit_code": 2**31}, "exit_code"),
    ({"exit_code": "1"}, "exit_code"),
    ({"reason": 1}, "reason"),
    ({"reason": "x" * 1001}, "reason"),
]


@pytest.mark.parametrize(("wrong", "named"), BAD_REPORTS)
@pytest.mark.parametrize("report", REPORTS)
def test_a_malformed_report_is_a_400_and_writes_nothing(
    api: Client, db: Database, tenant: Tenant, report: str, wrong: dict[str, object], named: str
) -> None:
    job_id = make_job(db, tenant, "held")
    before = rows_of_jobs(db)
    body = {"machine_id": "m1", "container_group_id": "g1"} | wrong
    assert refused(api.post(f"/jobs/{job_id}/{report}", body), 400)["errors"].keys() == {named}
    assert rows_of_jobs(db) == before


@pytest.mark.parametrize("missing", ["machine_id", "container_group_id"])
def test_machine_and_group_are_required(api: Client, missing: str) -> None:
    job = api.submit()
    body = {"machine_id": "m1", "container_group_id": "g1"}
    del body[missing]
    assert refused(api.post(f"/jobs/{job['id']}/completed", body), 400)["errors"].keys() == {missing}


@pytest.mark.parametrize("more", [{"unknown": 1}, {"attempt": None}, {"exit_code": -9, "reason": "signal"}])
def test_the_rest_of_a_report_is_optional_and_unknown_fields_are_ignored(
    api: Client, more: dict[str, object]
) -> None:
    job = api.submit()
    api.claim()
    body = {"machine_id": "m1", "container_group_id": "g1"} | more
    assert api.post(f"/jobs/{job['id']}/completed", body).status_code == 200


def test_a_ban_by_hand_is_obeyed(api: Client, db: Database, tenant: Tenant) -> None:
    ban(db, make_job(db, tenant), "m1")
    assert api.claim("m1") is None
