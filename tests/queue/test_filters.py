"""Listings that are narrowed: each filter alone and with others, against what it means said plainly."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString, cast
from urllib.parse import quote
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from kelpie_api.db import SQL, Database, Row
from kelpie_api.queue import bulk, listing, waiting_for_changes
from kelpie_api.queue.filters import Filters
from kelpie_api.queue.listing import Place
from tests.helpers import Client, Tenant, at_once, make_job, make_tenant, refused

STATES = ("pending", "held", "waiting", "completed", "failed", "canceled")
SWEEPS = [str(uuid.UUID(int=7 << 100 | number)) for number in (1, 2)]
OPEN_PHASES = {"pending", "parked", "waiting", "downloading", "running", "uploading", "stalled"}


def describe(db: Database, job_id: UUID, **columns: Any) -> None:
    """Give a job, also a final one, a name, labels, a sweep or a time, as its submission does."""
    with db.transaction() as tx:
        tx.execute("set local session_replication_role = replica")  # no trigger guards what is final
        for name, value in columns.items():
            written = Jsonb(value) if name == "labels" else value
            tx.execute(
                cast("LiteralString", f"update jobs set {name} = %(value)s where id = %(id)s"),
                id=job_id,
                value=written,
            )
        if "sweep_id" in columns:
            tx.execute("update queue set sweep_id = %(sweep_id)s where job_id = %(id)s", id=job_id, **columns)
        if "labels" in columns:
            tx.execute(
                "insert into job_labels select j.tenant_id, l.key, l.value, j.seq from jobs j"
                " cross join lateral jsonb_each_text(j.labels) l where j.id = %(id)s",
                id=job_id,
            )


def park(db: Database, job_id: UUID) -> None:
    db.execute("update queue set parked = array['hold'] where job_id = %(id)s and machine_id is null", id=job_id)


@pytest.fixture
def jobs(db: Database, tenant: Tenant) -> list[Row]:
    """Forty jobs in all states, with and without what filters look for, newest first; and another tenant's."""
    dice = random.Random(12)
    other = make_tenant(db, "other", "")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(40):
        owner = other if number % 8 == 7 else tenant
        job_id = make_job(db, owner, STATES[number % 6], group=dice.choice(["g1", "g2", None]))
        if dice.random() < 0.3:
            park(db, job_id)
        if dice.random() < 0.3:
            db.execute(
                "update queue set phase = 'uploading' where job_id = %(id)s and machine_id is not null", id=job_id
            )
        found: dict[str, Any] = {"created": start + timedelta(hours=3 * number)}
        if dice.random() < 0.7:
            found["name"] = dice.choice(["run-1", "run-2", "run*", "a*b", "other"])
        if dice.random() < 0.7:
            found["labels"] = {"team": dice.choice(["a", "b:c"]), "n": str(number % 3)}
        if dice.random() < 0.5:
            found["sweep_id"] = dice.choice(SWEEPS)
        describe(db, job_id, **found)
    return db.all(
        "select j.*, coalesce(p.phase, j.status::text) as phase from jobs j"
        " left join job_phases p on p.job_id = j.id where j.tenant_id = %(tenant)s order by j.seq desc",
        tenant=tenant.caller.tenant_id,
    )


def ended(job: Row) -> Any:
    return job["completed"] or job["failed"] or job["canceled"]


