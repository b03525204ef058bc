"""Sweeps: so many of their jobs are unparked at a time, whatever happens at once."""

from __future__ import annotations

import threading
from typing import Any
from uuid import UUID

import psycopg
import pytest
from flask import Flask

from kelpie_api.db import SQL, Database, Transaction
from kelpie_api.queue import dependencies, sweeps, wishes
from local_stack.processes import wait_for
from tests.helpers import Client, Tenant, be_seen, definition, make_tenant, refused, while_open

Job = dict[str, Any]


@pytest.fixture
def client(app: Flask, tenant: Tenant) -> Client:
    return Client(app.test_client(), tenant.key)


def new_sweep(client: Client, **fields: Any) -> Job:
    answer = client.post("/sweeps", fields)
    assert answer.status_code == 201, answer.text
    return dict(answer.json or {})


def submit(client: Client, number: int, sweep: Job, **fields: Any) -> list[Job]:
    answer = client.post("/jobs/batch", [definition(sweep=sweep["id"], **fields) for _ in range(number)])
    assert answer.status_code == 202, answer.text
    return list(answer.json or [])


def unparked(db: Database, sweep: Job) -> int:
    (row,) = db.all("select count(*) as n from queue where sweep_id = %(id)s and parked is null", id=sweep["id"])
    return int(row["n"])


def test_so_many_jobs_of_a_sweep_can_be_claimed_and_the_next_one_once_one_has_ended(
    client: Client, db: Database
) -> None:
    sweep = new_sweep(client, name="grid", max_parallel=2)
    jobs = submit(client, 4, sweep)
    assert unparked(db, sweep) == 2
    held = [client.claim("m1"), client.claim("m2")]
    assert [job and job["id"] for job in held] == [job["id"] for job in jobs[:2]], "in the order of the batch"
    assert client.claim("m3") is None
    client.report(held[0] or {}, "completed", machine="m1")  # gives its slot away at once
    third = client.claim("m3")
    assert third is not None and third["id"] == jobs[2]["id"] and third["sweep"] == sweep["id"]
    assert client.claim("m4") is None


def test_a_sweep_says_how_far_it_is(client: Client, db: Database) -> None:
    sweep = new_sweep(client, name="grid", labels={"team": "nlp"}, max_parallel=1)
    submit(client, 3, sweep)
    client.report(client.claim() or {}, "completed")
    sweeps.fill_all(db)
    client.claim()
    found = client.get(f"/sweeps/{sweep['id']}").json
    assert found is not None
    assert (found["total"], found["done"], found["attempts"], found["closed"]) == (3, 1, 2, False)
    assert found["phases"] == {"completed": 1, "running": 1, "parked": 1}
    db.execute("update attempts set held = 100 where ended is not null")
    db.execute("update attempts set claimed = claimed - interval '50 seconds' where ended is null")
    held = (client.get(f"/sweeps/{sweep['id']}").json or {})["held"]
    assert 150 < held < 160
    (listed,) = (client.get("/sweeps").json or {})["sweeps"]
    assert (listed["name"], listed["labels"], listed["done"], listed["total"]) == ("grid", {"team": "nlp"}, 1, 3)


def test_without_a_limit_all_jobs_can_be_claimed(client: Client, db: Database) -> None:
    sweep = new_sweep(client)
    submit(client, 5, sweep)
    assert unparked(db, sweep) == 5


def test_a_raised_limit_unparks_and_a_lowered_one_parks_what_no_machine_holds(
    client: Client, db: Database
) -> None:
    sweep = new_sweep(client, max_parallel=1)
    submit(client, 5, sweep)
    assert client.patch(f"/sweeps/{sweep['id']}", {"max_parallel": 4}).status_code == 200
    assert unparked(db, sweep) == 4
    held = [client.claim("m1"), client.claim("m2"), client.claim("m3")]
    client.patch(f"/sweeps/{sweep['id']}", {"max_parallel": 2})
    assert unparked(db, sweep) == 3, "the held ones keep their slots"
    assert client.claim("m4") is None
    for job, machine in zip(held, ("m1", "m2", "m3"), strict=True):
        client.report(job or {}, "completed", machine=machine)
    sweeps.fill_all(db)
    assert unparked(db, sweep) == 2
    client.patch(f"/sweeps/{sweep['id']}", {"max_parallel": None})
    assert unparked(db, sweep) == 2 and client.claim("m5") is not None and client.claim("m6") is not None


