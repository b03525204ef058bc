"""Reading jobs: one, pages of them, and the history of one."""

from __future__ import annotations

import re
import uuid
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest

from kelpie_api.auth.caller import Machine
from kelpie_api.db import Database
from kelpie_api.queue import listing
from tests.helpers import Client, Tenant, make_job, make_tenant, refused

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def listed(api: Client, query: str = "") -> list[str]:
    """The ids on a page, whose `_count` is right."""
    answer = api.get(f"/jobs{query}")
    assert answer.status_code == 200, answer.text
    page = answer.json or {}
    assert page.keys() == {"_count", "jobs"}
    assert page["_count"] == len(page["jobs"])
    return [job["id"] for job in page["jobs"]]


@pytest.fixture
def seven(db: Database, tenant: Tenant) -> list[str]:
    """Seven jobs, oldest first."""
    return [str(make_job(db, tenant)) for _ in range(7)]


def test_one_asks_for_the_oldest_first_too(api: Client, seven: list[str]) -> None:
    assert listed(api, "?asc=1") == seven


@pytest.mark.parametrize(
    "query",
    [
        "page=0",
        "page=-1",
        "page=x",
        "page=1.5",
        "page=1e3",
        "page=1_0",
        "page=%EF%BC%91",  # a full-width digit
        "page=%20",
        "page=%001",
        "page=%",
        "page=+1",
        "page=--1",
        "page=99999999999999999999",
        "page_size=0",
        "page_size=10001",
        "page_size=%D9%A3",  # an Arabic digit
        "status=%00",
        "status=pending%20",
        "cursor=x",
        "cursor=%00",
        "cursor=====",
        "cursor=PIAAAAAAAAAA",  # a negative place
        "cursor=PAAAAAAAAAA",
        "cursor=PAAAAAAAAAAAA",
        "cursor=QAAAAAAAAAAA",
        "cursor=PAAAAAAAAAA%3D",
        "cursor=PAAAAAAAAAAA%0A",
        f"cursor={'A' * 5000}",
        "asc=perhaps",
        "status=asleep",
        "container_group_id=%00",
        f"container_group_id={'x' * 256}",
    ],
)
def test_a_bad_query_is_a_400_that_names_the_parameter(api: Client, query: str) -> None:
    assert query.split("=")[0] in refused(api.get(f"/jobs?{query}"), 400)["errors"]


def test_an_empty_parameter_asks_for_nothing_in_particular(api: Client, seven: list[str]) -> None:
    assert listed(api, "?status=&container_group_id=&page_size=&page=&asc=") == listed(api)


def test_the_last_page_that_can_be_asked_for_is_empty(api: Client, seven: list[str]) -> None:
    assert listed(api, f"?page={2**31 - 1}&page_size=10000") == []


def following(api: Client, path: str) -> str | None:
    """Where the Link header of this page leads, if it has one."""
    link = api.get(path).headers.get("Link")
    if link is None:
        return None
    found = re.fullmatch(r'<(/jobs\?[!-;=?-~]+)>; rel="next"', link)
    assert found, link
    return found[1]


def walked(api: Client, query: str) -> list[list[str]]:
    """The pages that one comes by when following the links."""
    path: str | None = f"/jobs{query}"
    pages = []
    while path:
        pages.append(listed(api, path.removeprefix("/jobs")))
        path = following(api, path)
    return pages