DAY = datetime(2026, 1, 3, tzinfo=UTC)
CONDITIONS: dict[str, tuple[str, Callable[[Row], bool]]] = {
    "name": ("name=run-1", lambda job: job["name"] == "run-1"),
    "beginning": ("name=run*", lambda job: (job["name"] or "").startswith("run")),
    "any name": ("name=*", lambda job: job["name"] is not None),
    "label": ("label=team:a", lambda job: (job["labels"] or {}).get("team") == "a"),
    "label with a colon": ("label=team:b:c", lambda job: (job["labels"] or {}).get("team") == "b:c"),
    "another label": ("label=n:1", lambda job: (job["labels"] or {}).get("n") == "1"),
    "sweep": (f"sweep={SWEEPS[0]}", lambda job: str(job["sweep_id"]) == SWEEPS[0]),
    "no sweep": ("sweep=none", lambda job: job["sweep_id"] is None),
    "parked": ("phase=parked", lambda job: job["phase"] == "parked"),
    "phases": (
        "phase=running&phase=waiting&phase=failed",
        lambda job: job["phase"] in ("running", "waiting", "failed"),
    ),
    "final phases": ("phase=completed&phase=canceled", lambda job: job["phase"] in ("completed", "canceled")),
    "open": ("open=true", lambda job: job["phase"] in OPEN_PHASES),
    "ended": ("open=false", lambda job: job["phase"] not in OPEN_PHASES),
    "since": ("since=2026-01-03T00:00:00Z", lambda job: job["created"] >= DAY),
    "ended since": ("ended_since=2026-01-03", lambda job: ended(job) is not None),
    "status": ("status=running", lambda job: job["status"] == "running"),
    "group": ("container_group_id=g1", lambda job: job["container_group"] == "g1"),
}


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    assert "warnings" not in answer.json, answer.json["warnings"]
    return [job["id"] for job in answer.json["jobs"]]


def test_each_filter_and_each_two_of_them_find_the_jobs_that_match(
    api: Client, jobs: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "FEW", 0)  # so that open jobs are counted in one pass over the queue
    counted_too = {"name", "beginning", "label", "no sweep", "phases"}
    names = list(CONDITIONS)
    for first in names:
        for second in names[names.index(first) :]:
            (query, holds), (more, too) = CONDITIONS[first], CONDITIONS[second]
            if first != second and query.split("=")[0] == more.split("=")[0] != "label":
                continue
            expected = [str(job["id"]) for job in jobs if holds(job) and too(job)]
            asked = f"/jobs?{query}&{more}" if first != second else f"/jobs?{query}"
            assert ids(api.get(asked)) == expected, (first, second)
            assert ids(api.get(f"{asked}&asc=true&page_size=3&page=2")) == expected[::-1][3:6], (first, second)
            if first in counted_too and second not in ("open", "ended"):
                still_open = [job for job in jobs if job["phase"] in OPEN_PHASES and str(job["id"]) in expected]
                counted = api.get(f"{asked.replace('/jobs?', '/jobs/counts?')}&open=true")
                assert counted.json == {"count": len(still_open)}, (first, second)


def test_pages_of_a_search_follow_one_another(api: Client, jobs: list[Row]) -> None:
    for condition in ("label", "beginning", "phases", "sweep", "since"):
        query, holds = CONDITIONS[condition]
        for order in ("", "&asc=true"):
            found, path = [], f"/jobs?{query}{order}&page_size=4"
            while path:
                answer = api.get(path)
                found += ids(answer)
                path = answer.headers.get("Link", "").partition(">")[0].removeprefix("<")
            expected = [str(job["id"]) for job in jobs if holds(job)]
            assert found == (expected[::-1] if order else expected), (condition, order)


def test_jobs_are_found_by_their_ids(api: Client, jobs: list[Row]) -> None:
    wanted = [str(job["id"]) for job in (jobs[2], jobs[5])]
    assert ids(api.get(f"/jobs?id={wanted[1]}&id={wanted[0]}&id={uuid.uuid4()}")) == wanted
    assert ids(api.get(f"/jobs?id={wanted[1]}&status=nonsense".replace("nonsense", "pending"))) in ([], wanted[1:])
    assert refused(api.get("/jobs?id=abc123"), 400)["errors"].keys() == {"id.0"}
    assert refused(api.get("/jobs?" + "&".join(["id=" + wanted[0]] * 501)), 400)


def test_a_reference_is_an_id_or_a_name_or_the_end_of_one_id(api: Client, db: Database, jobs: list[Row]) -> None:
    job = jobs[3]
    the_id = str(job["id"])
    for reference in (the_id, the_id.upper(), the_id.replace("-", ""), the_id[-6:], the_id[-13:], the_id[-20:]):
        assert ids(api.get(f"/jobs?ref={reference}")) == [the_id], reference
    named = [str(one["id"]) for one in jobs if one["name"] == "run*"]
    assert named and ids(api.get("/jobs?ref=run*")) == named
    assert ids(api.get(f"/jobs?ref={the_id[-5:]}")) == []
    assert ids(api.get(f"/jobs?ref={the_id[-6:]}&id={jobs[4]['id']}")) == []
    # A name comes before the end of an id.
    describe(db, jobs[4]["id"], name=the_id[-6:])
    assert ids(api.get(f"/jobs?ref={the_id[-6:]}")) == [str(jobs[4]["id"])]


