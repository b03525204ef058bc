"""The programs in scripts/, run as an operator runs them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from click.testing import CliRunner

from kelpie_api.__main__ import HELP
from kelpie_api.commands import server
from local_stack.processes import CHECKOUT
from tests.conftest import SECRET_KEY


@dataclass(frozen=True)
class Ran:
    """How a program ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Ran]


@pytest.fixture
def environment(migrated_url: str) -> dict[str, str]:
    return {"DATABASE_URL": migrated_url, "KELPIE_SECRET_KEY": SECRET_KEY}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """Run a script's command on the database of the tests, in this process; `env` replaces settings.

    A process of its own takes a second to import what is here already. An exception that a script would print as
    a stack trace is raised.
    """

    def run_command(script: str, *arguments: str, env: dict[str, str] | None = None) -> Ran:
        handlers = logging.root.handlers[:]
        try:
            ran = CliRunner().invoke(
                server.command(script),
                arguments,
                env={**environment, **(env or {})},
                catch_exceptions=False,
                prog_name=script,
                help_option_names=HELP,
            )
        finally:
            logging.root.handlers[:] = handlers  # the command's own writes to a stream that is closed by now
        return Ran(ran.exit_code, ran.stdout, ran.stderr)

    return run_command


@pytest.fixture
def run_script(environment: dict[str, str]) -> Run:
    """The same in a process of its own, from the file that an operator starts."""

    def run_process(script: str, *arguments: str, env: dict[str, str] | None = None) -> Ran:
        ran = subprocess.run(
            [sys.executable, str(CHECKOUT / "scripts" / script), *arguments],
            env={**os.environ, **environment, **(env or {})},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    return run_process


def refused(ran: Ran) -> str:
    """The sentence of a refusal; there is no stack trace."""
    assert ran.returncode != 0
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    return ran.stderr
