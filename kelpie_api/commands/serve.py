"""Serve the API at KELPIE_BIND (0.0.0.0:8080) with WEB_CONCURRENCY processes (2), until SIGTERM.

This is gunicorn with Kelpie's settings; OPTIONS are gunicorn's and come before those, as in `serve --bind :80`.
"""

import os
import sys

import click


@click.command(help=__doc__, context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(options: tuple[str, ...]) -> None:
    gunicorn = [sys.executable, "-m", "gunicorn", "--config", "python:kelpie_api.gunicorn_conf"]
    os.execv(sys.executable, [*gunicorn, *options, "kelpie_api.wsgi:app"])
