"""Section 2: the routes of jobs."""

from __future__ import annotations

import re
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest

from tests.contract.client import Api, Json, expect, expect_error, expect_invalid, unique
from tests.contract.stack import Stack, User


def ids(jobs: list[Json]) -> list[str]:
    return [job["id"] for job in jobs]


# --- POST /jobs, /job, /jobs/batch


@pytest.mark.parametrize("path", ["/jobs", "/job"])
def test_a_submission_is_answered_202_with_the_job(api: Api, path: str) -> None:
    job = expect(202, api.post(path, api.definition())).json
    assert api.job(job) == job


def test_a_batch_is_answered_202_with_the_jobs_in_the_order_given(api: Api) -> None:
    definitions = [api.definition(arguments=[str(number)]) for number in range(20)]
    jobs = expect(202, api.post("/jobs/batch", definitions)).json
    assert [job["arguments"] for job in jobs] == [[str(number)] for number in range(20)]
    assert len(set(ids(jobs))) == 20
    assert [api.job(job) for job in jobs] == jobs


@pytest.mark.parametrize("bad", [0, 3, 9])
def test_a_batch_with_one_bad_job_makes_none_and_names_it_by_its_index(api: Api, bad: int) -> None:
    definitions = [api.definition() for _ in range(10)]
    definitions[bad]["max_failures"] = 0
    error = expect_invalid("max_failures", api.post("/jobs/batch", definitions))
    assert error["index"] == bad
    assert api.listed() == []


@pytest.mark.parametrize("item", [None, 5, "job", []])
def test_an_item_of_a_batch_that_is_no_object_is_named_by_its_index(api: Api, item: Any) -> None:
    error = expect_error(400, api.post("/jobs/batch", [api.definition(), item]))
    assert error["index"] == 1
    assert api.listed() == []


@pytest.mark.parametrize("number", [1, 1000])
def test_a_batch_has_up_to_1000_jobs(api: Api, number: int) -> None:
    assert len(api.submit_many(number)) == number


@pytest.mark.parametrize("number", [0, 1001])
def test_a_batch_of_none_or_of_more_is_refused(api: Api, number: int) -> None:
    expect_error(400, api.post("/jobs/batch", [api.definition()] * number))
    assert api.listed() == []


@pytest.mark.parametrize("body", [{}, {"jobs": []}, "jobs", 5, None])
def test_a_batch_that_is_no_list_is_refused(api: Api, body: Any) -> None:
    expect_error(400, api.post("/jobs/batch", body))


# --- GET /jobs


def test_a_listing_counts_the_jobs_of_its_page(api: Api) -> None:
    jobs = api.submit_many(3)
    answer = expect(200, api.get("/jobs", page_size=2)).json
    assert set(answer) == {"_count", "jobs"}
    assert answer["_count"] == 2
    assert ids(answer["jobs"]) == ids(jobs)[:0:-1]
    assert expect(200, api.get("/jobs", page_size=2, page=2)).json["_count"] == 1
    assert expect(200, api.get("/jobs", page_size=2, page=3)).json == {"_count": 0, "jobs": []}


def test_a_listing_shows_each_job_as_it_is(api: Api) -> None:
    api.claimed("m")
    api.submit()
    assert all(api.job(job) == job for job in api.listed())


def test_a_listing_is_newest_first_and_a_batch_keeps_its_own_order(api: Api) -> None:
    jobs = [api.submit(), *api.submit_many(50), api.submit(), *api.submit_many(50)]
    assert ids(api.listed(page_size=200)) == ids(jobs)[::-1]
    assert ids(api.listed(page_size=200, asc="true")) == ids(jobs)


@pytest.mark.parametrize("asc", [False, True])
def test_the_pages_of_a_listing_hold_every_job_once(api: Api, asc: bool) -> None:
    jobs = [*api.submit_many(7), api.submit(), *api.submit_many(3)]
    pages = [api.listed(page_size=4, page=page, asc=str(asc).lower()) for page in (1, 2, 3, 4)]
    assert [len(page) for page in pages] == [4, 4, 3, 0]
    assert ids([job for page in pages for job in page]) == ids(jobs)[:: 1 if asc else -1]


