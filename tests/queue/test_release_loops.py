"""A machine that takes a job and gives it back again and again waits for it, and its webhooks are one."""

from __future__ import annotations

from uuid import uuid4

import pytest

from kelpie_api.db import SQL, Database, Row
from kelpie_api.queue import jobs
from tests.helpers import Tenant, claim, claimed_id, make_job, make_tenant, report, row

FEW = 9  # releases within a minute that cost nothing
MANY = 29  # as many by whichever machines


def loop(db: Database, tenant: Tenant, times: int, machine: str = "m1") -> None:
    """A machine takes the next job and gives it back, so many times."""
    for _ in range(times):
        taken = claim(db, tenant, machine)
        assert taken
        jobs.release(db, tenant.caller, taken["id"], report(machine, attempt=taken["attempt"]))


def pauses(db: Database) -> list[tuple[str, int, int]]:
    """Each machine's level and the seconds that it waits."""
    found = db.all(
        "select machine_id, level, round(extract(epoch from until - now()))::integer as seconds"
        "  from pauses order by machine_id"
    )
    return [(pause["machine_id"], pause["level"], pause["seconds"]) for pause in found]


def let_pass(db: Database, seconds: int) -> None:
    """As if so much time had passed since everything that was noted about releases."""
    db.execute("update pauses set until = until - %(s)s * interval '1 second'", s=seconds)
    db.execute("update attempts set ended = ended - %(s)s * interval '1 second'", s=seconds)
    db.execute("update queue set looped_until = looped_until - %(s)s * interval '1 second'", s=seconds)


def running_webhooks(db: Database) -> list[Row]:
    return db.all("select * from webhooks where status = 'running' order by seq")


def test_the_tenth_release_within_a_minute_makes_the_machine_wait(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant)
    loop(db, tenant, FEW)
    assert pauses(db) == []
    loop(db, tenant, 1)
    assert pauses(db) == [("m1", 1, 10)]
    assert claim(db, tenant, "m1") is None


def test_another_machine_takes_the_job_at_once(db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant)
    loop(db, tenant, 10)
    assert claimed_id(db, tenant, "m2") == job_id


def test_the_machine_may_have_other_jobs(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant)
    loop(db, tenant, 10)
    other = make_job(db, tenant, group=None)
    assert claimed_id(db, tenant, "m1") == other


def test_each_wait_is_longer_up_to_five_minutes_until_a_minute_goes_well(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant)
    loop(db, tenant, 10)
    waits = []
    for _ in range(8):
        [(_, _, seconds)] = pauses(db)
        waits.append(seconds)
        let_pass(db, seconds + 1)
        loop(db, tenant, 1)
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]
    let_pass(db, 300 + 61)
    loop(db, tenant, FEW)
    assert claim(db, tenant, "m1")


def test_releases_that_are_spread_over_minutes_cost_nothing(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant)
    for _ in range(5):
        loop(db, tenant, FEW)
        let_pass(db, 61)
    assert pauses(db) == []


def test_machines_that_take_turns_are_counted_apart(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant)
    for _ in range(FEW):
        for machine in ("m1", "m2", "m3"):
            loop(db, tenant, 1, machine)
    assert pauses(db) == []
    loop(db, tenant, 1, "m2")
    assert [machine for machine, _, _ in pauses(db)] == ["m2"]
    assert claim(db, tenant, "m2") is None
    assert claim(db, tenant, "m3")


def loop_under_new_ids(db: Database, tenant: Tenant, times: int) -> None:
    """Machines take the next job and give it back, each once."""
    for _ in range(times):
        loop(db, tenant, 1, f"new-{uuid4()}")


def test_the_thirtieth_release_within_a_minute_makes_the_job_wait_whatever_the_machines(
    db: Database, tenant: Tenant
) -> None:
    job_id = make_job(db, tenant)
    loop_under_new_ids(db, tenant, MANY)
    assert pauses(db) == []
    loop_under_new_ids(db, tenant, 1)
    assert pauses(db) == [("", 1, 10)]
    assert claim(db, tenant, "another") is None
    last = db.all("select detail from events where job_id = %(id)s and kind = 'released' order by id", id=job_id)[
        -1
    ]
    assert "pause_seconds" not in last["detail"] and last["detail"]["job_pause_seconds"] == 10


def test_the_jobs_wait_is_longer_each_time_and_a_minute_at_most_until_a_minute_goes_well(
    db: Database, tenant: Tenant
) -> None:
    make_job(db, tenant)
    loop_under_new_ids(db, tenant, MANY + 1)
    waits = []
    for _ in range(6):
        [(_, _, seconds)] = pauses(db)
        waits.append(seconds)
        let_pass(db, seconds + 1)
        loop_under_new_ids(db, tenant, 1)
    assert waits == [10, 20, 40, 60, 60, 60]
    let_pass(db, 60 + 61)
    loop_under_new_ids(db, tenant, MANY)
    assert claim(db, tenant, "another")


def test_a_job_that_waits_for_all_holds_up_no_other(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant)
    loop_under_new_ids(db, tenant, MANY + 1)
    other = make_job(db, tenant)
    assert claimed_id(db, tenant, "m1") == other


