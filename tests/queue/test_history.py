"""Thousands of calls at once break no promise; and the checker that says so finds the loss of any one guard."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kelpie_api.db import SQL, Database, Row
from kelpie_api.migrations import migrate
from tests.helpers import empty_tables, make_tenant
from tests.history import Call, Rows, violations
from tests.queue.storm import Storm

ATTEMPT_COMPARED, ANY_ATTEMPT = "%(machine_id)s, %(attempt)s)", "%(machine_id)s, null)"
Mutant = Callable[[Database, pytest.MonkeyPatch], None]


@pytest.fixture
def own_db(empty_database: str) -> Iterator[Database]:
    """A migrated database for one test, which may change its functions."""
    migrate(empty_database, lambda line: None)
    database = Database(empty_database, connections=20)
    database.open()
    yield database
    database.close()


def storm(db: Database, **weather: Any) -> Storm:
    """The storm when it is over; nothing is left of an earlier one."""
    empty_tables(db)
    tenants = [make_tenant(db, name, "default") for name in ("acme", "rival")]
    over = Storm(db, tenants, **weather)
    over.run()
    return over


@pytest.mark.parametrize("outage", [False, True])
def test_a_storm_breaks_no_promise(db: Database, outage: bool) -> None:
    weather = storm(db, steps=250, outage=outage)
    rows = Rows.read(db)
    print(f"\n{len(weather.log)} calls, {len(rows.jobs)} jobs, {len(rows.attempts)} attempts:")
    print(Counter((call.kind, "accepted" if call.accepted else "refused") for call in weather.log))
    print(Counter(attempt["outcome"] for attempt in rows.attempts))
    assert violations(rows, weather.log) == []
    assert weather.errors == []
    # A storm that never reached a corner would prove nothing about it.
    assert {attempt["outcome"] for attempt in rows.attempts} >= {
        "completed",
        "failed",
        "released",
        "interrupted",
        "canceled",
    }


def forget_attempt(statement: str) -> Mutant:
    def mutate(db: Database, patch: pytest.MonkeyPatch) -> None:
        rewrite(patch, statement, lambda text: text.replace(ATTEMPT_COMPARED, ANY_ATTEMPT))

    return mutate


def forget_attempt_of_heartbeats(db: Database, patch: pytest.MonkeyPatch) -> None:
    redefine(db, "renew_lease", lambda text: text.replace("the_machine_id, the_attempt)", "the_machine_id, null)"))


def keep_final_jobs_in_the_queue(db: Database, patch: pytest.MonkeyPatch) -> None:
    def keep(text: str) -> str:
        return text.replace("delete from queue", "select * from queue", 1).replace("returning *", "for update", 1)

    rewrite(patch, "complete_job", keep)
    db.execute("alter table jobs disable trigger guard_job")


def pick_without_a_lock(db: Database, patch: pytest.MonkeyPatch) -> None:
    redefine(db, "hand_out_job", lambda text: text.replace("for update skip locked", ""))


def ignore_bans(db: Database, patch: pytest.MonkeyPatch) -> None:
    redefine(db, "hand_out_job", lambda text: re.sub(r"and not exists \(select from bans[^)]*\)", "", text))


def count_outages_as_silence(db: Database, patch: pytest.MonkeyPatch) -> None:
    body = re.compile(r"\$function\$.*\$function\$", re.DOTALL)
    always = "$function$ select '-infinity'::timestamptz $function$"
    redefine(db, "silence_counts_from", lambda text: body.sub(lambda _: always, text))


def rewrite(patch: pytest.MonkeyPatch, statement: str, change: Callable[[str], str]) -> None:
    changed = change(SQL.by_name[statement])
    assert changed != SQL.by_name[statement]
    patch.setitem(SQL.by_name, statement, changed)


def redefine(db: Database, function: str, change: Callable[[str], str]) -> None:
    found = db.one_or_none("select pg_get_functiondef(%(name)s::regproc) as text", name=function)
    assert found is not None
    changed = change(found["text"])
    assert changed != found["text"]
    db.unrepeatable(lambda tx: tx.connection.execute(changed.encode()))


@pytest.mark.parametrize(
    ("mutate", "found"),
    [
        (forget_attempt("complete_job"), "completed was accepted from"),
        (forget_attempt("fail_job"), "failed was accepted from"),
        (forget_attempt("release_job"), "released was accepted from"),
        (forget_attempt_of_heartbeats, "a heartbeat of attempt"),
        (keep_final_jobs_in_the_queue, "has a row in the queue"),
        (pick_without_a_lock, "are not ended"),
        (ignore_bans, "which is banned from it"),
        (count_outages_as_silence, "within two intervals of an outage"),
    ],
    ids=["complete", "fail", "release", "renew", "final", "lock", "ban", "amnesty"],
)
def test_with_one_guard_removed_the_checker_finds_it(
    own_db: Database, monkeypatch: pytest.MonkeyPatch, mutate: Mutant, found: str
) -> None:
    mutate(own_db, monkeypatch)
    outage = mutate is count_outages_as_silence
    for seed in range(40):
        weather = storm(own_db, steps=80, outage=outage, machines=2, seed=seed)
        broken = violations(Rows.read(own_db), weather.log)
        if any(found in sentence for sentence in broken):
            return
    pytest.fail(f"forty storms, and no violation {found!r}; but {broken[:5]}")


# A small clean history: attempt 1 is interrupted, attempt 2 fails, attempt 3 completes.
JOB = uuid.uuid4()
BEGAN = datetime(2024, 4, 19, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def job(**fields: object) -> Row:
    return {
        "id": JOB,
        "seq": 1,
        "tenant_id": 1,
        "status": "completed",
        "attempt": 3,
        "num_failures": 1,
        "max_failures": 3,
        "heartbeat_interval": 30,
        "webhook": "http://receiver/",
    } | fields


def attempt(number: int, machine: str, claimed: float, outcome: str | None) -> Row:
    return {
        "job_id": JOB,
        "number": number,
        "machine_id": machine,
        "claimed": at(claimed),
        "last_heartbeat": at(claimed),
        "ended": None if outcome is None else at(claimed + 1),
        "outcome": outcome,
    }


def event(kind: str, machine: str, attempt: int) -> Row:
    return {"job_id": JOB, "kind": kind, "actor": f"machine:{machine}", "attempt": attempt}


def webhook(status: str) -> Row:
    return {"job_id": JOB, "status": status}


def call(kind: str, machine: str, attempt: int | None, began: float, request: object = None) -> Call:
    return Call(kind, 1, machine, JOB, attempt, True, began, began + 0.5, request)


FIRST, SECOND, THIRD = [
    attempt(1, "m1", 0, "interrupted"),
    attempt(2, "m2", 61, "failed"),
    attempt(3, "m3", 110, "completed"),
]
EVENTS = [
    event("submitted", "m0", 0),
    event("claimed", "m1", 1),
    event("interrupted", "m2", 1),
    event("claimed", "m2", 2),
    event("attempt_failed", "m2", 2),
    event("claimed", "m3", 3),
    event("completed", "m3", 3),
]
WEBHOOKS = [webhook("running"), webhook("running"), webhook("running"), webhook("completed")]
CLEAN = Rows(
    jobs=[job()],
    attempts=[FIRST, SECOND, THIRD],
    bans=[{"job_id": JOB, "machine_id": "m2"}],
    events=EVENTS,
    webhooks=WEBHOOKS,
)
LOG = [
    call("claim", "m1", 1, 0, "r1"),
    call("claim", "m2", 2, 61, "r2"),
    call("heartbeat", "m2", 2, 70),
    call("failed", "m2", 2, 100),
    call("failed", "m2", 2, 101),
    call("claim", "m3", 3, 110, "r3"),
    call("claim", "m3", 3, 111, "r3"),
    call("completed", "m3", 3, 130),
    call("completed", "m3", None, 131),
    replace(call("heartbeat", "m1", 1, 132), accepted=False),
]


def test_a_clean_history_has_no_violations() -> None:
    assert violations(CLEAN, LOG) == []


# what the checker says when a table says something else
WRONG_ROWS: list[tuple[str, str, list[Row]]] = [
    ("are not ended", "attempts", [attempt(1, "m1", 0, None), SECOND, THIRD]),
    ("are not ended", "queue", [{"job_id": JOB, "attempt": 3, "machine_id": "m3"}]),
    ("was alive", "attempts", [attempt(1, "m1", 1, "interrupted"), SECOND, THIRD]),
    ("attempt 2 began before attempt 1 ended", "events", [*EVENTS[:2], *EVENTS[3:]]),
    ("its history tells of [1, 2]", "events", [*EVENTS[:5], EVENTS[6]]),
    ("its history tells of []", "events", EVENTS[:6]),
    ("released comes after its end", "events", [*EVENTS, event("released", "m3", 3)]),
    ("claimed comes after its end", "events", [*EVENTS, event("claimed", "m4", 4)]),
    ("its history tells of [(2, ", "events", [*EVENTS[:5], *EVENTS[4:]]),
    ("is banned from it", "events", [*EVENTS[:5], event("claimed", "m2", 3), EVENTS[6]]),
    ("are banned", "bans", []),
    ("number of handouts", "jobs", [job(attempt=4)]),
    ("has no row in the queue", "jobs", [job(status="running")]),
    ("counts 2 failures", "jobs", [job(num_failures=2)]),
    ("after 1 of 1 failures", "jobs", [job(max_failures=1)]),
    ("has a row in the queue", "queue", [{"job_id": JOB, "attempt": 3, "machine_id": None}]),
    ("within two intervals of an outage", "outages", [{"began": at(-60), "ended": at(5)}]),
    ("its webhooks are", "webhooks", WEBHOOKS[:3]),
    ("its webhooks are", "webhooks", [*WEBHOOKS, webhook("completed")]),
    ("its webhooks are", "webhooks", [webhook("completed"), *WEBHOOKS[:3]]),
]

# what it says when one more call was accepted
WRONG_CALLS = [
    ("was handed to 2 requests", call("claim", "m9", 3, 112, "r9")),
    ("had been handed to m2", call("heartbeat", "m1", 1, 62)),
    ("had been handed to m2", call("heartbeat", "m1", None, 62)),
    ("after its end was reported", call("heartbeat", "m2", 2, 102)),
    ("that attempt did not end so", call("completed", "m1", 1, 120)),
    ("that attempt did not end so", call("released", "m1", None, 120)),
    ("a heartbeat was accepted after it was completed", call("heartbeat", "m3", 3, 135)),
    ("a heartbeat of tenant 2", replace(call("heartbeat", "m3", 3, 120), tenant_id=2)),
]


@pytest.mark.parametrize(("sentence", "table", "rows"), WRONG_ROWS)
def test_the_checker_names_what_is_wrong_in_the_database(sentence: str, table: str, rows: list[Row]) -> None:
    broken = violations(replace(CLEAN, **{table: rows}), LOG)
    assert any(sentence in found for found in broken), broken


@pytest.mark.parametrize(("sentence", "accepted"), WRONG_CALLS)
def test_the_checker_names_what_should_not_have_been_accepted(sentence: str, accepted: Call) -> None:
    broken = violations(CLEAN, [*LOG, accepted])
    assert any(sentence in found for found in broken), broken