@pytest.mark.parametrize(
    ("written", "ascending"), [("true", True), ("True", True), ("false", False), ("False", False)]
)
def test_asc_is_read_as_the_original_and_pythons_scripts_write_it(api: Api, written: str, ascending: bool) -> None:
    jobs = api.submit_many(2)
    assert ids(api.listed(asc=written)) == ids(jobs)[:: 1 if ascending else -1]


def test_a_page_has_100_jobs_unless_told_otherwise(api: Api) -> None:
    api.submit_many(101)
    assert len(api.listed()) == 100
    assert len(api.listed(page=2)) == 1
    assert len(api.listed(page_size=10000)) == 101


# Name, what is accepted, what is refused.
QUERY: list[tuple[str, list[Any], list[Any]]] = [
    (
        "status",
        ["pending", "running", "completed", "canceled", "failed"],
        ["done", "PENDING", "pending,running", "\0"],
    ),
    ("container_group_id", ["g", "g" * 255, "ü /%"], ["\0"]),
    ("page_size", [1, 100, 10000, "30.0"], [0, -1, 10001, "many", 1.5, 10**30, "1e3", "30.", ".0", "10001.0"]),
    ("page", [1, 2, 1000, "1.00"], [0, -1, "first", 1.5, 10**30, "0.0", "-1.0"]),
    ("asc", ["true", "false"], ["upwards"]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values, _ in QUERY for value in values])
def test_a_query_within_its_bounds_is_answered(api: Api, name: str, value: Any) -> None:
    assert expect(200, api.get("/jobs", **{name: value})).json == {"_count": 0, "jobs": []}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, _, values in QUERY for value in values])
def test_a_query_out_of_its_bounds_is_refused(api: Api, name: str, value: Any) -> None:
    expect_error(400, api.get("/jobs", **{name: value}))


def test_a_listing_can_be_of_one_status_or_one_group(api: Api) -> None:
    other = unique("group")
    jobs = {
        "completed": api.claimed("m"),
        "failed": api.claimed("m", max_failures=1),
        "running": api.claimed("m"),
        "canceled": api.submit(),
        "pending": api.submit(container_group_id=other),
    }
    expect(200, api.report("completed", jobs["completed"], "m"))
    expect(202, api.report("failed", jobs["failed"], "m"))
    expect(202, api.delete(f"/jobs/{jobs['canceled']['id']}"))
    for status, job in jobs.items():
        assert ids(api.listed(status=status)) == [job["id"]], status
    assert ids(api.listed(container_group_id=other)) == [jobs["pending"]["id"]]
    assert len(api.listed(container_group_id=api.group)) == 4
    assert api.listed(status="pending", container_group_id=api.group) == []


def test_a_listing_with_more_to_come_links_the_next_page_by_a_cursor(api: Api) -> None:
    jobs = api.submit_many(5)
    seen: list[str] = []
    answer = expect(200, api.get("/jobs", page_size=2, container_group_id=api.group))
    for _ in range(5):
        seen += ids(answer.json["jobs"])
        link = re.fullmatch(r'<([^>]+)>; *rel="?next"?', answer.headers.get("Link", ""))
        if link is None:
            break
        api.submit()  # what is added meanwhile moves no page
        target = link[1].removeprefix(api.url)
        assert target.startswith("/jobs?")
        answer = expect(200, api.get(target))
    assert seen == ids(jobs)[::-1]


def test_a_link_keeps_the_direction_and_the_filters(api: Api) -> None:
    jobs = api.submit_many(3)
    api.submit(container_group_id=unique("group"))
    answer = expect(200, api.get("/jobs", page_size=2, container_group_id=api.group, asc="true"))
    target = answer.headers["Link"].split(">")[0].removeprefix("<").removeprefix(api.url)
    rest = expect(200, api.get(target))
    assert ids(answer.json["jobs"] + rest.json["jobs"]) == ids(jobs)
    assert "Link" not in rest.headers


@pytest.mark.parametrize("cursor", ["nonsense", "AAAA", "%00", "ü"])
def test_a_cursor_that_the_server_did_not_make_is_refused(api: Api, cursor: str) -> None:
    expect_error(400, api.get("/jobs", cursor=cursor))


# --- GET /jobs/{id}