def test_a_machine_in_a_loop_waits_beside_its_job(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant)
    loop_under_new_ids(db, tenant, MANY - FEW)
    loop(db, tenant, FEW + 1)
    assert pauses(db) == [("", 1, 10), ("m1", 1, 10)]
    let_pass(db, 11)
    loop(db, tenant, 1)
    assert pauses(db) == [("", 2, 20), ("m1", 2, 20)]


def test_a_lapsed_job_waits_too(db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant)
    loop(db, tenant, 10)
    assert claim(db, tenant, "m2")
    db.execute("update queue set heartbeat = now() - interval '1 hour'")
    db.execute("insert into outages (began, ended) values (now() - interval '3 days', now() - interval '2 days')")
    assert claim(db, tenant, "m1") is None
    assert claimed_id(db, tenant, "m3") == job_id


def test_a_waiting_claim_is_not_woken_for_a_job_that_its_machine_has_to_wait_for(
    db: Database, tenant: Tenant
) -> None:
    make_job(db, tenant)
    loop(db, tenant, 10)

    def seen_by(*machines: str) -> list[list[str]]:
        names = ", ".join(f'"{machine}"' for machine in machines)
        line = (
            f'[{{"tenant_id": {tenant.caller.tenant_id}, "container_group": "g1", "waiters": 2,'
            f' "machines": [{names}]}}]'
        )
        return [found["banned"] for found in db.all(SQL.peek_at_lines, lines=line, claims="[]")]

    assert seen_by("m1") == []
    assert seen_by("m1", "m2") == [["m1"]]
    let_pass(db, 11)
    assert seen_by("m1") == [[]]


@pytest.mark.parametrize("machines", [["m1"], [f"m{n}" for n in range(20)]])
def test_of_the_running_webhooks_of_a_loop_the_newest_waits_to_be_sent(
    db: Database, tenant: Tenant, machines: list[str]
) -> None:
    make_job(db, tenant, webhook="http://receiver/")
    for n in range(10):
        loop(db, tenant, 1, machines[n % len(machines)])
    assert len(running_webhooks(db)) == 10
    last = running_webhooks(db)[-1]["id"]
    for machine in ("m31", "m32", "m33"):
        loop(db, tenant, 1, machine)
    assert [(hook["id"], hook["machine_id"]) for hook in running_webhooks(db)[9:]] == [(last, "m33")]


def test_a_webhook_that_was_delivered_or_is_under_way_is_not_changed(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant, webhook="http://receiver/")
    loop(db, tenant, 10)
    db.execute("update webhooks set delivered = now(), next_try = null, tries = 1")
    loop(db, tenant, 1, "m2")
    db.execute("update webhooks set under_way = true where machine_id = 'm2'")
    loop(db, tenant, 1, "m3")
    assert [hook["machine_id"] for hook in running_webhooks(db)] == ["m1"] * 10 + ["m2", "m3"]


def test_the_end_of_a_looped_job_is_told_by_a_webhook_of_its_own(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant, webhook="http://receiver/")
    loop(db, tenant, 10)
    taken = claim(db, tenant, "m2")
    assert taken
    jobs.complete(db, tenant.caller, taken["id"], report("m2", attempt=taken["attempt"]))
    hooks = db.all("select status, machine_id from webhooks order by seq")
    assert [(hook["status"], hook["machine_id"]) for hook in hooks[-2:]] == [
        ("running", "m2"),
        ("completed", "m2"),
    ]
    assert len(hooks) == 11


def test_handouts_that_are_no_loop_have_a_webhook_each(db: Database, tenant: Tenant) -> None:
    make_job(db, tenant, webhook="http://receiver/")
    loop(db, tenant, FEW)
    assert claim(db, tenant, "m2")
    assert [hook["machine_id"] for hook in running_webhooks(db)] == ["m1"] * FEW + ["m2"]


def test_the_release_says_in_its_event_how_long_the_machine_waits(db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant)
    loop(db, tenant, 10)
    told = db.all("select detail from events where job_id = %(id)s and kind = 'released' order by id", id=job_id)
    assert [event["detail"].get("pause_seconds") for event in told] == [None] * FEW + [10]


@pytest.mark.parametrize("end", ["cancel", "purge"])
def test_a_job_that_has_ended_leaves_no_pause(db: Database, tenant: Tenant, end: str) -> None:
    job_id = make_job(db, tenant)
    loop(db, tenant, 10)
    if end == "cancel":
        jobs.cancel(db, tenant.caller, job_id)
    else:
        jobs.purge(db)
    assert pauses(db) == []


def test_a_machine_of_another_tenant_with_the_same_name_is_another(db: Database, tenant: Tenant) -> None:
    rival = make_tenant(db, "rival", "default")
    make_job(db, tenant)
    loop(db, tenant, 10)
    theirs = make_job(db, rival)
    assert claimed_id(db, rival, "m1") == theirs
    held = row(db, "queue", theirs)
    assert held and held["looped_until"] is None
