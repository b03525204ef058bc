"""Bring the schema of DATABASE_URL to this release; safe from several hosts at once."""

import os

import click
import psycopg

from kelpie_api import logs
from kelpie_api.config import DatabaseConfig
from kelpie_api.errors import ConfigError, SchemaError
from kelpie_api.migrations import migrate


@click.command(help=__doc__)
def main() -> None:
    try:
        config = DatabaseConfig.from_env(os.environ)
        logs.configure(config.log_level)
        migrate(config.database_url, click.echo)
    except (ConfigError, SchemaError) as error:
        raise click.ClickException(str(error)) from None
    except psycopg.OperationalError as error:
        raise click.ClickException(f"The database did not do it: {str(error).strip()}") from None