def test_a_job_has_an_etag_and_is_not_sent_again_while_it_is_the_same(api: Api) -> None:
    job = api.submit()
    path = f"/jobs/{job['id']}"
    first = expect(200, api.get(path))
    etag = first.headers["ETag"]
    same = api.call("GET", path, headers={"If-None-Match": etag})
    assert (same.status, same.body) == (304, b"")
    assert same.headers["ETag"] == etag
    assert expect(200, api.get(path)).headers["ETag"] == etag
    expect(200, api.call("GET", path, headers={"If-None-Match": '"another"'}))
    assert api.call("GET", path, headers={"If-None-Match": f'"another", {etag}'}).status == 304
    api.claim("m")
    changed = expect(200, api.call("GET", path, headers={"If-None-Match": etag}))
    assert changed.headers["ETag"] != etag
    assert changed.json["status"] == "running"


def test_an_etag_gives_nothing_away_to_a_stranger(api: Api, stranger: Api) -> None:
    path = f"/jobs/{api.submit()['id']}"
    etag = expect(200, api.get(path)).headers["ETag"]
    expect_error(404, stranger.call("GET", path, headers={"If-None-Match": etag}))
    expect_error(404, stranger.call("GET", path, headers={"If-None-Match": "*"}))


# --- DELETE /jobs/{id}


@pytest.mark.parametrize("claim", [False, True], ids=["pending", "running"])
def test_a_job_is_canceled_and_again_is_the_same(api: Api, claim: bool) -> None:
    job = api.claimed("m") if claim else api.submit()
    for _ in range(2):
        assert expect(202, api.delete(f"/jobs/{job['id']}")).json == {"message": "Job canceled"}
    canceled = api.job(job)
    assert canceled["status"] == "canceled"
    assert api.claim("m") == []
    assert api.claim("another") == []


@pytest.mark.parametrize(("kind", "status"), [("completed", 200), ("failed", 202)])
def test_a_job_that_is_over_cannot_be_canceled(api: Api, kind: str, status: int) -> None:
    job = api.claimed("m", max_failures=1)
    expect(status, api.report(kind, job, "m"))
    before = api.job(job)
    expect_error(409, api.delete(f"/jobs/{job['id']}"))
    assert api.job(job) == before


def test_canceling_a_job_that_is_unknown_is_404(api: Api) -> None:
    expect_error(404, api.delete(f"/jobs/{uuid.uuid4()}"))


def test_a_canceled_job_stays_readable(api: Api) -> None:
    job = api.submit()
    expect(202, api.delete(f"/jobs/{job['id']}"))
    assert ids(api.listed(status="canceled")) == [job["id"]]


# --- DELETE /jobs/container-groups/{container_group_id}


def purge(api: Api, group: str) -> int:
    answer = expect(200, api.delete(f"/jobs/container-groups/{quote(group, safe='')}")).json
    assert set(answer) == {"count"}
    return int(answer["count"])


def test_a_purge_removes_pending_jobs_and_cancels_running_ones_of_its_group_only(api: Api) -> None:
    over = api.claimed("m", max_failures=1)
    expect(200, api.report("completed", over, "m"))
    held = api.claimed("m")
    waiting = api.claimed("m")
    expect(202, api.report("failed", waiting, "m"))
    pending = api.submit_many(3)
    elsewhere = api.submit(container_group_id=unique("group"))
    anywhere = api.submit(container_group_id=None)
    untouched = [api.job(job) for job in (over, elsewhere, anywhere)]

    assert purge(api, api.group) == 5
    for job in pending:
        expect_error(404, api.get(f"/jobs/{job['id']}"))
    for job in (held, waiting):
        assert api.job(job)["status"] == "canceled"
        assert api.job(job)["canceled"] is not None
    assert [api.job(job) for job in untouched] == untouched
    assert api.report("heartbeat", held, "m").json == {"status": "canceled"}
    assert purge(api, api.group) == 0


def test_a_purge_touches_nothing_of_another_user_or_project(user: User, stranger: Api) -> None:
    api, other = user.api("one"), user.api("two")
    jobs = [(caller, caller.submit(container_group_id="shared-name")) for caller in (stranger, other)]
    api.submit(container_group_id="shared-name")
    assert purge(api, "shared-name") == 1
    assert [caller.job(job) for caller, job in jobs] == [job for _, job in jobs]


