"""The role that the programs connect as: it can do all that they do, and nothing more."""

from __future__ import annotations

import re
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from kelpie_api.db import SQL, Database
from kelpie_api.errors import SchemaError
from kelpie_api.grants import let_work
from kelpie_api.migrations import Function, Migration, known, migrate, problem
from kelpie_api.queue import jobs
from kelpie_api.queue.maintenance import Maintenance
from tests.conftest import own_database
from tests.helpers import at_once, claimed_id, make_job, make_tenant
from tests.sql.test_statements import PLACEHOLDER, UTILITY


def quiet(line: str) -> None:
    """What was done is not looked at."""


@dataclass(frozen=True)
class Installed:
    """A migrated database, as its owner reaches it and as the programs do."""

    owner_url: str
    app_url: str
    role: str
    passfile: Path


@pytest.fixture(scope="module")
def installed(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    role, passfile = f"app_{uuid.uuid4().hex[:12]}", tmp_path_factory.mktemp("role") / "pgpass"
    with own_database(server_url) as owner_url:
        migrate(owner_url, quiet)
        let_work(owner_url, role, passfile, quiet)
        password = passfile.read_text().strip().rpartition(":")[2]
        yield Installed(owner_url, make_conninfo(owner_url, user=role, password=password), role, passfile)
    drop_role(server_url, role)


def drop_role(server_url: str, role: str) -> None:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"drop role if exists {role}".encode())


@pytest.fixture
def app(installed: Installed) -> Iterator[Database]:
    database = Database(installed.app_url, connections=4)
    database.open()
    yield database
    database.close()


@pytest.mark.parametrize("name", sorted(SQL.by_name.keys() - UTILITY))
def test_it_may_run_every_statement_of_the_programs(app: Database, name: str) -> None:
    """EXPLAIN checks privileges as the execution does."""
    statement = SQL.by_name[name]
    assert app.all(f"explain {statement}", **dict.fromkeys(PLACEHOLDER.findall(statement)))


@pytest.mark.parametrize("name", sorted(UTILITY))
def test_it_may_run_every_utility_statement(app: Database, name: str) -> None:
    app.execute(SQL.by_name[name])


def test_a_job_goes_its_way_and_all_can_be_removed(app: Database) -> None:
    tenant = make_tenant(app, "someone", "default")
    submitted = make_job(app, tenant)
    assert claimed_id(app, tenant) == submitted
    jobs.purge(app)
    assert claimed_id(app, tenant) is None
    with app.connect() as connection:
        assert problem(connection) is None


@pytest.mark.parametrize(
    "statement",
    [
        "create table mine (id integer)",
        "create or replace function lapsed() returns integer language sql as 'select 1'",
        "alter table jobs disable trigger all",
        "alter table jobs add column mine integer",
        "drop table jobs",
        "drop index jobs_pkey",
        "create index mine on jobs (id)",
        "set session_replication_role = replica",
        "update schema_migrations set checksum = ''",
        "delete from schema_functions",
        "insert into job_transitions values ('completed', 'running')",
        "create role another superuser",
    ],
)
def test_it_may_change_nothing_but_rows(installed: Installed, statement: str) -> None:
    with psycopg.connect(installed.app_url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def test_it_owns_nothing(installed: Installed) -> None:
    with psycopg.connect(installed.owner_url) as connection:
        row = connection.execute(
            "select count(*) from pg_shdepend d join pg_roles r on r.oid = d.refobjid"
            " where r.rolname = %s and d.deptype = 'o'",
            (installed.role,),
        ).fetchone()
    assert row == (0,)


def test_what_a_later_migration_makes_can_be_used_at_once(installed: Installed) -> None:
    text = (
        "create table later (id bigint generated always as identity, x serial); insert into later default values"
    )
    later = Migration(len(known()) + 1, f"{len(known()) + 1:04}_later", text)
    answer = Function("answer", "create or replace function answer() returns bigint language sql as 'select 42'")
    migrate(installed.owner_url, quiet, [*known(), later], [answer])
    with psycopg.connect(installed.app_url) as connection:
        connection.execute("insert into later default values")
        assert connection.execute("select count(*), answer() from later").fetchone() == (2, 42)


def test_a_repetition_keeps_the_password_and_a_lost_file_gets_a_new_one(installed: Installed) -> None:
    kept = installed.passfile.read_text()
    assert stat.S_IMODE(installed.passfile.stat().st_mode) == 0o600  # libpq ignores a file that others may read
    let_work(installed.owner_url, installed.role, installed.passfile, quiet)
    assert installed.passfile.read_text() == kept

    lost = installed.passfile.with_name("lost")
    let_work(installed.owner_url, installed.role, lost, quiet)
    by_file = make_conninfo(installed.owner_url, user=installed.role, password="", passfile=str(lost))
    with psycopg.connect(by_file) as connection:
        assert connection.execute("select count(*) from jobs").fetchone() is not None
    let_work(installed.owner_url, installed.role, installed.passfile, quiet)


def test_several_hosts_may_do_it_at_once(installed: Installed) -> None:
    kept = installed.passfile.read_text()
    at_once([lambda: let_work(installed.owner_url, installed.role, installed.passfile, quiet)] * 4)
    assert installed.passfile.read_text() == kept


def test_where_it_may_not_vacuum_the_log_says_what_to_do(
    installed: Installed, app: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(installed.owner_url, autocommit=True) as owner:
        newer = owner.info.server_version >= 170000
        if newer:
            owner.execute(f"revoke maintain on queue from {installed.role}".encode())
        monkeypatch.setattr("kelpie_api.queue.maintenance.DEAD_ROWS", 0)
        assert Maintenance(app).vacuum() == timedelta(hours=1).total_seconds()
        assert "queue_not_vacuumed" in caplog.text
        if newer:
            owner.execute(f"grant maintain on queue to {installed.role}".encode())
            assert Maintenance(app).vacuum() < 60


@pytest.mark.parametrize(
    ("role", "sentence"),
    [
        ("nosuch_role", "There is no role nosuch_role; make it with: create role nosuch_role login"),
        ("{owner}", "{owner} is the role that migrates, and may do more"),
        ("Robert'); drop", "use lower-case letters"),
        ("{member}", "{member} is a member of the role that migrates"),
        ("{owning}", "{owning} owns tables"),
        ("{superuser}", "{superuser} is a superuser"),
    ],
)
def test_a_role_that_may_do_more_is_refused(
    installed: Installed, server_url: str, role: str, sentence: str
) -> None:
    with psycopg.connect(installed.owner_url, autocommit=True) as connection:
        owner = str(connection.info.user)
        names = {kind: f"{kind}_{uuid.uuid4().hex[:12]}" for kind in ("member", "owning", "superuser")}
        connection.execute(f"create role {names['member']} in role {owner}".encode())
        connection.execute(f"create role {names['owning']}".encode())
        connection.execute(f"create role {names['superuser']} superuser".encode())
        connection.execute(f"create table theirs(); alter table theirs owner to {names['owning']}".encode())
        try:
            with pytest.raises(SchemaError, match=re.escape(sentence.format(owner=owner, **names))):
                let_work(installed.owner_url, role.format(owner=owner, **names), None, quiet)
        finally:
            connection.execute("drop table theirs")
            connection.execute(f"drop role {', '.join(names.values())}".encode())
