"""Workers that see each other, or each other's files, and yet must not touch them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.worker.coordinator import FakeCoordinator
from tests.worker.test_interruptions import is_alive
from tests.worker.test_journey import finished, shell
from tests.worker.worker import Worker

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