@pytest.mark.parametrize("parked", ["hold", "depends", "backoff"])
def test_what_was_parked_before_a_limit_was_set_waits_for_a_slot_once_it_comes_free(
    client: Client, db: Database, tenant: Tenant, parked: str
) -> None:
    """A claim before the next filling would make more held than the limit allows."""
    first = client.submit(priority=1)
    assert (client.claim("m0") or {})["id"] == first["id"]
    sweep = new_sweep(client)
    rule = {"do": "free", "backoff": 60}
    named = [first["id"]] if parked == "depends" else []
    jobs = submit(client, 3, sweep, depends_on=named, retry=[rule])
    for job in jobs:
        if parked == "hold":
            client.post(f"/jobs/{job['id']}/hold")
        elif parked == "backoff":
            client.report(client.claim() or {}, "failed", attempt=1)
    assert {state_of(client, job) for job in jobs} == {(parked,)}
    client.patch(f"/sweeps/{sweep['id']}", {"max_parallel": 1})

    if parked == "hold":
        for job in jobs:
            assert db.one_or_none(SQL.resume_job, job_id=job["id"], **tenant.caller.scope, actor="user:acme")
    elif parked == "backoff":
        db.execute("update queue set backoff_until = now() where backoff_until is not null")
        assert db.execute(SQL.end_backoffs, most=10) == 3
    else:
        client.report(first, "completed", machine="m0")
        dependencies.settle_all(db)
    assert {state_of(client, job) for job in jobs} == {("sweep",)}
    sweeps.fill_all(db)
    assert unparked(db, sweep) == 1


def state_of(client: Client, job: Job) -> tuple[str, ...]:
    return tuple((client.get(f"/jobs/{job['id']}").json or {}).get("parked") or ())


def test_a_limit_that_is_being_set_counts_a_job_that_comes_free_meanwhile(
    client: Client, db: Database, tenant: Tenant
) -> None:
    sweep = new_sweep(client)
    jobs = submit(client, 2, sweep)
    for job in jobs:
        client.post(f"/jobs/{job['id']}/hold")
    values = {**tenant.caller.scope, "actor": "user:acme"}

    def resume(tx: Transaction) -> None:
        for job in jobs:
            assert tx.one_or_none(SQL.resume_job, job_id=job["id"], **values)

    while_open(db, resume, lambda: client.patch(f"/sweeps/{sweep['id']}", {"max_parallel": 1}))
    assert unparked(db, sweep) == 1


def test_a_job_beyond_a_lowered_limit_waits_for_a_slot_from_the_moment_in_which_it_is_given_back(
    client: Client, db: Database
) -> None:
    """A claim before the next filling would make more held than the limit allows."""
    sweep = new_sweep(client, max_parallel=3)
    submit(client, 3, sweep)
    held = [(client.claim(machine) or {})["id"] for machine in ("m1", "m2", "m3")]
    client.patch(f"/sweeps/{sweep['id']}", {"max_parallel": 2})
    waiting = []
    for job_id in held[:2]:
        given_back = db.one_or_none(
            "update queue set machine_id = null, holder_group = null, claim_id = null, heartbeat = null"
            " where job_id = %(id)s returning parked",
            id=job_id,
        )
        waiting.append((given_back or {})["parked"])
    assert waiting == [["sweep"], None]
    assert (client.claim("m4") or {})["id"] == held[1]
    assert client.claim("m5") is None


