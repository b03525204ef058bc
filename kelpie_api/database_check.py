"""Whether a program fits the database that it is given, looked at when it starts. Without the rooms of the web."""

from __future__ import annotations

import psycopg

from kelpie_api import encryption, migrations
from kelpie_api.config import Config
from kelpie_api.db import HOW_TO_CONNECT, Transaction
from kelpie_api.encryption import Seal
from kelpie_api.errors import ConfigError, SchemaError, WrongSecretKey
from kelpie_api.outage_log import OutageLog


def refuse_unfit_database(config: Config, outage: OutageLog | None = None) -> None:
    """Raise SchemaError if the database answers and its schema is too old, ConfigError if it knows another key.

    If it does not answer that is logged, and noted in `outage`.
    """
    try:
        with psycopg.Connection.connect(config.database_url, **HOW_TO_CONNECT) as connection:
            if problem := migrations.problem(connection):
                raise SchemaError(problem)
            encryption.require(Transaction(connection), Seal(config.secret_key))
    except WrongSecretKey as error:
        raise ConfigError(error.message) from None
    except psycopg.Error as error:
        (outage or OutageLog()).away("pool", error)