def test_the_end_of_several_ids_is_refused_with_these(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    alike = [UUID(f"01900000-0000-7000-8000-{number}00badcafe") for number in ("123", "456")]
    monkeypatch.setattr("kelpie_api.queue.submissions.new_id", lambda: UUID(int=alike.pop().int))
    made = {api.submit()["id"] for _ in range(2)}
    body = refused(api.get("/jobs?ref=badcafe"), 400)
    assert {*body["errors"]["ref"][1:]} == made


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("label=team", "label.0"),
        ("label=:a", "label.0"),
        ("sweep=seven", "sweep"),
        ("phase=asleep", "phase.0"),
        ("since=yesterday", "since"),
        ("ended_since=2026-13-01", "ended_since"),
        ("open=perhaps", "open"),
        ("name=" + "x" * 102, "name"),
        ("changed_since=2026-01-01~x", "changed_since"),
    ],
)
def test_what_is_no_filter_is_refused(api: Client, query: str, field: str) -> None:
    assert refused(api.get(f"/jobs?{query}"), 400)["errors"].keys() == {field}


def test_an_unknown_parameter_is_named_and_ignored(api: Client, jobs: list[Row]) -> None:
    answer = api.get("/jobs?labels=a&nmae=run-1")
    assert answer.status_code == 200 and answer.json
    assert len(answer.json["jobs"]) == len(jobs)
    assert answer.json["warnings"] == [
        "labels is not a parameter of a list of jobs (did you mean label?); it was ignored.",
        "nmae is not a parameter of a list of jobs (did you mean name?); it was ignored.",
    ]


def test_an_empty_parameter_is_none(api: Client, jobs: list[Row]) -> None:
    assert len(ids(api.get("/jobs?name=&label=&phase=&id=&since=&open=&wait=&changed_since="))) == len(jobs)


def test_a_search_that_looked_at_its_share_says_so_and_goes_on(
    db: Database, tenant: Tenant, api: Client, jobs: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "TO_LOOK_AT", 10)
    filters = Filters(ended_since=datetime(2026, 1, 3, tzinfo=UTC), name="run*", phases=["completed", "canceled"])
    found, beyond, parts = [], None, 0
    while True:
        page = listing.search(db, tenant.caller, filters, Place(5, beyond), to_look_at=3)
        assert page.looked <= 3
        found += page.numbers
        parts += page.is_partial
        if not page.is_partial:
            break
        beyond = page.reached
    assert parts > 1
    assert found == [
        job["seq"]
        for job in jobs
        if job["phase"] in ("completed", "canceled") and (job["name"] or "").startswith("run")
    ]


def test_a_token_finds_the_jobs_of_its_groups_only(db: Database, tenant: Tenant, jobs: list[Row]) -> None:
    caller = replace(tenant.caller, groups=["g2"])
    for filters in (
        Filters(name="run*"),
        Filters(phases=["parked"]),
        Filters(labels=[("n", "1")]),
        Filters(is_open=True),
    ):
        wide = listing.list_page(db, tenant.caller, filters, Place(100)).jobs
        page = listing.list_page(db, caller, filters, Place(100)).jobs
        assert [job["id"] for job in page] == [job["id"] for job in wide if job["container_group_id"] == "g2"]


def test_the_administrator_finds_the_jobs_of_a_user(admin: Client, tenant: Tenant, jobs: list[Row]) -> None:
    expected = [str(job["id"]) for job in jobs if job["name"] == "run-1"]
    assert ids(admin.get(f"/jobs?name=run-1&user_id={tenant.caller.user_id}")) == expected
    assert len(ids(admin.get("/jobs?name=run-1"))) >= len(expected)
    assert len(ids(admin.get(f"/jobs?user_id={tenant.caller.user_id}"))) == len(jobs)