def test_jobs_beyond_a_lowered_limit_whose_machines_vanish_wait_for_a_slot(client: Client, db: Database) -> None:
    """A lapse makes a job claimable without any transition, so the three would all be handed out again."""
    sweep = new_sweep(client, max_parallel=3)
    submit(client, 4, sweep)
    held = [(client.claim(machine) or {})["id"] for machine in ("m1", "m2", "m3")]
    client.patch(f"/sweeps/{sweep['id']}", {"max_parallel": 1})
    db.execute("update queue set heartbeat = heartbeat - interval '1 hour' where machine_id is not null")
    be_seen(db)
    assert client.claim("m4") is None
    wishes.end_due(db)
    assert (client.claim("m4") or {})["id"] in held
    assert client.claim("m5") is None


def test_a_lapse_beyond_a_limit_ends_the_attempt_only_while_the_limit_is_exceeded(
    client: Client, db: Database
) -> None:
    """Judged at the lapse, also against a limit that is being set at that moment."""
    sweep = new_sweep(client, max_parallel=2)
    submit(client, 2, sweep)
    held = [client.claim(machine) or {} for machine in ("m1", "m2")]
    for most in (1, 2):
        client.patch(f"/sweeps/{sweep['id']}", {"max_parallel": most})
    silence = "update queue set heartbeat = heartbeat - interval '1 hour' where machine_id is not null"
    db.execute(silence)
    be_seen(db)
    wishes.end_due(db)
    assert client.report(held[0], "heartbeat", machine="m1").json == {"status": "running"}
    assert client.claim("m3") is not None, "that of m2"
    client.patch(f"/sweeps/{sweep['id']}", {"max_parallel": 1})
    client.patch(f"/jobs/{held[0]['id']}", {"name": "a"})
    client.post(f"/jobs/{held[1]['id']}/hold")
    client.post(f"/jobs/{held[1]['id']}/resume")
    db.execute(silence)
    assert client.claim("m4") is None, "what else is changed of them does not make them claimable"
    client.patch(f"/sweeps/{sweep['id']}", {"max_parallel": 2})

    def lower(tx: Transaction) -> int:
        return tx.execute("update sweeps set max_parallel = 1")

    while_open(db, lower, lambda: wishes.end_due(db))
    assert (unparked(db, sweep), client.claim("m4") is not None, client.claim("m5")) == (1, True, None)


def test_a_job_that_is_held_gives_its_slot_to_the_next_at_once_and_waits_for_one_when_resumed(
    client: Client, db: Database
) -> None:
    sweep = new_sweep(client, max_parallel=1)
    first, second = submit(client, 2, sweep)
    assert client.post(f"/jobs/{first['id']}/hold").status_code == 202
    assert (client.claim("m1") or {})["id"] == second["id"]
    client.post(f"/jobs/{first['id']}/resume")
    assert (client.get(f"/jobs/{first['id']}").json or {})["parked"] == ["sweep"]
    sweep = new_sweep(client, max_parallel=1)
    (alone,) = submit(client, 1, sweep)
    client.post(f"/jobs/{alone['id']}/hold")
    client.post(f"/jobs/{alone['id']}/resume")
    assert (client.claim("m2") or {})["id"] == alone["id"]


def test_jobs_that_are_held_or_canceled_together_or_with_their_group_give_their_slots_to_the_next_at_once(
    client: Client, db: Database
) -> None:
    sweep = new_sweep(client, max_parallel=2)
    for part in "abc":
        submit(client, 2, sweep, labels={"part": part})

    def with_slots() -> list[str]:
        unparked = "select j.labels ->> 'part' as part from queue q join jobs j on j.id = q.job_id"
        return [row["part"] for row in db.all(f"{unparked} where q.parked is null order by q.seq")]

    client.post("/jobs/hold", {"label": "part:a"})
    assert with_slots() == ["b", "b"]
    assert client.claim("m1") is not None
    client.post("/jobs/cancel", {"label": "part:b"})
    assert with_slots() == ["c", "c"]
    client.post("/jobs/cancel", {"label": "part:c"})
    client.post("/jobs/resume", {"sweep": sweep["id"]})
    assert with_slots() == ["a", "a"]

    submit(client, 2, sweep, labels={"part": "d"}, container_group_id="g2")
    assert client.claim("m2") is not None
    assert (client.delete("/jobs/container-groups/g1").json or {})["count"] == 2
    assert with_slots() == ["d", "d"]


