"""Processes as they come and go: who starts Kelpie, what it starts, and who kills whom."""

from __future__ import annotations

from tests.worker.coordinator import FakeCoordinator
from tests.worker.test_journey import finished, shell
from tests.worker.worker import Worker


def test_a_full_disk_under_the_log_costs_no_job(coordinator: FakeCoordinator, worker: Worker) -> None:
    job = coordinator.submit(**shell("exit 0"), sync={})
    worker.start(through=["sh", "-c", 'exec "$@" 2> /dev/full', "sh"])
    assert finished(coordinator, job)[0] == "completed"
