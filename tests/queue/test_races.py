"""When two want the same job at the same moment. Each race is shown: one holds the lock, the other waits."""

from __future__ import annotations

import threading
import time
from collections import Counter
from uuid import UUID

import pytest

from kelpie_api.db import SQL, Database, Transaction
from kelpie_api.errors import Conflict, NotTheHolder
from kelpie_api.queue import jobs, submissions
from kelpie_api.queue.progress import told
from kelpie_api.queue.states import Outcome, Report
from tests.helpers import (
    Tenant,
    as_row,
    claim,
    claim_in,
    claimed_id,
    make_job,
    report,
    row,
    while_open,
)

LAPSED = 61.0
CLAIMERS, ROUNDS = 32, 20


def report_in(tx: Transaction, tenant: Tenant, statement: str, job_id: UUID, said: Report) -> None:
    """A report whose transaction the test ends when it likes."""
    assert tx.one_or_none(
        SQL.by_name[statement],
        job_id=job_id,
        **tenant.caller.scope,
        machine_id=said.machine_id,
        container_group=said.container_group_id,
        attempt=said.attempt,
        exit_code=None,
        reason=None,
        detail=None,
        output=None,
        actor="machine:m1",
        sealed_key=None,
        organization="acme",
        stalled=0,
        max_bans=5,
        max_machines=0,
        counts=1,
        **told(said),
    )


def cancel_in(tx: Transaction, job_id: UUID) -> None:
    assert tx.one_or_none(
        SQL.cancel_job, job_id=job_id, scope=None, groups=None, actor="user:acme", sealed_key=None
    )


def outcomes(db: Database, job_id: UUID) -> list[str | None]:
    rows = db.all("select outcome from attempts where job_id = %(id)s order by number", id=job_id)
    return [attempt["outcome"] for attempt in rows]


class TestTwoClaims:
    def test_a_job_that_another_claim_has_locked_is_skipped_and_not_waited_for(
        self, db: Database, tenant: Tenant
    ) -> None:
        first, second = make_job(db, tenant), make_job(db, tenant)
        with db.transaction() as tx:
            ours = claim_in(tx, tenant, "m1")
            assert ours and ours["id"] == first
            assert claimed_id(db, tenant, "m2") == second
            assert claim(db, tenant, "m3") is None

    @pytest.mark.parametrize("state", ["pending", "waiting", "held"])
    @pytest.mark.parametrize("group", ["g1", None])
    def test_a_claim_locks_one_row(self, db: Database, tenant: Tenant, state: str, group: str | None) -> None:
        for _ in range(20):
            make_job(db, tenant, "held", machine="gone", silent_for=LAPSED)
            make_job(db, tenant, state, machine="gone", group=group, silent_for=LAPSED)
        with db.transaction() as tx:
            claim_in(tx, tenant, "m1")
            assert len(db.all("select from queue for update skip locked")) == 39
            assert len(db.all("select from jobs for update skip locked")) == 39

    def test_a_claim_that_is_rolled_back_leaves_the_job_where_it_was(self, db: Database, tenant: Tenant) -> None:
        job_id = make_job(db, tenant)
        with db.transaction() as tx:
            claim_in(tx, tenant, "m1")
            tx.connection.execute("rollback")
            tx.connection.execute("begin")
        job = claim(db, tenant, "m2")
        assert job and (job["id"], job["attempt"]) == (job_id, 1)

    def test_32_claimers_on_32_jobs_get_one_each_twenty_times(self, db: Database, tenant: Tenant) -> None:
        """Half the jobs are of the null group. The original hands 640 out of 57."""
        began = time.monotonic()
        handouts = Rush(db, tenant).run()
        seconds = time.monotonic() - began
        given = [(job_id, attempt) for job_id, attempt in handouts if job_id is not None]
        print(
            f"\n{len(handouts)} claims, {len(given)} handouts, {len(set(given))} distinct, "
            f"{len(handouts) - len(given)} empty answers, {len(handouts) / seconds:.0f} a second"
        )
        assert len(set(given)) == len(given) == CLAIMERS * ROUNDS
        assert Counter(attempt for _, attempt in given) == {1: CLAIMERS * ROUNDS}


