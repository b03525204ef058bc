"""What attempts cost: the figures of each, and their totals by day (docs/design/protocol.md, Usage)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask

from kelpie_api.db import Database
from kelpie_api.queue import usage
from kelpie_api.queue.retention import prune
from tests.helpers import Client, Job, Tenant, at_once, be_seen, make_tenant, refused
from tests.queue.test_checkpoint_manifests import put
from tests.queue.test_output import send

HOURLY = 3600  # so that a second costs one


def set_price(api: Client, price: float | None, group: str = "g1") -> Job:
    answer = api.patch(f"/container-groups/{group}", {"price_per_hour": price})
    assert answer.status_code == 200, answer.text
    return dict(answer.json or {})


def claim(api: Client, db: Database, machine: str = "m1") -> Job:
    """A claim by a worker that reports checkpoints."""
    job = api.claim(machine)
    assert job is not None
    db.execute("update attempts set speaks = '{steer}' where ended is null and job_id = %(id)s", id=job["id"])
    return job


def past(db: Database, seconds: float) -> None:
    """Let time pass: all that happened is so many seconds older."""
    for table, columns in (
        ("attempts", ("claimed", "last_heartbeat", "ended")),
        ("queue", ("heartbeat",)),
        ("checkpoints", ("reported",)),
        ("outputs", ("last_at",)),
    ):
        changes = ", ".join(f"{name} = {name} - %(seconds)s * interval '1 second'" for name in columns)
        db.execute(f"update {table} set {changes}", seconds=seconds)
    be_seen(db)


def attempts(api: Client, job: Job) -> list[Job]:
    answer = api.get(f"/jobs/{job['id']}/attempts")
    assert answer.json is not None
    return list(answer.json["attempts"])


def read(api: Client, query: str = "by=group") -> Job:
    answer = api.get(f"/usage?{query}")
    assert answer.status_code == 200, answer.text
    found = dict(answer.json or {})
    assert found["_count"] == len(found["usage"])
    return found


def only(api: Client, query: str = "by=group") -> Job:
    (row,) = read(api, query)["usage"]
    return dict(row)


def between(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


def about(value: float) -> Any:
    return pytest.approx(value, abs=4)  # seconds; the requests of a test take some, too


def exactly(value: float) -> Any:
    return pytest.approx(value, abs=0.01)  # times are shown to the millisecond


def killed_twice(api: Client, db: Database) -> Job:
    """Of a job the first machine dies after a checkpoint, the second before its first one, the third ends it."""
    job = api.submit(name="run 7", labels={"team": "vision"})
    claim(api, db, "m1")
    past(db, 100)
    assert put(api, job, 1).status_code == 200
    past(db, 20)
    api.report(job, "heartbeat", attempt=1)
    past(db, 600)
    claim(api, db, "m2")
    past(db, 30)
    api.report(job, "heartbeat", "m2", attempt=2)
    past(db, 600)
    claim(api, db, "m3")
    past(db, 50)
    api.report(job, "completed", "m3", attempt=3)
    return job


def test_the_figures_of_a_job_that_was_killed_twice_follow_from_its_times(api: Client, db: Database) -> None:
    set_price(api, HOURLY)
    job = killed_twice(api, db)
    first, second, third = attempts(api, job)
    (kept,) = db.all("select reported from checkpoints where attempt = 1")
    committed = kept["reported"].isoformat()
    expected = [
        (between(first["claimed"], first["last_heartbeat"]), between(committed, first["last_heartbeat"])),
        (between(second["claimed"], second["last_heartbeat"]),) * 2,
        (between(third["claimed"], third["ended"]), 0.0),
    ]
    figures = [(one["held"], one["useful"], one["lost"]) for one in (first, second, third)]
    assert figures == [(exactly(held), exactly(held - lost), exactly(lost)) for held, lost in expected]
    assert [held for held, _ in expected] == [about(120), about(30), about(50)]
    assert {one["price"] for one in (first, second, third)} == {HOURLY}
    held, lost = (sum(figure) for figure in zip(*expected, strict=True))
    row = only(api)
    assert (row["key"], row["attempts"], row["interruptions"]) == ("g1", 3, 2)
    assert (row["held"], row["useful"], row["money"]) == (exactly(held), exactly(held - lost), exactly(held))
    assert row["lost"] == {"interrupted": exactly(lost), "failed": 0, "released": 0, "canceled": 0}


def test_usage_is_read_by_machine_sweep_name_and_label(api: Client, db: Database) -> None:
    job = killed_twice(api, db)
    sweep = (api.post("/sweeps", {}).json or {})["id"]
    api.submit(sweep=sweep)
    api.report(claim(api, db), "completed", attempt=1)
    assert [row["key"] for row in read(api, "by=machine")["usage"]] == ["m1", "m3", "m2"], "the longest first"
    assert {row["key"]: row["attempts"] for row in read(api, "by=sweep")["usage"]} == {sweep: 1, None: 3}
    assert {row["key"]: row["attempts"] for row in read(api, "by=name")["usage"]} == {job["name"]: 3, None: 1}
    assert {row["key"]: row["attempts"] for row in read(api, "by=label:team")["usage"]} == {"vision": 3, None: 1}
    for by in ("group", "machine", "sweep", "name", "label:team"):
        total = read(api, f"by={by}")["total"]
        assert (total["held"], total["attempts"], total["interruptions"]) == (about(200), 4, 2), by


def test_what_was_added_up_reads_as_before_and_survives_pruning(api: Client, db: Database) -> None:
    set_price(api, HOURLY)
    killed_twice(api, db)
    queries = ["by=group", "by=machine", "by=sweep"]
    before = [read(api, query) for query in queries]
    usage.add_up(db)
    assert db.all("select from usage_to_add") == []
    assert [read(api, query) for query in queries] == before
    with db.transaction() as tx:
        tx.execute("set local session_replication_role = replica")  # final jobs take no changes
        tx.execute(
            "update jobs set created = created - interval '9 days', completed = completed - interval '9 days'"
        )
    assert sum(step.jobs for step in prune(db, timedelta(days=1), 10)) == 1
    assert [read(api, query) for query in queries] == before
    assert read(api, "by=name")["usage"] == [], "which is read from the attempts"


def test_later_ends_come_to_the_totals_of_the_day(api: Client, db: Database) -> None:
    for price in (None, HOURLY, None):
        set_price(api, price)
        api.submit()
        job = claim(api, db)
        past(db, 10)
        api.report(job, "completed", attempt=1)
        usage.add_up(db)
    row = only(api)
    assert (row["attempts"], row["held"], row["money"]) == (3, about(30), about(10)), "only one had a price"
    assert len(db.all("select from usage_of_days")) == 1


def test_ends_that_several_processes_add_up_at_once_count_once(api: Client, db: Database) -> None:
    for _ in range(5):
        api.submit()
        api.report(claim(api, db), "completed", attempt=1)
    at_once([lambda: usage.add_up(db)] * 4)
    usage.add_up(db)
    assert only(api)["attempts"] == 5


class TestOneAttempt:
    def test_that_is_held_has_no_figures_yet(self, api: Client, db: Database) -> None:
        job = api.submit()
        claim(api, db)
        (one,) = attempts(api, job)
        assert [one[name] for name in ("held", "useful", "lost", "price")] == [None] * 4
        assert read(api)["total"] == {
            "held": 0,
            "useful": None,
            "lost": None,
            "attempts": 0,
            "interruptions": 0,
            "money": None,
        }

    def test_of_a_worker_that_reports_no_checkpoints_has_neither_useful_nor_lost_seconds(
        self, api: Client, db: Database
    ) -> None:
        job = api.submit()
        api.claim()
        past(db, 10)
        api.report(job, "completed")
        (one,) = attempts(api, job)
        assert (one["held"], one["useful"], one["lost"], one["price"]) == (about(10), None, None, None)
        row = only(api)
        assert (row["held"], row["useful"], row["lost"], row["money"]) == (about(10), None, None, None)

    def test_that_reported_a_checkpoint_is_of_a_worker_that_does(self, api: Client, db: Database) -> None:
        job = api.submit()
        api.claim()
        past(db, 10)
        put(api, job, 1)
        api.report(job, "released", attempt=1)
        assert attempts(api, job)[0]["useful"] == about(10)

    @pytest.mark.parametrize(("report", "cause"), [("failed", "failed"), ("released", "released")])
    def test_that_ends_otherwise_loses_what_came_after_its_checkpoint(
        self, api: Client, db: Database, report: str, cause: str
    ) -> None:
        job = api.submit()
        claim(api, db)
        past(db, 40)
        put(api, job, 1)
        past(db, 20)
        api.report(job, report, attempt=1)
        row = only(api)
        assert (row["held"], row["useful"], row["lost"][cause]) == (about(60), about(40), about(20))

    def test_of_an_earlier_checkpoint_saves_nothing_of_a_later_one(self, api: Client, db: Database) -> None:
        job = api.submit()
        claim(api, db)
        put(api, job, 1)
        api.report(job, "released", attempt=1)
        claim(api, db)
        past(db, 70)
        api.report(job, "released", attempt=2)
        assert attempts(api, job)[1]["lost"] == about(70)

    def test_whose_job_is_canceled_counts_to_its_end_or_to_its_last_word_if_its_lease_had_lapsed(
        self, api: Client, db: Database
    ) -> None:
        alive, silent = api.submit(), api.submit()
        claim(api, db, "m1")
        claim(api, db, "m2")
        past(db, 50)
        api.report(silent, "heartbeat", "m2", attempt=1)
        past(db, 1000)
        api.report(alive, "heartbeat", "m1", attempt=1)
        for job in (alive, silent):
            api.delete(f"/jobs/{job['id']}")
        assert attempts(api, alive)[0]["held"] == about(1050)
        assert attempts(api, silent)[0]["held"] == about(50)

    def test_that_vanished_was_held_to_the_last_piece_of_its_output(self, api: Client, db: Database) -> None:
        job = api.submit(keep_output=1000)
        claim(api, db)
        past(db, 20)
        api.report(job, "heartbeat", attempt=1)
        past(db, 15)
        assert send(api, job, 0, b"its last words").status_code == 200
        past(db, 600)
        claim(api, db, "m2")
        assert attempts(api, job)[0]["held"] == about(35)

    def test_keeps_the_price_of_its_end(self, api: Client, db: Database) -> None:
        job = api.submit()
        for price in (1.5, 2.5):
            set_price(api, price, "G1")
            claim(api, db)
            api.report(job, "released")
        set_price(api, None)
        claim(api, db)
        api.report(job, "released")
        assert [one["price"] for one in attempts(api, job)] == [1.5, 2.5, None]


class TestPrices:
    def test_an_empty_change_answers_what_is_set(self, api: Client) -> None:
        assert (api.patch("/container-groups/g1", {}).json or {})["price_per_hour"] is None
        assert set_price(api, 0.25)["price_per_hour"] == 0.25
        assert (api.patch("/container-groups/g1", {}).json or {})["price_per_hour"] == 0.25
        assert set_price(api, None)["price_per_hour"] is None

    @pytest.mark.parametrize("price", [-1, 1_000_001, "3", True, [1]])
    def test_a_price_is_a_number_that_is_not_negative(self, api: Client, price: Any) -> None:
        refused(api.patch("/container-groups/g1", {"price_per_hour": price}), 400)

    def test_a_price_is_the_projects_own(self, api: Client, app: Flask, db: Database) -> None:
        set_price(api, HOURLY)
        other = Client(app.test_client(), make_tenant(db, "other", "default").key)
        assert (other.patch("/container-groups/g1", {}).json or {})["price_per_hour"] is None


class TestAsking:
    @pytest.mark.parametrize(
        "query",
        ["by=day", "by=label:", "from=yesterday", "to=9999-12-31", "from=2026-03-02&to=2026-03-01", "by=label"],
    )
    def test_a_question_that_cannot_be_answered_is_refused(self, api: Client, query: str) -> None:
        refused(api.get(f"/usage?{query}"), 400)

    @pytest.mark.parametrize("by", ["name", "label:team"])
    def test_names_and_labels_are_read_over_31_days_at_most(self, api: Client, by: str) -> None:
        read(api, f"by={by}&from=2026-03-01&to=2026-03-31")
        answer = refused(api.get(f"/usage?by={by}&from=2026-03-01&to=2026-04-01"), 400)
        assert "31 days" in answer["message"]
        read(api, "by=group&from=2020-01-01&to=2026-04-01")

    def test_names_and_labels_are_read_of_so_many_attempts_at_most(
        self, api: Client, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(usage, "MOST_ATTEMPTS", 2)
        killed_twice(api, db)
        assert "More than 2 attempts" in refused(api.get("/usage?by=name"), 400)["message"]

    def test_rows_beyond_the_most_are_counted(
        self, api: Client, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(usage, "MOST_ROWS", 2)
        killed_twice(api, db)
        found = read(api, "by=machine")
        assert (found["_count"], found["left_out"], found["total"]["attempts"]) == (2, 1, 3)

    def test_only_days_between_from_and_to_count(self, api: Client, db: Database) -> None:
        killed_twice(api, db)
        usage.add_up(db)
        db.execute("update usage_of_days set day = date '2026-03-05'")
        for days, number in (("from=2026-03-05&to=2026-03-05", 3), ("from=2026-03-06", 0), ("to=2026-03-04", 0)):
            assert read(api, days)["total"]["attempts"] == number, days

    def test_other_projects_are_not_seen_and_the_administrator_sees_all(
        self, api: Client, admin: Client, app: Flask, db: Database, tenant: Tenant
    ) -> None:
        killed_twice(api, db)
        other = Client(app.test_client(), make_tenant(db, "other", "default").key)
        for by in ("group", "name"):
            assert read(other, f"by={by}")["usage"] == []
            assert read(admin, f"by={by}")["total"]["attempts"] == 3


def test_a_list_of_machines_says_which_lose_the_most(api: Client, db: Database) -> None:
    killed_twice(api, db)
    job = api.submit()
    claim(api, db, "m2")
    past(db, 10)
    api.report(job, "failed", "m2", attempt=1)
    usage.add_up(db)
    db.execute(
        "insert into machines (tenant_id, container_group, machine_id)"
        " select tenant_id, 'g1', 'm' || n from jobs cross join generate_series(1, 4) as n"
        " on conflict do nothing"
    )
    shown = {
        one["machine_id"]: (one["interruptions"], one["failures"], one["useful_share"])
        for one in (api.get("/machines").json or {})["machines"]
    }
    assert shown == {
        "m1": (1, 0, pytest.approx(100 / 120, abs=0.03)),
        "m2": (1, 1, 0),
        "m3": (0, 0, 1),
        "m4": (0, 0, None),
    }
