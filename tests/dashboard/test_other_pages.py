"""Sweeps, container groups, machines and usage as pages (docs/pages.md)."""

from __future__ import annotations

import uuid

import pytest

from kelpie_api.db import Database
from kelpie_api.queue import sweeps
from tests.dashboard.browser import Browser
from tests.helpers import Client, Tenant, ban, make_job, make_rule

HOSTILE = "<script>alert(1)</script>'\"&\u202e"
HOSTILE_NAME = "<script>alert(1)</script>'\"&"
PLACES = ("/ui", "/ui/jobs", "/ui/sweeps", "/ui/groups", "/ui/machines", "/ui/usage", "/ui/settings")


def make_sweep(db: Database, tenant: Tenant, **fields: object) -> uuid.UUID:
    made, _ = sweeps.create(db, tenant.caller, fields, None)
    return uuid.UUID(str(made["id"]))


@pytest.mark.parametrize("place", PLACES)
def test_a_page_without_anything_says_so_and_each_leads_to_all(viewer: Browser, place: str) -> None:
    page = viewer.page(place)
    assert set(PLACES) <= {*page.links}
    assert [form.action for form in page.forms if form.method == "post"] == ["/ui/sign-out"]


@pytest.mark.parametrize("place", PLACES)
def test_a_page_needs_a_session(browser: Browser, place: str) -> None:
    assert browser.get(place, 303).headers["Location"].startswith("/ui/sign-in")


class TestSweeps:
    def test_a_sweep_is_a_grid_of_its_jobs(self, operator: Browser, db: Database, tenant: Tenant) -> None:
        sweep = make_sweep(db, tenant, name="grid", max_parallel=2)
        for state in ("completed", "completed", "failed", "pending"):
            make_job(db, tenant, state, name=f"of-{state}", sweep=str(sweep))
        assert "grid" in operator.page("/ui/sweeps").text
        answer = operator.get(f"/ui/sweeps/{sweep}")
        assert answer.text.count('class="cell ') == 4 and answer.text.count('class="cell good"') == 2
        assert "3 of 4" in answer.text and "2 at a time" in answer.text

    def test_its_limit_is_changed_and_it_is_closed(self, operator: Browser, db: Database, tenant: Tenant) -> None:
        sweep = make_sweep(db, tenant)
        form = operator.form(f"/ui/sweeps/{sweep}", f"/ui/sweeps/{sweep}/limit")
        assert "7 of its jobs" in operator.told(operator.post(form.action, form.fields | {"max_parallel": "7"}))
        assert db.all("select max_parallel from sweeps") == [{"max_parallel": 7}]
        for odd in ("0", "-1", "x", "1.5", "٣", "9" * 20):
            operator.post(form.action, form.fields | {"max_parallel": odd}, 400)
        operator.post(form.action, form.fields | {"max_parallel": " "})
        assert db.all("select max_parallel from sweeps") == [{"max_parallel": None}]
        form = operator.form(f"/ui/sweeps/{sweep}", f"/ui/sweeps/{sweep}/close")
        operator.post(form.action, form.fields)
        assert db.all("select closed is null as open from sweeps") == [{"open": False}]

    def test_is_anothers_a_404_and_a_viewers_to_read(
        self, rival: Browser, viewer: Browser, db: Database, tenant: Tenant
    ) -> None:
        sweep = make_sweep(db, tenant, name="of-acme")
        make_job(db, tenant, sweep=str(sweep))
        rival.get(f"/ui/sweeps/{sweep}", 404)
        assert "of-acme" not in rival.page("/ui/sweeps").text
        assert viewer.page(f"/ui/sweeps/{sweep}").forms[1:] == []
        for browser, status in ((rival, 404), (viewer, 403)):
            fields = browser.form("/ui", "/ui/sign-out").fields | {"max_parallel": "1"}
            for verb in ("limit", "close"):
                browser.post(f"/ui/sweeps/{sweep}/{verb}", fields, status)
        assert db.all("select max_parallel, closed from sweeps") == [{"max_parallel": None, "closed": None}]

    def test_without_the_sessions_token_nothing_changes(
        self, operator: Browser, db: Database, tenant: Tenant
    ) -> None:
        sweep = make_sweep(db, tenant)
        operator.post(f"/ui/sweeps/{sweep}/close", {}, 403)
        fields = operator.form("/ui", "/ui/sign-out").fields
        operator.post(f"/ui/sweeps/{sweep}/explode", fields, 404)
        assert db.all("select closed from sweeps") == [{"closed": None}]

    def test_a_hostile_name_is_text(self, operator: Browser, db: Database, tenant: Tenant) -> None:
        sweep = make_sweep(db, tenant, name=HOSTILE_NAME, labels={"note": HOSTILE})
        make_job(db, tenant, name=HOSTILE_NAME, sweep=str(sweep))
        for place in ("/ui/sweeps", f"/ui/sweeps/{sweep}"):
            text = operator.get(place).text
            assert "<script>" not in text and "\u202e" not in text and "&lt;script&gt;" in text


