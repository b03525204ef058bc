"""Many jobs in one request: all or none, in the order given."""

from __future__ import annotations

import pytest

from kelpie_api.db import Database
from tests.helpers import Client, definition, refused, rows_of_jobs


def batch(count: int) -> list[dict[str, object]]:
    return [definition(command=f"work {n}") for n in range(count)]


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_a_batch_is_answered_in_its_own_order(api: Client, count: int) -> None:
    answer = api.post("/jobs/batch", batch(count))
    assert answer.status_code == 202
    assert [job["command"] for job in answer.json or []] == [f"work {n}" for n in range(count)]


def test_a_batch_is_listed_and_handed_out_in_its_own_order(api: Client) -> None:
    given = [job["id"] for job in api.post("/jobs/batch", batch(50)).json or []]
    assert [job["id"] for job in (api.get("/jobs?asc=true").json or {})["jobs"]] == given
    assert [(api.claim() or {})["id"] for _ in range(50)] == given


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_of_none_or_too_many_is_refused(api: Client, db: Database, count: int) -> None:
    refused(api.post("/jobs/batch", batch(count)), 400)
    assert rows_of_jobs(db)["jobs"] == []


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_one_bad_job_refuses_all_and_is_named_by_its_index(api: Client, db: Database, wrong: int) -> None:
    jobs = batch(3)
    jobs[wrong] |= {"max_failures": 0}
    body = refused(api.post("/jobs/batch", jobs), 400)
    assert body["index"] == wrong
    assert body["errors"].keys() == {"max_failures"}
    assert rows_of_jobs(db)["jobs"] == []


def test_of_several_bad_jobs_the_first_is_named(api: Client) -> None:
    jobs = [definition(), definition(command=""), definition(max_failures=0)]
    assert refused(api.post("/jobs/batch", jobs), 400)["index"] == 1


@pytest.mark.parametrize("item", [None, 1, "work", [], [definition()]])
def test_something_that_is_no_job_is_named_by_its_index(api: Client, item: object) -> None:
    assert refused(api.post("/jobs/batch", [definition(), item]), 400)["index"] == 1


@pytest.mark.parametrize("body", [{}, definition(), 1, "work", None])
def test_a_body_that_is_no_list_is_refused(api: Client, body: object) -> None:
    refused(api.post("/jobs/batch", body if body is not None else b"null"), 400)


def test_warnings_stand_with_the_job_they_are_about(api: Client) -> None:
    answer = api.post("/jobs/batch", [definition(), definition(gpu="RTX 4090"), definition()]).json or []
    assert ["warnings" in job for job in answer] == [False, True, False]


def test_a_batch_mixes_generations_and_groups(api: Client) -> None:
    legacy = {f"{kind}_{part}": "x" for kind in ("input", "checkpoint", "output") for part in ("bucket", "prefix")}
    jobs = [definition(**legacy), definition(container_group_id=None), definition(sync={})]
    answer = api.post("/jobs/batch", jobs).json or []
    assert ["sync" in job for job in answer] == [False, True, True]
    assert [job["container_group_id"] for job in answer] == ["g1", None, "g1"]
