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
from psycopg.rows import scalar_row, tuple_row

from kelpie_api.db import SQL_FOLDER, begin_as_written
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
);
do $$
begin
  -- What Postgres made of the text, to notice what was replaced by hand; a release before this one left it empty.
  -- Looked for first, since altering waits for a backup that reads the table, also where it changes nothing.
  if not exists (select from pg_attribute where attrelid = 'schema_functions'::regclass and attname = 'made') then
    alter table schema_functions add column made text;
  end if;
end $$"""
# What tells functions of one name apart, and what their callers rely on; and what is there, body and settings.
FUNCTIONS = """
select proname,
       array_agg(pg_get_function_identity_arguments(oid) || ' -> ' || pg_get_function_result(oid) order by oid),
       encode(sha256(convert_to(string_agg(pg_get_functiondef(oid), '' order by oid), 'UTF8')), 'hex')
  from pg_proc
 where pronamespace = current_schema()::regnamespace
   and prokind = 'f'
 group by proname
"""
# The last row of a name is what is to be there.
APPLIED_FUNCTIONS = "select name, checksum, made from schema_functions order by applied"
REMEMBER_FUNCTION = """
insert into schema_functions (name, checksum, made)
values (%s, %s, %s)
    on conflict (name, checksum) do update set made = excluded.made, applied = now()
"""
# A step and a function mean the same whatever the role or the database sets. Behind PgBouncer, too: what is set
# for a transaction ends with it.
AS_WRITTEN = """
set local standard_conforming_strings = on;
set local datestyle = 'ISO, MDY';
set local intervalstyle = 'postgres';
set local timezone = 'UTC';
set local idle_in_transaction_session_timeout = 0;
set local default_table_access_method = 'heap';
set local default_tablespace = '';
set local transform_null_equals = off;
-- A step that cannot get its locks soon must not queue up the running release's requests behind it.
set local lock_timeout = '5s';
set local statement_timeout = '15min'"""
# Of what the server, the database and the role set for a session, what no statement can do without.
SETTINGS = """
select current_schema(),
       current_setting('search_path'),
       current_setting('server_encoding'),
       current_setting('session_replication_role')
"""
LEFT_ALONE = (
    "; left as a later text made them: {}; to go back to this release's text of a function, change a word of a"
    " comment in its file in sql/functions and migrate again"
)
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
class Present:
    """What the database has by the name of a function: signatures (one unless it is overloaded), and a digest of
    all that Postgres knows of it."""

    signatures: list[str]
    digest: str


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

    A function counts as applied if the database has it as this release's text made it, or as a later one did.
    Safe from any number of hosts at once: each transaction takes the lock, looks again, and does one step. Raises
    SchemaError when the database is newer than this release, was made by migrations that differ from these, or has
    a function that the running release calls in another way.
    """
    steps = known() if migrations is None else migrations
    sources = known_functions() if functions is None else functions
    with psycopg.connect(
        url,
        autocommit=True,
        prepare_threshold=None,
        application_name="kelpie migrate",
        client_encoding="UTF8",
    ) as connection:
        begin_as_written(connection)
        if unfit := unfit_settings(connection):
            raise SchemaError(unfit)
        while applied := _advance(connection, steps, sources):
            for what in applied:
                say(f"applied {what}")
        names = left_alone(connection, sources)
    say(f"the schema is at version {len(steps)}{LEFT_ALONE.format(', '.join(names)) if names else ''}")


def _advance(
    connection: psycopg.Connection[Any], steps: Sequence[Migration], functions: Sequence[Function]
) -> list[str]:
    """Do the next step; with the last one, or after it, apply the functions that changed. What was applied."""
    with connection.transaction():
        _mean_what_is_written(connection)
        connection.execute(LOCK)
        connection.execute(LOG)
        done = _applied(connection)
        check(done, steps)
        missing = steps[len(done) :]
        names = [_apply_step(connection, step) for step in missing[:1]]
        return names if len(missing) > 1 else [*names, *_apply_functions(connection, functions)]


def _mean_what_is_written(connection: psycopg.Connection[Any]) -> None:
    connection.execute(AS_WRITTEN)
    if connection.info.server_version >= 170000:
        connection.execute("set local transaction_timeout = 0")


def _apply_step(connection: psycopg.Connection[Any], step: Migration) -> str:
    connection.execute(step.text.encode())
    connection.execute(
        "insert into schema_migrations (version, name, checksum) values (%s, %s, %s)",
        (step.version, step.name, step.checksum),
    )
    return step.name