class TestGroups:
    def test_are_paused_and_go_on(self, api: Client, operator: Browser) -> None:
        api.submit(container_group_id="g1")
        form = operator.form("/ui/groups", "/ui/groups/pause")
        assert form.fields["group"] == "g1"
        assert "g1 is paused" in operator.told(operator.post(form.action, form.fields))
        assert api.claim() is None
        form = operator.form("/ui/groups", "/ui/groups/resume")
        assert "g1 goes on" in operator.told(operator.post(form.action, form.fields))
        assert api.claim()

    def test_show_what_waits_and_whether_machines_live(
        self, api: Client, operator: Browser, db: Database, tenant: Tenant
    ) -> None:
        api.submit(container_group_id="g2")
        make_job(db, tenant, "held", group="g1")
        assert api.patch("/container-groups/g1", {"price_per_hour": 0.5}).status_code == 200
        text = operator.page("/ui/groups").text.split()
        assert text[text.index("g1") :][:5] == ["g1", "0", "1", "0", "0.50"]
        assert text[text.index("g2") :][:4] == ["g2", "1", "0", "none"]

    def test_no_viewer_pauses_one_and_no_other_tenant(
        self, api: Client, viewer: Browser, rival: Browser, operator: Browser
    ) -> None:
        api.submit(container_group_id="g1")
        for browser, status in ((viewer, 403), (rival, 303), (operator, 403)):
            fields = browser.form("/ui", "/ui/sign-out").fields if browser is not operator else {}
            browser.post("/ui/groups/pause", fields | {"group": "g1"}, status)
        assert api.claim()
        assert "g1" not in viewer.page("/ui/groups").text.replace("g1", "", 1)

    @pytest.mark.parametrize("group", ["", "a\0b", "x" * 300])
    def test_a_name_that_none_can_have_is_refused(self, operator: Browser, group: str) -> None:
        fields = operator.form("/ui", "/ui/sign-out").fields
        operator.post("/ui/groups/pause", fields | {"group": group}, 400)
        operator.post("/ui/groups/explode", fields | {"group": "g1"}, 404)

    def test_a_hostile_name_is_text(self, api: Client, operator: Browser) -> None:
        api.submit(container_group_id=HOSTILE)
        text = operator.get("/ui/groups").text
        assert "<script>" not in text and "&lt;script&gt;" in text
        form = operator.form("/ui/groups", "/ui/groups/pause")
        assert form.fields["group"] == HOSTILE
        operator.told(operator.post(form.action, form.fields))


GROUP = "97f504e8-6de6-4322-b5d5-1777a59a7ad3"
ONE = f"/ui/groups/one?container_group_id={GROUP}"


