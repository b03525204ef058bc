"""Bad machines: bans are counted, the fifth has Salad move the instance, once for each set of bans
(docs/design/protocol.md, Bad machines)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, LiteralString

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from kelpie_api.auth import users
from kelpie_api.db import SQL, Database
from kelpie_api.machines.reallocation import BACKOFF, IDLE, Reallocator
from kelpie_api.queue import jobs
from kelpie_api.queue.bans import counts_against_machine
from kelpie_api.queue.states import Report
from kelpie_api.salad.client import Salad
from kelpie_api.salad.request_budget import AUTOSCALER, RequestBudget
from kelpie_worker.messages import Ending, Verdict
from kelpie_worker.salad import instance_policy
from local_stack.processes import CHECKOUT, wait_for
from tests.conftest import SECRET_KEY
from tests.doubles.double import page
from tests.doubles.fleet import KEY, FleetDouble
from tests.doubles.salad import trouble
from tests.helpers import (
    Client,
    Tenant,
    at_once,
    make_job,
    make_rule,
    make_tenant,
    with_salad_key,
)
from tests.machines.failing import fail_jobs, make_due, reallocated, reallocations

COUNTING = [None, "exit_code", "signal", "oom", "upload"]  # an upload without a sentence
REFUSED_UPLOADS = [
    "writing out/model: NoSuchBucket",
    "NoSuchBucket: the specified bucket does not exist",
    "looking for outptus: AccessDenied",
    "ClientError: An error occurred (AccessDenied) when calling the PutObject operation",
    "writing out/model: UnknownToThisRelease",
    "writing out/model: 403",
    "writing out/model: EntityTooLarge",
    "the output directory was replaced by a link",
]
OTHER_UPLOADS = [
    None,
    "",
    "OSError: [Errno 5] Input/output error: 'out/step: 403'",
    "reading out/model: [Errno 5] Input/output error",
    "KeyError: 'Size'",
]
JOBS_OWN_FAULTS = ["not_found", "not_started", "download", "pattern", "worker_broken"]
ENDINGS = [(reason, None) for reason in (*COUNTING, *JOBS_OWN_FAULTS, "of another release")] + [
    ("upload", detail) for detail in (*REFUSED_UPLOADS, *OTHER_UPLOADS)
]


@pytest.fixture
def group(fleet: FleetDouble) -> str:
    """A container group of the tenant's with two instances, at Salad."""
    return fleet.make_group("running", 2)


@pytest.fixture
def bad(fleet: FleetDouble, group: str) -> str:
    """The machine of the group's first instance."""
    return machine_of(fleet, group, 0)


@pytest.fixture
def reallocator(db: Database, fleet: FleetDouble) -> Reallocator:
    return make_reallocator(db, fleet)


def make_reallocator(db: Database, fleet: FleetDouble, key: str | None = KEY) -> Reallocator:
    return Reallocator(db, Salad(fleet.api_url), key, threading.Event())


def machine_of(fleet: FleetDouble, group: str, place: int) -> str:
    return str(fleet.instances(fleet.group(group))[place]["machine_id"])


def instance_of(fleet: FleetDouble, group: str, place: int) -> str:
    return str(fleet.instances(fleet.group(group))[place]["id"])


