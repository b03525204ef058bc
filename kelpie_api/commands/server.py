"""The coordinator of Kelpie: its API, its schema, and the programs beside it."""

from importlib import import_module

import click

from kelpie_version import VERSION

COMMANDS = (
    "migrate",
    "serve",
    "webhooks",
    "autoscale",
    "prune",
    "admin",
    "settings",
)


class _Commands(click.Group):
    """Imports a command when it is asked for, so that each program has in memory only what it uses."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return command(cmd_name) if cmd_name in COMMANDS else None


def command(name: str) -> click.Command:
    """The command of that name."""
    found: click.Command = import_module(f"kelpie_api.commands.{name}").main
    return found


@click.group(cls=_Commands, help=__doc__)
@click.version_option(VERSION, prog_name="kelpie-server", message="%(prog)s %(version)s")
def server() -> None:
    pass
