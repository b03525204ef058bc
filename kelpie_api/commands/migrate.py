"""Bring the schema of DATABASE_URL to this release; safe from several hosts at once."""

import os
from pathlib import Path

import click
import psycopg

from kelpie_api import logs
from kelpie_api.config import DatabaseConfig
from kelpie_api.errors import ConfigError, SchemaError
from kelpie_api.grants import let_work
from kelpie_api.migrations import migrate


@click.command(help=__doc__)
@click.option(
    "--app-role", help="The role that the programs connect as; it may read and write rows, and owns nothing."
)
@click.option(
    "--passfile",
    type=click.Path(path_type=Path),
    help="Make that role, with the password in this file (PGPASSFILE's form); a missing file is written.",
)
def main(app_role: str | None, passfile: Path | None) -> None:
    if passfile and not app_role:
        raise click.UsageError("--passfile needs --app-role.")
    try:
        config = DatabaseConfig.from_env(os.environ)
        logs.configure(config.log_level)
        migrate(config.database_url, click.echo)
        if app_role:
            let_work(config.database_url, app_role, passfile, click.echo)
    except (ConfigError, SchemaError) as error:
        raise click.ClickException(str(error)) from None
    except psycopg.OperationalError as error:
        raise click.ClickException(f"The database did not do it: {' '.join(str(error).split())}") from None
