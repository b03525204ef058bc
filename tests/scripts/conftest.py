"""The programs in scripts/, run as an operator runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from local_stack.processes import CHECKOUT
from tests.conftest import SECRET_KEY

Ran = subprocess.CompletedProcess[str]
Run = Callable[..., Ran]


@pytest.fixture
def run(migrated_url: str) -> Run:
    """Run a script on the database of the tests; `env` replaces settings."""

    def run_script(script: str, *arguments: str, env: dict[str, str] | None = None) -> Ran:
        settings = {"DATABASE_URL": migrated_url, "KELPIE_SECRET_KEY": SECRET_KEY}
        return subprocess.run(
            [sys.executable, str(CHECKOUT / "scripts" / script), *arguments],
            env={**os.environ, **settings, **(env or {})},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run_script


def refused(ran: Ran) -> str:
    """The sentence of a refusal; there is no stack trace."""
    assert ran.returncode != 0
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    return ran.stderr
