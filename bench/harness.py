"""What all benchmarks share: a server, a database of their own on it, a caller, and goals for their results."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import click
import psycopg
from psycopg.conninfo import make_conninfo

from kelpie_api.auth import users
from kelpie_api.auth.caller import Caller
from kelpie_api.db import Database
from kelpie_api.migrations import migrate
from local_stack.postgres import EmbeddedPostgres
from local_stack.processes import scratch_folder

HELP = {"help_option_names": ["-h", "--help"]}  # the settings of every benchmark's command line
GROUP = "bench"  # the container group whose jobs are claimed
# Usual settings for a database of this size. Those for durability keep their defaults.
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB"}


@contextmanager
def server() -> Iterator[str]:
    """The address of a Postgres: DATABASE_URL if it is set, else an embedded one that is removed afterwards."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    with scratch_folder() as folder:
        embedded = EmbeddedPostgres(folder / "postgres", SETTINGS)
        embedded.start()
        try:
            yield embedded.url
        finally:
            embedded.stop()


@contextmanager
def own_database(server_url: str, keep: bool = False) -> Iterator[str]:
    """A new migrated database on the server, removed afterwards unless it is to be kept."""
    name = f"kelpie_bench_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'create database "{name}"'.encode())
    try:
        url = make_conninfo(server_url, dbname=name)
        migrate(url, lambda line: None)
        yield url
    finally:
        if not keep:
            with psycopg.connect(server_url, autocommit=True) as connection:
                connection.execute(f'drop database "{name}" with (force)'.encode())


@contextmanager
def opened(url: str, connections: int = 2) -> Iterator[Database]:
    database = Database(url, connections)
    database.open()
    try:
        yield database
    finally:
        database.close()


def note_row(what: str, met: bool | None) -> None:
    """Append a measurement to the file of BENCH_ROWS, if there is one. `met`: null if it is not judged."""
    if path := os.environ.get("BENCH_ROWS"):
        measured, _, goal = what.partition(" (goal: ")
        with Path(path).open("a") as rows:
            rows.write(json.dumps({"what": measured, "goal": goal.removesuffix(")"), "met": met}) + "\n")


@dataclass(frozen=True)
class Tenant:
    caller: Caller
    key: str


def make_tenant(db: Database) -> Tenant:
    """Create a user with an API key, as the administrator would."""
    user = users.create_user(db, "bench")
    user_id = UUID(str(user["id"]))
    key = users.create_token(db, user_id, "bench", "default")
    found = db.one_or_none("select tenant_id from api_keys where digest = %(digest)s", digest=users.digest(key))
    if found is None:
        raise RuntimeError("the key that was just made is not in the database")
    return Tenant(Caller(user_id, "bench", int(found["tenant_id"])), key)


class Goals:
    """The goals of a benchmark. A small run only shows that it works: its times are printed and not judged.

    Each is a sentence of what was measured, with its goal in brackets: "(goal: 1.5 at most)". If BENCH_ROWS names
    a file, a line {"what", "goal", "met"} is appended to it for each, from which `bench.results` makes its table;
    `met` is null in a small run.
    """

    def __init__(self, judged: bool) -> None:
        self.judged = judged
        self.missed = 0

    def fact(self, what: str, holds: bool) -> None:
        """A goal that must be met at any size."""
        click.echo(f"{'ok    ' if holds else 'MISSED'}  {what}")
        self.missed += not holds
        note_row(what, holds)

    def figure(self, what: str, reached: bool) -> None:
        """A goal that depends on size and speed, so that small runs are not judged by it."""
        if self.judged:
            self.fact(what, reached)
        else:
            click.echo(f"        {what} (small run, not judged)")
            note_row(what, None)

    def verdict(self) -> int:
        """The exit code: 1 if a goal was missed, else 0."""
        return 1 if self.missed else 0
