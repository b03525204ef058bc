"""Workers that see each other, or each other's files, and yet must not touch them."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from local_stack.processes import wait_for
from tests.doubles.coordinator import FakeCoordinator
from tests.real_worker import CHECKOUT, Worker, finished, is_alive, shell

Make = Callable[..., Worker]
ELSEWHERE = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$PWD" && cd "$PWD" && exec "$@"', "sh"]


@pytest.fixture
def elsewhere() -> list[str]:
    """Runs a program where its working directory is another one of the same name; only root can."""
    if subprocess.run([*ELSEWHERE, "true"], capture_output=True, check=False, cwd="/mnt").returncode:
        pytest.skip("no namespace can be made here")
    return ELSEWHERE


def test_a_worker_leaves_the_command_of_another_container_alone_whose_state_file_has_the_same_name(
    coordinator: FakeCoordinator, make_worker: Make, elsewhere: list[str]
) -> None:
    first = make_worker()
    job = coordinator.submit(**shell("until [ -e go ]; do sleep 0.05; done"), sync={})
    first.start()
    command = first.wait_for("command_started")["pid"]
    other = coordinator.submit(**shell("exit 0"), sync={})
    second = make_worker(SALAD_MACHINE_ID="another").start(through=elsewhere)
    assert finished(coordinator, other)[0] == "completed"
    assert second.seen("command_started") and is_alive(command)
    (first.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"


# --- one state file -------------------------------------------------------------------------------------


def lock_of(worker: Worker) -> Path:
    return worker.state_file.with_name(worker.state_file.name + ".lock")


def test_a_command_that_removes_the_lock_opens_the_state_file_to_no_other_worker(
    coordinator: FakeCoordinator, worker: Worker, make_worker: Make
) -> None:
    job = coordinator.submit(**shell("rm *.lock; until [ -e go ]; do sleep 0.05; done"), sync={})
    worker.start()
    worker.wait_for("state_file_locked_again")
    second = make_worker().start()
    assert second.wait() == 2
    assert any("KELPIE_STATE_FILE" in line for line in second.lines)
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    worker.kill()
    worker.start()
    worker.wait_for("worker_started", count=2)
    assert not worker.seen("state_file_copied")


def test_a_worker_whose_state_file_was_taken_over_ends_and_leaves_its_job_to_the_other(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    job = coordinator.submit(**shell("exec sleep 1000"), sync={})
    worker.start()
    command = worker.wait_for("command_started")["pid"]
    theirs = lock_of(worker).with_name("theirs")
    with theirs.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        theirs.replace(lock_of(worker))
        assert worker.wait() == 2
    assert any("KELPIE_STATE_FILE" in line for line in worker.lines)
    assert not is_alive(command) and not coordinator.reports(job)


@pytest.mark.parametrize("copied", ["the folder", "the file"])
def test_a_copied_state_file_makes_no_job_run_twice(
    coordinator: FakeCoordinator, worker: Worker, make_worker: Make, copied: str
) -> None:
    job = coordinator.submit(**shell("until [ -e go ]; do sleep 0.05; done"), sync={})
    worker.start(SALAD_MACHINE_ID="")
    worker.wait_for("command_started")
    second = make_worker("copy", SALAD_MACHINE_ID="")
    if copied == "the folder":
        shutil.copytree(worker.folder, second.folder, dirs_exist_ok=True)
    else:
        shutil.copy2(worker.state_file, second.state_file)
    second.start()
    second.wait_for("state_file_copied")
    wait_for(second.state_file.exists, "a state of its own")
    assert second.state()["machine_id"] != worker.state()["machine_id"]
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    assert not second.seen("resumed") and not second.seen("command_started")


def test_the_loop_of_the_manual_lets_every_worker_give_its_job_back(
    coordinator: FakeCoordinator, make_worker: Make, tmp_path: Path
) -> None:
    manual = (CHECKOUT / "docs" / "worker.md").read_text()
    (loop,) = [block for block in re.findall(r"```sh\n(.*?)```", manual, re.DOTALL) if "exec kelpie" in block]
    program = tmp_path / "kelpie"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kelpie_worker\n')
    program.chmod(0o755)
    jobs = [coordinator.submit(**shell("exec sleep 1000"), sync={}) for _ in range(2)]
    worker = make_worker(PATH=f"{tmp_path}:{os.environ['PATH']}")
    worker.start(through=["sh", "-c", loop.replace("1 2 3 4", "1 2"), "sh"])
    for job in jobs:
        worker.wait_for("command_started", job_id=job)
    worker.signal(signal.SIGTERM)  # of the shell alone
    worker.wait()
    assert len(worker.seen("worker_stopped")) == 2
    assert [name for job in jobs for name, _ in coordinator.reports(job)] == ["released", "released"]
