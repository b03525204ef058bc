"""Machines as they are listed, and jobs that none of the live ones may have
(docs/design/protocol.md, Bad machines)."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask

from kelpie_api.db import Database
from kelpie_api.machines import sightings as machines_sightings
from kelpie_api.machines.sightings import MOST_SEEN, Sightings
from local_stack.processes import CHECKOUT, wait_for
from tests.helpers import Client, Tenant, at_once, ban, make_job, make_tenant, refused
from tests.machines.failing import fail_jobs, reallocated


def linked(api: Client, path: str) -> tuple[list[str], str]:
    """The machines of a page, and the path of the next one; empty if there is none."""
    answer = api.get(path)
    assert answer.status_code == 200, answer.text
    link = re.fullmatch('<(.*)>; rel="next"', answer.headers.get("Link", ""))
    return [machine["machine_id"] for machine in (answer.json or {})["machines"]], link[1] if link else ""


def listed(api: Client, query: str = "") -> list[dict[str, Any]]:
    answer = api.get(f"/machines{query}")
    assert answer.status_code == 200, answer.text
    assert answer.json and answer.json["_count"] == len(answer.json["machines"])
    return list(answer.json["machines"])


class TestSightings:
    def test_a_machine_is_written_once_however_often_it_asks(self, db: Database, tenant: Tenant) -> None:
        sightings = Sightings(db)
        for _ in range(3):
            sightings.note(tenant.caller.tenant_id, "g1", "m1")
            sightings.write()
        (first,) = db.all("select * from machines")
        db.execute("update machines set last_seen = now() - interval '1 hour'")
        sightings.note(tenant.caller.tenant_id, "g1", "m1")
        sightings.write()
        (still,) = db.all("select * from machines")
        assert still["last_seen"] < first["last_seen"]  # written a moment ago, so not again

    def test_a_machine_that_is_seen_later_is_written_anew(self, db: Database, tenant: Tenant) -> None:
        Sightings(db).note(tenant.caller.tenant_id, "g1", "m1")
        for age in ("1 hour", "2 hours"):
            sightings = Sightings(db)  # another process, or the same one half a minute later
            sightings.note(tenant.caller.tenant_id, "g1", "m1")
            sightings.write()
            (seen,) = db.all("select last_seen > now() - interval '1 minute' as fresh, bans from machines")
            assert (seen["fresh"], seen["bans"]) == (True, 0)
            db.execute("update machines set last_seen = now() - %(age)s::interval", age=age)

    def test_what_could_not_be_written_is_written_the_next_time(self, db: Database, tenant: Tenant) -> None:
        sightings = Sightings(db)
        sightings.note(tenant.caller.tenant_id, "g1", "m1")
        db.execute("alter table machines add constraint no_machines check (bans > 0) not valid")
        try:
            with pytest.raises(Exception, match="no_machines"):
                sightings.write()
        finally:
            db.execute("alter table machines drop constraint no_machines")
        sightings.write()
        assert len(db.all("select from machines")) == 1

    def test_callers_that_make_up_machines_fill_no_memory(self, db: Database, tenant: Tenant) -> None:
        sightings = Sightings(db)
        for number in range(MOST_SEEN + 100):
            sightings.note(tenant.caller.tenant_id, "g1", str(number))
        assert len(sightings.unwritten) == MOST_SEEN

    def test_a_tenant_that_makes_up_machines_fills_its_own_rows_and_no_others(
        self, db: Database, tenant: Tenant, caplog: pytest.LogCaptureFixture
    ) -> None:
        sightings, other = Sightings(db, most=3), make_tenant(db, "rival", "default")
        rows = "select machine_id from machines where tenant_id = %(id)s order by machine_id"
        for machine in ("a", "b"):
            sightings.note(tenant.caller.tenant_id, "g1", machine)
        sightings.write()
        for machine in ("c", "d", "e"):
            sightings.note(tenant.caller.tenant_id, "g1", machine)
        sightings.note(other.caller.tenant_id, "g1", "theirs")
        sightings.write()
        assert [row["machine_id"] for row in db.all(rows, id=tenant.caller.tenant_id)] == ["a", "b", "c"]
        assert [row["machine_id"] for row in db.all(rows, id=other.caller.tenant_id)] == ["theirs"]
        assert "machines_left_out" in caplog.text

    def test_where_a_tenant_has_too_many_those_not_heard_of_for_a_day_make_room(
        self, db: Database, tenant: Tenant
    ) -> None:
        def see(*machines: str) -> list[str]:
            sightings = Sightings(db, most=2)
            for machine in machines:
                sightings.note(tenant.caller.tenant_id, "g1", machine)
            sightings.write()
            return [row["machine_id"] for row in db.all("select machine_id from machines order by machine_id")]

        assert see("a", "b") == ["a", "b"]
        db.execute("update machines set last_seen = now() - interval '25 hours'")
        assert see("a", "c") == ["a"], "one is heard again, the other goes"
        assert see("c") == ["a", "c"]

    def test_without_a_limit_all_are_written(self, db: Database, tenant: Tenant) -> None:
        sightings = Sightings(db, most=0)
        for machine in ("a", "b"):
            sightings.note(tenant.caller.tenant_id, "g1", machine)
        sightings.write()
        assert len(db.all("select from machines")) == 2

    def test_processes_that_saw_the_same_machines_do_not_lock_each_other_out(
        self, db: Database, tenant: Tenant
    ) -> None:
        seen = [str(number) for number in range(500)]
        parts = [Sightings(db) for _ in range(4)]
        for place, part in enumerate(parts):
            for machine in seen[:: -1 if place % 2 else 1]:
                part.note(tenant.caller.tenant_id, "g1", machine)
        at_once([part.write for part in parts])
        assert len(db.all("select from machines")) == 500


class TestListing:
    def test_a_machine_shows_what_it_holds_its_bans_and_its_reallocations(
        self, api: Client, db: Database, tenant: Tenant
    ) -> None:
        fail_jobs(db, tenant, "m1", "g1", 5)
        fail_jobs(db, tenant, "m1", "g1", 1, "download")
        held = [str(make_job(db, tenant, "held", machine="m1")) for _ in range(2)]
        (machine,) = listed(api)
        assert machine["last_seen"].endswith("Z")
        assert machine | {"last_seen": "", "reallocations": []} == {
            "container_group_id": "g1",
            "machine_id": "m1",
            "last_seen": "",
            "job_ids": held,
            "bans": 6,
            "counted_bans": 0,
            "interruptions": 0,
            "failures": 0,
            "useful_share": None,
            "reallocations": [],
        }
        (reallocation,) = machine["reallocations"]
        assert reallocation.keys() == {"id", "created", "state", "tries", "next_try", "ended", "error"}
        assert (reallocation["state"], reallocation["tries"], reallocation["ended"]) == ("pending", 0, None)

    def test_a_machine_that_asks_for_work_or_reports_is_listed_soon(
        self, api: Client, app: Flask, db: Database, tenant: Tenant
    ) -> None:
        api.claim("poller", "g1")
        api.report({"id": make_job(db, tenant, "held", machine="beater")}, "heartbeat", "beater", "g2", attempt=1)
        app.extensions["kelpie"].sightings.write()
        assert [(m["container_group_id"], m["machine_id"]) for m in listed(api)] == [
            ("g1", "poller"),
            ("g2", "beater"),
        ]

    def test_one_group_is_asked_for_and_pages_follow_each_other(
        self, api: Client, db: Database, tenant: Tenant
    ) -> None:
        for group in ("g1", "g2"):
            for machine in ("m1", "m2", "m3"):
                fail_jobs(db, tenant, machine, group, 1)
        assert [m["machine_id"] for m in listed(api, "?container_group_id=g2")] == ["m1", "m2", "m3"]
        assert len(listed(api, "?container_group_id=")) == 6
        assert listed(api, "?container_group_id=nothing") == []
        pages = [listed(api, f"?container_group_id=g1&page_size=2&page={n}") for n in (1, 2, 3)]
        assert [[m["machine_id"] for m in part] for part in pages] == [["m1", "m2"], ["m3"], []]

    def test_links_lead_through_all_pages_also_while_machines_come(
        self, api: Client, db: Database, tenant: Tenant
    ) -> None:
        names = ["a", "ä", "z" * 255, "é" * 255, "with / & ="]
        for machine in names:
            fail_jobs(db, tenant, machine, "g&1", 1)
        first, path = linked(api, f"/machines?page_size=2&container_group_id={quote('g&1')}")
        fail_jobs(db, tenant, "0 comes in front of the first page", "g&1", 1)
        fail_jobs(db, tenant, "m", "g0", 1)  # of another group
        seen = list(first)
        while path:
            machines, path = linked(api, path)
            assert 1 <= len(machines) <= 2
            seen += machines
        assert sorted(seen) == sorted(names)

    def test_the_administrators_pages_go_through_all_tenants(
        self, admin: Client, db: Database, tenant: Tenant
    ) -> None:
        rival = make_tenant(db, "rival", "default")
        for owner in (tenant, rival):
            fail_jobs(db, owner, "m1", "g1", 1)
            fail_jobs(db, owner, "m2", "g1", 1)
        path, seen = "/machines?page_size=1", []
        while path:
            machines, path = linked(admin, path)
            seen += machines
        assert seen == ["m1", "m2", "m1", "m2"]

    def test_a_cursor_of_anothers_list_shows_nothing_of_it(
        self, api: Client, stranger: Client, admin: Client, db: Database, tenant: Tenant
    ) -> None:
        for machine in ("m1", "m2"):
            fail_jobs(db, tenant, machine, "g1", 1)
        _, path = linked(admin, "/machines?page_size=1")
        assert linked(stranger, path) == ([], "")
        assert linked(api, path) == (["m2"], "")

    def test_of_the_jobs_of_one_machine_so_many_are_listed(
        self, api: Client, db: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fail_jobs(db, tenant, "m1", "g1", 1)
        held = [str(make_job(db, tenant, "held", machine="m1")) for _ in range(3)]
        monkeypatch.setattr(machines_sightings, "MOST_JOBS", 2)
        [machine] = listed(api)
        assert machine["job_ids"] == held[:2]

    def test_machines_are_their_tenants_and_the_administrators(
        self, api: Client, stranger: Client, admin: Client, db: Database, tenant: Tenant
    ) -> None:
        fail_jobs(db, tenant, "m1", "g1", 5)
        rival = make_tenant(db, "rival", "default")
        fail_jobs(db, rival, "m1", "g1", 5)
        fail_jobs(db, rival, "m1", "g1", 5)
        assert [len(m["reallocations"]) for m in listed(api)] == [1]
        assert [len(m["reallocations"]) for m in listed(stranger)] == [2]
        assert len(listed(admin)) == 2

    @pytest.mark.parametrize(
        "query",
        [
            "?page=0",
            "?page_size=0",
            "?page_size=10001",
            "?page=x",
            "?container_group_id=%00",
            "?page=%ff",
            "?cursor=x",
            "?cursor=AAAAAAAAAAFnMQ==",
            "?cursor=AAAAAAAAAAFnAG0Ab_8=",
            "?cursor=AAAAAAAAAAH_AG0A",
            "?cursor=%ff",
        ],
    )
    def test_a_bad_query_is_a_clear_400(self, api: Client, query: str) -> None:
        refused(api.get(f"/machines{query}"), 400)


class TestHousekeeping:
    @pytest.fixture
    def notes_by_itself(self) -> bool:
        return True

    def test_machines_are_written_by_themselves(self, api: Client) -> None:
        api.claim("poller", "g1")
        wait_for(lambda: listed(api), "the machine to be listed", timeout=60)


class TestBlockedJobs:
    """A job that every live machine of its group is banned from says so."""

    @staticmethod
    def see(db: Database, tenant: Tenant, *machines_of_g1: str, group: str = "g1") -> None:
        sightings = Sightings(db)
        for machine in machines_of_g1:
            sightings.note(tenant.caller.tenant_id, group, machine)
        sightings.write()

    @staticmethod
    def shown(api: Client, job: dict[str, Any]) -> list[str] | None:
        found = api.get(f"/jobs/{job['id']}").json or {}
        assert found.get("blocked_on_machines") != []
        return found.get("blocked_on_machines")

    @staticmethod
    def events(api: Client, job: dict[str, Any]) -> list[dict[str, Any]]:
        found = (api.get(f"/jobs/{job['id']}/events").json or {})["events"]
        return [event for event in found if event["kind"] == "blocked"]

    @staticmethod
    def look(db: Database) -> None:
        Sightings(db).record_sightings()

    @staticmethod
    def fail(api: Client, machine: str, **fields: Any) -> dict[str, Any]:
        """A job that a machine failed."""
        job = api.submit(max_failures=9, **fields)
        assert api.claim(machine)
        assert api.report(job, "failed", machine, attempt=1).status_code == 202
        return job

    def test_it_names_the_machines_and_writes_one_event(self, api: Client, db: Database, tenant: Tenant) -> None:
        self.see(db, tenant, "m1", "m2")
        job = self.fail(api, "m1")
        assert self.shown(api, job) is None
        api.claim("m2")
        api.report(job, "failed", "m2", attempt=2)
        assert self.shown(api, job) == ["m1", "m2"]
        for _ in range(3):
            self.look(db)
        (event,) = self.events(api, job)
        assert (event["actor"], event["attempt"], event["detail"]) == (
            "coordinator",
            2,
            {"machines": ["m1", "m2"]},
        )

    def test_a_machine_that_comes_ends_it_and_another_time_is_another_event(
        self, api: Client, db: Database, tenant: Tenant
    ) -> None:
        job = self.fail(api, "m1")
        self.look(db)
        self.see(db, tenant, "m2")
        assert self.shown(api, job) is None
        self.look(db)
        assert len(self.events(api, job)) == 1
        api.claim("m2")
        assert self.shown(api, job) is None
        api.report(job, "failed", "m2", attempt=2)
        assert self.shown(api, job) == ["m1", "m2"]
        self.look(db)
        assert [event["attempt"] for event in self.events(api, job)] == [1, 2]

    def test_failing_anew_is_another_event_also_without_a_round_in_between(
        self, api: Client, db: Database, tenant: Tenant
    ) -> None:
        job = self.fail(api, "m1")
        self.look(db)
        api.claim("m2")
        api.report(job, "failed", "m2", attempt=2)
        self.look(db)
        assert [event["attempt"] for event in self.events(api, job)] == [1, 2]

    def test_machines_that_fell_silent_count_no_more(self, api: Client, db: Database, tenant: Tenant) -> None:
        self.see(db, tenant, "m2")
        job = self.fail(api, "m1")
        db.execute("update machines set last_seen = now() - interval '11 minutes' where machine_id = 'm2'")
        assert self.shown(api, job) == ["m1"]
        self.look(db)
        assert len(self.events(api, job)) == 1
        db.execute("update machines set last_seen = now() - interval '11 minutes'")
        assert self.shown(api, job) is None  # there are no machines: that is another trouble

    def test_a_machine_that_is_busy_is_live_however_rare_its_calls(
        self, api: Client, db: Database, tenant: Tenant
    ) -> None:
        make_job(db, tenant, "held", machine="m2", heartbeat_interval=3600, silent_for=1800)
        job = self.fail(api, "m1")
        assert self.shown(api, job) is None

    def test_only_machines_of_its_group_count_and_for_the_null_group_all_of_the_tenants(
        self, api: Client, db: Database, tenant: Tenant
    ) -> None:
        self.see(db, make_tenant(db, "rival", "default"), "m3")
        job, anyones = self.fail(api, "m1"), self.fail(api, "m1", container_group_id=None)
        assert self.shown(api, job) == self.shown(api, anyones) == ["m1"]
        self.see(db, tenant, "m2", group="g2")
        assert self.shown(api, job) == ["m1"]
        assert self.shown(api, anyones) is None
        self.look(db)
        assert (len(self.events(api, job)), len(self.events(api, anyones))) == (1, 0)

    def test_a_pending_job_that_was_failed_by_all_is_blocked_as_well(
        self, api: Client, db: Database, tenant: Tenant
    ) -> None:
        """The original accepts failures of a job that no machine holds."""
        self.see(db, tenant, "m1")
        job = api.submit()
        assert api.report(job, "failed", "m1").status_code == 202
        assert (api.get(f"/jobs/{job['id']}").json or {})["status"] == "pending"
        assert self.shown(api, job) == ["m1"]
        self.look(db)
        assert len(self.events(api, job)) == 1

    @pytest.mark.parametrize("end", ["canceled", "held"])
    def test_a_job_that_does_not_wait_is_not_blocked(
        self, api: Client, db: Database, tenant: Tenant, end: str
    ) -> None:
        job = self.fail(api, "m1")
        if end == "canceled":
            api.delete(f"/jobs/{job['id']}")
        else:
            api.claim("m2")
        db.execute("delete from machines where machine_id <> 'm1'")
        assert self.shown(api, job) is None
        self.look(db)
        assert self.events(api, job) == []

    def test_a_failed_job_is_not_blocked(self, api: Client, db: Database) -> None:
        job = api.submit(max_failures=1)
        api.claim("m1")
        api.report(job, "failed", "m1", attempt=1)
        assert self.shown(api, job) is None
        self.look(db)
        assert self.events(api, job) == []

    def test_no_event_comes_after_the_end_of_a_job(self, api: Client, db: Database, tenant: Tenant) -> None:
        """A round that finds the job locked skips it and does not wait."""
        job = self.fail(api, "m1")
        with db.transaction() as tx:
            tx.execute("select from queue for update")
            self.look(db)
        assert self.events(api, job) == []
        self.look(db)
        assert len(self.events(api, job)) == 1

    def test_two_that_look_at_once_write_one_event(self, api: Client, db: Database, tenant: Tenant) -> None:
        wanted = [self.fail(api, "m1") for _ in range(20)]
        at_once([lambda: self.look(db)] * 4)
        self.look(db)
        assert [len(self.events(api, job)) for job in wanted] == [1] * 20

    def test_bans_from_before_the_migration_are_known(self, db: Database, tenant: Tenant) -> None:
        """What the migration says of jobs that were failed under the release before."""
        text = (CHECKOUT / "sql" / "migrations" / "0010_machines.sql").read_text()
        (statement,) = (line for line in text.splitlines() if line.startswith("update queue set banned"))
        old, other = make_job(db, tenant, "waiting"), make_job(db, tenant, "waiting")
        ban(db, old, "m1")
        with db.transaction() as tx:
            tx.connection.execute(statement.encode())
        found = {row["job_id"]: row["banned"] for row in db.all("select job_id, banned from queue")}
        assert found == {old: True, other: False}


class TestForgetting:
    def test_old_machines_and_ended_reallocations_go_and_the_others_stay(
        self, db: Database, tenant: Tenant
    ) -> None:
        for machine in ("old", "young", "waiting"):
            fail_jobs(db, tenant, machine, "g1", 5)
        db.execute(
            "update machines set last_seen = now() - interval '31 days' where machine_id in ('old', 'waiting')"
        )
        db.execute(
            "update reallocations set next_try = null, outcome = 'gone', ended = now()"
            " - case when machine_id = 'old' then interval '31 days' else '1 day' end"
            " where machine_id <> 'waiting'"
        )
        assert machines_sightings.prune(db, timedelta(days=30)) == 3
        assert [row["machine_id"] for row in db.all("select machine_id from machines")] == ["young"]
        assert reallocated(db) == ["young", "waiting"]

    def test_a_machine_that_was_seen_today_stays_however_little_is_kept(
        self, db: Database, tenant: Tenant
    ) -> None:
        fail_jobs(db, tenant, "m1", "g1", 3)
        db.execute("update machines set last_seen = now() - interval '3 hours'")
        assert machines_sightings.prune(db, timedelta(minutes=1)) == 0
