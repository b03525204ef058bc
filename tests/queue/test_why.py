"""Why a job is not running: each reason in a situation that has it, and all of them against the claim."""

from __future__ import annotations

import os
import random
import uuid
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask import Flask

from kelpie_api.db import Database
from kelpie_api.queue import sweeps, why
from kelpie_api.queue.why import Code
from tests.helpers import Client, Tenant, ban, be_seen, claimed_id, make_job, make_rule, make_tenant


def codes(api: Client, job_id: object) -> dict[str, str]:
    """The codes of a job's reasons, in their order, and their sentences."""
    answer = api.get(f"/jobs/{job_id}/why")
    assert answer.status_code == 200, answer.text
    found = {reason["code"]: reason["sentence"] for reason in answer.json or []}
    assert len(found) == len(answer.json or [])
    for reason in answer.json or []:
        assert reason.keys() == {"code", "sentence", "action"}
        assert "None" not in reason["sentence"]
    return found


def see(db: Database, tenant: Tenant, *machines: str, group: str = "g1") -> None:
    for machine in machines:
        db.execute(
            "insert into machines (tenant_id, container_group, machine_id)"
            " values (%(tenant)s, %(group)s, %(machine)s)",
            tenant=tenant.caller.tenant_id,
            group=group,
            machine=machine,
        )


def change(db: Database, job_id: UUID, what: str) -> None:
    db.execute(f"update queue set {what} where job_id = %(id)s", id=job_id)  # type: ignore[arg-type]


def pause(db: Database, tenant: Tenant, group: str) -> None:
    db.execute(
        "insert into paused_groups (tenant_id, container_group, by)"
        " values (%(tenant)s, lower(%(group)s), 'user:ann')",
        tenant=tenant.caller.tenant_id,
        group=group,
    )


def let_nothing_beat(app: Flask) -> None:
    """Have no housekeeping begin with the first request: it would say that the coordinator is seen."""
    parts = app.extensions["kelpie"]
    parts.db.open()
    parts.begun_in = os.getpid()


def test_a_new_job_without_workers(api: Client) -> None:
    found = codes(api, api.submit()["id"])
    assert list(found) == ["claimable", "no_workers", "position"]
    assert "0 jobs of its own line, and 0 of the null group" in found["position"]


def test_a_job_behind_others(api: Client, db: Database, tenant: Tenant) -> None:
    see(db, tenant, "m1")
    for fields in ({}, {"group": None}, {"group": "g2"}, {"priority": 5}):
        make_job(db, tenant, **fields)  # type: ignore[arg-type]
    make_job(db, tenant, "waiting")
    change(db, make_job(db, tenant), "parked = array['hold']")
    job = make_job(db, tenant)
    make_job(db, tenant)
    make_job(db, tenant, "held", silent_for=1000)
    found = codes(api, job)
    assert list(found) == ["claimable", "position"]
    assert "4 jobs of its own line, and 1 of the null group; 1 of them have a higher priority" in found["position"]