class Rush:
    """All claimers ask at the same moment, round after round; each round brings one job for each of them."""

    def __init__(self, db: Database, tenant: Tenant) -> None:
        self.db = db
        self.tenant = tenant
        self.gate = threading.Barrier(CLAIMERS, action=self.bring_jobs)
        self.handouts: list[tuple[UUID | None, int]] = []

    def bring_jobs(self) -> None:
        groups = ["g1", None] * (CLAIMERS // 2)
        submissions.submit(self.db, self.tenant.caller, [as_row(container_group_id=group) for group in groups])

    def run(self) -> list[tuple[UUID | None, int]]:
        threads = [threading.Thread(target=self.claimer, args=[f"m{n}"]) for n in range(CLAIMERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.handouts

    def claimer(self, machine: str) -> None:
        for _ in range(ROUNDS):
            self.gate.wait()
            job = claim(self.db, self.tenant, machine)
            self.handouts.append((job["id"], job["attempt"]) if job else (None, 0))


class TestAClaimOfALapsedLeaseAgainstItsHolder:
    """An attempt without a lease resumes while its job is being handed to another machine."""

    def lapsed(self, db: Database, tenant: Tenant) -> UUID:
        return make_job(db, tenant, "held", machine="m1", attempt=1, silent_for=LAPSED)

    @pytest.mark.parametrize("attempt", [1, None])
    def test_a_heartbeat_that_comes_too_late_is_told_to_drop_the_job(
        self, db: Database, tenant: Tenant, attempt: int | None
    ) -> None:
        job_id = self.lapsed(db, tenant)
        _, answer = while_open(
            db,
            lambda tx: claim_in(tx, tenant, "m2"),
            lambda: jobs.heartbeat(db, tenant.caller, job_id, report("m1", attempt=attempt)),
        )
        assert answer == {"status": "canceled"}
        assert (row(db, "queue", job_id) or {})["num_heartbeats"] == 0

    @pytest.mark.parametrize("say", [jobs.complete, jobs.fail, jobs.release])
    def test_a_report_that_comes_too_late_is_refused(self, db: Database, tenant: Tenant, say: object) -> None:
        job_id = self.lapsed(db, tenant)

        def reported() -> str:
            with pytest.raises(NotTheHolder):
                say(db, tenant.caller, job_id, report("m1", attempt=1))  # type: ignore[operator]
            return "refused"

        assert while_open(db, lambda tx: claim_in(tx, tenant, "m2"), reported)[1] == "refused"
        assert outcomes(db, job_id) == ["interrupted", None]

    def test_a_heartbeat_that_comes_first_keeps_the_job(self, db: Database, tenant: Tenant) -> None:
        job_id = self.lapsed(db, tenant)
        with db.transaction() as tx:
            beat = {"job_id": job_id, "scope": None, "groups": None, "machine_id": "m1", "attempt": 1}
            assert tx.one_or_none(SQL.renew_lease, **beat, checkpoint_lag=None, **told(report()))
            assert claim(db, tenant, "m2") is None
        assert claim(db, tenant, "m2") is None

    def test_a_completion_that_comes_first_wins(self, db: Database, tenant: Tenant) -> None:
        job_id = self.lapsed(db, tenant)
        with db.transaction() as tx:
            report_in(tx, tenant, "complete_job", job_id, report("m1", attempt=1))
            assert claim(db, tenant, "m2") is None
        assert claim(db, tenant, "m2") is None
        assert outcomes(db, job_id) == ["completed"]


class TestAClaimAgainstWhoeverEndsItsAttempt:
    """The claim commits while the other waits: the attempt that it opened must be ended all the same."""

    def test_a_cancel_ends_the_attempt_that_was_just_opened(self, db: Database, tenant: Tenant) -> None:
        job_id = make_job(db, tenant)
        while_open(db, lambda tx: claim_in(tx, tenant, "m1"), lambda: jobs.cancel(db, tenant.caller, job_id))
        assert outcomes(db, job_id) == ["canceled"]

    @pytest.mark.parametrize(
        ("say", "outcome"), [(jobs.complete, "completed"), (jobs.fail, "failed"), (jobs.release, "released")]
    )
    def test_a_report_without_attempt_ends_what_its_machine_just_claimed_again(
        self, db: Database, tenant: Tenant, say: object, outcome: str
    ) -> None:
        job_id = make_job(db, tenant, "held", machine="m1", attempt=1, silent_for=LAPSED)
        while_open(
            db,
            lambda tx: claim_in(tx, tenant, "m1"),
            lambda: say(db, tenant.caller, job_id, report("m1")),  # type: ignore[operator]
        )
        assert outcomes(db, job_id) == ["interrupted", outcome]


class TestReportsAgainstEachOther:
    def test_a_completion_after_a_cancel_is_refused(self, db: Database, tenant: Tenant) -> None:
        job_id = make_job(db, tenant, "held")

        def completed() -> None:
            with pytest.raises(NotTheHolder):
                jobs.complete(db, tenant.caller, job_id, report(attempt=1))

        while_open(db, lambda tx: cancel_in(tx, job_id), completed)
        assert (row(db, "jobs", job_id) or {})["status"] == "canceled"
        assert outcomes(db, job_id) == ["canceled"]

    def test_a_cancel_after_a_completion_is_a_conflict(self, db: Database, tenant: Tenant) -> None:
        job_id = make_job(db, tenant, "held")

        def cancel() -> None:
            with pytest.raises(Conflict):
                jobs.cancel(db, tenant.caller, job_id)

        said = report(attempt=1)
        while_open(db, lambda tx: report_in(tx, tenant, "complete_job", job_id, said), cancel)
        assert (row(db, "jobs", job_id) or {})["status"] == "completed"

    @pytest.mark.parametrize("attempt", [1, None])
    @pytest.mark.parametrize(
        ("statement", "say", "outcome"),
        [
            ("complete_job", jobs.complete, Outcome.COMPLETED),
            ("fail_job", jobs.fail, Outcome.FAILED),
            ("release_job", jobs.release, Outcome.RELEASED),
        ],
    )
    def test_a_report_and_its_repetition_at_once_are_both_accepted_and_count_once(
        self, db: Database, tenant: Tenant, attempt: int | None, statement: str, say: object, outcome: str
    ) -> None:
        job_id = make_job(db, tenant, "held")
        said = report(attempt=attempt)
        while_open(
            db,
            lambda tx: report_in(tx, tenant, statement, job_id, said),
            lambda: say(db, tenant.caller, job_id, said),  # type: ignore[operator]
        )
        assert outcomes(db, job_id) == [outcome]
        assert (row(db, "jobs", job_id) or {})["num_failures"] == (outcome == Outcome.FAILED)

    def test_a_failure_of_a_pending_job_and_its_repetition_at_once_count_once(
        self, db: Database, tenant: Tenant
    ) -> None:
        job_id = make_job(db, tenant)
        said = report()
        while_open(
            db,
            lambda tx: report_in(tx, tenant, "fail_job", job_id, said),
            lambda: jobs.fail(db, tenant.caller, job_id, said),
        )
        assert (row(db, "jobs", job_id) or {})["num_failures"] == 1

    def test_failures_of_a_pending_job_by_two_machines_at_once_count_twice(
        self, db: Database, tenant: Tenant
    ) -> None:
        job_id = make_job(db, tenant)
        while_open(
            db,
            lambda tx: report_in(tx, tenant, "fail_job", job_id, report("m1")),
            lambda: jobs.fail(db, tenant.caller, job_id, report("m2")),
        )
        assert (row(db, "jobs", job_id) or {})["num_failures"] == 2

    def test_a_cancel_and_its_repetition_at_once_are_both_accepted(self, db: Database, tenant: Tenant) -> None:
        job_id = make_job(db, tenant)
        while_open(db, lambda tx: cancel_in(tx, job_id), lambda: jobs.cancel(db, tenant.caller, job_id))
        kinds = [event["kind"] for event in db.all("select kind from events order by id")]
        assert kinds == ["submitted", "canceled"]
