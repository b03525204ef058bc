"""The completion of the command line, in each shell as a person has it: keys are pressed, the screen is read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from local_stack.processes import CHECKOUT
from tests import programs
from tests.terminal import Terminal

# Each without the files of a home, and how its completion is switched on.
SHELLS = {
    "bash": (["--norc", "--noprofile", "-i"], 'eval "$(kelpie completion bash)"'),
    "zsh": (["-f", "-i"], 'autoload -Uz compinit; compinit -D; eval "$(kelpie completion zsh)"'),
    "fish": (["--no-config", "-i"], "kelpie completion fish | source"),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_tab_key_completes_commands_and_options(shell: str, tmp_path: Path) -> None:
    flags, switched_on = SHELLS[shell]
    (tmp_path / "kelpie").write_text(f'#!/bin/sh\nexec {sys.executable} -m kelpie "$@"\n')
    (tmp_path / "kelpie").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(CHECKOUT)}
    with Terminal([programs.find(shell, shell), *flags], tmp_path, environment) as terminal:
        terminal.type(f"{switched_on}; echo switched' 'on")
        terminal.press("Enter")
        terminal.wait_for("switched on")
        terminal.type("kelpie su")
        terminal.press("Tab")
        terminal.wait_for("kelpie submit ")
        terminal.type("--max-r")
        terminal.press("Tab")
        terminal.wait_for("kelpie submit --max-runtime")