@pytest.mark.parametrize("group", ["a group", "a/b", "ü", "g" * 255, "100%", "nobody's"])
def test_a_group_to_purge_is_free_text(api: Api, group: str) -> None:
    assert purge(api, group) == 0
    api.submit(container_group_id=group)
    assert purge(api, group) == 1


# --- DELETE /jobs


def test_only_the_admin_removes_all_jobs(api: Api) -> None:
    job = api.submit()
    expect_error(403, api.delete("/jobs"))
    assert api.job(job) == job


def test_the_admin_removes_all_jobs(other_stack: Stack) -> None:
    callers = [other_stack.new_api(), other_stack.new_api()]
    jobs = [(caller, caller.claimed("m")) for caller in callers] + [
        (caller, caller.submit()) for caller in callers
    ]
    answer = expect(204, other_stack.admin.delete("/jobs"))
    assert answer.body == b""
    assert other_stack.admin.listed() == []
    for caller, job in jobs:
        expect_error(404, caller.get(f"/jobs/{job['id']}"))
        assert caller.claim("m") == []
    assert callers[0].claimed("m")["attempt"] == 1


# --- Idempotency-Key


def submit_with_key(api: Api, key: str, body: Any, path: str = "/jobs") -> Any:
    return api.call("POST", path, body, headers={"Idempotency-Key": key})


@pytest.mark.parametrize("path", ["/jobs", "/job", "/jobs/batch"])
def test_the_same_key_and_body_give_the_same_jobs_as_they_are_now(api: Api, path: str) -> None:
    key = unique("key")
    body: Any = [api.definition()] * 2 if path.endswith("batch") else api.definition()
    first = expect(202, submit_with_key(api, key, body, path)).json
    assert expect(202, submit_with_key(api, key, body, path)).json == first
    api.claim("m")
    again = expect(202, submit_with_key(api, key, body, path)).json
    jobs, seen = (first, again) if path.endswith("batch") else ([first], [again])
    assert ids(seen) == ids(jobs)
    assert [job["status"] for job in seen] == ["running", "pending"][: len(seen)]
    assert seen == [api.job(job) for job in jobs]
    assert len(api.listed()) == len(jobs)


def test_the_same_body_written_differently_is_the_same_body(api: Api) -> None:
    key = unique("key")
    definition = api.definition(environment={"A": "1", "B": "2"})
    reordered = dict(reversed(list(definition.items())))
    first = expect(202, submit_with_key(api, key, definition)).json
    assert expect(202, submit_with_key(api, key, reordered)).json["id"] == first["id"]


def test_the_same_key_with_another_body_is_422(api: Api) -> None:
    key = unique("key")
    expect(202, submit_with_key(api, key, api.definition()))
    expect_error(422, submit_with_key(api, key, api.definition(arguments=["x"])))
    assert len(api.listed()) == 1


def test_a_submission_that_was_refused_leaves_its_key_free(api: Api) -> None:
    key = unique("key")
    expect_error(400, submit_with_key(api, key, api.definition(max_failures=0)))
    expect(202, submit_with_key(api, key, api.definition()))


def test_the_keys_of_two_tenants_never_meet(user: User, stranger: Api) -> None:
    key = unique("key")
    jobs = [
        expect(202, submit_with_key(caller, key, {"command": "true", "container_group_id": "g"})).json
        for caller in (user.api("one"), user.api("two"), stranger)
    ]
    assert len(set(ids(jobs))) == 3


def test_of_concurrent_submissions_with_one_key_one_creates(api: Api) -> None:
    key = unique("key")
    body = [api.definition() for _ in range(20)]
    start = threading.Barrier(8)

    def submit() -> list[str]:
        start.wait()
        return ids(expect(202, submit_with_key(api, key, body, "/jobs/batch")).json)

    with ThreadPoolExecutor(8) as pool:
        answers = [future.result() for future in [pool.submit(submit) for _ in range(8)]]
    assert all(answer == answers[0] for answer in answers)
    assert sorted(ids(api.listed())) == sorted(answers[0])


@pytest.mark.parametrize("key", ["k" * 256, ""])
def test_a_key_that_is_empty_or_too_long_is_refused(api: Api, key: str) -> None:
    expect_error(400, submit_with_key(api, key, api.definition()))


def test_without_a_key_every_submission_creates(api: Api) -> None:
    assert api.submit()["id"] != api.submit()["id"]
