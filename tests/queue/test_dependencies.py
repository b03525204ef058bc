"""Jobs that wait for others: when they begin, when they are canceled, and what is refused."""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from flask import Flask

from kelpie_api.db import SQL, Database, Row, Transaction
from kelpie_api.queue import dependencies
from kelpie_api.queue.retention import prune
from local_stack.processes import wait_for
from tests.helpers import (
    Client,
    Tenant,
    definition,
    make_tenant,
    refused,
    vacuum_whole,
    wait_until_blocked,
    while_open,
)

Job = dict[str, Any]


@pytest.fixture
def client(app: Flask, tenant: Tenant) -> Client:
    return Client(app.test_client(), tenant.key)


def state(client: Client, job: Job) -> tuple[str, list[str] | None]:
    found = client.get(f"/jobs/{job['id']}").json or {}
    return found["status"], found.get("parked")


def end(client: Client, db: Database, what: str, **more: Any) -> None:
    """The next job ends so, and its dependents are told."""
    held = client.claim() or {}
    client.report(held, what, attempt=held["attempt"], **more)
    dependencies.settle_all(db)


def test_a_job_begins_once_what_it_waits_for_has_completed(client: Client, db: Database) -> None:
    first, second = client.submit(), client.submit()
    last = client.submit(depends_on=[first["id"], second["id"]])
    assert state(client, last) == ("pending", ["depends"])
    end(client, db, "completed")
    assert state(client, last) == ("pending", ["depends"])
    end(client, db, "completed")
    assert (client.claim() or {})["id"] == last["id"]


@pytest.mark.parametrize("needs", ["completed", "ended"])
@pytest.mark.parametrize("how", ["failed", "canceled"])
def test_what_fails_cancels_its_dependents_unless_they_begin_anyway(
    client: Client, db: Database, needs: str, how: str
) -> None:
    first = client.submit(max_failures=1)
    second = client.submit(depends_on=[first["id"]], depends_if=needs)
    third = client.submit(depends_on=[second["id"]], depends_if=needs)
    if how == "failed":
        end(client, db, "failed")
    else:
        client.delete(f"/jobs/{first['id']}")
        dependencies.settle_all(db)
    if needs == "completed":
        assert state(client, second)[0] == state(client, third)[0] == "canceled"
        assert (client.get(f"/jobs/{second['id']}").json or {})["reason"] == "depends"
        (event,) = [
            one
            for one in (client.get(f"/jobs/{second['id']}/events").json or {})["events"]
            if one["kind"] == "canceled"
        ]
        assert event["actor"] == "coordinator" and event["detail"]["on"] == first["id"]
    else:
        assert (client.claim("m2") or {})["id"] == second["id"]
        assert state(client, third) == ("pending", ["depends"])


@pytest.mark.parametrize(("how", "expected"), [("completed", "pending"), ("failed", "canceled")])
def test_what_had_ended_before_counts(client: Client, db: Database, how: str, expected: str) -> None:
    first = client.submit(max_failures=1)
    end(client, db, how)
    later = client.submit(depends_on=[first["id"]])
    assert state(client, later) == (expected, None)


def test_a_batch_names_its_own_jobs_by_their_places(client: Client, db: Database) -> None:
    answer = client.post(
        "/jobs/batch", [definition(), definition(depends_on=["#0"]), definition(depends_on=["#1", "#0", "#0"])]
    )
    assert answer.status_code == 202, answer.text
    for job in answer.json or []:
        held = client.claim() or {}
        assert held["id"] == job["id"] and client.claim("m2") is None
        client.report(held, "completed", attempt=1)
        dependencies.settle_all(db)


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        (["#1"], "must come before"),
        (["#0"], "must come before"),
        (["nothing"], "is no id"),
        (["#\N{SUPERSCRIPT TWO}"], "is no id"),
        ([str(uuid.uuid4())], "There is no job"),
        ([7], "string"),
        ("x", "Must be a list"),
    ],
    ids=["later", "itself", "no id", "no decimal digit", "unknown", "a number", "no list"],
)
def test_what_cannot_be_waited_for_is_refused_and_nothing_is_created(
    client: Client, db: Database, named: Any, sentence: str
) -> None:
    body = refused(client.post("/jobs/batch", [definition(depends_on=named)]), 400)
    assert sentence in body["message"] and body["index"] == 0
    assert db.all("select from jobs") == []