def marked(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    return quote(answer.json["changed_since"])


def test_a_mark_brings_what_changed_since_and_nothing_twice(api: Client, db: Database, tenant: Tenant) -> None:
    made = [api.submit()["id"] for _ in range(3)]
    query = "/jobs?" + "&".join(f"id={one}" for one in made)
    mark = marked(api.get(query))
    again = api.get(f"{query}&changed_since={mark}")
    assert ids(again) == []
    db.execute("update events set at = at - interval '1 hour'")
    job = api.claim()
    assert job
    answer = api.get(f"{query}&changed_since={mark}")
    assert ids(answer) == [job["id"]]
    assert ids(api.get(f"{query}&changed_since={marked(answer)}")) == []
    # Heartbeats are no change.
    assert api.report(job, "heartbeat", attempt=1).status_code == 200
    assert ids(api.get(f"{query}&changed_since={marked(answer)}&wait=0")) == []
    # A machine that fell silent is one, without an event.
    db.execute("update events set at = at - interval '1 hour'")
    db.execute("update queue set heartbeat = now() - interval '61 seconds' where machine_id is not null")
    assert ids(api.get(f"{query}&changed_since={marked(answer)}")) == [job["id"]]


def test_a_time_brings_what_changed_since(api: Client, db: Database) -> None:
    old, new = api.submit()["id"], api.submit()["id"]
    db.execute("update events set at = at - interval '1 hour' where job_id = %(id)s", id=old)
    since = quote((datetime.now(UTC) - timedelta(minutes=1)).isoformat())
    assert ids(api.get(f"/jobs?changed_since={since}")) == [new]


def test_a_request_waits_until_a_job_changes(app: Any, api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_for_changes, "PAUSE", 0.02)
    job = api.submit()
    query = f"/jobs?id={job['id']}"
    mark = marked(api.get(query))
    waiting = Client(app.test_client(), api.key)
    answers = at_once(
        [
            lambda: waiting.get(f"{query}&changed_since={mark}&wait=20"),
            lambda: api.delete(f"/jobs/{job['id']}"),
        ]
    )
    assert [one["status"] for one in answers[0].json["jobs"]] == ["canceled"]


def test_a_request_that_waits_in_vain_is_answered_with_nothing(
    api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_for_changes, "PAUSE", 0.02)
    job = api.submit()
    mark = marked(api.get(f"/jobs?id={job['id']}"))
    answer = api.get(f"/jobs?id={job['id']}&changed_since={mark}&wait=1")
    assert ids(answer) == [] and "Retry-After" not in answer.headers


def test_a_reader_that_finds_no_room_to_wait_is_answered_at_once(
    api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = api.submit()
    mark = marked(api.get(f"/jobs?id={job['id']}"))
    while waiting_for_changes._room.acquire(blocking=False):
        pass
    try:
        answer = api.get(f"/jobs?id={job['id']}&changed_since={mark}&wait=30")
        assert ids(answer) == [] and answer.headers["Retry-After"] == "1"
    finally:
        for _ in range(waiting_for_changes.MOST_WAITING):
            waiting_for_changes._room.release()


def test_many_silent_leases_are_counted_without_asking_for_each_whether_its_silence_counts(
    db: Database, tenant: Tenant
) -> None:
    for silent_for in (0, *[1000] * 12):
        make_job(db, tenant, "held", silent_for=silent_for)
    asked = "select pg_stat_get_xact_function_calls('silence_counts_from(integer)'::regprocedure) as calls"
    with db.transaction() as tx:
        tx.execute("set local track_functions = 'all'")
        by_phase = {row["phase"]: row["jobs"] for row in tx.all(SQL.count_phases, **tenant.caller.scope)}
        wanted = json.dumps({"phases": ["waiting"]})
        waiting = tx.one_or_none(SQL.count_open, **tenant.caller.scope, wanted=wanted)
        measured = tx.one_or_none(SQL.measure_queue)
        calls = tx.one_or_none(asked)
    assert by_phase == {"running": 1, "waiting": 12}
    assert waiting and waiting["count"] == 12 and measured and measured["lapsed_leases"] == 12
    assert calls and calls["calls"] <= 4
