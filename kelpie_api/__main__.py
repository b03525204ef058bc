"""`kelpie-server`, or `python -m kelpie_api`; and what the programs of a checkout's scripts/ call.

Only the standard library is needed here, so that a machine without the coordinator's packages is told how to get
them instead of being shown a stack trace.
"""

import os
import sys
from pathlib import Path
from typing import NoReturn

from kelpie_api.command_help import outline
from kelpie_version import VERSION

HELP = ["-h", "--help"]
_PACKAGE = Path(__file__).resolve().parent
_ENVIRONMENT = _PACKAGE.parent / ".venv"  # which scripts/bootstrap makes in a checkout


def main(command: str | None = None) -> NoReturn:
    """Run `kelpie-server`, or one command of it under the name of the script that was started.

    Where packages are missing, the checkout's own environment runs the same command line again, if there is one.
    """
    if not command and sys.argv[1:] == ["--version"]:
        print(f"kelpie-server {VERSION}")
        sys.exit(0)
    try:
        from kelpie_api.commands import server

        program = server.command(command) if command else server.server
        program(prog_name=None if command else "kelpie-server", help_option_names=HELP)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"kelpie_api", "kelpie_version"}:
            raise
        _run_in_environment()
        _explain(command, str(error.name))
    sys.exit(0)


def _run_in_environment() -> None:
    """Become the environment's Python; return if there is none, or if this is it."""
    python = _ENVIRONMENT / "bin" / "python"
    if os.access(python, os.X_OK) and Path(sys.prefix).resolve() != _ENVIRONMENT.resolve():
        os.execv(python, [str(python), *sys.orig_argv[1:]])


def _explain(command: str | None, missing: str) -> NoReturn:
    """Say how to get what the command needs; for --help, with what its source tells, it is no failure."""
    asked = any(word in HELP for word in sys.argv[1:])
    name = command or "kelpie-server"
    needed = (
        f"{name} needs packages that this Python lacks ({missing}). Install them:\n"
        "    in a checkout:  scripts/bootstrap api && . .venv/bin/activate\n"
        f"    from a wheel:   pip install './kelpie-{VERSION}-py3-none-any.whl[api]'"
    )
    if asked:
        print(f"Usage: {name} [OPTIONS]\n\n{outline(command or 'server')}\n\n{needed}")
    else:
        print(needed, file=sys.stderr)
    sys.exit(0 if asked else 1)


if __name__ == "__main__":
    main()
