"""The runner by itself, in a process of its own, for it reaps every child of its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from local_stack.processes import CHECKOUT

TWICE = """
import sys, time
from kelpie_worker import config
from kelpie_worker.command.runner import Runner
from kelpie_worker.job import Job
from kelpie_worker.messages import Exited, Run

command, folder = sys.argv[1:]
told = []
given = {"KELPIE_API_URL": "http://127.0.0.1:1", "KELPIE_API_KEY": "k", "SALAD_CONTAINER_GROUP_ID": "group"}
runner = Runner(config.load({**given, "KELPIE_STATE_FILE": f"{folder}/state"}), told.append)
run = Run(Job("claim", "job", command=command, arguments=("-c", f"echo ran >> {folder}/runs")))
for _ in range(2):
    runner.carry_out(run)
    for _ in range(1200):
        runner.tick()
        if any(isinstance(message, Exited) for message in told):
            break
        time.sleep(0.05)
print(*(type(message).__name__ for message in told))
"""


def told_by_a_runner_that_is_told_twice(command: str, folder: Path) -> str:
    argv = [sys.executable, "-c", TWICE, command, str(folder)]
    return subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=120).stdout


def test_a_command_that_has_ended_is_not_run_again_when_the_runner_is_told_so_again(tmp_path: Path) -> None:
    """As when another child died, and was told of the job again, while the end was on its way."""
    assert told_by_a_runner_that_is_told_twice("sh", tmp_path).split() == ["Started", "Exited"]
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_nor_is_one_tried_again_that_could_not_be_started(tmp_path: Path) -> None:
    assert told_by_a_runner_that_is_told_twice(str(tmp_path / "missing"), tmp_path).split() == ["Exited"]
