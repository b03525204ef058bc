"""Child processes start, stop and end with their owner."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_stack.processes import Child, free_port, processes_in, scratch_folder, wait_for, wait_until_ready

OWNER = """
import sys
from pathlib import Path
from local_stack.processes import Child

Child("sleeper", ["sleep", "600"], folder=Path(sys.argv[1]))
print("started", flush=True)
sys.stdin.read()
"""

STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.1; done"


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch_folder() as folder:
        yield folder


def test_a_child_ends_with_its_owner_even_by_kill_9(folder: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "started\n"
    assert len(processes_in(folder)) == 1
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    wait_for(lambda: not processes_in(folder), "the child to end with its owner")


def test_a_child_that_ignores_sigterm_is_killed(folder: Path) -> None:
    child = Child("stubborn", ["sh", "-c", STUBBORN], folder=folder)
    wait_for(lambda: child.output.read_text(), "the trap to be set")
    child.stop(timeout=0.2)
    assert child.wait(0) == -signal.SIGKILL


def test_killing_a_child_takes_its_whole_group_along(folder: Path) -> None:
    child = Child("family", ["sh", "-c", "sleep 600 & sleep 600"], folder=folder)
    wait_for(lambda: len(processes_in(folder)) == 3, "the shell and its two children")
    child.kill()
    wait_for(lambda: not processes_in(folder), "all of them to end")


def test_a_server_that_ends_while_starting_is_reported_with_the_end_of_its_log(folder: Path) -> None:
    child = Child("server", ["sh", "-c", "echo the port is taken >&2; exit 1"], folder=folder)
    with pytest.raises(RuntimeError, match="the port is taken"):
        wait_until_ready(child, lambda: False)


def test_waiting_in_vain_says_what_for() -> None:
    with pytest.raises(TimeoutError, match="pigs to fly"):
        wait_for(lambda: None, "pigs to fly", timeout=0.01)


def test_free_ports_are_outside_the_range_that_the_kernel_gives_away() -> None:
    first_given_away = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert free_port() < first_given_away
