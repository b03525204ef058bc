"""Two open jobs that keep their checkpoints in one place are warned of at submission."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from kelpie_api.db import Database
from kelpie_api.queue import jobs
from kelpie_api.queue.during_prefixes import MOST_COMPARED, SharedPlace, places, shared_places
from kelpie_api.queue.states import LEGACY_FIELDS
from tests.helpers import Client, Tenant, definition, make_job, report

LEGACY = (
    "input_bucket",
    "input_prefix",
    "checkpoint_bucket",
    "checkpoint_prefix",
    "output_bucket",
    "output_prefix",
)
FIRST, SECOND, THIRD = (UUID(int=number) for number in (1, 2, 3))
LONGEST = 1024  # characters of a prefix


def block(prefix: str, bucket: str = "b", direction: str = "upload") -> dict[str, str]:
    return {"bucket": bucket, "prefix": prefix, "local_path": "x", "direction": direction}


def during(*prefixes: str) -> dict[str, Any]:
    return {"sync": {"during": [block(prefix) for prefix in prefixes]}}


def legacy(checkpoint_prefix: str) -> dict[str, Any]:
    return dict.fromkeys(LEGACY_FIELDS, "b") | {"checkpoint_prefix": checkpoint_prefix}


def as_submitted(job_id: UUID, **fields: Any) -> dict[str, Any]:
    return {"id": job_id, "sync": None, "shared": None, **fields}


def warnings(job: dict[str, Any]) -> list[str]:
    return list(job.get("warnings", []))


SHARED = [
    ("a/", "a/"),
    ("a", "a/"),
    ("a/", "a/b/"),
    ("a/b/", "a/"),
    ("a/b/c/d/e/", "a/"),
    ("a", "a/b/c/d/e"),
    ("é/ü", "é/"),
    ("x" * LONGEST, "x" * LONGEST),
    ("\N{BICYCLE}" * 1000 + "/a", "\N{BICYCLE}" * 1000),
    ("\N{BICYCLE}" * 1000, "\N{BICYCLE}" * 1000 + "/a"),
    ("a/" * 500, "a/" * 500),
    ("a/" * 500, "a/a/"),
    ("a/a/", "a/" * 500),
]
APART = [
    ("a/", "ab/"),
    ("a/b/", "a/c/"),
    ("a0/", "a/"),
    ("a/", "A/"),
    ("%/", "a/"),
    ("x" * 1000 + "y", "x" * 1000 + "z"),
    ("\N{BICYCLE}" * 1000 + "y", "\N{BICYCLE}" * 1000),
]


@pytest.mark.parametrize(("there", "submitted"), SHARED)
@pytest.mark.parametrize("make", [during, legacy])
def test_a_job_whose_prefix_an_open_one_has_is_warned_of(
    api: Client, make: Any, there: str, submitted: str
) -> None:
    first = api.submit(**make(there))
    assert warnings(first) == []
    second = api.submit(**during(submitted))
    assert next(iter(second)) == "warnings"
    [warning] = warnings(second)
    assert "sync.during.0.prefix" in warning and first["id"] in warning


@pytest.mark.parametrize(("there", "submitted"), APART)
def test_one_with_a_prefix_of_its_own_is_not(api: Client, there: str, submitted: str) -> None:
    api.submit(**during(there))
    assert warnings(api.submit(**during(submitted))) == []


@pytest.mark.parametrize(("one", "other"), SHARED)
def test_jobs_of_one_batch_are_warned_of_each_other(api: Client, one: str, other: str) -> None:
    batch = [definition(**during("own")), definition(**during(one)), definition(**legacy(other))]
    own, first, second = api.post("/jobs/batch", batch).json or []
    assert warnings(own) == []
    assert [second["id"] in warning for warning in warnings(first)] == [True]
    assert [first["id"] in warning and "checkpoint_prefix" in warning for warning in warnings(second)] == [True]


@pytest.mark.parametrize(("one", "other"), APART)
def test_jobs_of_one_batch_with_prefixes_of_their_own_are_not(one: str, other: str) -> None:
    jobs_of_batch = [as_submitted(FIRST, **during(f"{one}/")), as_submitted(SECOND, **during(f"{other}/"))]
    assert shared_places(jobs_of_batch) == [[], []]


def test_other_buckets_directions_parts_and_tenants_are_apart(api: Client, stranger: Client) -> None:
    stranger.submit(**during("a/"))
    api.submit(
        sync={"during": [block("a/", "other")], "after": [block("a/")], "before": [block("a/", "b", "download")]}
    )
    assert warnings(api.submit(**during("a/"))) == []


def test_directories_of_one_job_may_share_a_prefix(api: Client) -> None:
    assert warnings(api.submit(**during("a/", "a/", "a/b/"))) == []


@pytest.mark.parametrize("end", ["complete", "fail", "cancel", "purge_group", "purge"])
def test_a_job_that_is_final_shares_nothing(api: Client, db: Database, tenant: Tenant, end: str) -> None:
    job_id = make_job(db, tenant, "held", max_failures=1, **during("a/"))
    ends = {
        "complete": lambda: jobs.complete(db, tenant.caller, job_id, report(attempt=1)),
        "fail": lambda: jobs.fail(db, tenant.caller, job_id, report(attempt=1)),
        "cancel": lambda: jobs.cancel(db, tenant.caller, job_id),
        "purge_group": lambda: jobs.purge_group(db, tenant.caller, "g1"),
        "purge": lambda: jobs.purge(db),
    }
    assert warnings(api.submit(container_group_id="g2", **during("a/b")))
    ends[end]()
    db.execute("delete from queue where container_group = 'g2'")
    assert db.all("select from during_prefixes") == []
    assert warnings(api.submit(**during("a/"))) == []


def test_one_that_failed_and_waits_still_shares(api: Client, db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant, "held", **during("a/"))
    jobs.fail(db, tenant.caller, job_id, report(attempt=1))
    assert str(job_id) in warnings(api.submit(**during("a/")))[0]


def test_the_innermost_job_around_is_found_behind_blocks_of_the_same_job() -> None:
    batch = [as_submitted(FIRST, **during("a/")), as_submitted(SECOND, **during("a/b/", "a/b/c/", "d/"))]
    first, second = shared_places(batch)
    assert first == [SharedPlace("sync.during.0.prefix", SECOND, "b/a/b/")]
    assert second == [
        SharedPlace("sync.during.0.prefix", FIRST, "b/a/"),
        SharedPlace("sync.during.1.prefix", FIRST, "b/a/"),
    ]


def test_what_was_open_before_comes_before_what_is_in_the_batch() -> None:
    batch = [
        as_submitted(job_id, shared=[["b/a/", str(THIRD), "b/a/"]], **during("a/")) for job_id in (FIRST, SECOND)
    ]
    assert [[place.job_id for place in found] for found in shared_places(batch)] == [[THIRD], [THIRD]]


def test_of_a_job_with_very_many_blocks_the_first_are_compared() -> None:
    assert len(places(during(*(f"{n}/" for n in range(1000))))) == MOST_COMPARED


def test_a_thousand_jobs_of_one_prefix_are_warned_of_once_each(api: Client) -> None:
    answer = api.post("/jobs/batch", [definition(**during("a/"))] * 1000).json or []
    assert [len(warnings(job)) for job in answer] == [1] * 1000


def test_to_look_for_it_costs_the_same_beside_many_open_jobs(
    migrated_url: str, new_tables: Database, tenant: Tenant
) -> None:
    one_session = Database(migrated_url, connections=1)
    one_session.open()
    new_tables.execute(
        "insert into during_prefixes select %(tenant)s, gen_random_uuid(), 'b/' || n || '/'"
        " from generate_series(1, 20000) as n",
        tenant=tenant.caller.tenant_id,
    )
    one_session.execute("select pg_stat_force_next_flush()")
    with one_session.transaction() as tx:
        found = tx.all(
            "select * from open_jobs_at(%(tenant)s, array['b/10000/', 'b/1/x/y/', 'c/'])",
            tenant=tenant.caller.tenant_id,
        )
        read = tx.one_or_none(
            "select pg_stat_get_xact_tuples_returned('during_prefixes_by_place'::regclass) as entries,"
            " pg_stat_get_xact_numscans('during_prefixes'::regclass) as scans"
        )
    one_session.close()
    assert [row["found_place"] for row in found] == ["b/10000/", "b/1/"]
    assert read is not None and read["entries"] <= 4 and read["scans"] == 0


def test_a_key_that_is_used_again_says_what_is_shared_within_its_batch(api: Client) -> None:
    batch = [definition(**during("a/"))] * 2
    for _ in range(2):
        answer = api.post("/jobs/batch", batch, **{"Idempotency-Key": "k"}).json or []
        assert [len(warnings(job)) for job in answer] == [1, 1]
