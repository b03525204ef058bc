"""The database of the tests: real, and one of their own on the server they find.

`DATABASE_URL` if it is set, else a Postgres container if Docker answers, else the embedded Postgres. What runs is
said in the report's head; `KELPIE_TEST_DATABASE` (`url`, `container`, `embedded`) asks for one of them, and the
tests then fail rather than take another. `KELPIE_TEST_PGBOUNCER=1` puts a PgBouncer before it.
"""

from __future__ import annotations

import gc
import os
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import docker
import psycopg
import pytest
from docker.errors import DockerException
from flask import Flask
from psycopg.conninfo import make_conninfo
from testcontainers.community.postgres import PostgresContainer
from xdist.scheduler import LoadFileScheduling

from kelpie_api import encryption, logs
from kelpie_api.app import create_app
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.encryption import Seal
from kelpie_api.migrations import migrate
from kelpie_api.net.public_http import PublicHttp
from kelpie_api.outage_log import OutageLog
from kelpie_api.queue import jobs
from kelpie_api.web.process import Coordinator
from kelpie_api.webhooks.sender import Sender
from local_stack.postgres import EmbeddedPostgres
from local_stack.processes import wait_for
from tests import pgbouncer
from tests.doubles.fleet import FleetDouble
from tests.doubles.receiver import Receiver, receiving
from tests.doubles.salad import SaladDouble
from tests.doubles.tokens import TokenDouble
from tests.helpers import Client, Tenant, empty_tables, make_tenant, set_for_all_tables

pytest_plugins = ["tests.worker_fixtures"]

OFFICIAL_IMAGE = "postgres:17"
# What is written need not outlive the machine, and several stacks may use a server at once. A server that a test
# kills is another one, and durable. Debian's Postgres compiles statements that a test forbids sequential scans,
# for longer than they run.
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off", "max_connections": "300", "jit": "off"}
SLOWEST = (
    "tests/containers/",
    "tests/openapi/",
    "tests/local_stack/",
    "tests/e2e/",
    "tests/slurm/",
    "tests/docs/test_first_steps",
    "tests/frozen/",
    "tests/bench/",
    "tests/dashboard/test_in_chromium",
    "tests/workspace/",
    "tests/worker/test_interruptions",
    "tests/web/test_failover",
    "tests/web/test_without_postgres",
)
ADMIN_KEY = "the-administrators-key"
SECRET_KEY = "a secret of more than thirty-two characters"


@cache
def docker_answers() -> bool:
    with warnings.catch_warnings():
        # If docker does not listen, its client leaves the socket to the garbage collector, which complains later.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            with closing(docker.from_env(timeout=5)) as client:
                client.ping()
        except DockerException:
            return False
        finally:
            gc.collect()
    return True


def database_kind() -> str:
    asked = os.environ.get("KELPIE_TEST_DATABASE")
    if asked:
        return asked
    if os.environ.get("DATABASE_URL"):
        return "url"
    return "container" if docker_answers() else "embedded"