class TestOneGroup:
    def test_has_its_rule_and_its_decisions_over_time(
        self, operator: Browser, viewer: Browser, rival: Browser, db: Database, tenant: Tenant
    ) -> None:
        make_job(db, tenant, group=GROUP)
        make_rule(db, tenant, GROUP, 1, 9, name=HOSTILE)
        db.execute(
            "insert into scaling_decisions (tenant_id, container_group_id, at, active, observed_replicas,"
            "                               desired_replicas, observed_state, action, outcome, error)"
            " values (%(tenant)s, %(group)s, now() - interval '2 min', 1, 0, 1, 'stopped', 'start', 'ok', null),"
            "        (%(tenant)s, %(group)s, now() - interval '1 min', null, null, null, null, null, 'failed',"
            "         %(odd)s),"
            "        (%(tenant)s, %(group)s, now(), 1, 1, 1, 'running', 'none', 'ok', null)",
            tenant=tenant.caller.tenant_id,
            group=GROUP,
            odd=HOSTILE * 10_000,
        )
        text = operator.get(ONE).text
        assert 'class="wanted" d="M0.0 0.0H1000.0V0.0H1000"' in text
        assert 'class="there" d="M0.0 100.0H1000.0V0.0H1000"' in text
        assert "1 to 9 replicas" in text and "start" in text and "alert(1)" in text
        assert "<script>" not in text and "\u202e" not in text and len(text) < 20_000
        assert ONE in operator.page("/ui/groups").links and "1 to 9" in operator.page("/ui/groups").text
        assert [form.action for form in viewer.page(ONE).forms] == ["/ui/sign-out"]
        assert "It has none" in rival.page(ONE).text and "failed" not in rival.page(ONE).text

    def test_its_price_and_its_rule_are_changed_with_the_words_of_the_api(
        self, operator: Browser, db: Database, tenant: Tenant
    ) -> None:
        make_rule(db, tenant, GROUP)
        form = operator.form(ONE, "/ui/groups/price")
        assert "costs 0.25" in operator.told(operator.post(form.action, form.fields | {"price_per_hour": " 0.25"}))
        assert operator.form(ONE, "/ui/groups/price").fields["price_per_hour"] == "0.25"
        for odd in ("-1", "x", "1e9", "nan", "1000000.1", "٣", "9" * 2**20):
            answer = operator.http.post(form.action, data=form.fields | {"price_per_hour": odd})
            assert answer.status_code in (400, 413) and len(answer.text) < 20_000
        operator.post(form.action, form.fields | {"price_per_hour": ""})
        assert db.all("select from group_prices") == []
        form = operator.form(ONE, "/ui/groups/rule")
        assert form.fields["max_replicas"] == "10"
        operator.post(form.action, form.fields | {"min_replicas": "2", "max_replicas": "7"})
        [rule] = db.all("select min_replicas, max_replicas, idle_threshold_seconds from scaling_rules")
        assert [*rule.values()] == [2, 7, 0]
        for odd in ({"min_replicas": "8"}, {"max_replicas": "501"}, {"max_replicas": "x"}, {"max_replicas": ""}):
            assert (
                'role="alert"' in operator.post(form.action, form.fields | {"max_replicas": "7"} | odd, 400).text
            )
        form = operator.form(ONE, "/ui/groups/remove-rule")
        assert "removed" in operator.told(operator.post(form.action, form.fields))
        operator.post(form.action, form.fields, 404)

    def test_one_without_a_rule_gets_it_only_if_it_is_salads(self, operator: Browser) -> None:
        fields = operator.form("/ui", "/ui/sign-out").fields
        limits = {"min_replicas": "0", "max_replicas": "1", "idle_threshold_seconds": "0"}
        for group, status in (("g1", 400), (GROUP, 503)):  # without SALAD_API_KEY no group is found
            answer = operator.post("/ui/groups/rule", fields | limits | {"group": group}, status)
            assert 'role="alert"' in answer.text
        assert "Scaling rule" not in operator.page("/ui/groups/one?container_group_id=g1").text
        operator.post("/ui/groups/remove-rule", fields | {"group": "g1"}, 404)

    def test_no_viewer_changes_one_and_no_other_tenant(
        self, viewer: Browser, rival: Browser, operator: Browser, db: Database, tenant: Tenant
    ) -> None:
        make_rule(db, tenant, GROUP)
        limits = {"min_replicas": "0", "max_replicas": "1", "idle_threshold_seconds": "0", "group": GROUP}
        for verb in ("price", "rule", "remove-rule"):
            viewer.post(f"/ui/groups/{verb}", viewer.form("/ui", "/ui/sign-out").fields | limits, 403)
            operator.post(f"/ui/groups/{verb}", limits, 403)
        own = rival.form("/ui", "/ui/sign-out").fields
        assert rival.http.post("/ui/groups/rule", data=own | limits).status_code in (400, 409, 503)
        rival.post("/ui/groups/remove-rule", own | limits, 404)
        [rule] = db.all("select max_replicas from scaling_rules")
        assert rule == {"max_replicas": 10}

    @pytest.mark.parametrize("group", ["", "%00", "x" * 300])
    def test_a_name_that_none_can_have_is_a_refusal(self, operator: Browser, group: str) -> None:
        operator.get(f"/ui/groups/one?container_group_id={group}", 400)