def test_a_job_cannot_wait_for_the_sweep_that_it_belongs_to(client: Client) -> None:
    sweep = (client.post("/sweeps", {}).json or {})["id"]
    body = refused(client.post("/jobs", definition(sweep=sweep, depends_on=[sweep])), 400)
    assert "does not end before it" in body["message"]


def test_sweeps_cannot_wait_for_each_other(client: Client, db: Database, tenant: Tenant) -> None:
    """By their jobs, by a job between them, within a batch, and by two submissions at the same moment."""
    a, b, c, d = ((client.post("/sweeps", {}).json or {})["id"] for _ in range(4))
    first = client.submit(sweep=a, depends_on=[b])
    between = client.submit(depends_on=[a])
    client.submit(sweep=c, depends_on=[a, b, between["id"]])  # a line is no circle
    for named in (a, between["id"]):
        body = refused(client.post("/jobs", definition(sweep=b, depends_on=[named])), 400)
        assert f"Job {first['id']} waits for the end of sweep {b}" in body["message"] and "index" not in body
    jobs = [definition(), definition(sweep=c, depends_on=[d]), definition(sweep=d, depends_on=["#0", "#1"])]
    body = refused(client.post("/jobs/batch", jobs), 400)
    assert "Job #1 waits for the end of sweep" in body["message"] and body["index"] == 2

    job = {"job_id": client.submit(sweep=c)["id"], "on_sweep": d, "needs": "completed"}

    def submit_first(tx: Transaction) -> None:
        tx.all(SQL.take_turn_of_circles, tenant_id=tenant.caller.tenant_id)
        tx.execute(SQL.add_dependencies, dependencies=json.dumps([job]))
        values = {"id": job["job_id"]}
        tx.execute("update queue set parked = '{depends}', waits_for = 1 where job_id = %(id)s", **values)

    _, answer = while_open(db, submit_first, lambda: client.post("/jobs", definition(sweep=d, depends_on=[c])))
    assert f"Job {job['job_id']} waits" in refused(answer, 400)["message"]
    client.delete(f"/jobs/{first['id']}")
    client.submit(sweep=b, depends_on=[a])  # what waited is no more
    assert len(db.all("select from jobs")) == 5


def test_the_job_of_another_project_is_unknown(app: Flask, client: Client, db: Database) -> None:
    other = Client(app.test_client(), make_tenant(db, "other", "default").key)
    refused(client.post("/jobs", definition(depends_on=[other.submit()["id"]])), 400)


def test_a_sweep_is_waited_for_until_it_is_closed_and_its_last_job_has_ended(client: Client, db: Database) -> None:
    sweep = client.post("/sweeps", {}).json or {}
    client.submit(sweep=sweep["id"])
    gathering = client.submit(depends_on=[sweep["id"]])
    end(client, db, "completed")
    assert state(client, gathering) == ("pending", ["depends"]), "it may still get jobs"
    client.patch(f"/sweeps/{sweep['id']}", {"closed": True})
    dependencies.settle_all(db)
    assert (client.claim() or {})["id"] == gathering["id"]


def test_a_dependency_that_is_pruned_after_it_completed_changes_nothing(client: Client, db: Database) -> None:
    """Also while it is being pruned: neither its dependents nor a submission that names it wait for that."""
    first = client.submit()
    later = client.submit(depends_on=[first["id"]])
    assert client.report(client.claim() or {}, "completed", attempt=1).status_code == 200
    with db.transaction() as pruning:
        assert pruning.execute("delete from jobs where id = %(id)s", id=first["id"]) == 1
        dependencies.settle_all(db)
        assert (client.claim() or {})["id"] == later["id"]
        assert state(client, client.submit(depends_on=[first["id"]])) == ("pending", None)
    assert "There is no job" in refused(client.post("/jobs", definition(depends_on=[first["id"]])), 400)["message"]


@pytest.mark.parametrize("pruned", ["before its end", "after its end"])
def test_a_sweep_of_which_a_failed_job_is_pruned_does_not_pass_for_completed(
    client: Client, db: Database, pruned: str
) -> None:
    sweep = (client.post("/sweeps", {}).json or {})["id"]
    client.submit(sweep=sweep, max_failures=1)
    client.submit(sweep=sweep)
    gathering = client.submit(depends_on=[sweep])
    end(client, db, "failed")

    def prune_failed() -> None:
        db.execute("alter table jobs disable trigger guard_job")
        db.execute("update jobs set failed = now() - interval '2 days' where status = 'failed'")
        db.execute("alter table jobs enable trigger guard_job")
        assert sum(step.jobs for step in prune(db, timedelta(days=1), 10)) == 1

    if pruned == "before its end":
        prune_failed()
    end(client, db, "completed")
    client.patch(f"/sweeps/{sweep}", {"closed": True})
    dependencies.settle_all(db)
    if pruned == "after its end":
        prune_failed()
    assert state(client, gathering)[0] == "canceled"
    assert state(client, client.submit(depends_on=[sweep]))[0] == "canceled"