@contextmanager
def server(kind: str) -> Iterator[str]:
    """The address of a Postgres server, kept up for as long as it is needed."""
    if kind == "url":
        yield os.environ["DATABASE_URL"]
    elif kind == "container":
        image = os.environ.get("KELPIE_TEST_POSTGRES_IMAGE", OFFICIAL_IMAGE)
        with PostgresContainer(image, driver=None) as container:
            restart_with(container, NOT_DURABLE)
            yield container.get_connection_url()
    elif kind == "embedded":
        with tempfile.TemporaryDirectory(prefix="kelpie-test-postgres-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o755)
            embedded = EmbeddedPostgres(Path(folder) / "postgres", NOT_DURABLE)
            embedded.start()
            try:
                yield embedded.url
            finally:
                embedded.stop()
    else:
        raise pytest.UsageError(f"KELPIE_TEST_DATABASE must be url, container or embedded, not {kind!r}.")


def restart_with(container: PostgresContainer, settings: Mapping[str, str]) -> None:
    """Change settings of a server in a container, whose image may not heed the arguments of its command."""
    with psycopg.connect(container.get_connection_url(), autocommit=True) as connection:
        for name, value in settings.items():
            connection.execute(f"alter system set {name} = {value}".encode())
    container.get_wrapped_container().restart()
    wait_for(lambda: answers(container.get_connection_url()), "Postgres to answer again")


def answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def own_database(server_url: str) -> Iterator[str]:
    """A new database on a server: tests empty tables, and must never do that to one that is in use."""
    name = f"kelpie_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'create database "{name}"'.encode())
        try:
            yield make_conninfo(server_url, dbname=name)
        finally:
            connection.execute(f'drop database "{name}" with (force)'.encode())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first: each stays in one process, and all others wait for one that is begun last."""
    items.sort(
        key=lambda item: next(
            (rank for rank, room in enumerate(SLOWEST) if item.nodeid.startswith(room)), len(SLOWEST)
        )
    )


class ByStack(LoadFileScheduling):
    """A file's tests in one process, for what its fixtures start; all those of containers, which share a stack."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/containers/" if nodeid.startswith("tests/containers/") else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)  # without xdist's plugin there is nothing to share
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    return ByStack(config, log)


def pytest_report_header() -> str:
    return f"database: {database_kind()}{', through PgBouncer' if pgbouncer.asked_for else ''}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Charts that tests left with `record_property`."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, chart in report.user_properties:
            if name == "chart":
                terminalreporter.section(report.nodeid, sep="-")
                terminalreporter.write_line(str(chart))


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    with server(database_kind()) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_url(server_url: str) -> Iterator[str]:
    with own_database(server_url) as url:
        migrate(url, lambda line: None)
        yield url


@pytest.fixture(scope="session")
def app_url(migrated_url: str) -> Iterator[str]:
    """The migrated database as the application reaches it."""
    if not pgbouncer.asked_for:
        yield migrated_url
        return
    with pgbouncer.pgbouncer(migrated_url) as url:
        yield url


@pytest.fixture
def empty_database(server_url: str) -> Iterator[str]:
    """A database without any schema, for one test."""
    with own_database(server_url) as url:
        yield url


@pytest.fixture(scope="session")
def database(app_url: str) -> Iterator[Database]:
    """The migrated database with whatever the tests before left in it; take `db` instead."""
    database = Database(app_url, connections=40)
    database.open()
    yield database
    database.close()


@pytest.fixture
def db(database: Database) -> Iterator[Database]:
    """The migrated database, with no rows but those of the migrations."""
    empty_tables(database)
    yield database
    database.execute("delete from secret_key")  # another test's programs may have another key


@pytest.fixture
def new_tables(db: Database) -> Iterator[Database]:
    """Without the index entries that deleted rows leave until a vacuum: for tests that count what is read.

    And without autovacuum: while it is at a table, `skip_locked` leaves that one out, and the snapshot of its
    `analyze` keeps dead rows in every table. Taking the setting ends a run that is under way.
    """
    jobs.purge(db)
    set_for_all_tables(db, "set (autovacuum_enabled = off)")
    yield db
    set_for_all_tables(db, "reset (autovacuum_enabled)")


@pytest.fixture
def tenant(db: Database) -> Tenant:
    return make_tenant(db, "acme", "default")


@pytest.fixture
def settings() -> dict[str, Any]:
    """What a test file wants to be different in the application."""
    return {}


@pytest.fixture
def config(db: Database, app_url: str, settings: dict[str, Any]) -> Config:
    return Config(**{"database_url": app_url, "secret_key": SECRET_KEY, "admin_key": ADMIN_KEY} | settings)


@pytest.fixture(scope="session")
def routes(app_url: str) -> Flask:
    """The application without the parts of a process; take `app` instead."""
    application = create_app(Config(database_url=app_url, secret_key=SECRET_KEY))
    application.extensions["kelpie"].end()
    return application


class KeptOpen(Database):
    """A pool that stays open from one application to the next."""

    def renewed(self) -> KeptOpen:
        """As a process has it that just began."""
        self.away, self.outage = False, OutageLog()
        return self

    def close(self) -> None:
        """Nothing: the next application takes it."""


@pytest.fixture(scope="session")
def pool_of_apps(app_url: str) -> Iterator[KeptOpen]:
    """The connections of `app`: a new one reads the catalog and plans each function, longer than a test takes."""
    pool = KeptOpen(app_url)
    yield pool
    Database.close(pool)


@pytest.fixture
def pool_of_app(pool_of_apps: KeptOpen) -> Database | None:
    """None where a test wants connections that begin with it."""
    return pool_of_apps.renewed()


@pytest.fixture
def notes_by_itself() -> bool:
    """Whether the application sees to machines, blocked jobs, wishes, sweeps and dependencies every few seconds.

    Otherwise a test says when that is done, and nothing is locked or moved beside it.
    """
    return False


@pytest.fixture
def app(
    routes: Flask,
    config: Config,
    app_url: str,
    db: Database,
    pool_of_app: Database | None,
    notes_by_itself: bool,
) -> Iterator[Flask]:
    """The application in this process, on the real database, as a process has it that just began.

    What an application remembers is in its extensions, so these are new in each test; to register the routes
    anew, and to look whether the schema is the one that `migrated_url` made, would take longer than most tests.
    """
    logs.configure(config.log_level)
    routes.extensions.clear()
    pool = pool_of_app if config.database_url == app_url else None
    parts = routes.extensions["kelpie"] = replace(Coordinator.of(config, pool), schema_is_current=True)
    if not notes_by_itself:
        maintenance = parts.maintenance
        maintenance.duties = (maintenance.vacuum, maintenance.settle, maintenance.cut_overdue)
    db.repeatable(lambda tx: encryption.require(tx, parts.authenticator.seal))  # the database knows the key
    yield routes
    routes.extensions["kelpie"].end()


@pytest.fixture
def salad() -> Iterator[SaladDouble]:
    """Salad's public API."""
    double = SaladDouble()
    yield double
    double.end()


@pytest.fixture
def fleet() -> Iterator[FleetDouble]:
    """Salad's public API with container groups that can be changed."""
    double = FleetDouble()
    yield double
    double.end()


@pytest.fixture
def tokens() -> Iterator[TokenDouble]:
    """Salad's token service, for one machine of the organization acme."""
    double = TokenDouble()
    yield double
    double.end()


@pytest.fixture
def api(app: Flask, tenant: Tenant) -> Client:
    """A client that calls with the tenant's key."""
    return Client(app.test_client(), tenant.key)


@pytest.fixture
def admin(app: Flask) -> Client:
    return Client(app.test_client(), ADMIN_KEY)


@pytest.fixture
def stranger(app: Flask, db: Database) -> Client:
    """A client of another user."""
    return Client(app.test_client(), make_tenant(db, "rival", "default").key)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of webhooks."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def sender(db: Database) -> Sender:
    """A sender of webhooks that may reach this machine."""
    return Sender(db, Seal(SECRET_KEY), PublicHttp(allow_private=True))