class TestCursor:
    @pytest.mark.parametrize("asc", ["true", "false", "True"])
    def test_the_links_lead_through_the_whole_list(self, api: Client, seven: list[str], asc: str) -> None:
        pages = walked(api, f"?page_size=3&asc={asc}")
        assert [len(page) for page in pages] == [3, 3, 1]
        assert list(chain(*pages)) == listed(api, f"?asc={asc}")

    def test_a_last_page_that_is_full_leads_nowhere(self, api: Client, seven: list[str]) -> None:
        assert following(api, "/jobs?page_size=7") is None
        assert following(api, "/jobs?page_size=6") is not None
        assert following(api, "/jobs") is None

    def test_an_empty_list_leads_nowhere(self, api: Client) -> None:
        assert walked(api, "") == [[]]

    def test_nor_does_one_that_is_removed(self, api: Client, db: Database, seven: list[str]) -> None:
        path = following(api, "/jobs?page_size=3&asc=true") or ""
        db.execute("delete from jobs where id = %(id)s", id=seven[2])
        assert listed(api, path.removeprefix("/jobs")) == seven[3:6]

    def test_the_filters_go_along(self, api: Client, db: Database, tenant: Tenant) -> None:
        mine = [str(make_job(db, tenant, "held", group="a b/ü&c")) for _ in range(3)]
        make_job(db, tenant, "held", group="g2")
        make_job(db, tenant, group="a b/ü&c")
        query = "?status=running&container_group_id=a%20b/%C3%BC%26c&page_size=1&asc=1"
        assert walked(api, query) == [[job_id] for job_id in mine]

    def test_it_can_begin_at_any_page(self, api: Client, seven: list[str]) -> None:
        assert walked(api, "?page_size=2&page=2") == [seven[::-1][2:4], seven[::-1][4:6], seven[::-1][6:]]

    def test_it_wins_over_page_and_asc(self, api: Client, seven: list[str]) -> None:
        path = following(api, "/jobs?page_size=3") or ""
        query = path.removeprefix("/jobs")
        assert listed(api, f"{query}&page=9&asc=true") == listed(api, query) == seven[::-1][3:6]

    @pytest.mark.parametrize("cursor", ["PAAAAAAAAAAA", "PH__________", "PgAAAAAAAAAA", "Pn__________"])
    def test_a_place_beyond_all_jobs_is_a_place(self, api: Client, seven: list[str], cursor: str) -> None:
        assert len(listed(api, f"?cursor={cursor}")) in (0, 7)

    def test_it_shows_no_user_the_jobs_of_another(self, api: Client, stranger: Client, seven: list[str]) -> None:
        path = following(api, "/jobs?page_size=3") or ""
        assert listed(stranger, path.removeprefix("/jobs")) == []


