"""A removal of many is refused where its parameters say that fewer were meant."""

from __future__ import annotations

from typing import Any

import pytest

from kelpie_api.db import Database
from tests.helpers import Client, Tenant, make_job, make_rule, refused, rows_of_jobs

ALL_OF_THEM = ("/jobs", "/users", "/scaling-rules")
GROUP = "11111111-1111-4111-8111-111111111111"
MEANT_FEWER = [
    ("?container_group_id=x", None, "container_group_id"),
    ("?container_group_id=", None, "container_group_id"),
    ("?colour=red", None, "colour"),
    ("?dry_run", None, "dry_run"),
    ("", {"container_group_id": "x"}, "container_group_id"),
    ("", ["8b9c902c-7da6-4af3-be0b-59cd44878951"], "body"),
    ("", b"container_group_id=x", "body"),
]


@pytest.mark.parametrize("path", ALL_OF_THEM)
@pytest.mark.parametrize(("query", "body", "named"), MEANT_FEWER)
def test_a_removal_of_all_that_carries_a_parameter_removes_nothing(
    admin: Client, db: Database, tenant: Tenant, path: str, query: str, body: Any, named: str
) -> None:
    make_job(db, tenant)
    make_rule(db, tenant, GROUP)
    refusal = refused(admin.call("DELETE", path + query, body), 400)
    assert named in refusal["errors"] and named in refusal["message"] and f"DELETE {path}" in refusal["message"]
    assert len(rows_of_jobs(db)["jobs"]) == 1
    assert db.all("select from scaling_rules") and db.all("select from users where not is_admin")


@pytest.mark.parametrize("path", ALL_OF_THEM)
@pytest.mark.parametrize(("query", "body"), [("", None), ("?", None), ("", b" \n"), ("", {}), ("", b"null")])
def test_without_parameters_it_removes_all(
    admin: Client, db: Database, tenant: Tenant, path: str, query: str, body: Any
) -> None:
    make_job(db, tenant)
    assert admin.call("DELETE", path + query, body).status_code == 204


@pytest.mark.parametrize("path", ALL_OF_THEM)
def test_a_caller_that_is_not_the_administrator_is_told_that_first(api: Client, path: str) -> None:
    refused(api.delete(f"{path}?container_group_id=x"), 403)


@pytest.mark.parametrize(
    ("query", "body"), [("?status=pending", None), ("?machine_id=", None), ("", {"status": "pending"})]
)
def test_a_groups_jobs_cannot_be_chosen_among(
    api: Client, db: Database, tenant: Tenant, query: str, body: Any
) -> None:
    make_job(db, tenant, "held")
    refused(api.call("DELETE", f"/jobs/container-groups/g1{query}", body), 400)
    assert len(db.all("select from queue")) == 1


def test_elsewhere_an_unknown_parameter_is_ignored(api: Client, db: Database) -> None:
    job = api.submit()
    api.submit()
    assert api.delete(f"/jobs/{job['id']}?colour=red").status_code == 202
    assert api.delete("/jobs/container-groups/g1?colour=red").json == {"count": 1}
    assert db.all("select from queue") == []
