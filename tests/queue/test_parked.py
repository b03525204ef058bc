"""What a claim never hands out: parked jobs, those whose lapse may be the end, any where the group is paused."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from kelpie_api.db import SQL, Database
from tests.helpers import Client, Tenant, claim, claimed_id, make_job, row
from tests.queue.test_long_poll import Crowd, crowd, settle

__all__ = ["crowd"]
LAPSED = 61.0  # seconds of silence, at an interval of 30


def park(db: Database, job_id: UUID, *reasons: str) -> None:
    db.execute(
        "update queue set parked = %(reasons)s where job_id = %(id)s", id=job_id, reasons=list(reasons) or None
    )


def prioritize(db: Database, job_id: UUID, priority: int) -> None:
    db.execute(
        "update queue set rank = (rank & 1) - 2 * %(priority)s where job_id = %(id)s", id=job_id, priority=priority
    )


def pause(db: Database, tenant: Tenant, group: str) -> None:
    db.execute(
        "insert into paused_groups (tenant_id, container_group, by) values (%(tenant)s, %(group)s, 'user:test')",
        tenant=tenant.caller.tenant_id,
        group=group,
    )


def phase(db: Database, job_id: UUID) -> tuple[str, list[str] | None]:
    found = db.one_or_none("select phase, parked from visible_jobs where id = %(id)s", id=job_id)
    assert found
    return found["phase"], found["parked"]


@pytest.mark.parametrize("state", ["pending", "waiting"])
@pytest.mark.parametrize("by", ["this release", "the release before"])
def test_a_parked_job_is_handed_out_by_no_claim(db: Database, tenant: Tenant, state: str, by: str) -> None:
    parked, free = make_job(db, tenant, state), make_job(db, tenant, state)
    park(db, parked, "hold")
    if by == "this release":
        assert [claimed_id(db, tenant), claimed_id(db, tenant)] == [free, None]
    else:
        assert [claimed_before(db, tenant), claimed_before(db, tenant)] == [free, None]


def claimed_before(db: Database, tenant: Tenant) -> UUID | None:
    """A claim as the release before makes it."""
    found = db.one_or_none(
        "select * from claim_job(%(tenant)s, 'g1', 'm1', gen_random_uuid(), 'machine:m1', null, array['g1', ''])",
        tenant=tenant.caller.tenant_id,
    )
    return found["id"] if found else None


def test_an_unparked_job_is_handed_out_and_announced(db: Database, tenant: Tenant, crowd: Crowd) -> None:
    job = make_job(db, tenant)
    park(db, job, "hold")
    waiting = crowd.wait()
    settle(crowd.room)
    park(db, job)
    answer = waiting.result(15)
    assert answer and answer["id"] == str(job)


def test_higher_priorities_go_first_and_within_one_those_that_lost_their_holder(
    db: Database, tenant: Tenant
) -> None:
    states = ["pending", "waiting", "held"]
    of_none = [make_job(db, tenant, state, machine="gone", silent_for=LAPSED) for state in states]
    low, high = (
        [make_job(db, tenant, state, machine="gone", silent_for=LAPSED) for state in states] for _ in range(2)
    )
    for jobs, priority in ((low, -7), (high, 100)):
        for job in jobs:
            prioritize(db, job, priority)
    handed_out = [claimed_id(db, tenant) for _ in range(10)]
    expected = [jobs[place] for jobs in (high, of_none, low) for place in (1, 2, 0)]
    assert handed_out == [*expected, None]


def test_a_job_keeps_its_priority_through_a_handout(db: Database, tenant: Tenant) -> None:
    job = make_job(db, tenant)
    prioritize(db, job, 3)
    assert claimed_id(db, tenant) == job
    assert (row(db, "queue", job) or {})["rank"] == -6


def test_a_lapsed_job_whose_lapse_may_be_its_end_is_left_to_maintenance(db: Database, tenant: Tenant) -> None:
    job = make_job(db, tenant, "held", machine="gone", silent_for=LAPSED)
    db.execute("update queue set ends_on_lapse = true where job_id = %(id)s", id=job)
    assert claim(db, tenant) is None
    line = {"tenant_id": tenant.caller.tenant_id, "container_group": "g1", "waiters": 1, "machines": ["m1"]}
    assert db.all(SQL.peek_at_lines, lines=json.dumps([line]), claims="[]") == []


def test_a_handout_says_whether_its_lapse_may_be_the_end_and_when_its_time_is_over(
    db: Database, tenant: Tenant
) -> None:
    job = make_job(db, tenant)
    db.execute(
        "update queue set ends_from_attempt = 2, attempt_seconds = 60, seconds_left = 100 where job_id = %(id)s",
        id=job,
    )
    for expected in (False, True):
        assert claimed_id(db, tenant) == job
        found = db.one_or_none(
            "select ends_on_lapse, round(extract(epoch from deadline - now())) as left from queue"
            " where job_id = %(id)s",
            id=job,
        )
        assert found and (found["ends_on_lapse"], found["left"] in (59, 60)) == (expected, True)
        db.execute(
            "update queue set machine_id = null, holder_group = null, claim_id = null, heartbeat = null"
            " where job_id = %(id)s and not ends_on_lapse",
            id=job,
        )


def test_the_time_that_a_job_was_held_is_taken_off_what_it_has_left(db: Database, tenant: Tenant) -> None:
    job = make_job(db, tenant, "held")
    db.execute("update queue set seconds_left = 100, deadline = now() where job_id = %(id)s", id=job)
    db.execute("update attempts set claimed = now() - interval '29.5 seconds' where job_id = %(id)s", id=job)
    db.execute(
        "update queue set machine_id = null, holder_group = null, heartbeat = null where job_id = %(id)s", id=job
    )
    queued = row(db, "queue", job) or {}
    assert (queued["seconds_left"], queued["deadline"]) == (70, None)


@pytest.mark.parametrize("group", ["g1", None])
def test_a_machine_of_a_paused_group_gets_no_job(db: Database, tenant: Tenant, group: str | None) -> None:
    job = make_job(db, tenant, group=group)
    pause(db, tenant, "g1")
    assert claim(db, tenant, group="g1") is None and claim(db, tenant, group="G1") is None
    assert claimed_id(db, tenant, group="g2") == (None if group else job)


def test_waiting_machines_of_a_paused_group_keep_no_job_from_those_of_another(
    db: Database, tenant: Tenant, crowd: Crowd, api: Client
) -> None:
    pause(db, tenant, "g1")
    paused, other = crowd.wait(machine="m1", group="g1"), crowd.wait(machine="m2", group="g2")
    settle(crowd.room)
    job = make_job(db, tenant, group=None)
    answer = other.result(15)
    assert answer and answer["id"] == str(job) and not paused.done()


@pytest.mark.parametrize(
    ("state", "expected"),
    [("pending", "pending"), ("waiting", "waiting"), ("held", "running"), ("completed", "completed")],
)
def test_the_phase_of_a_job_says_where_it_stands(db: Database, tenant: Tenant, state: str, expected: str) -> None:
    assert phase(db, make_job(db, tenant, state)) == (expected, None)


def test_the_phase_of_a_job_is_what_its_holder_said_last_until_it_lapses(db: Database, tenant: Tenant) -> None:
    alive, lapsed = make_job(db, tenant, "held"), make_job(db, tenant, "held", silent_for=LAPSED)
    db.execute("update queue set phase = 'uploading'")
    assert [phase(db, alive), phase(db, lapsed)] == [("uploading", None), ("waiting", None)]


def test_a_job_of_a_paused_group_is_parked_until_it_is_held(db: Database, tenant: Tenant) -> None:
    pending, held, both = make_job(db, tenant), make_job(db, tenant, "held"), make_job(db, tenant)
    pause(db, tenant, "g1")
    park(db, both, "hold")
    assert phase(db, pending) == ("parked", ["paused"])
    assert phase(db, held) == ("running", None)
    assert phase(db, both) == ("parked", ["hold", "paused"])


def test_a_group_counts_neither_parked_jobs_nor_those_that_it_could_claim_while_it_is_paused(
    db: Database, tenant: Tenant
) -> None:
    parked, _, held = make_job(db, tenant), make_job(db, tenant), make_job(db, tenant, "held")
    park(db, parked, "hold")

    def counted() -> list[UUID]:
        return [row["job_id"] for row in db.all("select job_id from active_jobs order by seq")]

    assert len(counted()) == 2 and parked not in counted()
    pause(db, tenant, "g1")
    assert counted() == [held]


def test_the_labels_of_a_job_go_with_it(db: Database, tenant: Tenant) -> None:
    labeled, other = make_job(db, tenant, "completed"), make_job(db, tenant)
    for job in (labeled, other):
        db.execute(
            "insert into job_labels (tenant_id, key, value, seq) select tenant_id, 'team', 'a', seq from jobs"
            " where id = %(id)s",
            id=job,
        )
    db.execute("alter table jobs disable trigger guard_job")
    db.execute("""update jobs set labels = '{"team": "a"}'""")
    db.execute("alter table jobs enable trigger guard_job")
    db.execute("delete from jobs where id = %(id)s", id=labeled)
    assert db.all("select seq from job_labels") == db.all("select seq from jobs where id = %(id)s", id=other)
