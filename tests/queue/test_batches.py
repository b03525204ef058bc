"""Many jobs in one request: all or none, in the order given."""

from __future__ import annotations

import pytest

from tests.helpers import Client, definition, refused


def test_the_largest_batch_is_answered_in_its_own_order(api: Client) -> None:
    answer = api.post("/jobs/batch", [definition(command=f"work {n}") for n in range(1000)])
    assert answer.status_code == 202
    assert [job["command"] for job in answer.json or []] == [f"work {n}" for n in range(1000)]


def test_the_mistakes_of_one_bad_job_are_named_as_if_it_stood_alone(api: Client) -> None:
    body = refused(api.post("/jobs/batch", [definition(), definition(max_failures=0)]), 400)
    assert (body["index"], body["errors"].keys()) == (1, {"max_failures"})


def test_of_several_bad_jobs_the_first_is_named(api: Client) -> None:
    jobs = [definition(), definition(command=""), definition(max_failures=0)]
    assert refused(api.post("/jobs/batch", jobs), 400)["index"] == 1


def test_a_batch_in_a_batch_is_no_job_and_named_by_its_index(api: Client) -> None:
    assert refused(api.post("/jobs/batch", [definition(), [definition()]]), 400)["index"] == 1


@pytest.mark.parametrize("body", [definition(), b"null"])
def test_a_body_that_is_no_list_is_refused(api: Client, body: object) -> None:
    refused(api.post("/jobs/batch", body), 400)


def test_a_batch_mixes_generations_and_groups(api: Client) -> None:
    legacy = {f"{kind}_{part}": "x" for kind in ("input", "checkpoint", "output") for part in ("bucket", "prefix")}
    jobs = [definition(**legacy), definition(container_group_id=None), definition(sync={})]
    answer = api.post("/jobs/batch", jobs).json or []
    assert ["sync" in job for job in answer] == [False, True, True]
    assert [job["container_group_id"] for job in answer] == ["g1", None, "g1"]
