"""The coordinator. `create_app` is where its parts are put together."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

import psycopg
from flask import Flask

from kelpie_api import logs, migrations, secret_key
from kelpie_api.auth import Gatekeeper
from kelpie_api.config import Config
from kelpie_api.db import HOW_TO_CONNECT, Database, Transaction
from kelpie_api.errors import ConfigError, SchemaError, Unavailable, WrongSecretKey
from kelpie_api.housekeeping import Housekeeper
from kelpie_api.machines import Sightings
from kelpie_api.salad import Salad
from kelpie_api.scaling import Lookups
from kelpie_api.sealing import Seal
from kelpie_api.waiting import WaitingRoom

__all__ = ["Coordinator", "create_app", "refuse_unfit_database"]


@dataclass
class Coordinator:
    """What one web process has: a pool, proven callers, and housekeeping threads.

    Nothing of it survives a fork, so it begins with the first request that a process serves.
    """

    config: Config
    db: Database
    gatekeeper: Gatekeeper
    housekeeper: Housekeeper
    waiting: WaitingRoom
    sightings: Sightings
    lookups: Lookups
    schema_is_current: bool = False
    begun_in: int | None = None
    beginning: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, config: Config) -> Coordinator:
        db = Database(config.database_url)
        sightings = Sightings(db)
        housekeeper = Housekeeper(db, [sightings.look_after_machines])
        waiting = WaitingRoom(db, config.max_waiters)
        lookups = Lookups(db, Salad(config.salad_api_url), config.salad_api_key)
        return cls(config, db, Gatekeeper(db, config), housekeeper, waiting, sightings, lookups)

    def begin(self) -> None:
        """Open the pool and start housekeeping, once in each process."""
        if self.begun_in == os.getpid():
            return
        with self.beginning:
            if self.begun_in != os.getpid():
                self.db.open()
                self.housekeeper.start()
                self.begun_in = os.getpid()

    def end(self) -> None:
        self.waiting.close()
        self.housekeeper.stop()
        self.gatekeeper.end()
        self.db.close()

    def require_current_schema(self) -> None:
        """Raise Unavailable while the schema is older than this release, WrongSecretKey if the key is another."""
        if self.schema_is_current:
            return
        problem = self.db.repeatable(lambda tx: migrations.problem(tx.connection))
        if problem:
            raise Unavailable(problem)
        self.db.repeatable(lambda tx: secret_key.require(tx, self.gatekeeper.seal))
        self.schema_is_current = True


def create_app(config: Config) -> Flask:
    """The WSGI application. Raises SchemaError and ConfigError if the database answers and does not fit.

    A database that does not answer is no reason not to start: requests are answered 503 until it does.
    """
    from kelpie_api import routes  # the routes need the parts above

    logs.configure(config.log_level)
    refuse_unfit_database(config)
    app = Flask(__name__, static_folder=None)
    routes.register(app, Coordinator.of(config))
    return app


def refuse_unfit_database(config: Config) -> None:
    """Raise SchemaError if the database answers and its schema is too old, ConfigError if it knows another key."""
    try:
        with psycopg.Connection.connect(config.database_url, **HOW_TO_CONNECT) as connection:
            if problem := migrations.problem(connection):
                raise SchemaError(problem)
            secret_key.require(Transaction(connection), Seal(config.secret_key))
    except WrongSecretKey as error:
        raise ConfigError(error.message) from None
    except psycopg.Error as error:
        logs.warning("database_away", message=str(error).strip())
