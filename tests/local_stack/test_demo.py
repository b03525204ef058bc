"""The demo itself: once to its end, and twice cut short."""

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_stack.processes import CHECKOUT, processes_in, wait_for
from tests.first_steps import blocks, without_comment

((SHOWN, _),) = blocks("See it work")
DEMO = CHECKOUT / without_comment(SHOWN)
KILLS = 5
END = re.compile(
    r"attempt \d+ on \S+ (?P<outcome>\w+): "
    r"held (?P<held>[\d.]+) s, useful (?P<useful>[\d.]+) s, lost (?P<lost>[\d.]+) s"
)


@pytest.mark.timeout(600)
def test_the_demo_loses_nothing() -> None:
    demo = subprocess.run([str(DEMO)], capture_output=True, text=True)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert demo.stdout.count("*** KILL") == KILLS
    tells_progress_and_what_was_lost(demo.stdout)
    assert "Not a byte was lost." in demo.stdout
    assert "processes left over: 0" in demo.stdout


def tells_progress_and_what_was_lost(story: str) -> None:
    """It says how far each long job was, never backwards within an attempt, and what each end was worth."""
    for job in ("counting", "digits"):
        lines = re.findall(rf"^ *[\d.]+ s  {job} +(.*)$", story, re.MULTILINE)
        assert any("goes on, on machine-" in line for line in lines), story
        attempts = "\n".join(lines).split("handed to")[1:]
        for attempt in attempts:
            told = [int(percent) for percent in re.findall(r"^(\d+) %", attempt, re.MULTILINE)]
            assert told == sorted(told), story
        ends = [END.match(line) for line in lines if END.match(line)]
        assert [end["outcome"] for end in ends if end] == ["interrupted"] * (len(attempts) - 1) + ["completed"]
        for held, useful, lost in ((float(end[n]) for n in ("held", "useful", "lost")) for end in ends if end):
            assert abs(held - useful - lost) < 0.2, story
            assert 0 <= lost <= held, story
    assert story.count(" lost nothing: is at ") >= 2  # the API's outage, of each job that was not done by then


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
