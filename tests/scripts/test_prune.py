"""scripts/prune: old history goes, whole jobs at a time, and nothing that is still needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from uuid import UUID

import pytest

from kelpie_api.db import SQL, Database
from kelpie_api.queue import dependencies, jobs, sweeps
from kelpie_api.queue.retention import prune
from local_stack.processes import CHECKOUT, wait_for
from tests.helpers import JOB_TABLES, Tenant, ban, make_job, make_rule, report, rows_of_jobs
from tests.scripts.conftest import Run, refused

MONTH = timedelta(days=30)
FINISHED = ["completed", "failed", "canceled"]
OPEN = ["pending", "held", "waiting"]


def age(db: Database, job_id: UUID, days: float, finished_days: float | None = None) -> None:
    """Move a job into the past: made so many days ago, and finished then or later."""
    with db.transaction() as tx:
        tx.execute("set local session_replication_role = replica")  # final jobs take no changes
        tx.execute(
            "update jobs set created = created - %(days)s * interval '1 day',"
            " completed = completed - %(finished)s * interval '1 day',"
            " failed = failed - %(finished)s * interval '1 day',"
            " canceled = canceled - %(finished)s * interval '1 day' where id = %(id)s",
            id=job_id,
            days=days,
            finished=days if finished_days is None else finished_days,
        )


def webhook(db: Database, job_id: UUID, state: str) -> None:
    db.execute(
        "insert into webhooks (job_id, url, status, machine_id, container_group, next_try, delivered, given_up)"
        " values (%(id)s, 'http://receiver', 'completed', 'm1', 'g1',"
        " case when %(state)s = 'due' then now() end,"
        " case when %(state)s = 'delivered' then now() end,"
        " case when %(state)s = 'given up' then now() end)",
        id=job_id,
        state=state,
    )


def removed(db: Database, batch: int = 2) -> int:
    return sum(step.jobs for step in prune(db, MONTH, batch))


def left(db: Database) -> set[UUID]:
    return {row["id"] for row in db.all("select id from jobs")}


@pytest.mark.parametrize("state", FINISHED)
def test_an_old_finished_job_goes_with_all_that_belongs_to_it(db: Database, tenant: Tenant, state: str) -> None:
    job = make_job(db, tenant, state)
    ban(db, job, "m9")
    webhook(db, job, "delivered")
    db.execute("insert into deliveries (webhook_id, number) select id, 1 from webhooks")
    age(db, job, 31)
    assert removed(db) == 1
    assert rows_of_jobs(db) == {table: [] for table in JOB_TABLES}
    assert db.all("select * from deliveries") == []


@pytest.mark.parametrize("state", FINISHED)
def test_a_job_that_finished_lately_stays_however_long_ago_it_was_made(
    db: Database, tenant: Tenant, state: str
) -> None:
    job = make_job(db, tenant, state)
    age(db, job, 400, finished_days=29)
    assert removed(db) == 0
    assert left(db) == {job}


@pytest.mark.parametrize("state", OPEN)
def test_a_job_in_the_queue_stays_however_old_it_is(db: Database, tenant: Tenant, state: str) -> None:
    job = make_job(db, tenant, state)
    age(db, job, 4000)
    before = rows_of_jobs(db)
    assert removed(db) == 0
    assert rows_of_jobs(db) == before


@pytest.mark.parametrize(("state", "stays"), [("due", True), ("delivered", False), ("given up", False)])
def test_a_job_stays_until_its_webhooks_are_delivered_or_given_up(
    db: Database, tenant: Tenant, state: str, stays: bool
) -> None:
    job = make_job(db, tenant, "completed")
    webhook(db, job, "delivered")
    webhook(db, job, state)
    age(db, job, 31)
    assert removed(db) == (0 if stays else 1)
    assert (job in left(db)) == stays


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_old_jobs_are_found_among_those_that_stay(db: Database, tenant: Tenant, batch: int) -> None:
    expected = set()
    for state in ["held", "completed", "pending", "failed", "canceled", "waiting", "completed"]:
        job = make_job(db, tenant, state)
        age(db, job, 31)
        if state in OPEN:
            expected.add(job)
    expected.add(make_job(db, tenant, "completed"))
    assert removed(db, batch) == 4
    assert left(db) == expected


def test_the_walk_ends_where_jobs_are_young(db: Database, tenant: Tenant) -> None:
    age(db, make_job(db, tenant, "completed"), 31)
    for _ in range(10):
        make_job(db, tenant, "completed")
    assert len(list(prune(db, MONTH, 2))) == 2  # the second look meets young jobs only


def test_a_job_that_finishes_meanwhile_stays(db: Database, tenant: Tenant) -> None:
    """It is finished but not committed when the prune looks first, and committed when it looks again."""
    job = make_job(db, tenant, "held")
    age(db, job, 31)
    with db.transaction() as tx:
        tx.execute("delete from queue where job_id = %(id)s", id=job)
        tx.execute("update jobs set status = 'completed', completed = now() where id = %(id)s", id=job)
        assert removed(db) == 0
    assert removed(db) == 0
    assert left(db) == {job}


def test_two_at_once_are_harmless(db: Database, tenant: Tenant) -> None:
    """While one is in its transaction, the other does nothing, and says so."""
    age(db, make_job(db, tenant, "completed"), 31)
    with db.transaction() as tx:
        tx.execute("select pg_advisory_xact_lock(hashtext('kelpie prune'))")
        step = next(prune(db, MONTH, 100))
        assert (step.jobs, step.taken) == (0, True)
    assert removed(db) == 1


def test_a_rival_goes_on_where_it_was_when_the_other_is_done(db: Database, tenant: Tenant) -> None:
    for _ in range(4):
        age(db, make_job(db, tenant, "completed"), 31)
    steps = prune(db, MONTH, 2)
    assert next(steps).jobs == 2
    with db.transaction() as tx:
        tx.execute("select pg_advisory_xact_lock(hashtext('kelpie prune'))")
        assert next(steps).taken
    assert sum(step.jobs for step in steps) == 2


def test_a_dry_run_counts_and_removes_nothing(run: Run, db: Database, tenant: Tenant) -> None:
    for _ in range(3):
        age(db, make_job(db, tenant, "completed"), 31)
    before = rows_of_jobs(db)
    told = run("prune", "--older-than", "30d", "--dry-run", "--batch", "2")
    assert "Would remove 3 jobs" in told.stdout
    assert rows_of_jobs(db) == before


def test_the_script_says_what_it_removed(run_script: Run, db: Database, tenant: Tenant) -> None:
    for _ in range(3):
        age(db, make_job(db, tenant, "completed"), 31)
    young = make_job(db, tenant, "completed")
    told = json.loads(run_script("prune", "--older-than", "4w", "--json").stdout)
    assert (told["jobs"], told["complete"]) == (3, True)
    assert left(db) == {young}
    assert "Removed 0 jobs" in run_script("prune", "--older-than", "4w").stdout


def test_the_script_removes_sweeps_that_ended_and_whose_jobs_are_gone(
    run: Run, db: Database, tenant: Tenant
) -> None:
    empty, old, young, still_open = (sweeps.create(db, tenant.caller, {}, None)[0]["id"] for _ in range(4))
    make_job(db, tenant, "completed", sweep=str(old))
    db.execute("update sweeps set closed = now() where id <> %(id)s", id=still_open)
    dependencies.settle_all(db)
    db.execute("update sweeps set ended = ended - interval '31 days' where id <> %(id)s", id=young)
    told = json.loads(run("prune", "--older-than", "30d", "--json").stdout)
    assert (told["sweeps"], told["jobs"]) == (1, 0)
    assert {row["id"] for row in db.all("select id from sweeps")} == {old, young, still_open} - {empty}


def test_the_script_removes_old_decisions_machines_and_reallocations_too(
    run: Run, db: Database, tenant: Tenant
) -> None:
    group = make_rule(db, tenant, "97f504e8-6de6-4322-b5d5-1777a59a7ad3")["container_group_id"]
    for days in (31, 29):
        values = {"tenant": tenant.caller.tenant_id, "group": group, "days": days}
        db.execute(
            "insert into scaling_decisions (at, tenant_id, container_group_id, action, outcome)"
            " values (now() - %(days)s * interval '1 day', %(tenant)s, %(group)s, 'none', 'ok')",
            **values,
        )
        db.execute(
            "insert into machines (tenant_id, container_group, machine_id, last_seen)"
            " values (%(tenant)s, 'g1', 'm' || %(days)s, now() - %(days)s * interval '1 day')",
            **values,
        )
        db.execute(
            "insert into reallocations"
            " (tenant_id, container_group, machine_id, org_name, next_try, ended, outcome)"
            " values (%(tenant)s, 'g1', 'm', 'acme', null, now() - %(days)s * interval '1 day', 'gone')",
            **values,
        )
    run("prune", "--older-than", "30d", "--dry-run")
    assert len(db.all("select from scaling_decisions")) == 2
    told = json.loads(run("prune", "--older-than", "30d", "--json").stdout)
    assert (told["decisions"], told["machines"]) == (1, 2)
    for table in ("scaling_decisions", "machines", "reallocations"):
        assert len(db.all(f"select from {table}")) == 1


def test_a_time_limit_ends_it_early_and_it_says_so(run: Run, db: Database, tenant: Tenant) -> None:
    for _ in range(3):
        age(db, make_job(db, tenant, "completed"), 31)
    told = run("prune", "--older-than", "30d", "--batch", "1", "--limit-seconds", "0.000001")
    assert "Removed 1 jobs" in told.stdout and "Stopped early" in told.stdout


@pytest.mark.parametrize("wrong", ["30", "d", "-1d", "1y", "1.5d", "30 d", "", "9999999w"])
def test_an_age_that_is_none_is_refused(run: Run, db: Database, wrong: str) -> None:
    assert "is no age" in refused(run("prune", f"--older-than={wrong}"))


def test_an_absent_database_is_said(run_script: Run) -> None:
    env = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"}
    assert "does not answer" in refused(run_script("prune", "--older-than", "30d", env=env))


def test_a_kill_in_the_middle_leaves_whole_jobs(db: Database, tenant: Tenant, migrated_url: str) -> None:
    number = 40
    for _ in range(number):
        job = make_job(db, tenant, "completed")
        ban(db, job, "m9")
        webhook(db, job, "delivered")
        age(db, job, 31)
    killed = subprocess.Popen(
        [sys.executable, str(CHECKOUT / "scripts" / "prune"), "--older-than", "30d", "--batch", "1"],
        env={**os.environ, "DATABASE_URL": migrated_url},
    )
    wait_for(lambda: len(left(db)) < number, "the first job to go", pause=0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    remaining = left(db)
    assert 0 < len(remaining) < number
    for table in ("attempts", "bans", "webhooks", "events"):
        assert {row["job_id"] for row in db.all(f"select job_id from {table}")} == remaining
    assert removed(db) == len(remaining)


def test_claims_go_on_while_a_step_is_under_way(db: Database, tenant: Tenant) -> None:
    """A step locks only what it removes."""
    age(db, make_job(db, tenant, "completed"), 31)
    pending = make_job(db, tenant)
    held = make_job(db, tenant, "held", machine="m2")
    with db.transaction() as tx:
        assert tx.all(SQL.prune_jobs, after=0, kept_for=MONTH, batch=100, really=True)[0]["expired"] == 1
        claimed = jobs.claim(db, tenant.caller, "m1", "g1", None)
        assert claimed and claimed["id"] == pending
        jobs.complete(db, tenant.caller, held, report("m2", attempt=1))
