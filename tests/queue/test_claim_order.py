"""Which job a claim hands out: those that lost their holder first, then the oldest, never a forbidden one."""

from __future__ import annotations

from uuid import UUID

import pytest

from kelpie_api.db import Database
from tests.helpers import Tenant, ban, claim, claimed_id, make_job, make_tenant, row

LAPSED = 61.0  # seconds of silence, at an interval of 30
ALIVE = 59.0


def hand_out_all(db: Database, tenant: Tenant, group: str = "g1") -> list[UUID]:
    """Claim until there is no more work."""
    given = []
    while (job := claim(db, tenant, group=group)) is not None:
        given.append(job["id"])
    return given


def test_jobs_that_lost_their_holder_go_before_older_pending_ones_and_oldest_first(
    db: Database, tenant: Tenant
) -> None:
    pending = make_job(db, tenant)
    lapsed_first = make_job(db, tenant, "held", machine="gone", silent_for=LAPSED)
    waiting = make_job(db, tenant, "waiting", machine="gone")
    lapsed_last = make_job(db, tenant, "held", machine="gone", silent_for=LAPSED)
    assert hand_out_all(db, tenant) == [lapsed_first, waiting, lapsed_last, pending]


@pytest.mark.parametrize("state", ["pending", "waiting", "held"])
def test_own_group_and_any_group_are_merged_by_age(db: Database, tenant: Tenant, state: str) -> None:
    groups = ["g1", None, None, "g1", None, "g1"]
    submitted = [make_job(db, tenant, state, machine="gone", group=group, silent_for=LAPSED) for group in groups]
    assert hand_out_all(db, tenant) == submitted


def test_a_job_of_the_null_group_is_handed_to_any_group(db: Database, tenant: Tenant) -> None:
    first, second = make_job(db, tenant, group=None), make_job(db, tenant, group=None)
    assert [claimed_id(db, tenant, group="g1"), claimed_id(db, tenant, group="g2")] == [first, second]


@pytest.mark.parametrize(("username", "project"), [("rival", "default"), ("acme", "other")])
@pytest.mark.parametrize("state", ["pending", "waiting", "held"])
def test_another_tenants_jobs_are_not_handed_out(
    db: Database, tenant: Tenant, state: str, username: str, project: str
) -> None:
    make_job(db, make_tenant(db, username, project), state, group=None, silent_for=LAPSED)
    assert claim(db, tenant) is None


def test_a_job_whose_holder_is_alive_is_not_handed_out(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant, "held", silent_for=ALIVE)
    assert claim(db, tenant, "m2") is None


@pytest.mark.parametrize("group", ["g1", None])
@pytest.mark.parametrize("state", ["pending", "waiting", "held"])
def test_a_banned_machine_gets_the_next_job_and_any_other_machine_this_one(
    db: Database, tenant: Tenant, state: str, group: str | None
) -> None:
    forbidden = make_job(db, tenant, state, machine="gone", group=group, silent_for=LAPSED)
    allowed = make_job(db, tenant, state, machine="gone", group=group, silent_for=LAPSED)
    ban(db, forbidden, "m1")
    assert claimed_id(db, tenant, "m1") == allowed
    assert claim(db, tenant, "m1") is None
    assert claimed_id(db, tenant, "m2") == forbidden


def test_a_long_line_of_forbidden_jobs_hides_no_work(db: Database, tenant: Tenant) -> None:
    for _ in range(30):
        ban(db, make_job(db, tenant), "m1")
    allowed = make_job(db, tenant)
    assert claimed_id(db, tenant, "m1") == allowed


def test_a_claim_opens_a_lease(db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant, group=None)
    job = claim(db, tenant, "m1", "g1")
    assert job and (job["status"], job["attempt"], job["machine_id"]) == ("running", 1, "m1")
    assert job["started"] == job["heartbeat"]
    assert job["container_group_id"] is None
    attempt = row(db, "attempts", job_id)
    assert attempt and (attempt["number"], attempt["machine_id"], attempt["container_group"]) == (1, "m1", "g1")
    assert (attempt["claimed"], attempt["ended"]) == (job["started"], None)


def test_started_is_the_first_handout(db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant, "waiting")
    first = row(db, "jobs", job_id)
    second = claim(db, tenant, "m2")
    assert first and second and second["started"] == first["started"]
    assert (second["attempt"], second["machine_id"]) == (2, "m2")


def test_a_claim_of_a_lapsed_lease_ends_the_attempt_before_as_interrupted(db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant, "held", machine="gone", attempt=1, silent_for=LAPSED)
    last_heard = (row(db, "queue", job_id) or {})["heartbeat"]
    assert claimed_id(db, tenant, "m2") == job_id
    first, second = db.all("select * from attempts where job_id = %(id)s order by number", id=job_id)
    assert (first["outcome"], first["last_heartbeat"], first["ended"]) == (
        "interrupted",
        last_heard,
        second["claimed"],
    )
    assert (second["number"], second["ended"]) == (2, None)


def test_an_interruption_is_no_failure(db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant, "held", silent_for=LAPSED)
    job = claim(db, tenant, "m2")
    assert job and (job["id"], job["num_failures"]) == (job_id, 0)
    assert db.all("select from bans") == []


def test_a_claim_writes_what_it_did_to_the_jobs_history(db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant, "held", machine="gone", silent_for=LAPSED)
    claim(db, tenant, "m2")
    told = db.all("select kind, actor, attempt from events where job_id = %(id)s order by id", id=job_id)
    assert [(event["kind"], event["actor"], event["attempt"]) for event in told[1:]] == [
        ("interrupted", "machine:m2", 1),
        ("claimed", "machine:m2", 2),
    ]
