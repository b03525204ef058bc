"""The database of DATABASE_URL, for the commands that do no more than to work on it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click
import psycopg

from kelpie_api import logs, migrations
from kelpie_api.config import DatabaseConfig
from kelpie_api.db import Database
from kelpie_api.errors import ConfigError, KelpieError, Unavailable


@contextmanager
def database() -> Iterator[Database]:
    """The database, with the schema of this release. Raises ClickException with the sentence of any refusal."""
    try:
        config = DatabaseConfig.from_env(os.environ)
        logs.configure(config.log_level)
        db = Database(config.database_url, connections=1)
        require_connection(db)
        db.open()
        try:
            if problem := db.repeatable(lambda tx: migrations.problem(tx.connection)):
                raise click.ClickException(problem)
            yield db
        finally:
            db.close()
    except Unavailable as error:
        raise click.ClickException(f"The database of DATABASE_URL does not answer: {error.message}") from None
    except (KelpieError, ConfigError) as error:
        raise click.ClickException(str(error)) from None


def require_connection(db: Database) -> None:
    """Raise ClickException with the reason that Postgres or the network has to refuse a connection.

    The pool only knows that it got none in time.
    """
    try:
        db.connect().close()
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        # Postgres begins its own words so; without them the network has failed.
        what = "refuses the connection" if "FATAL:" in reason else "does not answer"
        raise click.ClickException(f"The database of DATABASE_URL {what}: {reason}") from None