class TestVersion:
    """A job that is read repeatedly, by clients that wait for its end."""

    def test_a_job_that_did_not_change_is_not_sent_again(self, api: Client, db: Database, tenant: Tenant) -> None:
        path = f"/jobs/{make_job(db, tenant)}"
        first = api.get(path)
        again = api.get(path, **{"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
        assert again.headers["Cache-Control"] == first.headers["Cache-Control"] == "private, no-cache"

    def test_its_version_is_a_strong_one(self, api: Client, db: Database, tenant: Tenant) -> None:
        assert re.fullmatch('"[!#-~]+"', api.get(f"/jobs/{make_job(db, tenant)}").headers["ETag"])

    @pytest.mark.parametrize("known", ["*", '"x", {}', 'W/"x", W/{}', "{}"])
    def test_any_way_to_name_it_is_understood(self, api: Client, db: Database, tenant: Tenant, known: str) -> None:
        path = f"/jobs/{make_job(db, tenant)}"
        headers = {"If-None-Match": known.format(api.get(path).headers["ETag"])}
        assert api.get(path, **headers).status_code == 304

    @pytest.mark.parametrize("known", ['"x"', "", '"', ",,,", "\xff", "x" * 5000])
    def test_another_version_or_nonsense_is_sent_the_job(
        self, api: Client, db: Database, tenant: Tenant, known: str
    ) -> None:
        path = f"/jobs/{make_job(db, tenant)}"
        assert api.get(path, **{"If-None-Match": known}).status_code == 200

    def test_every_change_makes_a_new_version(self, api: Client) -> None:
        path = f"/jobs/{api.submit()['id']}"
        versions = [api.get(path).headers["ETag"]]
        api.claim()
        versions.append(api.get(path).headers["ETag"])
        api.delete(path)
        versions.append(api.get(path).headers["ETag"])
        assert len(set(versions)) == 3
        assert api.get(path, **{"If-None-Match": versions[1]}).status_code == 200

    def test_a_refusal_has_none(self, api: Client) -> None:
        answer = api.get(f"/jobs/{uuid.uuid4()}", **{"If-None-Match": "*"})
        refused(answer, 404)
        assert "ETag" not in answer.headers


def test_a_job_that_waits_for_its_next_machine_is_running(api: Client, db: Database, tenant: Tenant) -> None:
    assert (
        listed(api, "?status=running")
        == []
        != [str(make_job(db, tenant, "waiting"))]
        == listed(api, "?status=running")
    )


def test_a_container_group_filters(api: Client, db: Database, tenant: Tenant) -> None:
    mine = str(make_job(db, tenant, group="g1"))
    make_job(db, tenant, group="g2")
    make_job(db, tenant, group=None)
    assert listed(api, "?container_group_id=g1") == [mine]
    assert listed(api, "?container_group_id=g1&status=completed") == []


def times(job: dict[str, Any]) -> dict[str, bool]:
    """Which of a job's times are there; those that are have the right format."""
    names = ("created", "started", "completed", "canceled", "failed", "heartbeat")
    assert all(job[name] is None or RFC3339.fullmatch(job[name]) for name in names)
    return {name: job[name] is not None for name in names}


@pytest.mark.parametrize("status", ["completed", "canceled", "failed"])
def test_a_final_job_has_the_time_of_its_end_and_null_for_the_others(
    api: Client, db: Database, tenant: Tenant, status: str
) -> None:
    job = api.get(f"/jobs/{make_job(db, tenant, status)}").json or {}
    there = times(job)
    assert {name for name in ("completed", "canceled", "failed") if there[name]} == {status}
    assert there["created"] and there["started"]


def test_heartbeats_are_shown_while_a_job_runs_and_kept_when_it_ended(api: Client) -> None:
    job = api.submit()
    api.claim()
    for _ in range(3):
        api.report(job, "heartbeat", attempt=1)
    running = api.get(f"/jobs/{job['id']}").json or {}
    api.report(job, "completed", attempt=1)
    completed = api.get(f"/jobs/{job['id']}").json or {}
    assert running["num_heartbeats"] == completed["num_heartbeats"] == 3
    assert running["heartbeat"] == completed["heartbeat"] is not None


def test_an_unknown_job_is_a_404(api: Client) -> None:
    for rest in ("", "/attempts", "/events"):
        assert refused(api.get(f"/jobs/{uuid.uuid4()}{rest}"), 404)["error"] == "Job Not Found"


def test_an_attempt_shows_the_output_that_its_last_report_carried(api: Client) -> None:
    job = api.submit(max_failures=3)
    last_words = "Zeile\u20ac\ufffd\n" + "x" * (65_536 - 8)
    for number, (report, output) in enumerate(
        [("failed", last_words), ("released", "not kept"), ("failed", None), ("completed", "done\n")], start=1
    ):
        api.claim(f"m{number}")
        api.report(job, "heartbeat", f"m{number}", attempt=number, output="not kept")
        api.report(job, report, f"m{number}", attempt=number, output=output)
    attempts = (api.get(f"/jobs/{job['id']}/attempts").json or {})["attempts"]
    assert [attempt["output"] for attempt in attempts] == [last_words, None, None, "done\n"]
    assert "output" not in (api.get(f"/jobs/{job['id']}").json or {})
    assert "done" not in api.get(f"/jobs/{job['id']}/events").text


def test_an_attempt_tells_in_a_sentence_why_it_ended(api: Client) -> None:
    job = api.submit(max_failures=3)
    for number, report in enumerate(("failed", "released", "completed"), start=1):
        api.claim(f"m{number}")
        detail = None if report == "completed" else f"{report}: no such bucket {number}" + "\u20ac" * 900
        assert api.report(job, report, f"m{number}", attempt=number, reason="why", detail=detail).status_code < 300
    attempts = (api.get(f"/jobs/{job['id']}/attempts").json or {})["attempts"]
    told = [attempt["detail"] and attempt["detail"].rstrip("\u20ac") for attempt in attempts]
    assert told == ["failed: no such bucket 1", "released: no such bucket 2", None]


@pytest.mark.parametrize("report", ["failed", "released"])
@pytest.mark.parametrize("detail", ["x" * 1001, 5, "\0", "\ud800"])
def test_a_sentence_that_cannot_be_kept_is_refused_by_name(api: Client, report: str, detail: object) -> None:
    job = api.submit()
    api.claim("m1")
    answer = api.report(job, report, "m1", attempt=1, detail=detail)
    assert "detail" in refused(answer, 400)["errors"]


@pytest.mark.parametrize("output", ["x" * 65_537, 5, ["a"], "\0", "\ud800"])
def test_output_that_cannot_be_kept_is_refused_by_name(api: Client, output: object) -> None:
    job = api.submit()
    api.claim("m1")
    answer = api.report(job, "failed", "m1", attempt=1, output=output)
    assert "output" in refused(answer, 400)["errors"]


def test_the_attempts_of_a_job_tell_how_each_ended(api: Client, db: Database) -> None:
    job = api.submit(max_failures=2)
    path = f"/jobs/{job['id']}/attempts"
    assert api.get(path).json == {"_count": 0, "attempts": []}
    api.claim("m1")
    api.report(job, "failed", "m1", attempt=1, exit_code=137, reason="oom")
    api.claim("m2", "g1")
    api.report(job, "released", "m2", attempt=2, reason="shutdown")
    api.claim("m3", "g1")
    db.execute("update queue set heartbeat = now() - interval '1 hour'")
    api.claim("m4", "g1")
    api.report(job, "heartbeat", "m4", attempt=4)
    page = api.get(path).json or {}
    assert page["_count"] == 4
    shown = [
        (attempt["number"], attempt["machine_id"], attempt["outcome"], attempt["exit_code"], attempt["reason"])
        for attempt in page["attempts"]
    ]
    assert shown == [
        (1, "m1", "failed", 137, "oom"),
        (2, "m2", "released", None, "shutdown"),
        (3, "m3", "interrupted", None, None),
        (4, "m4", None, None, None),
    ]
    for attempt in page["attempts"]:
        assert attempt["container_group_id"] == "g1"
        assert RFC3339.fullmatch(attempt["claimed"]) and RFC3339.fullmatch(attempt["last_heartbeat"])
        assert (attempt["ended"] is None) == (attempt["outcome"] is None)


def test_the_events_of_a_job_name_their_actors_and_leave_heartbeats_out(api: Client) -> None:
    job = api.submit(max_failures=2)
    api.claim("m1")
    api.report(job, "heartbeat", "m1", attempt=1)
    api.report(job, "failed", "m1", attempt=1, reason="oom")
    api.claim("m2")
    api.report(job, "failed", "m2", attempt=2)
    page = api.get(f"/jobs/{job['id']}/events").json or {}
    assert page["_count"] == len(page["events"])
    assert [(event["kind"], event["actor"], event["attempt"]) for event in page["events"]] == [
        ("submitted", "user:acme", 0),
        ("claimed", "machine:m1", 1),
        ("attempt_failed", "machine:m1", 1),
        ("claimed", "machine:m2", 2),
        ("attempt_failed", "machine:m2", 2),
        ("failed", "machine:m2", 2),
    ]
    assert all(RFC3339.fullmatch(event["at"]) for event in page["events"])
    assert page["events"][2]["detail"]["reason"] == "oom"


def test_a_page_of_large_jobs_is_read_in_portions_and_is_whole(
    api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kelpie_api.queue.listing.PORTION", 3)
    ids = [api.submit(arguments=["x" * 10_000])["id"] for _ in range(12)]
    first = api.get("/jobs?page_size=10&asc=true")
    assert [job["id"] for job in (first.json or {})["jobs"]] == ids[:10]
    assert "cursor=" in first.headers["Link"]
    second = api.get("/jobs?page_size=10&asc=true&page=2")
    assert [job["id"] for job in (second.json or {})["jobs"]] == ids[10:]
    assert "Link" not in second.headers


def test_a_page_that_no_memory_could_hold_is_a_400_that_says_so(
    api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kelpie_api.queue.listing.LARGEST_PAGE", 30_000)
    for _ in range(5):
        api.submit(arguments=["x" * 10_000])
    assert refused(api.get("/jobs?page_size=100"), 400)["errors"].keys() == {"page_size"}
    assert api.get("/jobs?page_size=1").status_code == 200


@pytest.mark.parametrize("condition", ['"another"', "*"])
def test_only_if_none_match_makes_a_reading_conditional(api: Client, condition: str) -> None:
    job = api.submit()
    answer = api.get(f"/jobs/{job['id']}", **{"If-Match": condition})
    assert (answer.status_code, answer.json) == (200, job)


def test_a_machine_holds_only_jobs_of_its_own_tenant_though_strangers_name_the_same_machine_and_group(
    db: Database, tenant: Tenant
) -> None:
    rival = make_tenant(db, "rival", "default")
    ours, theirs = (make_job(db, of, "held", machine="m1", group="g1") for of in (tenant, rival))
    caller = replace(tenant.caller, machine=Machine("acme", "g1", "m1"))
    assert listing.held_by(db, caller, [ours, theirs]) == {ours}
