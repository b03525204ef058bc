"""When silence ends a lease: after two intervals, not during or just after an outage, and never by itself."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from kelpie_api.db import SQL, Database, Row
from kelpie_api.queue import jobs
from tests.helpers import Tenant, at_once, be_seen, claim, claimed_id, make_job, report, row

INTERVAL = 30  # seconds: the default
LAPSED = 2 * INTERVAL + 1
MANY = 10  # leases held in one line, from which on it has a horizon


def lapsed(db: Database, silence: timedelta, interval: int = INTERVAL) -> bool:
    found = db.one_or_none(
        "select lapsed(now() - %(silence)s, %(interval)s) as answer", silence=silence, interval=interval
    )
    assert found is not None
    return bool(found["answer"])


def outage(db: Database, lasted: float, ended_ago: float) -> None:
    """Note an outage; both in seconds."""
    db.execute(
        "insert into outages select ended - %(lasted)s * interval '1 second', ended"
        " from (select now() - %(ago)s * interval '1 second') as of (ended)",
        lasted=lasted,
        ago=ended_ago,
    )


def last_seen(db: Database, ago: float) -> None:
    db.execute("update coordinator set seen = now() - %(ago)s * interval '1 second'", ago=ago)


@pytest.mark.parametrize("interval", [1, 30, 86400])
def test_a_lease_lapses_after_exactly_two_intervals(db: Database, interval: int) -> None:
    two = timedelta(seconds=2 * interval)
    assert not lapsed(db, two, interval)
    assert lapsed(db, two + timedelta(microseconds=1), interval)


def test_a_lapsed_lease_is_claimed_and_a_live_one_is_not(db: Database, tenant: Tenant) -> None:
    dead = make_job(db, tenant, "held", machine="gone", silent_for=2 * INTERVAL + 0.1)
    make_job(db, tenant, "held", machine="alive", silent_for=2 * INTERVAL - 5)
    assert [claimed_id(db, tenant), claimed_id(db, tenant)] == [dead, None]


def test_the_interval_is_the_jobs_own(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant, "held", machine="slow", silent_for=100, heartbeat_interval=60)
    quick = make_job(db, tenant, "held", machine="quick", silent_for=21, heartbeat_interval=10)
    assert [claimed_id(db, tenant), claimed_id(db, tenant)] == [quick, None]


def test_a_lapse_alone_takes_nothing_from_the_holder(db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant, "held", silent_for=3600)
    assert jobs.heartbeat(db, tenant.caller, job_id, report(attempt=1))["status"] == "running"
    assert claim(db, tenant, "m2") is None


def test_a_lapsed_holder_may_still_complete(db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant, "held", silent_for=3600)
    jobs.complete(db, tenant.caller, job_id, report(attempt=1))
    assert (row(db, "jobs", job_id) or {})["status"] == "completed"


class TestAfterAnOutage:
    def test_a_holder_has_two_intervals_for_its_next_heartbeat(self, db: Database, tenant: Tenant) -> None:
        make_job(db, tenant, "held", silent_for=3600)
        outage(db, lasted=3600, ended_ago=2 * INTERVAL - 5)
        assert claim(db, tenant, "m2") is None

    def test_and_lapses_when_it_was_not(self, db: Database, tenant: Tenant) -> None:
        job_id = make_job(db, tenant, "held", silent_for=3600)
        outage(db, lasted=3600, ended_ago=2 * INTERVAL + 0.1)
        assert claimed_id(db, tenant, "m2") == job_id

    @pytest.mark.parametrize(("lasted", "matters"), [(INTERVAL / 2, True), (INTERVAL / 2 - 0.001, False)])
    def test_a_gap_shorter_than_half_an_interval_does_not_count(
        self, db: Database, lasted: float, matters: bool
    ) -> None:
        outage(db, lasted, ended_ago=1)
        assert lapsed(db, timedelta(seconds=LAPSED)) is not matters

    def test_a_gap_counts_for_short_intervals_and_not_for_long_ones(self, db: Database) -> None:
        outage(db, lasted=5, ended_ago=1)
        assert not lapsed(db, timedelta(hours=1), interval=10)
        assert lapsed(db, timedelta(hours=1), interval=11)

    def test_the_last_outage_of_several_decides(self, db: Database) -> None:
        outage(db, lasted=60, ended_ago=300)
        assert lapsed(db, timedelta(seconds=LAPSED))
        outage(db, lasted=60, ended_ago=10)
        assert not lapsed(db, timedelta(seconds=LAPSED))

    def test_pending_and_waiting_jobs_are_handed_out_all_the_same(self, db: Database, tenant: Tenant) -> None:
        waiting, pending = make_job(db, tenant, "waiting"), make_job(db, tenant)
        outage(db, lasted=60, ended_ago=0)
        last_seen(db, ago=3600)
        assert [claimed_id(db, tenant), claimed_id(db, tenant)] == [waiting, pending]


class TestWhileTheCoordinatorWasNotSeen:
    """Before the gap is recorded, no lease may lapse: a claim could come first."""

    @pytest.mark.parametrize(("ago", "answer"), [(INTERVAL / 2 + 0.5, False), (INTERVAL / 2 - 2, True)])
    def test_no_lease_lapses_after_half_an_interval(self, db: Database, ago: float, answer: bool) -> None:
        last_seen(db, ago)
        assert lapsed(db, timedelta(seconds=LAPSED)) is answer

    def test_a_claim_that_comes_before_the_note_finds_no_lapsed_lease(self, db: Database, tenant: Tenant) -> None:
        make_job(db, tenant, "held", silent_for=3600)
        last_seen(db, ago=3600)
        assert claim(db, tenant, "m2") is None
        db.execute(SQL.be_seen)
        assert claim(db, tenant, "m2") is None

    def test_the_gap_is_noted_once_however_many_processes_come_back(self, db: Database) -> None:
        last_seen(db, ago=100)
        noted = at_once([lambda: db.one_or_none(SQL.be_seen)] * 20)
        assert len([gap for gap in noted if gap]) == 1
        [kept] = db.all("select ended - began as gap from outages")
        assert timedelta(seconds=100) <= kept["gap"] < timedelta(seconds=110)

    def test_a_beat_in_time_is_no_gap(self, db: Database) -> None:
        last_seen(db, ago=0.8)
        db.execute(SQL.be_seen)
        assert db.all("select from outages") == []

    def test_no_process_waits_for_the_one_that_records_it(self, db: Database) -> None:
        last_seen(db, ago=100)
        with db.transaction() as tx:
            tx.execute("select from coordinator for update")
            assert db.one_or_none(SQL.be_seen) is None


class TestAfterACrashOfPostgres:
    """The last heartbeat of a lease may be lost with it, and the one before is an interval older."""

    @pytest.fixture(autouse=True)
    def crash(self, db: Database) -> None:
        db.execute("delete from since_crash")  # as the recovery of an unlogged table leaves it

    def test_no_lease_lapses_until_it_is_noted(self, db: Database, tenant: Tenant) -> None:
        make_job(db, tenant, "held", silent_for=3600)
        assert claim(db, tenant, "m2") is None

    @pytest.mark.parametrize(("since", "lapses"), [(2 * INTERVAL - 5, False), (2 * INTERVAL + 0.1, True)])
    def test_a_holder_has_two_intervals_however_short_it_was(
        self, db: Database, tenant: Tenant, since: float, lapses: bool
    ) -> None:
        make_job(db, tenant, "held", silent_for=3600)
        be_seen(db)
        db.execute("update coordinator set recovered = recovered - %(since)s * interval '1 second'", since=since)
        assert (claim(db, tenant, "m2") is not None) is lapses

    def test_of_a_crash_and_an_outage_the_later_one_decides(self, db: Database) -> None:
        be_seen(db)
        db.execute("update coordinator set recovered = recovered - interval '1 hour'")
        assert lapsed(db, timedelta(seconds=LAPSED))
        outage(db, lasted=60, ended_ago=10)
        assert not lapsed(db, timedelta(seconds=LAPSED))

    def test_it_is_noted_once_however_many_processes_come_back(self, db: Database) -> None:
        last_seen(db, ago=0.5)  # by a release that knows nothing of crashes
        [noted] = db.all("select recovered from coordinator")
        assert noted["recovered"]
        at_once([lambda: db.one_or_none(SQL.be_seen)] * 20)
        assert db.all("select recovered from coordinator") == [noted]

    def test_the_beat_that_notes_it_says_so(self, db: Database) -> None:
        db.execute("alter table coordinator disable trigger note_crash")
        last_seen(db, ago=0.5)
        db.execute("alter table coordinator enable trigger note_crash")
        assert db.one_or_none(SQL.be_seen) == {"began": None, "ended": None, "has_recovered": True}


def test_outages_are_forgotten_only_when_no_lease_can_remember_them(db: Database) -> None:
    outage(db, lasted=60, ended_ago=2 * 86400)
    outage(db, lasted=60, ended_ago=2 * 86400 + 3700)
    db.execute(SQL.forget_outages)
    assert len(db.all("select from outages")) == 1


class TestHorizons:
    """A long line of held jobs is not looked at on every claim; it must not be overlooked for long either."""

    def hold_many(self, db: Database, tenant: Tenant, count: int, silent_for: float = 0.0) -> list[UUID]:
        return [make_job(db, tenant, "held", machine="gone", silent_for=silent_for) for _ in range(count)]

    def set_horizon(self, db: Database, tenant: Tenant, ahead: float, group: str = "g1") -> None:
        db.execute(
            "insert into lapse_horizons values (%(tenant)s, %(group)s, now() + %(ahead)s * interval '1 second')",
            tenant=tenant.caller.tenant_id,
            group=group,
            ahead=ahead,
        )

    def horizon(self, db: Database) -> Row | None:
        return db.one_or_none("select *, clear_until - now() as ahead from lapse_horizons")

    def test_until_its_horizon_a_line_is_not_looked_at(self, db: Database, tenant: Tenant) -> None:
        [job_id] = self.hold_many(db, tenant, 1, silent_for=LAPSED)
        self.set_horizon(db, tenant, ahead=3600)
        assert claim(db, tenant) is None
        db.execute("update lapse_horizons set clear_until = now()")
        assert claimed_id(db, tenant) == job_id

    def test_without_a_horizon_a_line_is_looked_at(self, db: Database, tenant: Tenant) -> None:
        [job_id] = self.hold_many(db, tenant, 1, silent_for=LAPSED)
        assert claimed_id(db, tenant) == job_id

    def test_a_horizon_is_for_one_line(self, db: Database, tenant: Tenant) -> None:
        job_id = make_job(db, tenant, "held", machine="gone", group=None, silent_for=LAPSED)
        self.set_horizon(db, tenant, ahead=3600, group="g1")
        assert claimed_id(db, tenant) == job_id

    def test_a_horizon_hides_no_waiting_job(self, db: Database, tenant: Tenant) -> None:
        job_id = make_job(db, tenant, "waiting")
        self.set_horizon(db, tenant, ahead=3600)
        assert claimed_id(db, tenant) == job_id

    def test_a_short_line_gets_none(self, db: Database, tenant: Tenant) -> None:
        self.hold_many(db, tenant, MANY - 1)
        db.execute(SQL.note_lapse_horizons)
        assert self.horizon(db) is None

    def test_a_long_line_of_live_leases_is_skipped_for_a_second_and_a_half_at_most(
        self, db: Database, tenant: Tenant
    ) -> None:
        self.hold_many(db, tenant, MANY)
        db.execute(SQL.note_lapse_horizons)
        noted = self.horizon(db)
        assert noted and timedelta(0) < noted["ahead"] <= timedelta(seconds=1.5)

    def test_a_horizon_is_never_later_than_the_first_lapse(self, db: Database, tenant: Tenant) -> None:
        self.hold_many(db, tenant, MANY - 1)
        self.hold_many(db, tenant, 1, silent_for=2 * INTERVAL - 0.2)
        db.execute(SQL.note_lapse_horizons)
        first = db.one_or_none("select min(heartbeat) + interval '60 seconds' as lapse from queue")
        noted = self.horizon(db)
        assert first and noted and noted["clear_until"] == first["lapse"]

    def test_one_process_at_a_time_notes_them(self, db: Database, tenant: Tenant) -> None:
        self.hold_many(db, tenant, MANY)
        with db.transaction() as tx:
            tx.execute(SQL.note_lapse_horizons)
            db.execute(SQL.note_lapse_horizons)  # does not wait for us, or the test would hang here
        assert self.horizon(db) is not None