class TestMachines:
    def test_are_listed_with_their_jobs_and_bans(
        self, operator: Browser, rival: Browser, db: Database, tenant: Tenant
    ) -> None:
        job_id = make_job(db, tenant, "held")
        ban(db, job_id, "m1")
        db.execute(
            "insert into machines (tenant_id, container_group, machine_id, bans)"
            " values (%(tenant)s, 'g1', 'm1', 1)",
            tenant=tenant.caller.tenant_id,
        )
        page = operator.page("/ui/machines")
        assert f"/ui/jobs/{job_id}" in page.links and "m1" in page.text
        assert "m1" in operator.page("/ui/machines?container_group_id=g1").text
        for text in (operator.page("/ui/machines?container_group_id=g2").text, rival.page("/ui/machines").text):
            assert "No machine has been heard of" in text

    def test_pages_follow_each_other(self, operator: Browser, db: Database, tenant: Tenant) -> None:
        db.execute(
            "insert into machines (tenant_id, container_group, machine_id)"
            " select %(tenant)s, %(group)s, 'machine-' || lpad(n::text, 2, '0') from generate_series(0, 59) n",
            tenant=tenant.caller.tenant_id,
            group=HOSTILE,
        )
        page = operator.page("/ui/machines")
        assert "machine-49" in page.text and "machine-50" not in page.text
        [following] = [link for link in page.links if "cursor=" in link]
        assert "machine-59" in operator.page(following).text
        assert 'role="alert"' in operator.get("/ui/machines?cursor=odd", 400).text


class TestUsage:
    def test_shows_what_was_kept_and_lost(
        self, operator: Browser, rival: Browser, db: Database, tenant: Tenant
    ) -> None:
        db.execute(
            "insert into usage_of_days (tenant_id, day, container_group, machine_id, sweep_id, outcome, attempts,"
            "                           held, useful, lost, money)"
            " values (%(tenant)s, (now() at time zone 'UTC')::date, %(group)s, 'm1', %(none)s, 'interrupted', 3,"
            "         7200, 5400, 1800, 1.5)",
            tenant=tenant.caller.tenant_id,
            group=HOSTILE,
            none=uuid.UUID(int=0),
        )
        text = operator.get("/ui/usage").text
        assert "1 h 30 m" in text and "25.0 %" in text and "1.50" in text
        assert "<script>" not in text and "\u202e" not in text
        assert "m1" in operator.page("/ui/usage?by=machine").text
        assert "No attempt ended" in operator.page("/ui/usage?from=2020-01-01&to=2020-01-31").text
        assert "No attempt ended" in rival.page("/ui/usage").text

    @pytest.mark.parametrize(
        "query", ["by=odd", "from=odd", "from=2026-02-01&to=2026-01-01", "by=name&from=2020-01-01"]
    )
    def test_refuses_in_the_page_what_cannot_be_read(self, operator: Browser, query: str) -> None:
        assert 'role="alert"' in operator.get(f"/ui/usage?{query}", 400).text
