"""The recorder of a rehearsal stops a command in the middle of a write, however fast it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from local_stack.processes import wait_for
from local_stack.rehearsal.recorder import writes_to
from local_stack.rehearsal.rehearsal import RECORDER

# Most of its writes are over when they are noticed; it stays in the middle of the last.
REWRITES = """
import os, pathlib, time
pathlib.Path("pid").write_text(str(os.getpid()))
saved = pathlib.Path("checkpoint/state")
for number in range(500):
    saved.write_text("x" * (1 + number % 7))
with saved.open("w") as file:
    file.write("half")
    file.flush()
    time.sleep(600)
"""


def test_a_command_is_stopped_while_it_has_the_file_open(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    plan = {
        "command": [sys.executable, "-c", REWRITES],
        "checkpoint": "checkpoint",
        "output": "output",
        "record": str(record),
        "freeze": True,
        "python_path": "",
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    arguments = [sys.executable, "-I", str(RECORDER), "plan.json"]
    with subprocess.Popen(arguments, cwd=tmp_path, start_new_session=True) as recorder:
        try:
            wait_for(lambda: record.exists() and '"frozen"' in record.read_text(), "a stop")
            command = int((tmp_path / "pid").read_text())
            assert writes_to(command, tmp_path / "checkpoint" / "state")
        finally:
            os.killpg(recorder.pid, signal.SIGKILL)
