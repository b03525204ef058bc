"""Bring the schema of DATABASE_URL to this release; safe from several hosts at once."""

import os

import click
import psycopg

from kelpie_api.config import database_url
from kelpie_api.errors import ConfigError, SchemaError
from kelpie_api.migrations import migrate


@click.command(help=__doc__)
def main() -> None:
    try:
        migrate(database_url(os.environ), click.echo)
    except (ConfigError, SchemaError) as error:
        raise click.ClickException(str(error)) from None
    except psycopg.OperationalError as error:
        raise click.ClickException(f"The database did not do it: {str(error).strip()}") from None
