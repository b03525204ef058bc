"""Bring the database's schema to this release: hand-written steps, forward only, and functions as they are now.

How both are written, and what a release that runs meanwhile may rely on, stands in sql/README.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
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
);
create table if not exists schema_functions (
  name     text        not null,
  checksum text        not null,
  applied  timestamptz not null default now(),
  primary key (name, checksum)
)"""
# What tells functions of one name apart, and what their callers rely on.
SIGNATURES = """
select proname,
       array_agg(pg_get_function_identity_arguments(oid) || ' -> ' || pg_get_function_result(oid) order by oid)
  from pg_proc
 where pronamespace = current_schema()::regnamespace
 group by proname
"""
FORMER = re.compile(r"^-- Before its functions moved out its checksum was ([0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class Migration:
    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return _digest(self.text)

    @property
    def checksums(self) -> set[str]:
        """Those by which this step may have been applied: its own, and that of before its functions moved out."""
        return {self.checksum, *FORMER.findall(self.text)}


@dataclass(frozen=True)
class Function:
    """A function of the database and its source, a `create or replace function`."""

    name: str
    text: str

    @property
    def checksum(self) -> str:
        return _digest(self.text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def known(folder: Path = SQL_FOLDER / "migrations") -> list[Migration]:
    """The migrations of this release, in order; their numbers have no gap."""
    migrations = [
        Migration(int(file.stem[:4]), file.stem, file.read_text())
        for file in sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    ]
    if [migration.version for migration in migrations] != list(range(1, len(migrations) + 1)):
        raise SchemaError(f"The migrations in {folder} are not numbered 1, 2, 3 and so on.")
    return migrations


def known_functions(folder: Path = SQL_FOLDER / "functions") -> list[Function]:
    """The functions of this release; each file is named like the function it creates."""
    return [Function(file.stem, file.read_text()) for file in sorted(folder.glob("*.sql"))]


def migrate(
    url: str,
    say: Callable[[str], None],
    migrations: Sequence[Migration] | None = None,
    functions: Sequence[Function] | None = None,
) -> None:
    """Apply what is missing: each step in a transaction of its own, the changed functions in that of the last one.

    Safe from any number of hosts at once: each transaction takes the lock, looks again, and does one step. Raises
    SchemaError when the database is newer than this release, was made by migrations that differ from these, or has
    a function that the running release calls in another way.
    """
    steps = known() if migrations is None else migrations
    sources = known_functions() if functions is None else functions
    with psycopg.connect(
        url, autocommit=True, prepare_threshold=None, application_name="kelpie migrate"
    ) as connection:
        while applied := _advance(connection, steps, sources):
            for what in applied:
                say(f"applied {what}")
    say(f"the schema is at version {len(steps)}")


def _advance(
    connection: psycopg.Connection[Any], steps: Sequence[Migration], functions: Sequence[Function]
) -> list[str]:
    """Do the next step; with the last one, or after it, apply the functions that changed. What was applied."""
    with connection.transaction():
        connection.execute(LOCK)
        connection.execute(LOG)
        done = _applied(connection)
        check(done, steps)
        missing = steps[len(done) :]
        # A step that cannot get its locks soon must not queue up the running release's requests behind it.
        connection.execute("set local lock_timeout = '5s'")
        connection.execute("set local statement_timeout = '15min'")
        names = [_apply_step(connection, step) for step in missing[:1]]
        return names if len(missing) > 1 else [*names, *_apply_functions(connection, functions)]


def _apply_step(connection: psycopg.Connection[Any], step: Migration) -> str:
    connection.execute(step.text.encode())
    connection.execute(
        "insert into schema_migrations (version, name, checksum) values (%s, %s, %s)",
        (step.version, step.name, step.checksum),
    )
    return step.name


def _apply_functions(connection: psycopg.Connection[Any], functions: Sequence[Function]) -> list[str]:
    """Apply the functions whose text is new to the database: one that was applied and replaced since is old.

    Each twice: first without a look at the bodies, for they may call each other, then with it.
    """
    log = {tuple(row) for row in connection.execute("select name, checksum from schema_functions").fetchall()}
    changed = [function for function in functions if (function.name, function.checksum) not in log]
    before = _signatures(connection)
    for bodies in ("off", "on"):
        connection.execute(f"set local check_function_bodies = {bodies}")
        for function in changed:
            _create(connection, function, replaces=function.name in before)
    after = _signatures(connection)
    for function in changed:
        _require_same_signature(function, before.get(function.name), after.get(function.name))
        connection.execute(
            "insert into schema_functions (name, checksum) values (%s, %s)", (function.name, function.checksum)
        )
    return [f"function {function.name}" for function in changed]


def _signatures(connection: psycopg.Connection[Any]) -> dict[str, list[str]]:
    return dict(connection.execute(SIGNATURES).fetchall())


def _create(connection: psycopg.Connection[Any], function: Function, replaces: bool) -> None:
    try:
        connection.execute(function.text.encode())
    except psycopg.errors.InvalidFunctionDefinition as error:
        if not replaces:
            raise
        raise SchemaError(f"{_other_signature(function)} Postgres says: {error.diag.message_primary}.") from error


def _require_same_signature(function: Function, before: list[str] | None, after: list[str] | None) -> None:
    if after is None:
        raise SchemaError(f"functions/{function.name}.sql creates no function of that name.")
    if len(after) > 1 or before not in (None, after):
        raise SchemaError(_other_signature(function))


def _other_signature(function: Function) -> str:
    return (
        f"functions/{function.name}.sql changes the arguments or the result of {function.name}, which the running "
        "release calls as it was; give the changed function a new name."
    )


def _applied(connection: psycopg.Connection[Any]) -> list[tuple[int, str, str]]:
    rows = connection.execute("select version, name, checksum from schema_migrations order by version").fetchall()
    return [tuple(row) for row in rows]


def check(done: Sequence[tuple[int, str, str]], steps: Sequence[Migration]) -> None:
    """Raise SchemaError unless `done` is how `steps` begin."""
    if len(done) > len(steps):
        raise SchemaError(
            f"The database's schema is at version {len(done)}, newer than this release, which knows {len(steps)}; "
            "run the newer release."
        )
    for (version, name, checksum), step in zip(done, steps, strict=False):
        if checksum not in step.checksums:
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


def missing_functions(connection: psycopg.Connection[Any]) -> list[str]:
    """The names of this release's functions that the database has not.

    A name stands for a signature, so a function that is there can be called, whichever release applied it last.
    """
    names = [function.name for function in known_functions()]
    with connection.cursor(row_factory=scalar_row) as cursor:
        found = cursor.execute(
            "select name from unnest(%s::text[]) as wanted (name)"
            " where not exists (select from pg_proc p where p.proname = name and pg_function_is_visible(p.oid))",
            (names,),
        )
        return found.fetchall()


def problem(connection: psycopg.Connection[Any]) -> str | None:
    """Why this release cannot work with the database, in a sentence; None if it can.

    A newer schema is no problem, nor is a newer text of a function: the running release goes on beside both.
    """
    version, needed = schema_version(connection), len(known())
    if version < needed:
        return f"The database's schema is at version {version}, this release needs {needed}; run scripts/migrate."
    if missing := missing_functions(connection):
        return f"The database lacks {', '.join(missing)}, which this release calls; run scripts/migrate."
    return None
