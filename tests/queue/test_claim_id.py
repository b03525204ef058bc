"""A claim whose answer was lost can be asked again (docs/design/protocol.md, Extensions)."""

from __future__ import annotations

from uuid import UUID

import pytest

from kelpie_api.db import Database
from kelpie_api.errors import ClaimIdTaken
from kelpie_api.queue import jobs
from tests.helpers import (
    Tenant,
    at_once,
    claim,
    claim_in,
    make_job,
    make_tenant,
    new_claim_id,
    report,
    rows_of_jobs,
    while_open,
)


def test_a_repeated_claim_is_no_second_handout(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant, webhook="http://receiver/")
    claim_id = new_claim_id()
    claim(db, tenant, claim_id=claim_id)
    before = rows_of_jobs(db)
    claim(db, tenant, claim_id=claim_id)
    after = rows_of_jobs(db)
    assert [len(rows) for rows in after.values()] == [len(rows) for rows in before.values()]
    assert after["events"] == before["events"]


def test_a_repeated_claim_is_answered_also_where_the_job_was_handed_out_before(
    db: Database, tenant: Tenant
) -> None:
    make_job(db, tenant, "waiting", attempt=4)
    claim_id = new_claim_id()
    assert [(claim(db, tenant, claim_id=claim_id) or {})["attempt"] for _ in range(2)] == [5, 5]


def test_after_its_job_failed_for_good_an_id_claims_anew(db: Database, tenant: Tenant) -> None:
    first_job, second_job = make_job(db, tenant, max_failures=1), make_job(db, tenant)
    claim_id = new_claim_id()
    claim(db, tenant, claim_id=claim_id)
    jobs.fail(db, tenant.caller, first_job, report(attempt=1))
    again = claim(db, tenant, claim_id=claim_id)
    assert again and (again["id"], again["attempt"]) == (second_job, 1)


def test_after_another_machine_took_the_lapsed_job_an_id_claims_anew(db: Database, tenant: Tenant) -> None:
    first_job, second_job = make_job(db, tenant), make_job(db, tenant)
    claim_id = new_claim_id()
    claim(db, tenant, "m1", claim_id=claim_id)
    db.execute("update queue set heartbeat = now() - interval '61 seconds' where job_id = %(id)s", id=first_job)
    taken = claim(db, tenant, "m2")
    again = claim(db, tenant, "m1", claim_id=claim_id)
    assert taken and taken["id"] == first_job
    assert again and again["id"] == second_job


def test_a_lapsed_lease_of_an_unclaimed_job_is_renewed_by_asking_again(db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant)
    claim_id = new_claim_id()
    claim(db, tenant, claim_id=claim_id)
    db.execute("update queue set heartbeat = now() - interval '1 hour'")
    again = claim(db, tenant, claim_id=claim_id)
    assert again and (again["id"], again["attempt"]) == (job_id, 1)
    assert claim(db, tenant, "m2") is None


def test_an_id_that_another_machine_uses_is_refused(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant)
    make_job(db, tenant)
    claim_id = new_claim_id()
    claim(db, tenant, "m1", claim_id=claim_id)
    before = rows_of_jobs(db)
    with pytest.raises(ClaimIdTaken):
        claim(db, tenant, "m2", claim_id=claim_id)
    assert rows_of_jobs(db) == before


def test_tenants_do_not_meet_in_an_id(db: Database, tenant: Tenant) -> None:
    rival_tenant = make_tenant(db, "rival", "default")
    mine, theirs = make_job(db, tenant), make_job(db, rival_tenant)
    claim_id = new_claim_id()
    answers = [claim(db, tenant, claim_id=claim_id), claim(db, rival_tenant, claim_id=claim_id)]
    assert [job["id"] for job in answers if job] == [mine, theirs]


def test_a_request_that_races_with_its_own_repetition_gets_the_same_job(db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant)
    make_job(db, tenant)
    claim_id = new_claim_id()
    first, second = while_open(
        db,
        lambda tx: claim_in(tx, tenant, "m1", claim_id),
        lambda: claim(db, tenant, "m1", claim_id=claim_id),
    )
    answers = [first, second]
    assert [(job["id"], job["attempt"]) for job in answers if job] == [(job_id, 1)] * 2


def test_eight_repetitions_at_once_take_one_job(db: Database, tenant: Tenant) -> None:
    for _ in range(8):
        make_job(db, tenant)
    claim_id = new_claim_id()
    answers = at_once([lambda: claim(db, tenant, claim_id=claim_id)] * 8)
    given: set[tuple[UUID, int]] = {(job["id"], job["attempt"]) for job in answers if job}
    assert len(given) == 1 and None not in answers
