"""How the schema comes to be: once, whole, and never by a release that does not know it."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from kelpie_api.app import create_app
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.errors import SchemaError
from kelpie_api.migrations import LOCK, Function, Migration, known, migrate
from tests.helpers import claim, make_job, make_tenant, wait_until_blocked

MIGRATE = Path(__file__).parents[2] / "scripts" / "migrate"
NEXT = len(known()) + 1


def versions(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("select version from schema_migrations order by version")]


def exists(url: str, table: str) -> bool:
    with psycopg.connect(url) as connection:
        return connection.execute("select to_regclass(%s) is not null", [table]).fetchone() == (True,)


def apply(
    url: str, migrations: list[Migration] | None = None, functions: list[Function] | None = None
) -> list[str]:
    said: list[str] = []
    migrate(url, said.append, migrations, functions)
    return said


def config(url: str) -> Config:
    return Config(database_url=url, secret_key="x" * 32)


def test_twenty_runs_at_once_apply_each_migration_once(empty_database: str) -> None:
    """Two of them processes; the others threads, for a run has a connection of its own either way."""
    watch = Database(empty_database)
    watch.open()
    with ThreadPoolExecutor(18) as pool:
        with psycopg.connect(empty_database) as held:
            held.execute(LOCK.encode())
            processes = [
                subprocess.Popen(
                    [sys.executable, MIGRATE],
                    env=os.environ | {"DATABASE_URL": empty_database},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                for _ in range(2)
            ]
            threads = [pool.submit(apply, empty_database) for _ in range(18)]
            wait_until_blocked(watch, sessions=20)
        said = [process.communicate()[0] for process in processes]
        lines = [line for run in said for line in run.splitlines()]
        lines += [line for thread in threads for line in thread.result(60)]
    watch.close()
    assert [process.returncode for process in processes] == [0, 0], said
    assert [lines.count(f"applied {migration.name}") for migration in known()] == [1] * len(known())
    assert versions(empty_database) == [migration.version for migration in known()]


def test_a_migrated_database_is_left_alone(empty_database: str) -> None:
    apply(empty_database)
    assert apply(empty_database) == [f"the schema is at version {len(known())}"]


def test_a_step_that_fails_leaves_nothing_half_done(empty_database: str) -> None:
    broken = Migration(NEXT, "broken", "create table half_done (); select 1 / 0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        apply(empty_database, [*known(), broken])
    assert not exists(empty_database, "half_done")
    assert versions(empty_database) == [migration.version for migration in known()]


def test_what_went_before_a_step_that_fails_is_kept_and_the_mended_step_goes_on_from_there(
    empty_database: str,
) -> None:
    broken = Migration(NEXT, "mended_later", "select 1 / 0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        apply(empty_database, [*known(), broken])
    mended = replace(broken, text="create table mended ()")
    assert apply(empty_database, [*known(), mended])[0] == "applied mended_later"
    assert exists(empty_database, "mended")


def test_an_edited_migration_is_refused_by_name(empty_database: str) -> None:
    apply(empty_database)
    first, *others = known()
    with pytest.raises(SchemaError, match=rf"{first.name}.*never edited"):
        apply(empty_database, [replace(first, text=first.text + "-- edited"), *others])


def test_a_database_that_is_newer_than_the_release_is_refused(empty_database: str) -> None:
    apply(empty_database)
    with pytest.raises(SchemaError, match=r"newer than this release.*run the newer release"):
        apply(empty_database, known()[:-1])


def test_a_refusal_is_one_sentence_on_the_command_line(empty_database: str) -> None:
    apply(empty_database, [*known(), Migration(NEXT, "of_the_future", "select 1")])
    run = subprocess.run(
        [sys.executable, MIGRATE],
        env=os.environ | {"DATABASE_URL": empty_database},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("Error: The database's schema is at version")
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize("applied", [0, 1, len(known()) - 1])
def test_the_api_does_not_start_on_an_outdated_schema(empty_database: str, applied: int) -> None:
    if applied:
        apply(empty_database, known()[:applied], functions=[])
    with pytest.raises(SchemaError, match=rf"at version {applied}, .* run scripts/migrate"):
        create_app(config(empty_database))


def test_the_api_works_beside_a_newer_schema(empty_database: str) -> None:
    apply(empty_database, [*known(), Migration(NEXT, "of_the_future", "create table future ()")])
    app = create_app(config(empty_database))
    assert app.test_client().get("/readyz").status_code == 200
    app.extensions["kelpie"].end()


def test_a_gap_in_the_numbers_is_refused(tmp_path: Path) -> None:
    for name in ("0001_first.sql", "0003_third.sql"):
        (tmp_path / name).write_text("select 1")
    with pytest.raises(SchemaError, match="not numbered"):
        known(tmp_path)


def test_a_claim_that_waits_for_a_migration_is_served(empty_database: str) -> None:
    """A function finds one column more in what it returns than there was when its statement began."""
    apply(empty_database)
    db, watch = Database(empty_database, connections=1), Database(empty_database)
    db.open()
    watch.open()
    tenant = make_tenant(db, "acme", "default")
    make_job(db, tenant)
    make_job(db, tenant)
    assert claim(db, tenant, "m1") is not None  # by now the session keeps its plans
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(empty_database) as migrating:
            migrating.execute("alter table jobs add column of_the_future integer")
            claimed = pool.submit(claim, db, tenant, "m2")
            wait_until_blocked(watch, sessions=1)
        assert claimed.result(60) is not None
    db.close()
    watch.close()
