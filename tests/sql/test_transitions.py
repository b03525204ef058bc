"""The database refuses every move that is not in job_transitions, and every row that makes no sense."""

from __future__ import annotations

from itertools import product

import psycopg
import pytest

from kelpie_api.db import Database
from kelpie_api.queue.states import Outcome, Status
from tests.helpers import Tenant, make_job, new_claim_id, row

LEGAL = {
    ("pending", "running"),
    ("pending", "completed"),
    ("pending", "failed"),
    ("pending", "canceled"),
    ("running", "completed"),
    ("running", "failed"),
    ("running", "canceled"),
}
FINAL = ("completed", "failed", "canceled")
STATE = {
    "pending": "pending",
    "running": "held",
    "completed": "completed",
    "failed": "failed",
    "canceled": "canceled",
}

# Everything that a row of the new status needs, so that only the move itself can be what is refused.
MOVE = """
update jobs
   set status = %(to)s::job_status, attempt = attempt + 1, started = now(),
       completed = case when %(to)s = 'completed' then now() end,
       failed = case when %(to)s = 'failed' then now() end,
       canceled = case when %(to)s = 'canceled' then now() end,
       num_failures = case when %(to)s = 'failed' then max_failures else 0 end
 where id = %(id)s"""


def test_the_legal_moves_are_those_of_the_contract(db: Database) -> None:
    rows = db.all("select from_status, to_status from job_transitions")
    assert {(move["from_status"], move["to_status"]) for move in rows} == LEGAL


@pytest.mark.parametrize(("type_name", "enum"), [("job_status", Status), ("attempt_outcome", Outcome)])
def test_python_and_sql_have_the_same_words(
    db: Database, type_name: str, enum: type[Status] | type[Outcome]
) -> None:
    labels = db.all(
        "select enumlabel as word from pg_enum where enumtypid = %(name)s::regtype order by enumsortorder",
        name=type_name,
    )
    assert [label["word"] for label in labels] == list(enum)


@pytest.mark.parametrize(("from_status", "to_status"), sorted(LEGAL))
def test_a_legal_move_is_made(db: Database, tenant: Tenant, from_status: str, to_status: str) -> None:
    job_id = make_job(db, tenant, STATE[from_status])
    assert db.execute(MOVE, id=job_id, to=to_status) == 1


@pytest.mark.parametrize(
    ("from_status", "to_status"),
    [
        (old, new)
        for old, new in product(STATE, STATE)
        if (old, new) not in LEGAL and not (old == new and old not in FINAL)
    ],
)
def test_every_other_move_is_refused(db: Database, tenant: Tenant, from_status: str, to_status: str) -> None:
    job_id = make_job(db, tenant, STATE[from_status])
    before = row(db, "jobs", job_id)
    with pytest.raises(psycopg.Error) as refusal:
        db.execute(MOVE, id=job_id, to=to_status)
    assert refusal.value.sqlstate == ("KL001" if from_status in FINAL else "KL002")
    assert row(db, "jobs", job_id) == before


@pytest.mark.parametrize("status", FINAL)
@pytest.mark.parametrize(
    "change",
    ["heartbeat = now()", "num_failures = num_failures + 1", "attempt = attempt + 1", "command = 'other'"],
)
def test_nothing_changes_after_a_final_state(db: Database, tenant: Tenant, status: str, change: str) -> None:
    job_id = make_job(db, tenant, status)
    with pytest.raises(psycopg.Error, match="takes no more changes") as refusal:
        db.execute(f"update jobs set {change} where id = %(id)s", id=job_id)
    assert refusal.value.sqlstate == "KL001"


def test_attempt_never_goes_down(db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant, "held", attempt=3)
    with pytest.raises(psycopg.Error, match="cannot go down from 3 to 2") as refusal:
        db.execute("update jobs set attempt = 2 where id = %(id)s", id=job_id)
    assert refusal.value.sqlstate == "KL003"


HELD = "machine_id = 'm', holder_group = 'g', heartbeat = now()"
THIS = "where job_id = %(id)s"

