"""The command line, and its help, which names every setting."""

import argparse
from collections.abc import Sequence
from textwrap import wrap
from typing import Literal, NamedTuple

from kelpie_version import VERSION
from kelpie_worker.config import VARIABLES, Variable

_WIDTH = 100
COMMANDS = ("worker", "licenses", "doctor")
OF_THE_CLIENT = (
    "This program is the worker, and {command} is a command of the client: install that where you work with"
    " pip install kelpie."
)


class Arguments(NamedTuple):
    command: Literal["worker", "doctor", "licenses"]
    bucket: str | None = None


def parse(arguments: Sequence[str]) -> Arguments:
    """Raises SystemExit: 0 after --help and --version, 2 for unknown arguments."""
    parser = _parser()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        parser.exit(2, OF_THE_CLIENT.format(command=arguments[0]) + "\n")
    given = parser.parse_args(arguments)
    return Arguments(given.command or "worker", getattr(given, "bucket", None))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kelpie",
        description="Claims jobs from the Kelpie API and runs them, one after the other, until it is stopped.",
        epilog=_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kelpie {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("worker", help="claim and run jobs until it is stopped; so does no command")
    commands.add_parser("licenses", help="print the licences of this program and of all that is in it")
    doctor = commands.add_parser("doctor", help="check whether everything that a job needs is there")
    doctor.add_argument(
        "--bucket",
        metavar="NAME[/PREFIX]",
        help="try to write, read and delete an object there (or set KELPIE_DOCTOR_BUCKET)",
    )
    return parser


def _settings() -> str:
    return "environment variables:\n" + "".join(_setting(*entry) for entry in VARIABLES.items())


def _setting(name: str, variable: Variable) -> str:
    default = variable.default or variable.shown or "none"
    lines = wrap(
        f"{variable.meaning} Default: {default}", _WIDTH - 6, break_long_words=False, break_on_hyphens=False
    )
    return f"  {name}\n" + "".join(f"      {line}\n" for line in lines)
