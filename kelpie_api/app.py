"""The composition root: `create_app` puts the parts of one web process together and gives it its routes."""

from __future__ import annotations

from flask import Flask

from kelpie_api import logs
from kelpie_api.config import Config
from kelpie_api.dashboard import site
from kelpie_api.database_check import refuse_unfit_database
from kelpie_api.routes import docs
from kelpie_api.web import requests
from kelpie_api.web.application import Application
from kelpie_api.web.process import Coordinator


def create_app(config: Config) -> Flask:
    """The WSGI application. Raises SchemaError and ConfigError if the database answers and does not fit.

    A database that does not answer is no reason not to start: requests are answered 503 until it does.
    """
    logs.configure(config.log_level)
    parts = Coordinator.of(config)
    refuse_unfit_database(config, parts.db.outage)
    app = Application(__name__, static_folder=None)
    requests.prepare(app, parts)
    for blueprint in (*docs.DOCUMENTED, docs.blueprint, site.blueprint):
        app.register_blueprint(blueprint)
    # Flask adds HEAD to every GET; here it would claim a job and keep it to itself.
    for rule in app.url_map.iter_rules("work.get_work"):
        (rule.methods or set()).discard("HEAD")
    return app