# the state to start from, the statement that makes nonsense of it, the constraint that says so
NONSENSE = [
    ("pending", "update jobs set command = '' where id = %(id)s", "jobs_command_check"),
    ("pending", "update jobs set container_group = '' where id = %(id)s", "jobs_container_group_check"),
    ("pending", "update jobs set max_failures = 0 where id = %(id)s", "jobs_max_failures_check"),
    ("pending", "update jobs set max_failures = 1001 where id = %(id)s", "jobs_max_failures_check"),
    ("pending", "update jobs set heartbeat_interval = 0 where id = %(id)s", "jobs_heartbeat_interval_check"),
    ("pending", "update jobs set heartbeat_interval = 86401 where id = %(id)s", "jobs_heartbeat_interval_check"),
    ("pending", "update jobs set webhook = '' where id = %(id)s", "jobs_webhook_check"),
    (
        "pending",
        "update jobs set input_bucket = 'b' where id = %(id)s",
        "files_by_sync_or_by_all_six_legacy_fields",
    ),
    ("pending", "update jobs set sync = null where id = %(id)s", "files_by_sync_or_by_all_six_legacy_fields"),
    ("pending", "update jobs set attempt = 1 where id = %(id)s", "pending_was_never_handed_out"),
    ("pending", "update jobs set started = now() where id = %(id)s", "pending_was_never_handed_out"),
    ("held", "update jobs set started = null where id = %(id)s", "running_was_handed_out"),
    ("held", "update jobs set completed = now() where id = %(id)s", "completed_has_its_time"),
    ("held", "update jobs set status = 'completed' where id = %(id)s", "completed_has_its_time"),
    ("held", "update jobs set failed = now() where id = %(id)s", "failed_has_its_time"),
    ("held", "update jobs set canceled = now() where id = %(id)s", "canceled_has_its_time"),
    (
        "held",
        "update jobs set status = 'failed', failed = now() where id = %(id)s",
        "failed_has_a_reason",
    ),
    ("held", "update jobs set num_failures = max_failures where id = %(id)s", "open_has_failures_left"),
    ("held", f"update queue set machine_id = null {THIS}", "held_or_waiting"),
    ("held", f"update queue set heartbeat = null {THIS}", "held_or_waiting"),
    ("pending", f"update queue set {HELD} {THIS}", "held_by_an_attempt"),
    ("pending", f"update queue set claim_id = gen_random_uuid() {THIS}", "a_claim_id_is_the_holders"),
    ("held", f"update queue set parked = array['hold'] {THIS}", "parked_is_not_held"),
    ("pending", f"update queue set parked = array[]::text[] {THIS}", "parked_has_reasons"),
    ("pending", f"update queue set parked = array['tired'] {THIS}", "parked_has_reasons"),
    ("pending", f"update queue set parked = array['backoff'] {THIS}", "backoff_has_its_end"),
    ("pending", f"update queue set backoff_until = now() {THIS}", "backoff_has_its_end"),
    ("pending", f"update queue set waits_for = 1 {THIS}", "depends_on_something"),
    ("held", f"update queue set wish = 'sleep', wished_at = now(), wish_by = 'u' {THIS}", "a_wish_is_known"),
    ("held", f"update queue set wish = 'hold' {THIS}", "a_wish_has_its_time_and_actor"),
    ("held", f"update queue set phase = 'tired' {THIS}", "a_phase_is_known"),
    ("pending", "update jobs set priority = 101 where id = %(id)s", "priority_is_in_bounds"),
    ("pending", "update jobs set name = '' where id = %(id)s", "name_is_short"),
    ("pending", "update jobs set labels = '[]' where id = %(id)s", "labels_are_an_object"),
    ("held", f"update attempts set ended = now() {THIS}", "ended_has_an_outcome"),
    ("held", f"update attempts set outcome = 'failed' {THIS}", "ended_has_an_outcome"),
    ("held", f"update attempts set number = 0 {THIS}", "attempts_number_check"),
    ("held", "insert into attempts values (%(id)s, 1, 'm', 'g')", "attempts_pkey"),
    ("pending", "insert into queue select * from queue where job_id = %(id)s", "queue_pkey"),
    (
        "pending",
        "insert into webhooks (job_id, url, status, machine_id, container_group)"
        " values (%(id)s, 'http://u/', 'canceled', 'm', 'g')",
        "webhooks_event_check",
    ),
    (
        "pending",
        "insert into webhooks (job_id, url, status, machine_id, container_group, next_try)"
        " values (%(id)s, 'http://u/', 'running', 'm', 'g', null)",
        "due_or_finished",
    ),
    (
        "pending",
        "insert into webhooks (job_id, url, status, machine_id, container_group, next_try, delivered, sealed_key)"
        " values (%(id)s, 'u', 'running', 'm', 'g', null, now(), 'key')",
        "a_finished_webhook_has_no_key",
    ),
    (
        "pending",
        "insert into events (job_id, kind, actor, attempt) values (%(id)s, 'x', 'a', 0)",
        "events_kind_check",
    ),
    ("pending", "insert into users (username, is_admin) values ('second', true)", "one_admin"),
    ("pending", "insert into outages values (now(), now())", "outages_check"),
]


@pytest.mark.parametrize(
    ("state", "statement", "constraint"), NONSENSE, ids=[f"{state}-{name}" for state, _, name in NONSENSE]
)
def test_a_row_that_makes_no_sense_is_refused(
    db: Database, tenant: Tenant, state: str, statement: str, constraint: str
) -> None:
    job_id = make_job(db, tenant, state)
    with pytest.raises(psycopg.IntegrityError) as refusal:
        db.execute(statement, id=job_id)
    assert refusal.value.diag.constraint_name == constraint


def test_a_claim_id_holds_one_job_of_a_tenant(db: Database, tenant: Tenant) -> None:
    first, second = make_job(db, tenant, "held"), make_job(db, tenant, "held")
    claim_id = new_claim_id()
    take = "update queue set claim_id = %(claim_id)s where job_id = %(id)s"
    db.execute(take, id=first, claim_id=claim_id)
    with pytest.raises(psycopg.errors.UniqueViolation):
        db.execute(take, id=second, claim_id=claim_id)
