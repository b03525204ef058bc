"""The list of jobs: filters, pages, and changes of all that match (docs/pages.md, The list)."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from kelpie_api.db import Database
from tests.dashboard.browser import Browser
from tests.helpers import Tenant, make_job, rows_of_jobs

HOSTILE = "<script>alert(1)</script>'\"&"


def change(browser: Browser, verb: str, query: str, status: int = 303) -> str:
    """Press the button of a change of all that match, and the one that confirms it; the text that follows."""
    action = f"/ui/jobs/change/{verb}?{query}"
    form = browser.form(action, action)
    answer = browser.post(form.action, form.fields, status)
    return browser.told(answer) if status == 303 else answer.text


def statuses(db: Database) -> list[str]:
    return [row["status"] for row in db.all("select status from jobs order by seq")]


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", ["a1", "a2", "b1"]),
        ("phase=running", ["a2"]),
        ("phase=running&phase=completed", ["a2", "b1"]),
        ("name=a*", ["a1", "a2"]),
        ("label=team:nlp", ["a1"]),
        ("container_group_id=g2", ["b1"]),
        ("sweep=none&name=b*", ["b1"]),
        ("name=nothing", []),
        ("phase=&name=&label=", ["a1", "a2", "b1"]),
    ],
)
def test_jobs_are_filtered_by_the_address(
    operator: Browser, db: Database, tenant: Tenant, query: str, shown: list[str]
) -> None:
    make_job(db, tenant, name="a1", labels={"team": "nlp"})
    make_job(db, tenant, "held", name="a2")
    make_job(db, tenant, "completed", name="b1", group="g2")
    text = operator.page(f"/ui/jobs?{query}").text
    assert [name for name in ("a1", "a2", "b1") if name in text] == shown
    assert f"{len(shown)} {'in all' if query in ('', 'phase=&name=&label=') else 'match'}" in text


@pytest.mark.parametrize(
    "query", ["phase=odd", "label=x", "since=odd", "sweep=odd", "cursor=odd", "name=%00", "id=1"]
)
def test_a_filter_that_is_none_is_refused_in_the_page(operator: Browser, query: str) -> None:
    assert 'role="alert"' in operator.get(f"/ui/jobs?{query}", 400).text


def test_pages_follow_each_other_by_a_cursor_and_keep_the_filters(
    operator: Browser, db: Database, tenant: Tenant
) -> None:
    for number in range(60):
        make_job(db, tenant, name=f"job-{number:02}", labels={"team": "nlp"})
    page = operator.page("/ui/jobs?label=team:nlp")
    assert "job-59" in page.text and "job-10" in page.text and "job-09" not in page.text
    [following] = [link for link in page.links if "cursor=" in link]
    page = operator.page(following)
    assert "job-09" in page.text and "job-10" not in page.text
    assert not [link for link in page.links if "cursor=" in link]
    assert "/ui/jobs?label=team%3Anlp" in page.links


class TestAChangeOfAllThatMatch:
    def test_says_their_number_before_and_after(self, operator: Browser, db: Database, tenant: Tenant) -> None:
        for name in ("a1", "a2", "b1"):
            make_job(db, tenant, name=name)
        assert "Cancel 2 jobs?" in operator.page("/ui/jobs/change/cancel?name=a*").text
        assert statuses(db) == ["pending"] * 3
        assert "2 jobs: canceled" in change(operator, "cancel", "name=a%2A")
        assert statuses(db) == ["canceled", "canceled", "pending"]

    def test_holds_resumes_and_runs_again(self, operator: Browser, db: Database, tenant: Tenant) -> None:
        make_job(db, tenant, name="a")
        make_job(db, tenant, "failed", name="a")
        assert "1 job: held" in change(operator, "hold", "name=a")
        assert db.all("select parked from queue") == [{"parked": ["hold"]}]
        assert "1 job: resumed" in change(operator, "resume", "name=a")
        assert db.all("select parked from queue") == [{"parked": None}]
        assert "1 job: submitted once more" in change(operator, "rerun", "name=a")
        assert statuses(db) == ["pending", "failed", "pending"]

    def test_changes_nothing_where_more_match_by_then(
        self, operator: Browser, db: Database, tenant: Tenant
    ) -> None:
        make_job(db, tenant, name="a")
        form = operator.form("/ui/jobs/change/cancel?name=a", "/ui/jobs/change/cancel?name=a")
        make_job(db, tenant, name="a")
        text = operator.post(form.action, form.fields, 409).text
        assert "2 jobs match, not 1" in text and "Cancel 2 jobs?" in text
        assert statuses(db) == ["pending"] * 2

    @pytest.mark.parametrize("query", ["", "name=", "nothing=1"])
    def test_needs_a_filter(self, operator: Browser, db: Database, tenant: Tenant, query: str) -> None:
        make_job(db, tenant)
        fields = operator.form("/ui", "/ui/sign-out").fields | {"expect": "1"}
        operator.get(f"/ui/jobs/change/cancel?{query}", 400)
        operator.post(f"/ui/jobs/change/cancel?{query}", fields, 400)
        assert statuses(db) == ["pending"]

    @pytest.mark.parametrize("expect", ["", "-1", "1e3", "٣", "9" * 30])
    def test_needs_a_number(self, operator: Browser, db: Database, tenant: Tenant, expect: str) -> None:
        make_job(db, tenant, name="a")
        fields = operator.form("/ui", "/ui/sign-out").fields | {"expect": expect}
        operator.post("/ui/jobs/change/cancel?name=a", fields, 400)
        assert statuses(db) == ["pending"]

    def test_is_open_to_no_viewer_and_touches_no_other_tenants_jobs(
        self, viewer: Browser, rival: Browser, db: Database, tenant: Tenant
    ) -> None:
        make_job(db, tenant, name="a")
        before = rows_of_jobs(db)
        assert not [link for link in viewer.page("/ui/jobs?name=a").links if "change" in link]
        viewer.get("/ui/jobs/change/cancel?name=a", 403)
        for browser, status in ((viewer, 403), (rival, 303)):
            fields = browser.form("/ui", "/ui/sign-out").fields
            browser.post("/ui/jobs/change/cancel?name=a", fields | {"expect": "0"}, status)
            browser.post("/ui/jobs/change/cancel?name=a", fields | {"expect": "1"}, 403 if status == 403 else 409)
        assert rows_of_jobs(db) == before

    def test_without_the_sessions_token_is_refused(self, operator: Browser, db: Database, tenant: Tenant) -> None:
        make_job(db, tenant, name="a")
        operator.post("/ui/jobs/change/cancel?name=a", {"expect": "1"}, 403)
        operator.get("/ui/jobs/change/explode?name=a", 404)
        assert statuses(db) == ["pending"]


def test_a_selection_is_changed_whatever_else_matches(
    operator: Browser, viewer: Browser, db: Database, tenant: Tenant
) -> None:
    ids = [make_job(db, tenant, name="a") for _ in range(3)]
    page = operator.get("/ui/jobs?name=a").text
    assert all(f'name="id" value="{job_id}"' in page for job_id in ids)
    query = f"id={ids[0]}&id={ids[2]}"
    assert "Hold 2 jobs?" in operator.page(f"/ui/jobs/change/hold?{query}").text
    assert "2 jobs: held" in change(operator, "hold", query)
    assert [row["parked"] for row in db.all("select parked from queue order by seq")] == [["hold"], None, ["hold"]]
    assert "checkbox" not in viewer.get("/ui/jobs").text
    operator.get("/ui/jobs/change/hold", 400)


def test_the_list_has_no_job_of_another_tenant(rival: Browser, db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant, name="of-acme", labels={"team": "nlp"})
    for query in ("", "name=of-acme", f"id={job_id}", f"ref={str(job_id)[-8:]}", "label=team:nlp"):
        assert "of-acme" not in rival.page(f"/ui/jobs?{query}").text.replace('value="of-acme"', "")
    assert "0" in rival.page("/ui").text


def test_hostile_text_in_jobs_and_in_the_address_is_text(operator: Browser, db: Database, tenant: Tenant) -> None:
    make_job(db, tenant, name=HOSTILE, labels={"note": HOSTILE + "\u202e"}, group=HOSTILE)
    for query in ("", f"name={quote(HOSTILE)}", f"label={quote('note:' + HOSTILE)}", f"ref={quote(HOSTILE)}"):
        text = operator.get(f"/ui/jobs?{query}").text
        assert "<script>" not in text and "\u202e" not in text
    assert "&lt;script&gt;" in operator.get(f"/ui/jobs/change/cancel?name={quote(HOSTILE)}").text


def test_the_first_page_counts_open_jobs_by_phase(operator: Browser, db: Database, tenant: Tenant) -> None:
    for state in ("pending", "pending", "held", "failed"):
        make_job(db, tenant, state)
    text = " ".join(operator.page("/ui").text.split())
    assert "pending2" in text and "running1" in text and "1 failed within a day" in text
