"""The named statements fit the schema, and each has a use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kelpie_api.db import SQL, SQL_FOLDER, Database
from kelpie_api.queue import jobs, listing
from kelpie_api.queue.states import Report
from tests.helpers import Tenant, claim, make_job

ROOT = Path(__file__).parents[2]
# EXPLAIN knows no utility statements; the tests of housekeeping and of the administrator run these.
UTILITY = {"vacuum_queue", "purge_jobs", "listen", "stay_connected"}
PLACEHOLDER = re.compile(r"%\((\w+)\)[sb]")
# Rules that statements share as functions, and that no plan may call for each row.
SHARED = ("of_tenant", "of_group", "in_reach", "held_by", "may_end", "visible_job")
CALLER = {"scope": 1, "groups": ["g1"], "machine_id": "m1", "attempt": 1}


@pytest.mark.parametrize("name", sorted(SQL.by_name.keys() - UTILITY))
def test_a_statement_can_be_planned_against_the_migrated_schema(db: Database, name: str) -> None:
    statement = SQL.by_name[name]
    assert db.all(f"explain {statement}", **dict.fromkeys(PLACEHOLDER.findall(statement)))


@pytest.mark.parametrize("name", sorted(UTILITY))
def test_a_utility_statement_runs(db: Database, name: str) -> None:
    db.execute(SQL.by_name[name])


def test_every_statement_is_used_and_every_used_one_exists() -> None:
    programs = [*(ROOT / "kelpie_api").rglob("*.py"), *(path for path in (ROOT / "scripts").iterdir())]
    used = {name for path in programs for name in re.findall(r"\bSQL\.([a-z_]+)\b", path.read_text())}
    assert used - {"by_name"} == SQL.by_name.keys()


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.sql").write_text("-- name: same\nselect 1;\n-- name: same\nselect 2;\n")
    with pytest.raises(ValueError, match="same a second time"):
        type(SQL)(tmp_path)


def test_each_room_has_its_statements() -> None:
    """A statement stands in the file or folder of the room or module that uses it; commands use those of any."""
    rooms, queries = ROOT / "kelpie_api", SQL_FOLDER / "queries"
    for file in queries.rglob("*.sql"):
        room = file.relative_to(queries).parts[0].removesuffix(".sql")
        named = set(re.findall(r"^-- name: (\w+)$", file.read_text(), re.MULTILINE))
        inside = {
            name
            for path in rooms.rglob("*.py")
            if path.relative_to(rooms).parts[0] in (room, f"{room}.py", "commands") or path.stem == room
            for name in re.findall(r"\bSQL\.([a-z_]+)\b", path.read_text())
        }
        assert named <= inside, (file.name, named - inside)


@pytest.mark.parametrize("name", [name for name, text in SQL.by_name.items() if re.search("|".join(SHARED), text)])
def test_the_rules_that_statements_share_disappear_in_their_plans(db: Database, name: str) -> None:
    statement = SQL.by_name[name]
    values = {key: CALLER.get(key) for key in PLACEHOLDER.findall(statement)}
    plan = db.all(f"explain (verbose) {statement}", **values)
    text = "\n".join(line["QUERY PLAN"] for line in plan)
    assert not re.search(rf"\b({'|'.join(SHARED)})\(", text), text


def test_what_may_not_scan_is_not_compiled() -> None:
    """A scan that there is no way around counts as so dear that Postgres compiles the statement each time."""
    sources = {file.name: file.read_text() for file in (SQL_FOLDER / "functions").glob("*.sql")}
    forbids = {name for name, text in sources.items() if "set enable_seqscan = off" in text}
    assert forbids and forbids <= {name for name, text in sources.items() if "set jit = off" in text}
    switches = [text for text in SQL.by_name.values() if "set_config('enable_seqscan', 'off'" in text]
    assert switches and all("set_config('jit', 'off'" in text for text in switches)


def test_each_shared_rule_is_used() -> None:
    sources = [*SQL.by_name.values(), *(file.read_text() for file in (SQL_FOLDER / "functions").glob("*.sql"))]
    for function in SHARED:
        assert sum(len(re.findall(rf"\b{function}\(", source)) for source in sources) > 1, function


def test_no_statement_says_a_shared_rule_in_its_own_words() -> None:
    for name, statement in SQL.by_name.items():
        for own_words in (
            "(scope)s::bigint is null",
            "(groups)s::text[] is null",
            "attempts (job_id, number",
            "num_heartbeats, container",
        ):
            assert own_words not in statement, name


def test_what_is_planned_once_calls_no_shared_rule_for_its_row(
    migrated_url: str, db: Database, tenant: Tenant
) -> None:
    """EXPLAIN does not show the plan inside a function, but Postgres counts the calls that are left in it."""
    one_session = Database(migrated_url, connections=1)
    one_session.open()
    one_session.execute("set track_functions = 'all'")
    make_job(one_session, tenant)
    job = claim(one_session, tenant)
    assert job
    assert listing.get(one_session, tenant.caller, job["id"])["id"] == job["id"]
    assert jobs.heartbeat(one_session, tenant.caller, job["id"], Report("m1", "g1", 1))["status"] == "running"
    one_session.execute("select pg_stat_force_next_flush()")
    called = {
        row["funcname"] for row in one_session.all("select funcname from pg_stat_user_functions where calls > 0")
    }
    one_session.close()
    assert {"submitted_batch", "claimed_job", "described_job", "renew_lease"} <= called
    assert called.isdisjoint(SHARED)


def test_rows_of_a_batch_that_steps_over_locked_ones_are_chosen_once() -> None:
    """As a subquery of `in` a plan may run them for each row, and each time others are chosen than before."""
    texts = {**SQL.by_name, **{path.name: path.read_text() for path in (SQL_FOLDER / "functions").glob("*.sql")}}
    batches = re.compile(
        r"\bin \(\s*select(?:(?!;|\n\n|\bin \().)*?\b(?:limit|offset)\b[^;]*?skip locked\)", re.DOTALL
    )
    assert [name for name, text in texts.items() if batches.search(text)] == []