def test_a_position_is_exact_up_to_its_bound(
    api: Client, db: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(why, "MOST_BEFORE", 3)
    for _ in range(3):
        make_job(db, tenant)
    exact, beyond = make_job(db, tenant), make_job(db, tenant)
    assert "Before it are 3 jobs of its own line" in codes(api, exact)["position"]
    assert "Before it are 3+ jobs of its own line" in codes(api, beyond)["position"]


def test_a_job_that_all_live_machines_failed(api: Client, db: Database, tenant: Tenant) -> None:
    see(db, tenant, "m1", "m2")
    job = make_job(db, tenant, "waiting")
    ban(db, job, "m1")
    assert "all_banned" not in codes(api, job)
    ban(db, job, "m2")
    assert "m1, m2" in codes(api, job)["all_banned"]


def test_a_job_that_a_machine_took_again_and_again(api: Client, db: Database, tenant: Tenant) -> None:
    job = make_job(db, tenant, "waiting")
    db.execute("insert into pauses values (%(id)s, 'm7', 1, now() + interval '1 minute')", id=job)
    assert "m7" in codes(api, job)["machines_wait"]
    db.execute("insert into pauses values (%(id)s, '', 1, now() + interval '1 minute')", id=job)
    found = codes(api, job)
    assert "all machines wait" in found["machines_wait"]
    assert "claimable" not in found


def test_a_parked_job_says_each_of_its_reasons(api: Client, db: Database, tenant: Tenant) -> None:
    sweep, _ = sweeps.create(db, tenant.caller, {"max_parallel": 1}, None)
    job, other = (make_job(db, tenant, sweep=str(sweep["id"])) for _ in range(2))
    sweeps.fill(db, sweep["id"])
    change(
        db,
        job,
        "parked = array['hold', 'sweep', 'depends', 'backoff', 'unsealable'], waits_for = 2,"
        " backoff_until = now() + interval '1 minute'",
    )
    assert codes(api, other).keys() == {"awaits_slot"}
    sweeps.fill(db, sweep["id"])
    assert "claimable" in codes(api, other)
    found = codes(api, job)
    assert list(found) == ["held", "sweep_is_full", "depends", "backoff", "unsealable"]
    assert "2 jobs or sweeps" in found["depends"]


def test_a_job_that_is_held_has_no_slot_of_its_sweep_which_is_not_full_for_that(
    api: Client, db: Database, tenant: Tenant
) -> None:
    sweep, _ = sweeps.create(db, tenant.caller, {"max_parallel": 2}, None)
    job, _ = (make_job(db, tenant, sweep=str(sweep["id"])) for _ in range(2))
    sweeps.fill(db, sweep["id"])
    api.post(f"/jobs/{job}/hold")
    found = codes(api, job)
    assert list(found) == ["held", "awaits_slot"]
    assert "1 of 2 are taken: it is given one once nothing else keeps it back" in found["awaits_slot"]


def test_a_job_that_waits_for_a_sweep_says_that_it_is_not_closed(api: Client, db: Database) -> None:
    sweep = (api.post("/sweeps", {}).json or {})["id"]
    job = api.submit(depends_on=[sweep])["id"]
    assert f"Sweep {sweep} is not closed" in codes(api, job)["depends"]
    api.patch(f"/sweeps/{sweep}", {"closed": True})
    assert "not closed" not in codes(api, job)["depends"]


def test_a_group_that_is_paused_or_stopped(api: Client, db: Database, tenant: Tenant) -> None:
    job, free = make_job(db, tenant, group="G1"), make_job(db, tenant, group=None)
    pause(db, tenant, "g1")
    assert "user:ann" in codes(api, job)["group_paused"]
    assert "claimable" in codes(api, free)
    db.execute("delete from paused_groups")
    db.execute(
        "insert into stopping_groups values (claims_name(%(tenant)s, 'G1'), now() + interval '1 minute')",
        tenant=tenant.caller.tenant_id,
    )
    assert list(codes(api, job)) == ["group_stopping"]


def test_a_job_that_runs_and_one_that_is_to_stop(api: Client, db: Database, tenant: Tenant) -> None:
    job = make_job(db, tenant, "held")
    assert list(codes(api, job)) == ["running", "resumes_from"]
    change(db, job, "wish = 'hold', wished_at = now(), wish_by = 'user:ann', ends_on_lapse = true")
    assert "user:ann asked for hold" in codes(api, job)["asked"]


def test_a_job_whose_machine_is_silent(api: Client, db: Database, tenant: Tenant) -> None:
    job = make_job(db, tenant, "held", silent_for=100)
    assert list(codes(api, job))[:2] == ["silent", "claimable"]
    change(db, job, "ends_on_lapse = true")
    assert list(codes(api, job))[:2] == ["silent", "ending"]
    assert "claimable" not in codes(api, job)


def test_silence_during_an_outage_is_an_amnesty(app: Flask, api: Client, db: Database, tenant: Tenant) -> None:
    let_nothing_beat(app)
    job = make_job(db, tenant, "held", silent_for=100)
    db.execute("insert into outages values (now() - interval '60 seconds', now() - interval '10 seconds')")
    assert "can be claimed at" in codes(api, job)["amnesty"]
    assert "claimable" not in codes(api, job)
    db.execute("update coordinator set seen = now() - interval '60 seconds'")
    assert "no silence counts" in codes(api, job)["amnesty"]
    be_seen(db)


def test_what_the_fleet_does_and_how_the_last_attempt_ended(api: Client, db: Database, tenant: Tenant) -> None:
    group = str(uuid.uuid4())
    make_rule(db, tenant, group)
    job = make_job(db, tenant, "waiting", group=group)
    assert "no run of the autoscaler" in codes(api, job)["fleet"]
    db.execute(
        "insert into scaling_decisions (tenant_id, container_group_id, observed_state, observed_replicas,"
        " observed_running, observed_allocating, desired_replicas, action, outcome)"
        " values (%(tenant)s, %(group)s, 'running', 3, 2, 1, 5, 'scale', 'ok')",
        tenant=tenant.caller.tenant_id,
        group=group,
    )
    db.execute(
        "insert into checkpoints (job_id, attempt, generation, files, reported)"
        " values (%(id)s, 1, 7, '[]', now() - interval '3 hours')",
        id=job,
    )
    found = codes(api, job)
    assert "running with 3 replicas, of which 2 ran and 1 were being allocated" in found["fleet"]
    assert "scale, to 5 replicas" in found["fleet"]
    assert "Attempt 1 on machine m1 ended as released" in found["last_attempt"]
    assert "checkpoint 7 of attempt 1, which is 3 hours old" in found["resumes_from"]


@pytest.mark.parametrize("state", ["completed", "failed", "canceled"])
def test_a_job_that_has_ended(api: Client, db: Database, tenant: Tenant, state: str) -> None:
    found = codes(api, make_job(db, tenant, state))
    assert found == {"ended": f"The job is {state}."}


def test_another_tenants_job_is_unknown(api: Client, db: Database) -> None:
    assert api.get(f"/jobs/{make_job(db, make_tenant(db, 'other', ''))}/why").status_code == 404


def test_each_code_is_staged_here() -> None:
    source = Path(__file__).read_text()
    assert [code for code in Code if f'"{code}"' not in source] == []


PARKED = (
    "parked = array['hold']",
    "parked = array['sweep']",
    "parked = array['backoff', 'hold'], backoff_until = now()",
    "parked = array['unsealable']",
    "parked = array['depends'], waits_for = 1",
)


ENDING = (
    "ends_on_lapse = true, wish = 'hold', wished_at = now(), wish_by = 'user:ann'",
    "ends_on_lapse = true, wish = 'cancel', wished_at = now(), wish_by = 'user:ann'",
    "ends_on_lapse = true",  # a limit is reached
)


def make_sweeps(db: Database, tenant: Tenant, dice: random.Random, groups: list[str | None]) -> list[UUID]:
    """Jobs of sweeps without a limit, with one that is changed, and with a free slot that is not filled yet."""
    made: list[UUID] = []
    for most in (None, 1, 3):
        sweep, _ = sweeps.create(db, tenant.caller, {"max_parallel": most}, None)
        fields: dict[str, Any] = {"sweep": str(sweep["id"]), "priority": dice.choice([-3, 0, 7])}
        of_sweep = [make_job(db, tenant, group=dice.choice(groups), **fields) for _ in range(4)]
        sweeps.fill(db, sweep["id"])
        if most == 3:
            sweeps.change(db, tenant.caller, sweep["id"], {"max_parallel": dice.choice([1, 2, 4])})
        if most == 1:
            change(db, dice.choice(of_sweep), "parked = array['hold']")
        made += of_sweep
    return made


@pytest.mark.parametrize("seed", range(12))
def test_claimable_is_what_claims_by_fresh_machines_hand_out(
    app: Flask, api: Client, db: Database, tenant: Tenant, seed: int
) -> None:
    let_nothing_beat(app)
    dice = random.Random(seed)
    groups = ["g1", "G2", None]
    for group in ("g1", "G2"):
        if dice.random() < 0.25:
            pause(db, tenant, group)
        if dice.random() < 0.15:
            db.execute(
                "insert into stopping_groups"
                " values (claims_name(%(tenant)s, %(group)s), now() + interval '1 minute')",
                tenant=tenant.caller.tenant_id,
                group=group,
            )
    if dice.random() < 0.3:
        db.execute("insert into outages values (now() - interval '60 seconds', now() - interval '10 seconds')")
    if dice.random() < 0.15:
        db.execute("update coordinator set seen = now() - interval '60 seconds'")
    made = make_sweeps(db, tenant, dice, groups)
    for _ in range(14):
        state: Any = dice.choice(["pending", "held", "waiting", "waiting", "completed"])
        silent = dice.choice([0.0, 40.0, 1000.0])
        job = make_job(
            db, tenant, state, group=dice.choice(groups), silent_for=silent, priority=dice.choice([-3, 0, 7])
        )
        made.append(job)
        if state in ("pending", "waiting") and dice.random() < 0.35:
            change(db, job, dice.choice(PARKED))
        if state == "held" and dice.random() < 0.4:
            change(db, job, dice.choice(ENDING))
        for machine in dice.sample(["m1", "m2", "m3"], dice.randint(0, 3)):
            ban(db, job, machine)
        if dice.random() < 0.2:
            machine = dice.choice(["m1", ""])
            db.execute(
                "insert into pauses values (%(id)s, %(machine)s, 1, now() + interval '1 minute')",
                id=job,
                machine=machine,
            )
            if state != "completed":
                change(db, job, "looped_until = now() + interval '1 minute'")
    said = {job for job in made if "claimable" in codes(api, job)}
    handed_out: set[UUID] = set()
    for group in ("g1", "G2", "another"):
        while found := claimed_id(db, tenant, f"fresh-{uuid.uuid4()}", group):
            handed_out.add(found)
    assert said == handed_out
    be_seen(db)
