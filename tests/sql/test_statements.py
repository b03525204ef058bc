"""The named statements fit the schema, and each has a use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kelpie_api.db import SQL, Database

ROOT = Path(__file__).parents[2]
# EXPLAIN knows no utility statements; the tests of housekeeping and of the administrator run these.
UTILITY = {"vacuum_queue", "purge_jobs", "listen"}
PLACEHOLDER = re.compile(r"%\((\w+)\)s")


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
