"""The demo itself: once to its end, and twice cut short."""

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_stack.processes import processes_in, wait_for

DEMO = Path(__file__).resolve().parents[2] / "scripts" / "demo"
KILLS = 5


@pytest.mark.timeout(600)
def test_the_demo_loses_nothing() -> None:
    demo = subprocess.run([str(DEMO)], capture_output=True, text=True)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert demo.stdout.count("*** KILL") == KILLS
    assert "Not a byte was lost." in demo.stdout
    assert "processes left over: 0" in demo.stdout


@pytest.fixture
def running_demo() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A demo whose workers are at work, and its folder."""
    demo = subprocess.Popen([str(DEMO)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert demo.stdout is not None
    told = ""
    for line in demo.stdout:
        told += line
        if "handed to" in line:
            break
    folder = re.search(r"logs in (\S+)", told)
    assert folder, told
    yield demo, Path(folder[1])
    demo.kill()
    demo.wait()
    shutil.rmtree(folder[1], ignore_errors=True)  # kill -9 leaves it


@pytest.mark.timeout(120)
def test_ctrl_c_leaves_no_process_and_no_file(running_demo: tuple[subprocess.Popen[str], Path]) -> None:
    demo, folder = running_demo
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate()
    assert demo.returncode == 130, rest
    assert processes_in(folder) == []
    assert not folder.exists()


@pytest.mark.timeout(120)
def test_kill_9_leaves_no_process(running_demo: tuple[subprocess.Popen[str], Path]) -> None:
    demo, folder = running_demo
    demo.send_signal(signal.SIGKILL)
    demo.communicate()
    wait_for(lambda: not processes_in(folder), "everything to end with the demo", timeout=60)