def _apply_functions(connection: psycopg.Connection[Any], functions: Sequence[Function]) -> list[str]:
    """Apply the functions that the database has not as this release's files make them; return what was applied.

    Each twice: first without a look at the bodies, for they may call each other, then with it.
    """
    before = _present(connection)
    log = connection.execute(APPLIED_FUNCTIONS).fetchall()
    changed = [function for function in functions if _is_to_be_applied(function, before.get(function.name), log)]
    for bodies in ("off", "on"):
        connection.execute(f"set local check_function_bodies = {bodies}")
        for function in changed:
            _create(connection, function, replaces=function.name in before)
    after = _present(connection)
    for function in changed:
        made = _require_same_signature(function, before.get(function.name), after.get(function.name))
        connection.execute(REMEMBER_FUNCTION, (function.name, function.checksum, made.digest))
    return [f"function {function.name}" for function in changed]


def _present(connection: psycopg.Connection[Any]) -> dict[str, Present]:
    return {name: Present(signatures, digest) for name, signatures, digest in connection.execute(FUNCTIONS)}


def _is_to_be_applied(function: Function, there: Present | None, log: Sequence[tuple[Any, ...]]) -> bool:
    """Whether the function is missing, has a text that is new to the database, or was replaced by hand since.

    Not where another text was applied after this one: a later release did that (see left_alone).
    """
    texts = [(checksum, made) for name, checksum, made in log if name == function.name]
    if there is None or function.checksum not in [checksum for checksum, _ in texts]:
        return True
    last, made = texts[-1]
    return bool(last == function.checksum and made != there.digest)


def left_alone(connection: psycopg.Connection[Any], functions: Sequence[Function]) -> list[str]:
    """The functions whose text was applied once and replaced by another since, which is there now."""
    last = {name: checksum for name, checksum, _ in connection.execute(APPLIED_FUNCTIONS)}
    return [function.name for function in functions if last.get(function.name) != function.checksum]


def _create(connection: psycopg.Connection[Any], function: Function, replaces: bool) -> None:
    try:
        connection.execute(function.text.encode())
    except psycopg.errors.InvalidFunctionDefinition as error:
        if not replaces:
            raise
        raise SchemaError(f"{_other_signature(function)} Postgres says: {error.diag.message_primary}.") from error


def _require_same_signature(function: Function, before: Present | None, after: Present | None) -> Present:
    if after is None:
        raise SchemaError(f"functions/{function.name}.sql creates no function of that name.")
    if len(after.signatures) > 1 or (before and before.signatures != after.signatures):
        raise SchemaError(_other_signature(function))
    return after


def _other_signature(function: Function) -> str:
    return (
        f"functions/{function.name}.sql changes the arguments or the result of {function.name}, which the running "
        "release calls as it was; give the changed function a new name. If the one that is there was made by "
        "hand, drop it instead."
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


def unfit_settings(connection: psycopg.Connection[Any]) -> str | None:
    """Which setting of the server, the database or the role keeps this release from working; None if none does.

    Other settings make no difference, or are answered 503 while they last (default_transaction_read_only).
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(SETTINGS).fetchone() or ()
    schema, search_path, encoding, replication = row
    if schema is None:
        return (
            f"search_path is {search_path!r}, and no schema of it exists or may be used; create one and grant its"
            " use to the role of DATABASE_URL, or set another path with: alter role ... set search_path = public."
        )
    if schema.startswith("pg_"):
        return (
            f"search_path is {search_path!r} and begins with {schema}, where nothing may be made; set another path"
            " with: alter role ... set search_path = public."
        )
    if encoding != "UTF8":
        return (
            f"The database's encoding is {encoding}, which cannot hold every job; make one with:"
            " create database ... encoding 'UTF8' template template0."
        )
    if replication == "replica":
        return (
            "session_replication_role is replica, by which no trigger fires, and the triggers guard the jobs;"
            " change it with: alter role ... reset session_replication_role."
        )
    return None


def problem(connection: psycopg.Connection[Any]) -> str | None:
    """Why this release cannot work with the database, in a sentence; None if it can.

    A newer schema is no problem, nor is a newer text of a function: the running release goes on beside both.
    """
    if unfit := unfit_settings(connection):
        return unfit
    version, needed = schema_version(connection), len(known())
    if version < needed:
        return f"The database's schema is at version {version}, this release needs {needed}; run scripts/migrate."
    if missing := missing_functions(connection):
        return f"The database lacks {', '.join(missing)}, which this release calls; run scripts/migrate."
    return None