class TestCounting:
    """Five bans of a machine in a group write one reallocation, with the failure that made the fifth."""

    @pytest.mark.parametrize("reason", COUNTING)
    def test_the_fifth_ban_in_a_group_writes_a_reallocation(
        self, db: Database, tenant: Tenant, reason: str | None
    ) -> None:
        fail_jobs(db, tenant, "m1", "g1", 4, reason)
        assert reallocations(db) == []
        fail_jobs(db, tenant, "m1", "g1", 1, reason)
        (written,) = reallocations(db)
        assert (written["machine_id"], written["container_group"], written["tenant_id"], written["org_name"]) == (
            "m1",
            "g1",
            tenant.caller.tenant_id,
            tenant.caller.organization,
        )
        assert written["next_try"] is not None

    def test_it_is_written_once_for_a_set_of_bans(self, db: Database, tenant: Tenant) -> None:
        fail_jobs(db, tenant, "m1", "g1", 9)
        assert reallocated(db) == ["m1"]
        fail_jobs(db, tenant, "m1", "g1", 1)
        assert reallocated(db) == ["m1", "m1"]

    def test_a_set_begins_at_zero_whatever_the_setting_was_and_is(self, db: Database, tenant: Tenant) -> None:
        fail_jobs(db, tenant, "m1", "g1", 5)
        assert db.all("select bans, counted_bans from machines") == [{"bans": 5, "counted_bans": 0}]
        fail_jobs(db, tenant, "m1", "g1", 5, max_bans=10)
        assert reallocated(db) == ["m1"]
        fail_jobs(db, tenant, "m1", "g1", 1, max_bans=3)
        assert reallocated(db) == ["m1", "m1"]
        fail_jobs(db, tenant, "m1", "g1", 2, max_bans=1)
        assert reallocated(db) == ["m1"] * 4

    @pytest.mark.parametrize("reason", JOBS_OWN_FAULTS)
    def test_a_failure_that_is_the_jobs_own_fault_bans_but_does_not_count(
        self, db: Database, tenant: Tenant, reason: str
    ) -> None:
        fail_jobs(db, tenant, "m1", "g1", 4)
        fail_jobs(db, tenant, "m1", "g1", 6, reason)
        assert len(db.all("select from bans")) == 10
        assert reallocations(db) == []
        fail_jobs(db, tenant, "m1", "g1", 1)
        assert reallocated(db) == ["m1"]
        fail_jobs(db, tenant, "m1", "g1", 3, reason)
        assert reallocated(db) == ["m1"]

    @pytest.mark.parametrize("detail", REFUSED_UPLOADS)
    def test_an_upload_that_failed_for_its_bucket_or_job_does_not_count(
        self, db: Database, tenant: Tenant, detail: str
    ) -> None:
        fail_jobs(db, tenant, "m1", "g1", 6, "upload", detail=detail)
        assert len(db.all("select from bans")) == 6
        assert reallocations(db) == []

    @pytest.mark.parametrize("detail", OTHER_UPLOADS)
    def test_an_upload_that_the_machine_may_have_spoilt_counts(self, detail: str | None) -> None:
        assert counts_against_machine(Report("m1", "g1", 1, reason="upload", detail=detail))

    @pytest.mark.parametrize(("reason", "detail"), ENDINGS)
    def test_the_worker_counts_the_same_failures_for_the_reallocation_that_it_asks_for(
        self, reason: str | None, detail: str | None
    ) -> None:
        failure = Ending(Verdict.FAILED, reason, detail=detail)
        assert instance_policy.counts_against_machine(failure) == counts_against_machine(
            Report("m1", "g1", 1, reason=reason, detail=detail)
        )

    def test_a_machine_beyond_the_limit_of_its_tenant_is_banned_but_not_counted(
        self, db: Database, tenant: Tenant
    ) -> None:
        rival = make_tenant(db, "rival", "default")
        for whose in (tenant, rival):
            for machine in ("m1", "m2", "m1", "m3"):
                fail_jobs(db, whose, machine, "g1", 1, max_machines=2)
        known = db.all("select machine_id, bans from machines order by tenant_id, machine_id")
        assert [(row["machine_id"], row["bans"]) for row in known] == [("m1", 2), ("m2", 1)] * 2
        assert len(db.all("select from bans where machine_id = 'm3'")) == 2
        fail_jobs(db, tenant, "m3", "g1", 1, max_machines=0)
        assert len(db.all("select from machines")) == 5

    def test_machines_groups_and_tenants_are_counted_apart(self, db: Database, tenant: Tenant) -> None:
        for whose in (tenant, make_tenant(db, "rival", "default"), make_tenant(db, "acme", "other")):
            for machine in ("m1", "m2"):
                for group in ("g1", "g2"):
                    fail_jobs(db, whose, machine, group, 4)
        assert reallocations(db) == []

    def test_what_counts_is_the_group_that_the_job_was_held_for(self, db: Database, tenant: Tenant) -> None:
        """A report may name any group; and a job of the null group is held by one."""
        fail_jobs(db, tenant, "m1", "elsewhere", 5, held_for="g1")
        assert [row["container_group"] for row in reallocations(db)] == ["g1"]

    def test_a_failure_of_a_job_that_no_machine_holds_counts_against_none(
        self, db: Database, tenant: Tenant
    ) -> None:
        for _ in range(6):
            jobs.fail(db, tenant.caller, make_job(db, tenant), Report("m1", "g1"))
        assert len(db.all("select from bans")) == 6
        assert reallocations(db) == []

    def test_a_repeated_report_counts_once(self, db: Database, tenant: Tenant) -> None:
        for _ in range(4):
            job_id = make_job(db, tenant, "held")
            for _ in range(3):
                jobs.fail(db, tenant.caller, job_id, Report("m1", "g1", 1))
        assert reallocations(db) == []

    @pytest.mark.parametrize(("max_bans", "failures", "written"), [(1, 3, 3), (2, 5, 2), (7, 6, 0), (0, 9, 0)])
    def test_the_setting_says_how_many_make_a_set(
        self, db: Database, tenant: Tenant, max_bans: int, failures: int, written: int
    ) -> None:
        fail_jobs(db, tenant, "m1", "g1", failures, max_bans=max_bans)
        assert len(reallocations(db)) == written

    def test_never_means_never_whatever_the_reason(self, db: Database, tenant: Tenant) -> None:
        for reason in ("download", None):
            fail_jobs(db, tenant, "m1", "g1", 2, reason, max_bans=0)
        assert reallocations(db) == []

    def test_failures_at_the_same_moment_all_count(self, db: Database, tenant: Tenant) -> None:
        """None of their statements sees the others' bans."""
        held = [make_job(db, tenant, "held") for _ in range(10)]
        at_once([lambda job=job: jobs.fail(db, tenant.caller, job, Report("m1", "g1", 1)) for job in held])  # type: ignore[misc]
        assert reallocated(db) == ["m1", "m1"]

    def test_it_is_written_with_the_failure_or_not_at_all(self, db: Database, tenant: Tenant) -> None:
        fail_jobs(db, tenant, "m1", "g1", 4)
        job_id = make_job(db, tenant, "held")
        db.execute("alter table events add constraint no_failure check (kind <> 'attempt_failed') not valid")
        try:
            with pytest.raises(Exception, match="no_failure"):
                jobs.fail(db, tenant.caller, job_id, Report("m1", "g1", 1))
        finally:
            db.execute("alter table events drop constraint no_failure")
        assert reallocations(db) == []
        jobs.fail(db, tenant.caller, job_id, Report("m1", "g1", 1))
        assert reallocated(db) == ["m1"]


