"""Bring the database's schema to this release: hand-written steps, forward only (sql/README.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import scalar_row

from kelpie_api.db import SQL_FOLDER
from kelpie_api.errors import SchemaError

LOCK = "select pg_advisory_xact_lock(hashtext('kelpie migrations'))"
LOG = """
create table if not exists schema_migrations (
  version  integer     primary key,
  name     text        not null,
  checksum text        not null,
  applied  timestamptz not null default now()
)"""


@dataclass(frozen=True)
class Migration:
    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def known(folder: Path = SQL_FOLDER / "migrations") -> list[Migration]:
    """The migrations of this release, in order; their numbers have no gap."""
    migrations = [
        Migration(int(file.stem[:4]), file.stem, file.read_text())
        for file in sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    ]
    if [migration.version for migration in migrations] != list(range(1, len(migrations) + 1)):
        raise SchemaError(f"The migrations in {folder} are not numbered 1, 2, 3 and so on.")
    return migrations


def migrate(url: str, say: Callable[[str], None], migrations: list[Migration] | None = None) -> None:
    """Apply what is missing, each step in a transaction of its own.

    Safe from any number of hosts at once: each step takes the lock, looks again, and does one step. Raises
    SchemaError when the database is newer than this release, or was made by migrations that differ from these.
    """
    steps = known() if migrations is None else migrations
    with psycopg.connect(
        url, autocommit=True, prepare_threshold=None, application_name="kelpie migrate"
    ) as connection:
        while applied := _apply_next(connection, steps):
            say(f"applied {applied.name}")
    say(f"the schema is at version {len(steps)}")


def _apply_next(connection: psycopg.Connection[Any], steps: list[Migration]) -> Migration | None:
    with connection.transaction():
        connection.execute(LOCK)
        connection.execute(LOG)
        done = _applied(connection)
        check(done, steps)
        if len(done) == len(steps):
            return None
        step = steps[len(done)]
        # A step that cannot get its locks soon must not queue up the running release's requests behind it.
        connection.execute("set local lock_timeout = '5s'")
        connection.execute("set local statement_timeout = '15min'")
        connection.execute(step.text.encode())
        connection.execute(
            "insert into schema_migrations (version, name, checksum) values (%s, %s, %s)",
            (step.version, step.name, step.checksum),
        )
        return step


def _applied(connection: psycopg.Connection[Any]) -> list[tuple[int, str, str]]:
    rows = connection.execute("select version, name, checksum from schema_migrations order by version").fetchall()
    return [tuple(row) for row in rows]


def check(done: list[tuple[int, str, str]], steps: list[Migration]) -> None:
    """Raise SchemaError unless `done` is how `steps` begin."""
    if len(done) > len(steps):
        raise SchemaError(
            f"The database's schema is at version {len(done)}, newer than this release, which knows {len(steps)}; "
            "run the newer release."
        )
    for (version, name, checksum), step in zip(done, steps, strict=False):
        if checksum != step.checksum:
            raise SchemaError(
                f"Migration {version} ({name}) was applied with other contents than this release has; "
                "a migration is never edited, add a new one."
            )


def schema_version(connection: psycopg.Connection[Any]) -> int:
    """The version of the database's schema; 0 where no migration ever ran."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        if not cursor.execute("select to_regclass('schema_migrations') is not null").fetchone():
            return 0
        return int(cursor.execute("select coalesce(max(version), 0) from schema_migrations").fetchone() or 0)


def problem(connection: psycopg.Connection[Any]) -> str | None:
    """Why this release cannot work with the database, in a sentence; None if it can.

    A newer schema is no problem: migrations leave the running release alive beside them.
    """
    version, needed = schema_version(connection), len(known())
    if version < needed:
        return f"The database's schema is at version {version}, this release needs {needed}; run scripts/migrate."
    return None
