"""Lists of what happened to one job come in pages: one that is claimed and released for ever never ends."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kelpie_api import history
from kelpie_api.db import Database
from tests.helpers import Client, Tenant, make_job, refused

LISTS = ["attempts", "events", "webhooks"]
BAD_QUERIES = ["page_size=0", "page_size=10001", "cursor=-1", "cursor=x", "cursor=99999999999999999999"]


def released_many_times(db: Database, tenant: Tenant, times: int) -> str:
    """A job with so many ended attempts, events and delivered webhooks."""
    job_id = make_job(db, tenant, "pending")
    db.execute("delete from events where job_id = %(id)s", id=job_id)
    db.execute(
        "insert into attempts (job_id, number, machine_id, container_group, ended, outcome, output)"
        " select %(id)s, n, 'm1', 'g1', now(), 'released', 'line' from generate_series(1, %(times)s) n",
        id=job_id,
        times=times,
    )
    db.execute(
        "insert into events (job_id, kind, actor, attempt)"
        " select %(id)s, 'released', 'machine:m1', n from generate_series(1, %(times)s) n",
        id=job_id,
        times=times,
    )
    db.execute(
        "insert into webhooks (job_id, url, status, machine_id, container_group, next_try, delivered)"
        " select %(id)s, 'https://example.com/', 'running', 'm1', 'g1', null, now()"
        "   from generate_series(1, %(times)s)",
        id=job_id,
        times=times,
    )
    return str(job_id)


def pages(api: Client, path: str, what: str) -> list[list[dict[str, Any]]]:
    """Every page, by the Link of the one before."""
    found = []
    while path:
        answer = api.get(path)
        assert answer.status_code == 200 and answer.json
        assert answer.json["_count"] == len(answer.json[what])
        found.append(answer.json[what])
        link = re.fullmatch('<(.*)>; rel="next"', answer.headers.get("Link", ""))
        path = link[1] if link else ""
    return found


@pytest.mark.parametrize("what", LISTS)
def test_a_list_is_read_to_its_end_by_its_links_and_each_row_comes_once(
    api: Client, db: Database, tenant: Tenant, what: str
) -> None:
    job_id = released_many_times(db, tenant, 7)
    whole = (api.get(f"/jobs/{job_id}/{what}").json or {})[what]
    found = pages(api, f"/jobs/{job_id}/{what}?page_size=3", what)
    assert [len(page) for page in found] == [3, 3, 1]
    assert [row for page in found for row in page] == whole


@pytest.mark.parametrize("what", LISTS)
def test_the_first_page_has_room_for_what_clients_saw_before_there_were_pages(
    api: Client, db: Database, tenant: Tenant, what: str
) -> None:
    job_id = released_many_times(db, tenant, 10_001)
    assert [len(page) for page in pages(api, f"/jobs/{job_id}/{what}", what)] == [10_000, 1]


def test_a_page_that_would_be_too_large_is_shorter_and_the_next_goes_on(
    api: Client, db: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = released_many_times(db, tenant, 600)
    monkeypatch.setattr(history, "LARGEST_PAGE", 1000)
    found = pages(api, f"/jobs/{job_id}/attempts", "attempts")
    assert [len(page) for page in found] == [250, 250, 100]
    assert [attempt["number"] for page in found for attempt in page] == list(range(1, 601))


@pytest.mark.parametrize("what", LISTS)
@pytest.mark.parametrize("query", BAD_QUERIES)
def test_a_bad_place_is_a_400(api: Client, db: Database, tenant: Tenant, what: str, query: str) -> None:
    job_id = make_job(db, tenant, "pending")
    assert refused(api.get(f"/jobs/{job_id}/{what}?{query}"), 400)["errors"]