def test_an_end_and_a_submission_that_names_it_at_the_same_moment_do_not_miss_each_other(
    client: Client, db: Database, migrated_url: str, app: Flask
) -> None:
    """The end waits for the submission, which has looked already, and then tells its job."""
    first = client.submit()
    held = client.claim() or {}
    with psycopg.connect(migrated_url) as operator:
        operator.execute("select from queue where job_id = %s for key share", (first["id"],))
        report = threading.Thread(
            target=lambda: Client(app.test_client(), client.key).report(held, "completed", attempt=1)
        )
        report.start()
        wait_for(
            lambda: bool(db.all("select from pg_stat_activity where cardinality(pg_blocking_pids(pid)) > 0")),
            "the report to wait",
        )
        later = client.submit(depends_on=[first["id"]])
        assert state(client, later) == ("pending", ["depends"])
    report.join(10)
    dependencies.settle_all(db)
    assert state(client, later) == ("pending", None)


def test_the_end_of_a_sweep_and_a_submission_that_names_it_at_the_same_moment_do_not_miss_each_other(
    client: Client, db: Database, tenant: Tenant
) -> None:
    """Whichever comes second sees the other: the submission waits, the end looks again."""
    first, second = ((client.post("/sweeps", {}).json or {})["id"] for _ in range(2))
    for sweep in (first, second):
        client.patch(f"/sweeps/{sweep}", {"closed": True})

    def end_first(tx: Transaction) -> Row | None:
        tx.all(SQL.lock_sweeps_to_end)
        return tx.one_or_none(SQL.end_sweeps, ids=[first])

    _, later = while_open(db, end_first, lambda: client.submit(depends_on=[first]))
    assert state(client, later) == ("pending", None), "it had ended when the submission looked"
    job = {"job_id": (unmet := client.submit())["id"], "on_sweep": second, "needs": "completed"}
    with db.transaction() as submission:
        submission.all(SQL.keep_sweeps_from_ending, ids=[second])
        dependencies.settle_all(db)
        submission.execute(SQL.add_dependencies, dependencies=json.dumps([job]))
        values = {"id": unmet["id"]}
        submission.execute("update queue set parked = '{depends}', waits_for = 1 where job_id = %(id)s", **values)
    dependencies.settle_all(db)
    assert state(client, unmet) == ("pending", None)


@pytest.mark.parametrize("how", ["completed", "failed"])
def test_dependents_are_locked_in_the_order_of_changes_of_many_jobs(
    client: Client, db: Database, how: str
) -> None:
    """So a change of many jobs and the end of what they wait for do not wait for each other."""
    first = client.submit(max_failures=1)
    named = [definition(depends_on=[first["id"]]) for _ in range(20)]
    jobs = (client.post("/jobs/batch", named).json or [])[::-1]
    assert client.report(client.claim() or {}, how, attempt=1).status_code in (200, 202)
    lock = "select from queue where job_id = %(id)s for update nowait"
    with ThreadPoolExecutor(1) as pool:
        with db.transaction() as change:
            change.all(lock, id=jobs[-1]["id"])
            settling = pool.submit(dependencies.settle_all, db)
            wait_until_blocked(db)
            for job in jobs:
                change.all(lock, id=job["id"])
        settling.result(10)
    assert {state(client, job) for job in jobs} == {("pending" if how == "completed" else "canceled", None)}


