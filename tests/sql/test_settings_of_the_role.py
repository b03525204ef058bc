"""What a server, a database or a role sets for each session changes no answer, or is refused in a sentence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from flask import Flask
from psycopg.conninfo import make_conninfo

from kelpie_api.app import create_app
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.errors import RolledBack, SchemaError, Unavailable
from kelpie_api.migrations import migrate, problem
from local_stack.processes import wait_for
from tests.conftest import ADMIN_KEY, SECRET_KEY, own_database
from tests.helpers import Client, make_tenant
from tests.pgbouncer import pgbouncer

HARMLESS = {
    "datestyle": "'German, DMY'",
    "timezone": "'America/St_Johns'",
    "intervalstyle": "sql_standard",
    "client_encoding": "latin1",
    "bytea_output": "escape",
    "extra_float_digits": "-5",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "transform_null_equals": "on",
    "row_security": "off",
    "statement_timeout": "'9s'",
    "lock_timeout": "'4s'",
    "idle_in_transaction_session_timeout": "'1s'",
    "idle_session_timeout": "'1s'",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "synchronous_commit": "off",
    "search_path": "public, pg_catalog",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "jit": "on",
    "jit_above_cost": "0",
}


def set_all(url: str, settings: dict[str, str]) -> None:
    """For sessions that begin later."""
    with psycopg.connect(url, autocommit=True) as operator:
        for name, value in settings.items():
            operator.execute(f'alter database "{operator.info.dbname}" set {name} to {value}'.encode())


@contextmanager
def running_app(url: str) -> Iterator[Flask]:
    app = create_app(Config(database_url=url, secret_key=SECRET_KEY, admin_key=ADMIN_KEY))
    try:
        yield app
    finally:
        app.extensions["kelpie"].end()


@pytest.fixture
def odd_database(empty_database: str) -> str:
    """Migrated with the settings in force."""
    set_all(empty_database, HARMLESS)
    migrate(empty_database, lambda line: None)
    return empty_database


@pytest.mark.parametrize("bounced", [False, True], ids=["directly", "behind PgBouncer"])
def test_a_job_goes_its_way_whatever_a_session_is_set_to(odd_database: str, bounced: bool) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(pgbouncer(odd_database)) if bounced else odd_database
        app = stack.enter_context(running_app(url))
        db = app.extensions["kelpie"].db
        assert Client(app.test_client(), None).get("/readyz").status_code == 200
        client = Client(app.test_client(), make_tenant(db, "acme", "default").key)
        text = "ü☃ \\ 'quoted' \"€\""
        submitted = client.submit(environment={"TEXT": text}, arguments=[text])
        assert abs(datetime.fromisoformat(submitted["created"]) - datetime.now(UTC)) < timedelta(minutes=1)
        assert submitted["created"].endswith("Z")
        job = client.claim()
        assert job is not None and job["environment"] == {"TEXT": text} and job["arguments"] == [text]
        assert client.report(job, "heartbeat").json["status"] == "running"  # type: ignore[index]
        assert client.report(job, "completed").status_code == 200
        assert client.get(f"/jobs/{job['id']}").json["status"] == "completed"  # type: ignore[index]
        for path in ("attempts", "events", "webhooks"):
            assert client.get(f"/jobs/{job['id']}/{path}").status_code == 200
        a_steered_job_goes_its_way(client)


def a_steered_job_goes_its_way(client: Client) -> None:
    """What is kept as JSON, as arrays, as bytes and as fractions comes back as it was sent."""
    assert client.call("PUT", "/secrets/TOKEN", {"value": "\\x00 NULL"}).status_code == 200
    sweep = (client.post("/sweeps", {"name": "NULL", "max_parallel": 1}).json or {})["id"]
    labels = {"a": "null", "b": "\\"}
    job = client.submit(
        name="NULL", labels=labels, secrets=["TOKEN"], sweep=sweep, keep_output=1024, arguments=["NULL", ""]
    )
    after = client.submit(name="after", depends_on=[job["id"]], sweep=sweep)
    found = client.get(f"/jobs?label=a:null&name=NU*&sweep={sweep}&since=2026-01-01").json or {}
    assert [one["id"] for one in found["jobs"]] == [job["id"]]
    held = client.claim() or {}
    assert (held["environment"]["TOKEN"], held["arguments"], held["labels"]) == (
        "\\x00 NULL",
        ["NULL", ""],
        labels,
    )
    told = {"fraction": 0.12345678901234567, "loss": 1e-300, "message": "NULL"}
    assert client.report(held, "heartbeat", attempt=1, progress=told, phase="running").status_code == 200
    course = client.get(f"/jobs/{job['id']}/progress").json or {}
    assert course["progress"]["fraction"] == told["fraction"] and course["points"][0]["metrics"] == {
        "loss": 1e-300
    }
    output = bytes(range(256))
    holder = "machine_id=m1&container_group_id=g1&attempt=1&from=0"
    assert client.call("PUT", f"/jobs/{job['id']}/output?{holder}", output).status_code == 200
    assert client.get(f"/jobs/{job['id']}/output").data == output
    file = {"bucket": "b", "key": "NULL", "size": 2**40, "etag": None}
    report = {"machine_id": "m1", "container_group_id": "g1", "attempt": 1, "generation": 1, "files": [file]}
    assert client.call("PUT", f"/jobs/{job['id']}/checkpoint", report).status_code == 200
    assert (client.get(f"/jobs/{job['id']}/checkpoint").json or {})["files"] == [{**file, "version_id": None}]
    assert client.get(f"/jobs/{after['id']}/why").status_code == 200
    assert client.report(held, "completed", attempt=1).status_code == 200
    assert client.post("/jobs/hold", {"name": "after"}).json == {"count": 1, "refused": []}
    assert client.get("/usage?by=label:a").status_code == 200
    assert (client.get("/jobs/counts?open=true").json or {})["count"] == 1


def test_a_listener_is_not_ended_for_being_silent(odd_database: str) -> None:
    with running_app(odd_database) as app:
        coordinator = app.extensions["kelpie"]
        listener = coordinator.waiting.listener
        coordinator.begin()
        thread = threading.Thread(target=listener.keep_listening)
        thread.start()
        wait_for(lambda: listener.proven, "the listener to hear")
        session = backend_that_listens(odd_database)
        coordinator.db.execute("select pg_sleep(1.5)")  # longer than idle_session_timeout
        assert backend_that_listens(odd_database) == session
        listener.stop()
        thread.join(10)


def backend_that_listens(url: str) -> int:
    with psycopg.connect(url) as operator:
        found = operator.execute("select pid from pg_stat_activity where query like %s", ("%listen kelpie_work%",))
        (pid,) = found.fetchone() or (None,)
        assert pid is not None
        return int(pid)


REFUSED = [
    ({"search_path": "nowhere"}, r"search_path is 'nowhere', and no schema of it exists"),
    ({"search_path": "pg_catalog, public"}, r"begins with pg_catalog, where nothing may be made"),
    ({"session_replication_role": "replica"}, r"session_replication_role is replica, .* alter role"),
]


@pytest.mark.parametrize(("settings", "sentence"), REFUSED)
def test_a_setting_that_the_programs_cannot_do_with_is_refused_at_start(
    empty_database: str, settings: dict[str, str], sentence: str
) -> None:
    migrate(empty_database, lambda line: None)
    set_all(empty_database, settings)
    with pytest.raises(SchemaError, match=sentence):
        migrate(empty_database, lambda line: None)
    with pytest.raises(SchemaError, match=sentence):
        create_app(Config(database_url=empty_database, secret_key=SECRET_KEY))


def test_an_encoding_that_cannot_hold_every_job_is_refused(server_url: str) -> None:
    with psycopg.connect(server_url, autocommit=True) as operator:
        operator.execute(
            "create database kelpie_latin encoding 'LATIN1' locale_provider libc locale 'C' template template0"
        )
    try:
        url = make_conninfo(server_url, dbname="kelpie_latin")
        with pytest.raises(SchemaError, match=r"encoding is LATIN1, .* create database"):
            migrate(url, lambda line: None)
        with psycopg.connect(url) as connection:
            assert "LATIN1" in (problem(connection) or "")
    finally:
        with psycopg.connect(server_url, autocommit=True) as operator:
            operator.execute("drop database kelpie_latin with (force)")


def out_of_memory(db: Database, url: str) -> None:
    db.execute("select pg_advisory_xact_lock(number) from generate_series(1, 200000) as number")


def too_slow(db: Database, url: str) -> None:
    db.execute("select pg_sleep(30)")


def locked_elsewhere(db: Database, url: str) -> None:
    with psycopg.connect(url) as rival:
        rival.execute("lock table jobs in access exclusive mode")
        db.execute("delete from jobs")


def silent_for_long(db: Database, url: str) -> None:
    with db.transaction() as tx:
        pid = tx.connection.info.backend_pid
        wait_for(lambda: not lives(url, pid), "the server to end the session")
        tx.execute("select 1")


def lives(url: str, pid: int) -> bool:
    with psycopg.connect(url) as operator:
        found = operator.execute("select from pg_stat_activity where pid = %s", (pid,)).fetchone()
        return found is not None


@pytest.mark.parametrize(
    ("settings", "trouble", "answer", "sentence"),
    [
        (
            {},
            out_of_memory,
            Unavailable,
            r"short of something \(out of shared memory\), so this was not carried out",
        ),
        ({"statement_timeout": "'100ms'"}, too_slow, Unavailable, "took too long"),
        ({"lock_timeout": "'50ms'"}, locked_elsewhere, RolledBack, "crossed another one and was not carried out"),
        ({"idle_in_transaction_session_timeout": "'50ms'"}, silent_for_long, RolledBack, "was not carried out"),
    ],
)
def test_what_a_setting_ends_is_answered_with_what_became_of_it(
    server_url: str,
    settings: dict[str, str],
    trouble: Callable[[Database, str], None],
    answer: type[Unavailable],
    sentence: str,
) -> None:
    with own_database(server_url) as url:
        migrate(url, lambda line: None)
        set_all(url, settings)
        db = Database(url)
        db.open()
        with pytest.raises(answer, match=sentence):
            trouble(db, url)
        assert db.one_or_none("select 1 as one") == {"one": 1}
        db.close()