def test_a_higher_priority_has_the_next_slot(client: Client, db: Database) -> None:
    sweep = new_sweep(client, max_parallel=1)
    submit(client, 2, sweep)
    (urgent,) = submit(client, 1, sweep, priority=10)
    client.report(client.claim() or {}, "completed")
    sweeps.fill_all(db)
    claimed = client.claim()
    assert claimed is not None and claimed["id"] == urgent["id"]


def test_a_closed_sweep_takes_no_more_jobs(client: Client) -> None:
    sweep = new_sweep(client)
    client.patch(f"/sweeps/{sweep['id']}", {"closed": True})
    answer = client.post("/jobs", definition(sweep=sweep["id"]))
    assert "unknown or closed" in refused(answer, 400)["message"]


def test_what_a_sweep_took_before_it_was_closed_is_answered_again_to_the_same_key(client: Client) -> None:
    sweep = new_sweep(client)
    once = {"Idempotency-Key": "once"}
    made = client.post("/jobs", definition(sweep=sweep["id"]), **once)
    client.patch(f"/sweeps/{sweep['id']}", {"closed": True})
    again = client.post("/jobs", definition(sweep=sweep["id"]), **once)
    assert (again.json or {})["id"] == (made.json or {})["id"]
    refused(client.post("/jobs", definition(sweep=sweep["id"]), **{"Idempotency-Key": "other"}), 400)


def test_the_sweep_of_another_project_is_unknown(app: Flask, client: Client, db: Database) -> None:
    other = Client(app.test_client(), make_tenant(db, "other", "default").key)
    sweep = new_sweep(other)
    refused(client.get(f"/sweeps/{sweep['id']}"), 404)
    refused(client.patch(f"/sweeps/{sweep['id']}", {"closed": True}), 404)
    refused(client.delete(f"/sweeps/{sweep['id']}"), 404)
    refused(client.post("/jobs", definition(sweep=sweep["id"])), 400)


def test_the_end_of_a_sweep_cancels_what_is_open(client: Client) -> None:
    sweep = new_sweep(client, max_parallel=1)
    jobs = submit(client, 3, sweep)
    client.report(client.claim() or {}, "completed")
    answer = client.delete(f"/sweeps/{sweep['id']}")
    assert (answer.status_code, answer.json) == (200, {"count": 2})
    statuses = [(client.get(f"/jobs/{job['id']}").json or {})["status"] for job in jobs]
    assert statuses == ["completed", "canceled", "canceled"]