def test_a_chain_is_canceled_at_once_up_to_what_ended_or_may_begin_anyway(client: Client, db: Database) -> None:
    first = client.submit(max_failures=1)
    named: list[Job] = [{"depends_on": [first["id"]]}, {"depends_on": ["#0"]}, {"depends_on": ["#1"]}]
    named += [{"depends_on": ["#2"], "depends_if": "ended"}, {"depends_on": ["#3"]}]
    jobs = client.post("/jobs/batch", [definition(**each) for each in named]).json or []
    assert client.report(jobs[1], "completed").status_code == 200, "as the original accepts it"
    assert client.report(client.claim() or {}, "failed", attempt=1).status_code == 202
    assert dependencies.settle_round(db)
    assert state(client, jobs[0])[0] == "canceled"
    dependencies.settle_all(db)
    assert [state(client, job) for job in jobs] == [
        ("canceled", None),
        ("completed", None),
        ("pending", None),
        ("pending", ["depends"]),
        ("pending", ["depends"]),
    ]
    client.delete(f"/jobs/{jobs[2]['id']}")
    dependencies.settle_all(db)
    assert [state(client, job)[1] for job in jobs[3:]] == [None, ["depends"]]


@pytest.mark.parametrize("shape", ["star", "chain"])
def test_many_dependents_are_told_in_rounds(
    client: Client, db: Database, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, "SETTLED_AT_ONCE", 7)
    first = client.submit(max_failures=1)
    named = [[first["id"]] if shape == "star" or place == 0 else [f"#{place - 1}"] for place in range(30)]
    jobs = client.post("/jobs/batch", [definition(depends_on=each) for each in named]).json or []
    end(client, db, "failed")
    rows = db.all("select status, count(*) as n from jobs group by status order by status")
    assert {row["status"]: row["n"] for row in rows} == {"canceled": 30, "failed": 1}
    on = db.all(
        "select e.detail ->> 'on' as id from events e join jobs j on j.id = e.job_id"
        " where e.kind = 'canceled' order by j.seq"
    )
    expected = [first["id"]] * 30 if shape == "star" else [first["id"], *(job["id"] for job in jobs[:-1])]
    assert [row["id"] for row in on] == expected
    assert db.all("select from dependencies") == db.all("select from dependency_endings") == []


@pytest.mark.parametrize(
    ("how", "expected"), [("completed", ("pending", ["hold"])), ("failed", ("canceled", None))]
)
def test_a_dependent_that_is_held_at_the_moment_in_which_it_is_told_is_told_all_the_same(
    client: Client, db: Database, tenant: Tenant, how: str, expected: tuple[str, list[str] | None]
) -> None:
    first = client.submit(max_failures=1)
    later = client.submit(depends_on=[first["id"]])
    assert client.report(client.claim() or {}, how, attempt=1).status_code in (200, 202)
    (found,) = db.all("select seq from queue")
    values = {**tenant.caller.scope, "actor": "user:acme", "sealed_key": None}
    while_open(
        db,
        lambda tx: tx.one_or_none(SQL.hold_many, numbers=[found["seq"]], **values),
        lambda: dependencies.settle_all(db),
    )
    assert state(client, later) == expected
    assert db.all("select from dependencies") == db.all("select from dependency_endings") == []


@pytest.mark.parametrize(("how", "shape"), [("completed", "star"), ("failed", "star"), ("failed", "chain")])
def test_a_round_reads_its_own_jobs_also_where_the_queue_is_believed_to_be_empty(
    client: Client, db: Database, how: str, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since a vacuum when it was, as after each day's work; then a round read all of it for each of its jobs."""
    monkeypatch.setattr(dependencies, "SETTLED_AT_ONCE", 10)

    def submit() -> Job:
        first = client.submit(max_failures=1)
        named = [[first["id"]] if shape == "star" or place == 0 else [f"#{place - 1}"] for place in range(500)]
        jobs = client.post("/jobs/batch", [definition(depends_on=each) for each in named])
        assert jobs.status_code == 202
        return first

    submit()
    for table in ("queue", "dependencies"):
        db.execute(f"delete from {table}")
        vacuum_whole(db, table)
    submit()
    assert client.report(client.claim() or {}, how, attempt=1).status_code in (200, 202)
    with db.transaction() as tx, monkeypatch.context() as same:
        same.setattr(db, "transaction", lambda: nullcontext(tx))
        before = entries_read(tx)
        assert dependencies.settle_round(db)
        assert 10 <= entries_read(tx) - before <= 200


def entries_read(tx: Transaction) -> int:
    """Of the queue and of dependencies, from the tables and their indexes."""
    (found,) = tx.all(
        "select sum(pg_stat_get_xact_tuples_returned(r.oid)"
        "           + pg_stat_get_xact_tuples_fetched(r.oid))::integer as n"
        "  from unnest(array['queue', 'dependencies']::regclass[]) as t (oid)"
        " cross join lateral (select t.oid union all select indexrelid from pg_index where indrelid = t.oid) r"
    )
    return int(found["n"])