class TestSetting:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"max_bans": 2}

    def test_the_api_counts_to_its_setting(self, api: Client, db: Database) -> None:
        for _ in range(2):
            job = api.submit()
            api.claim()
            assert api.report(job, "failed", attempt=1, reason="signal").status_code == 202
        assert reallocated(db) == ["m1"]

    def test_the_organization_is_that_of_the_key_which_reported_the_failure(
        self, app: Flask, api: Client, db: Database, tenant: Tenant
    ) -> None:
        """A user may have keys of several."""
        second = Client(app.test_client(), users.create_token(db, tenant.caller.user_id, "other-org", "default"))
        for client in (second, api, api, second):
            job = client.submit()
            client.claim()
            assert client.report(job, "failed", attempt=1).status_code == 202
        assert [row["org_name"] for row in reallocations(db)] == ["acme", "other-org"]


class TestCarryingOut:
    """The outbox is carried out with the instance's id, which Salad knows and the worker does not."""

    def test_the_machines_instance_is_reallocated_and_no_other(
        self, db: Database, tenant: Tenant, fleet: FleetDouble, group: str, bad: str, reallocator: Reallocator
    ) -> None:
        instance, neighbour = instance_of(fleet, group, 0), machine_of(fleet, group, 1)
        fail_jobs(db, tenant, bad, group, 5)
        reallocator.round()
        assert fleet.changes == [("reallocate", fleet.group(group)["name"], instance)]
        assert machine_of(fleet, group, 0) != bad and machine_of(fleet, group, 1) == neighbour
        (done,) = reallocations(db)
        assert (done["outcome"], done["next_try"], done["last_error"]) == ("reallocated", None, None)
        assert reallocator.round() == IDLE
        assert len(fleet.changes) == 1

    def test_ids_in_capitals_are_the_same(
        self, db: Database, tenant: Tenant, fleet: FleetDouble, group: str, bad: str, reallocator: Reallocator
    ) -> None:
        fail_jobs(db, tenant, bad.upper(), group.upper(), 5)
        reallocator.round()
        assert [row["outcome"] for row in reallocations(db)] == ["reallocated"]

    def test_of_several_every_one_is_carried_out(
        self, db: Database, tenant: Tenant, fleet: FleetDouble, group: str, reallocator: Reallocator
    ) -> None:
        for place in (0, 1):
            fail_jobs(db, tenant, machine_of(fleet, group, place), group, 5)
        instances = {instance_of(fleet, group, place) for place in (0, 1)}
        reallocator.round()
        reallocator.round()
        assert {change[2] for change in fleet.changes} == instances

    def test_a_machine_that_works_elsewhere_by_now_is_left_alone(
        self, db: Database, tenant: Tenant, fleet: FleetDouble, group: str, bad: str, reallocator: Reallocator
    ) -> None:
        fail_jobs(db, tenant, bad, group, 5)
        fleet.moved[instance_of(fleet, group, 0)] = str(uuid.uuid4())
        reallocator.round()
        assert fleet.changes == []
        assert [row["outcome"] for row in reallocations(db)] == ["gone"]

    def test_a_group_that_salad_does_not_list_is_given_up_with_a_sentence(
        self, db: Database, tenant: Tenant, fleet: FleetDouble, group: str, bad: str, reallocator: Reallocator
    ) -> None:
        fail_jobs(db, tenant, bad, group, 5)
        fleet.vanish(group)
        reallocator.round()
        assert [row["outcome"] for row in reallocations(db)] == [None]
        make_due(db, age=timedelta(hours=24))
        reallocator.round()
        (ended,) = reallocations(db)
        assert ended["outcome"] == "given_up" and "lists no such container group" in ended["last_error"]

    @pytest.mark.parametrize("late", ["tries = 1", "created = now() - interval '5 minutes'"])
    def test_one_that_comes_late_waits_until_its_machine_holds_no_job(
        self,
        db: Database,
        tenant: Tenant,
        fleet: FleetDouble,
        group: str,
        bad: str,
        reallocator: Reallocator,
        late: LiteralString,
    ) -> None:
        fail_jobs(db, tenant, bad, group, 5)
        held = make_job(db, tenant, "held", machine=bad, group=group)
        db.execute(f"update reallocations set {late}")
        make_due(db)
        reallocator.round()
        (waiting,) = reallocations(db)
        assert fleet.requests == [] and "holds a job" in waiting["last_error"]
        db.execute("delete from queue where job_id = %(id)s", id=held)
        make_due(db)
        reallocator.round()
        assert [row["outcome"] for row in reallocations(db)] == ["reallocated"]

    def test_a_strangers_lease_that_names_the_machine_does_not_keep_it(
        self, db: Database, tenant: Tenant, fleet: FleetDouble, group: str, bad: str, reallocator: Reallocator
    ) -> None:
        fail_jobs(db, tenant, bad, group, 5)
        for stranger in (make_tenant(db, "rival", "default"), make_tenant(db, "acme", "other")):
            make_job(db, stranger, "held", machine=bad, group=group)
        db.execute("update reallocations set tries = 1")
        make_due(db)
        reallocator.round()
        assert [row["outcome"] for row in reallocations(db)] == ["reallocated"]

    def test_one_that_comes_at_once_does_not_wait_for_the_next_job(
        self, db: Database, tenant: Tenant, fleet: FleetDouble, group: str, bad: str, reallocator: Reallocator
    ) -> None:
        fail_jobs(db, tenant, bad, group, 5)
        make_job(db, tenant, "held", machine=bad, group=group)
        reallocator.round()
        assert [row["outcome"] for row in reallocations(db)] == ["reallocated"]

    @pytest.mark.parametrize("group_id", ["g1", "my-deployment", "97f504e8"])
    def test_a_group_that_is_none_of_salads_asks_salad_nothing(
        self, db: Database, tenant: Tenant, fleet: FleetDouble, reallocator: Reallocator, group_id: str
    ) -> None:
        fail_jobs(db, tenant, "m1", group_id, 5)
        reallocator.round()
        assert fleet.requests == []
        (ended,) = reallocations(db)
        assert ended["outcome"] == "given_up" and "none of Salad's" in ended["last_error"]

    @pytest.mark.parametrize(
        ("word", "answer", "said"),
        [
            ("/reallocate", trouble(500, "Internal Server Error"), "500"),
            ("/reallocate", trouble(429, "Too Many Requests"), "429"),
            ("/reallocate", page(503), "503"),
            ("/reallocate", page(200), "200"),
            ("/instances", page(200), "something else than a list"),
            ("/instances", trouble(502, "Bad Gateway"), "502"),
            ("GET", page(520), "520"),
            ("GET", trouble(401, "Unauthorized"), "renew it"),
            ("GET", trouble(403, "Forbidden"), "add its user"),
            # none of these says that the machine is gone
            ("/containers", trouble(404, "Not Found"), "404"),
            ("/instances", trouble(404, "Not Found"), "404"),
            ("/reallocate", trouble(404, "Not Found"), "404"),
            ("/containers", page(404), "404"),
            ("/instances", page(404), "404"),
        ],
    )
    def test_trouble_is_written_down_and_tried_again_later(
        self,
        db: Database,
        tenant: Tenant,
        fleet: FleetDouble,
        group: str,
        bad: str,
        reallocator: Reallocator,
        word: str,
        answer: Any,
        said: str,
    ) -> None:
        fail_jobs(db, tenant, bad, group, 5)
        instance = instance_of(fleet, group, 0)
        fleet.trouble = [(word, answer)]
        reallocator.round()
        (waiting,) = reallocations(db)
        assert (waiting["outcome"], waiting["tries"]) == (None, 1)
        assert said in waiting["last_error"]
        assert reallocator.round() == IDLE  # it is not due yet
        make_due(db)
        reallocator.round()
        assert [row["outcome"] for row in reallocations(db)] == ["reallocated"]
        assert [change[2] for change in fleet.changes] == [instance]

    def test_retry_after_is_obeyed_by_this_and_by_all_others(
        self, db: Database, tenant: Tenant, fleet: FleetDouble, group: str, bad: str, reallocator: Reallocator
    ) -> None:
        fail_jobs(db, tenant, bad, group, 5)
        fleet.trouble = [("/reallocate", trouble(429, "Too Many Requests", Retry_After="37"))]
        assert reallocator.round() >= 37
        due = db.one_or_none("select next_try >= now() + interval '30 seconds' as late from reallocations")
        assert due and due["late"]

    def test_the_silence_that_salad_asked_others_for_is_kept(
        self, db: Database, tenant: Tenant, fleet: FleetDouble, group: str, bad: str, reallocator: Reallocator
    ) -> None:
        RequestBudget(db, AUTOSCALER).reserve()
        db.execute("update salad_requests set silent_until = now() + interval '50 seconds'")
        fail_jobs(db, tenant, bad, group, 5)
        assert reallocator.round() > 40
        assert fleet.requests == []
        (waiting,) = reallocations(db)
        assert waiting["outcome"] is None and "used up" in waiting["last_error"]

    def test_the_state_of_a_reallocation_can_be_watched(
        self,
        api: Client,
        db: Database,
        tenant: Tenant,
        fleet: FleetDouble,
        group: str,
        bad: str,
        reallocator: Reallocator,
    ) -> None:
        fail_jobs(db, tenant, bad, group, 5)
        fleet.trouble = [("GET", trouble(403, "Forbidden"))]
        reallocator.round()
        (waiting,) = api.get("/machines").json["machines"][0]["reallocations"]
        assert waiting["state"] == "pending" and "403" in waiting["error"]
        make_due(db)
        reallocator.round()
        (done,) = api.get("/machines").json["machines"][0]["reallocations"]
        assert (done["state"], done["tries"], done["next_try"]) == ("reallocated", 2, None)
        assert done["ended"]

    def test_it_is_given_up_after_a_day(
        self, db: Database, tenant: Tenant, fleet: FleetDouble, group: str, bad: str, reallocator: Reallocator
    ) -> None:
        fail_jobs(db, tenant, bad, group, 5)
        fleet.trouble = [("GET", trouble(500, "Internal Server Error"))]
        make_due(db, age=timedelta(hours=24))
        reallocator.round()
        (ended,) = reallocations(db)
        assert (ended["outcome"], ended["next_try"]) == ("given_up", None)
        assert "500" in ended["last_error"]

    def test_without_a_key_it_is_kept_for_a_day_and_said_once(
        self,
        db: Database,
        tenant: Tenant,
        fleet: FleetDouble,
        group: str,
        bad: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        fail_jobs(db, tenant, bad, group, 5)
        keyless = make_reallocator(db, fleet, key=None)
        for _ in range(3):
            keyless.round()
        assert [record.message for record in caplog.records].count("no_salad_api_key") == 1
        assert fleet.requests == []
        assert [(row["outcome"], row["tries"]) for row in reallocations(db)] == [(None, 0)]
        make_due(db, age=timedelta(hours=24))
        keyless.round()
        assert [row["outcome"] for row in reallocations(db)] == ["given_up"]

    def test_one_that_another_process_has_is_left_to_it(
        self, db: Database, tenant: Tenant, fleet: FleetDouble, group: str, bad: str
    ) -> None:
        fail_jobs(db, tenant, bad, group, 5)
        fleet.open.clear()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(make_reallocator(db, fleet).round)
            wait_for(lambda: reallocations(db)[0]["tries"] == 1, "the reallocation to be taken")
            assert make_reallocator(db, fleet).round() == IDLE
            fleet.open.set()
            first.result()
        assert len(fleet.changes) == 1

    def test_one_whose_process_died_is_taken_up_again(
        self, db: Database, tenant: Tenant, fleet: FleetDouble, group: str, bad: str, reallocator: Reallocator
    ) -> None:
        fail_jobs(db, tenant, bad, group, 5)
        assert db.one_or_none(SQL.take_reallocation, hold=timedelta(minutes=2))
        assert reallocator.round() == IDLE
        make_due(db)  # the hold has ended
        reallocator.round()
        assert [row["outcome"] for row in reallocations(db)] == ["reallocated"]

    def test_what_is_written_late_by_a_process_that_lost_it_changes_nothing(
        self, db: Database, tenant: Tenant, group: str, bad: str
    ) -> None:
        fail_jobs(db, tenant, bad, group, 5)
        slow = db.one_or_none(SQL.take_reallocation, hold=timedelta(0))
        quick = db.one_or_none(SQL.take_reallocation, hold=timedelta(minutes=2))
        assert slow and quick and slow["id"] == quick["id"]
        assert not db.execute(SQL.end_reallocation, id=slow["id"], tries=1, outcome="given_up", error=None)
        assert not db.execute(SQL.postpone_reallocation, id=slow["id"], tries=1, pause=timedelta(1), error="late")
        assert db.execute(SQL.end_reallocation, id=quick["id"], tries=2, outcome="reallocated", error=None)

    def test_no_transaction_is_open_while_salad_is_asked(
        self, db: Database, tenant: Tenant, fleet: FleetDouble, group: str, bad: str, reallocator: Reallocator
    ) -> None:
        fail_jobs(db, tenant, bad, group, 5)
        fleet.open.clear()
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(reallocator.round)
            wait_for(lambda: fleet.asked, "Salad to be asked")
            open_ones = db.all(
                "select from pg_stat_activity where datname = current_database()"
                " and state like 'idle in transaction%%'"
            )
            # The machine goes on failing and another one claims; neither waits.
            fail_jobs(db, tenant, bad, group, 1)
            job_id = make_job(db, tenant)
            claimed = jobs.claim(db, tenant.caller, "m9", "g1", None)
            fleet.open.set()
            asking.result()
        assert open_ones == []
        assert claimed and claimed["id"] == job_id


class TestWhere:
    """Organization and project are those of the job's tenant; what other tenants report does not count."""

    def test_a_rule_of_another_tenant_leads_nowhere(
        self, db: Database, tenant: Tenant, fleet: FleetDouble, group: str, bad: str, reallocator: Reallocator
    ) -> None:
        """Rivals may say that their jobs fail on our machine, in our group."""
        make_rule(db, tenant, group)
        fleet.allow(KEY, "rival", "default")
        fail_jobs(db, make_tenant(db, "rival", "default"), bad, group, 5)
        reallocator.round()
        assert fleet.changes == []
        assert machine_of(fleet, group, 0) == bad
        assert [row["outcome"] for row in reallocations(db)] == [None]

    def test_the_tenants_own_rule_knows_the_organization_best(
        self, db: Database, fleet: FleetDouble, reallocator: Reallocator
    ) -> None:
        group = fleet.make_group("running", 1, ("acme", "research"))
        tenant = make_tenant(db, "somebody", "theirs")
        make_rule(db, tenant, group, project="research")
        fail_jobs(db, tenant, machine_of(fleet, group, 0), group, 5)
        reallocator.round()
        assert [row["outcome"] for row in reallocations(db)] == ["reallocated"]

    def test_failures_that_the_administrator_reports_are_looked_up_by_the_tenants_key(
        self,
        app: Flask,
        db: Database,
        tenant: Tenant,
        admin: Client,
        fleet: FleetDouble,
        group: str,
        bad: str,
        reallocator: Reallocator,
    ) -> None:
        for _ in range(5):
            job = {"id": make_job(db, tenant, "held", machine=bad, group=group)}
            assert admin.report(job, "failed", bad, group, attempt=1).status_code == 202
        reallocator.round()
        assert [row["outcome"] for row in reallocations(db)] == ["reallocated"]

    @pytest.fixture
    def settings(self, fleet: FleetDouble) -> dict[str, Any]:
        return {"salad_api_url": fleet.api_url}

    def test_failures_reported_with_a_salad_key_lead_to_its_organization(
        self, app: Flask, db: Database, fleet: FleetDouble, group: str, bad: str, reallocator: Reallocator
    ) -> None:
        fleet.allow("salad-key", "acme", "default")
        client = with_salad_key(app)
        for _ in range(5):
            job = client.submit(container_group_id=group)
            client.claim(bad, group)
            assert client.report(job, "failed", bad, group, attempt=1).status_code == 202
        reallocator.round()
        assert [row["outcome"] for row in reallocations(db)] == ["reallocated"]

    def test_a_key_of_no_organization_at_salad_asks_nothing(
        self, db: Database, fleet: FleetDouble, group: str, bad: str, reallocator: Reallocator
    ) -> None:
        fail_jobs(db, make_tenant(db, "No Name At Salad", "default"), bad, group, 5)
        reallocator.round()
        assert fleet.requests == []
        assert [row["outcome"] for row in reallocations(db)] == ["given_up"]


@given(tries=st.integers(1, 10_000), jitter=st.floats(0, 1))
def test_the_backoff_is_bounded(tries: int, jitter: float) -> None:
    assert BACKOFF.first / 2 <= BACKOFF.after(tries, jitter) <= BACKOFF.longest
    assert BACKOFF.after(tries, jitter) <= BACKOFF.after(tries + 1, jitter)


class TestScript:
    def test_the_sender_of_webhooks_carries_them_out_and_ends_on_sigterm(
        self, migrated_url: str, db: Database, tenant: Tenant, fleet: FleetDouble, group: str, bad: str
    ) -> None:
        fail_jobs(db, tenant, bad, group, 5)
        settings = {
            "DATABASE_URL": migrated_url,
            "KELPIE_SECRET_KEY": SECRET_KEY,
            "SALAD_API_URL": fleet.api_url,
            "SALAD_API_KEY": KEY,
        }
        with subprocess.Popen(
            [sys.executable, str(CHECKOUT / "scripts" / "webhooks")],
            env={**os.environ, **settings},
            stderr=subprocess.PIPE,
            text=True,
        ) as sender:
            try:
                wait_for(lambda: reallocations(db)[0]["outcome"], "the reallocation to be carried out")
                sender.send_signal(signal.SIGTERM)
                _, log = sender.communicate(timeout=60)
            finally:
                sender.kill()
        assert sender.returncode == 0
        said = [json.loads(line) for line in log.splitlines()]
        assert "reallocation_ended" in [line["event"] for line in said]
        assert KEY not in log
        assert len(fleet.changes) == 1
