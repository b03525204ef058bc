"""The composition root: `create_app` puts the parts of one web process together and gives it its routes."""

from __future__ import annotations

import psycopg
from flask import Flask

from kelpie_api import encryption, logs, migrations
from kelpie_api.config import Config
from kelpie_api.dashboard import site
from kelpie_api.db import HOW_TO_CONNECT, Transaction
from kelpie_api.encryption import Seal
from kelpie_api.errors import ConfigError, SchemaError, WrongSecretKey
from kelpie_api.outage_log import OutageLog
from kelpie_api.routes import docs
from kelpie_api.web import requests
from kelpie_api.web.process import Coordinator


def create_app(config: Config) -> Flask:
    """The WSGI application. Raises SchemaError and ConfigError if the database answers and does not fit.

    A database that does not answer is no reason not to start: requests are answered 503 until it does.
    """
    logs.configure(config.log_level)
    parts = Coordinator.of(config)
    refuse_unfit_database(config, parts.db.outage)
    app = Flask(__name__, static_folder=None)
    requests.prepare(app, parts)
    for blueprint in (*docs.DOCUMENTED, docs.blueprint, site.blueprint):
        app.register_blueprint(blueprint)
    # Flask adds HEAD to every GET; here it would claim a job and keep it to itself.
    for rule in app.url_map.iter_rules("work.get_work"):
        (rule.methods or set()).discard("HEAD")
    return app


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
