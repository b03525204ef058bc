"""The role that the running programs connect as: it reads and writes rows, and owns nothing.

The role that migrates owns the tables. What it makes later is covered from its first moment on, by default
privileges, so that a running release can use it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from kelpie_api.errors import SchemaError
from kelpie_api.migrations import LOCK

# Of these the programs only read: what the schema is, and which changes of a job are legal.
READ_ONLY = ("schema_migrations", "schema_functions", "job_transitions")
GRANTS = """
grant connect on database {database} to {role};
grant usage on schema {schema} to {role};
grant select, insert, update, delete, truncate on all tables in schema {schema} to {role};
revoke insert, update, delete, truncate on {read_only} from {role};
grant usage, select on all sequences in schema {schema} to {role};
grant execute on all functions in schema {schema} to {role};
alter default privileges in schema {schema} grant select, insert, update, delete, truncate on tables to {role};
alter default privileges in schema {schema} grant usage, select on sequences to {role};
alter default privileges in schema {schema} grant execute on functions to {role};
"""
# The programs vacuum the queue, which before Postgres 17 only its owner may do.
GRANT_MAINTENANCE = "grant maintain on table queue to {role}"
# What a role may do besides; null if nothing.
WHAT_MORE = """
select case
         when r.rolname = current_user then 'is the role that migrates'
         when r.rolsuper then 'is a superuser'
         when pg_has_role(r.rolname, current_user, 'member') then 'is a member of the role that migrates'
         when exists (select from pg_class
                       where relowner = r.oid
                         and relnamespace = current_schema()::regnamespace) then 'owns tables'
       end
  from pg_roles r
 where r.rolname = %s
"""
ROLE_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def let_work(url: str, role: str, passfile: Path | None, say: Callable[[str], None]) -> None:
    """Let a role read and write the rows of the migrated database, and nothing else.

    With `passfile` the role is made if it is missing, and gets the password of that file, whose form is that of
    PGPASSFILE; a missing file gets a new password. Safe to repeat, also from several hosts at once.

    Raises SchemaError.
    """
    if not ROLE_NAME.fullmatch(role):
        raise SchemaError(f"{role!r} cannot be the role: use lower-case letters, digits and underscores.")
    password = _password(passfile, role) if passfile else None
    with psycopg.connect(url, prepare_threshold=None, application_name="kelpie migrate") as connection:
        try:
            connection.execute(LOCK)
            _require_another(connection, role)
            _make(connection, role, password)
            _grant(connection, role)
        except psycopg.errors.InsufficientPrivilege as error:
            raise SchemaError(
                f"The role of DATABASE_URL may not do this for {role}: {error.diag.message_primary}."
            ) from error
    say(f"{role} may read and write rows")


def _password(passfile: Path, role: str) -> str:
    try:
        kept = passfile.read_text().strip() if passfile.exists() else ""
        if kept.startswith(f"*:*:*:{role}:"):
            return kept.rpartition(":")[2]
        password = secrets.token_hex(32)
        new = passfile.with_name(f"{passfile.name}.new")
        new.unlink(missing_ok=True)
        new.touch(mode=0o600)
        new.write_text(f"*:*:*:{role}:{password}\n")
        new.replace(passfile)
    except OSError as error:
        raise SchemaError(f"The password file {passfile} cannot be used: {error.strerror}.") from error
    return password


def _make(connection: psycopg.Connection[Any], role: str, password: str | None) -> None:
    is_there = connection.execute("select from pg_roles where rolname = %s", (role,)).fetchone() is not None
    if password is None:
        if not is_there:
            raise SchemaError(f"There is no role {role}; make it with: create role {role} login password '...'.")
        return
    statement = "alter role {} login password {}" if is_there else "create role {} login password {}"
    # Hashed here, so that a server that logs its statements has no password in its log.
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    connection.execute(sql.SQL(statement).format(sql.Identifier(role), sql.Literal(verifier.decode())))


def _require_another(connection: psycopg.Connection[Any], role: str) -> None:
    with connection.cursor(row_factory=tuple_row) as cursor:
        more = cursor.execute(WHAT_MORE, (role,)).fetchone()
    if more and more[0]:
        raise SchemaError(f"{role} {more[0]}, and may do more than read and write rows; name another role.")


def _grant(connection: psycopg.Connection[Any], role: str) -> None:
    with connection.cursor(row_factory=tuple_row) as cursor:
        names = cursor.execute("select current_database(), current_schema()").fetchone()
    database, schema = names or ("", "")
    named = {
        "role": sql.Identifier(role),
        "database": sql.Identifier(database),
        "schema": sql.Identifier(schema),
        "read_only": sql.SQL(", ").join(sql.Identifier(table) for table in READ_ONLY),
    }
    connection.execute(sql.SQL(GRANTS).format(**named))
    if connection.info.server_version >= 170000:
        connection.execute(sql.SQL(GRANT_MAINTENANCE).format(role=sql.Identifier(role)))
