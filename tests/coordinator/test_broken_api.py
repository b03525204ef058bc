"""Everything that is asked of the coordinator, broken in every way that networks and servers break it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.doubles.coordinator import FakeCoordinator
from tests.doubles.faulty_proxy import FAULTS, FaultyProxy
from tests.real_worker import UNTIL_TOLD, Sync, Worker, shell

CALLS = {"greeting", "claim", "recall", "heartbeat", "checkpoint", "resumed", "released", "completed", "failed"}


@pytest.fixture
def broken_api(coordinator: FakeCoordinator) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(coordinator.url)
    yield proxy
    proxy.close()


def call_of(method: str, path: str) -> str:
    if path.startswith("/work"):
        return "claim"
    if path == "/users/me":
        return "greeting"
    return "recall" if method == "GET" else path.rpartition("/")[2]


@pytest.mark.parametrize("fault", [*FAULTS, "html"])
def test_whatever_breaks_each_attempt_is_handed_out_once_and_each_report_counted_once(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    sync: Sync,
    broken_api: FaultyProxy,
    impatient: dict[str, str],
    fault: str,
) -> None:
    """One job that takes three runs of a worker and two attempts, and another job that fails."""
    broken_api.break_each_once(fault, call_of)
    worker = make_worker(KELPIE_API_URL=broken_api.url, **impatient)
    job = coordinator.submit(**shell(f"echo 1 > checkpoint/a; {UNTIL_TOLD}"), sync=sync, heartbeat_interval=5)
    worker.start()
    wait_for(lambda: coordinator.manifests(job), "the first manifest")
    worker.kill()
    worker.start()
    worker.wait_for("command_started", count=2)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert [name for name, _ in coordinator.reports(job)] == ["released"]

    coordinator.hand_out_again(job)
    worker.start()
    wait_for(lambda: coordinator.resumes(job), "what the second attempt found")
    worker.wait_for("command_started", count=3)
    (worker.folder / "go").touch()
    wait_for(lambda: coordinator.status(job) == "completed", "the first job to complete")
    failing = coordinator.submit(**shell("exit 3"), sync={})
    wait_for(lambda: coordinator.reports(failing), "the second job to fail")
    worker.wait_for("wiped", job_id=failing)

    assert set(broken_api.broken) == CALLS
    assert [name for name, _ in coordinator.reports(job)] == ["released", "completed"]
    assert [(name, body["exit_code"]) for name, body in coordinator.reports(failing)] == [("failed", 3)]
    assert (coordinator.attempts(job), coordinator.attempts(failing)) == (2, 1)
    assert {resume["checkpoint"] for resume in coordinator.resumes(job)} == {"clean"}
    assert s3.files(bucket, "checkpoint/") == {"a": b"1\n"}


def test_a_refused_key_is_named_by_the_variable_that_holds_it(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    coordinator.admits = lambda call: False
    worker.start()
    assert "KELPIE_API_KEY" in worker.wait_for("api_unreachable")["detail"]


def test_an_address_of_something_else_is_named_by_its_variable(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker]
) -> None:
    worker = make_worker(KELPIE_API_URL=f"{coordinator.url}/elsewhere").start()
    assert "KELPIE_API_URL" in worker.wait_for("claim_refused")["detail"]
