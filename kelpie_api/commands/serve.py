"""Serve the API at KELPIE_BIND (0.0.0.0:8080) with WEB_CONCURRENCY processes (2), until SIGTERM.

This is gunicorn with Kelpie's settings; GUNICORN_OPTIONS come before those, as in `serve --bind :80`.
"""

import os
import sys

import click

from kelpie_api.config import Config
from kelpie_api.errors import ConfigError


@click.command(help=__doc__, context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[GUNICORN_OPTIONS]...")
def main(options: tuple[str, ...]) -> None:
    try:
        Config.from_env(os.environ)  # gunicorn reads WEB_CONCURRENCY before its settings, and shows a stack trace
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    gunicorn = [sys.executable, "-m", "gunicorn", "--config", "python:kelpie_api.gunicorn_conf"]
    os.execv(sys.executable, [*gunicorn, *options, "kelpie_api.wsgi:app"])
