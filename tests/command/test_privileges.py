"""What the command may become."""

from __future__ import annotations

import os
from pathlib import Path

from kelpie_worker.command.process import RunningCommand
from kelpie_worker.job import Job


def test_the_command_and_what_it_starts_gain_no_privileges(tmp_path: Path) -> None:
    said = tmp_path / "said"
    script = f"sh -c 'grep NoNewPrivs /proc/self/status > {said}'"
    command = RunningCommand(Job("claim", "job", command="sh", arguments=("-c", script)), os.environ)
    command.look(dict([os.waitpid(command.pid, 0)]))
    assert command.exited and command.exited.exit_code == 0
    assert said.read_text().split() == ["NoNewPrivs:", "1"]
    assert "NoNewPrivs:\t0" in Path("/proc/self/status").read_text()