def test_a_sweep_is_canceled_in_rounds_beside_which_its_jobs_are_claimed(
    client: Client, db: Database, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job has one end; slots that come free are given to none that is canceled next."""
    monkeypatch.setattr(sweeps, "CANCELED_AT_ONCE", 7)
    sweep = new_sweep(client, max_parallel=4)
    submit(client, 60, sweep)
    stop = threading.Event()

    def work() -> None:
        own = Client(app.test_client(), client.key)
        while not stop.is_set():
            if job := own.claim("m1"):
                own.report(job, "completed", attempt=job["attempt"])
            sweeps.fill_all(db)

    worker = threading.Thread(target=work)
    worker.start()
    wait_for(lambda: done(client, sweep) > 3, "some jobs to complete")
    answer = client.delete(f"/sweeps/{sweep['id']}")
    stop.set()
    worker.join(10)
    phases = (client.get(f"/sweeps/{sweep['id']}").json or {})["phases"]
    assert phases == {"completed": 60 - phases["canceled"], "canceled": phases["canceled"]}
    assert answer.json == {"count": phases["canceled"]}
    ends = db.all("select count(*) as n from events where kind in ('completed', 'canceled') group by job_id")
    assert [end["n"] for end in ends] == [1] * 60


def done(client: Client, sweep: Job) -> int:
    return int((client.get(f"/sweeps/{sweep['id']}").json or {})["done"])


def test_the_same_key_makes_one_sweep(client: Client) -> None:
    first = client.call("POST", "/sweeps", {"name": "a"}, {"Idempotency-Key": "k"})
    again = client.call("POST", "/sweeps", {"name": "a"}, {"Idempotency-Key": "k"})
    assert (first.json or {})["id"] == (again.json or {})["id"]
    assert again.headers["Idempotent-Replayed"] == "true"
    refused(client.call("POST", "/sweeps", {"name": "b"}, {"Idempotency-Key": "k"}), 422)


@pytest.mark.parametrize(
    "fields",
    [{"max_parallel": 0}, {"max_parallel": "2"}, {"max_parallel": True}, {"name": ""}, {"labels": {"a b": "c"}}],
    ids=str,
)
def test_a_wrong_sweep_is_refused(client: Client, fields: Job) -> None:
    refused(client.post("/sweeps", fields), 400)
    assert "sweep_id" in refused(client.delete("/sweeps/"), 400)["errors"]


def test_a_limit_that_is_being_set_counts_a_job_that_is_submitted_meanwhile(
    client: Client, db: Database, migrated_url: str
) -> None:
    """The submission waits for the limit, and its jobs then have no slot."""
    sweep = new_sweep(client, max_parallel=1)
    submit(client, 1, sweep)
    with psycopg.connect(migrated_url) as operator:
        operator.execute("update sweeps set max_parallel = 1 where id = %s", (sweep["id"],))
        submission = threading.Thread(target=submit, args=(client, 1, sweep))
        submission.start()
        wait_for(lambda: blocked(db), "the submission to wait for the sweep")
        operator.commit()
    submission.join(10)
    assert unparked(db, sweep) == 1


def test_a_lowered_limit_is_in_force_when_it_is_answered_also_for_a_row_that_was_locked(
    client: Client, db: Database, migrated_url: str
) -> None:
    sweep = new_sweep(client, max_parallel=3)
    jobs = submit(client, 3, sweep)
    client.claim("m1")
    answers: list[int] = []
    with psycopg.connect(migrated_url) as other:
        other.execute("select from queue where job_id = %s for update", (jobs[2]["id"],))
        lowering = threading.Thread(
            target=lambda: answers.append(client.patch(f"/sweeps/{sweep['id']}", {"max_parallel": 1}).status_code)
        )
        lowering.start()
        wait_for(lambda: unparked(db, sweep) == 2, "the row that is free to be parked")
        assert answers == []
    lowering.join(10)
    assert answers == [200] and unparked(db, sweep) == 1
    assert client.claim("m2") is None


def blocked(db: Database) -> bool:
    return bool(db.all("select pid from pg_stat_activity where cardinality(pg_blocking_pids(pid)) > 0"))


def test_the_limit_holds_while_many_claim_end_and_change_it(client: Client, db: Database, app: Flask) -> None:
    """Eight claimers release and complete: never more jobs are unparked than the limit allows."""
    sweep = new_sweep(client, max_parallel=3)
    submit(client, 60, sweep)
    stop, seen = threading.Event(), []

    def work(number: int) -> None:
        own = Client(app.test_client(), client.key)
        turn = 0
        while not stop.is_set():
            turn += 1
            job = own.claim(f"m{number}")
            if job is None:
                sweeps.fill_all(db)
                continue
            what = "released" if (turn + number) % 3 == 0 else "completed"
            own.report(job, what, machine=f"m{number}", attempt=job["attempt"])
            if what == "completed":
                sweeps.fill(db, UUID(sweep["id"]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()

    def is_over() -> bool:
        seen.append(unparked(db, sweep))
        return done(client, sweep) == 60

    wait_for(is_over, "all jobs to end", timeout=60)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert max(seen) <= 3
