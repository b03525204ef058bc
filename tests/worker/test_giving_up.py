"""A worker that cannot go on releases its jobs, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from local_stack.processes import wait_for
from tests.doubles.coordinator import Call, FakeCoordinator
from tests.real_worker import (
    CHECKOUT,
    ESCAPES,
    UNTIL_TOLD,
    Sync,
    Worker,
    finished,
    group_of,
    is_alive,
    own_namespace,
    shell,
    sleeping_under,
)

CHILDREN = ("runner", "heartbeat", "uploader")


def draft_of(worker: Worker) -> Path:
    """What the worker writes before it becomes the state file."""
    return worker.state_file.with_name(worker.state_file.name + ".tmp")


def children_of(worker: Worker) -> list[int]:
    return [worker.child(name) for name in CHILDREN]


def test_a_full_disk_under_the_state_file_gives_the_job_back_and_leaves_no_process_behind(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    job = coordinator.submit(**shell(f"sleep 1000 & {UNTIL_TOLD}; sleep 1000"), sync={})
    worker.start()
    command = worker.wait_for("command_started")["pid"]
    children = children_of(worker)
    draft_of(worker).symlink_to("/dev/full")

    coordinator.submit(**shell("exit 0"), sync={})
    os.kill(command, signal.SIGKILL)  # the worker has something to save

    assert worker.wait() == 1
    assert [failure["reason"] for failure in worker.seen("worker_failed")] == ["disk_full"]
    assert "No space left on device" in worker.seen("worker_failed")[0]["detail"]
    assert [name for name, _ in coordinator.reports(job)] == ["failed"]  # decided, when its command died
    assert not any(map(is_alive, children)) and group_of(command) == []


def test_on_a_full_disk_the_job_being_claimed_is_released(coordinator: FakeCoordinator, worker: Worker) -> None:
    worker.start()
    wait_for(lambda: any(call.path == "/work" for call in coordinator.calls), "the first claim")
    children = children_of(worker)
    draft_of(worker).symlink_to("/dev/full")

    job = coordinator.submit(**shell("sleep 1000"), sync={})

    assert worker.wait() == 1
    assert [(name, body["reason"]) for name, body in coordinator.reports(job)] == [("released", "disk_full")]
    assert worker.seen("released", reason="disk_full", accepted=True)
    assert not any(map(is_alive, children)) and not worker.seen("command_started")


def test_on_a_full_disk_a_worker_does_not_start(coordinator: FakeCoordinator, worker: Worker) -> None:
    coordinator.submit(**shell("exit 0"), sync={})
    draft_of(worker).symlink_to("/dev/full")
    worker.start()
    assert worker.wait() == 1
    assert len(worker.seen("worker_failed", reason="disk_full")) == 1
    assert not any("Traceback" in line for line in worker.lines)
    assert not any(call.path == "/work" for call in coordinator.calls)
    assert not any(map(is_alive, children_of(worker)))


def test_sigterm_ends_a_worker_whose_disk_hangs(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker]
) -> None:
    coordinator.submit(**shell(f"{UNTIL_TOLD}; exit 0"), sync={})
    worker = make_worker(KELPIE_SHUTDOWN_GRACE_S="1").start()
    command = worker.wait_for("command_started")["pid"]
    children = children_of(worker)
    os.mkfifo(draft_of(worker))  # without a reader, so that opening it does not return
    (worker.folder / "go").touch()
    worker.wait_for("command_exited")

    begun = time.monotonic()
    worker.signal(signal.SIGTERM)

    assert worker.wait(timeout=20) == 1
    assert time.monotonic() - begun < 10
    wait_for(lambda: not any(map(is_alive, children)), "the children to be gone")
    assert group_of(command) == []


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
@pytest.mark.parametrize("end", ["exit", "cancel", "sigterm"])
def test_nothing_that_a_command_started_outlives_its_job(
    coordinator: FakeCoordinator, worker: Worker, escape: str, end: str
) -> None:
    job = coordinator.submit(**shell(f"{escape}\n{UNTIL_TOLD}; exit 0"), sync={})
    worker.start()
    runner = worker.child("runner")
    worker.wait_for("command_started")
    (escaped,) = wait_for(lambda: sleeping_under(runner), "the process that got away")

    if end == "exit":
        (worker.folder / "go").touch()
        assert finished(coordinator, job)[0] == "completed"
    elif end == "cancel":
        coordinator.cancel(job)
        worker.wait_for("wiped")
    else:
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0

    assert not is_alive(escaped)


def test_a_worker_whose_children_cannot_live_gives_up_and_gives_the_job_back(
    coordinator: FakeCoordinator, worker: Worker, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import os\nfrom kelpie_worker.processes import child\n"
        "assert child.run_child\nchild.run_child = lambda *_: os._exit(3)\n"
    )
    job = coordinator.submit(**shell("exit 0"), sync={})

    worker.start(PYTHONPATH=f"{broken}{os.pathsep}{CHECKOUT}")

    assert worker.wait(timeout=60) == 1
    assert "died 5 times in a row" in worker.wait_for("worker_failed", reason="internal")["detail"]
    assert [(name, body["reason"]) for name, body in coordinator.reports(job)] == [("released", "internal")]


def test_a_job_whose_command_kills_its_runner_again_and_again_fails_and_the_next_one_runs(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    job = coordinator.submit(**shell("kill -9 $PPID; sleep 100"), sync={})
    worker.start()
    name, body = finished(coordinator, job)
    assert (name, body["reason"]) == ("failed", "worker_broken")
    after = coordinator.submit(**shell("exit 0"), sync={})
    assert finished(coordinator, after)[0] == "completed"


def test_a_job_whose_command_kills_all_in_its_container_each_time_fails(
    coordinator: FakeCoordinator, worker: Worker, in_namespace: Sequence[str], sync: Sync
) -> None:
    job = coordinator.submit(**shell("echo 1 > checkpoint/state; kill -KILL -1"), sync=sync)
    for _ in range(3):
        worker.start(in_namespace)
        assert worker.wait() == 128 + signal.SIGKILL
        assert not coordinator.reports(job)
    worker.start(in_namespace)
    name, body = finished(coordinator, job)
    assert (name, body["reason"]) == ("failed", "worker_broken") and "died with the command" in body["detail"]
    assert coordinator.attempts(job) == 1
    after = coordinator.submit(**shell("exit 0"), sync={})
    assert finished(coordinator, after)[0] == "completed"


@pytest.fixture
def in_namespace(worker: Worker) -> Iterator[Sequence[str]]:
    """What starts the worker as the only child of a container's first process; only root can make one."""
    yield [*own_namespace(), "sh", "-c", '"$@"; exit $?', "sh"]
    worker.close()


def test_a_removed_folder_of_the_state_file_is_made_anew_and_the_job_can_be_resumed_from_it(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker]
) -> None:
    worker = make_worker(KELPIE_STATE_FILE="kept/state.json")
    job = coordinator.submit(**shell(f"test -e begun || rm -r kept; touch begun; {UNTIL_TOLD}"), sync={})
    worker.start()
    worker.wait_for("state_file_locked_again")
    wait_for((worker.folder / "kept/state.json").exists, "the state file")
    worker.kill()
    worker.start()
    assert worker.wait_for("resumed")["phase"] == "running"
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed" and coordinator.attempts(job) == 1


def test_a_job_whose_command_removes_the_workers_working_directory_fails(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    # The worker may write its state file between the last file and the directory.
    job = coordinator.submit(**shell('until rm -r "$PWD"; do sleep 0.1; done; sleep 1000'), sync={})
    worker.start()
    assert worker.wait() == 1
    assert [(name, body["reason"]) for name, body in coordinator.reports(job)] == [("failed", "worker_broken")]
    assert "working directory was removed" in coordinator.reports(job)[0][1]["detail"]


def test_a_command_line_that_the_system_does_not_take_fails_by_that_reason(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    job = coordinator.submit(command="true", arguments=["x" * 200_000], sync={})
    worker.start()
    name, body = finished(coordinator, job)
    assert (name, body["reason"]) == ("failed", "not_started")
    assert "Argument list too long" in worker.seen("command_not_started")[0]["detail"]


def test_a_claim_id_that_the_server_refuses_is_not_sent_for_ever(
    coordinator: FakeCoordinator, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = coordinator._answer
    refused: set[str | None] = set()

    def refuse_two_ids(call: Call) -> tuple[int, Any]:
        claim_id = call.query.get("claim_id")
        if call.path == "/work" and (claim_id in refused or len(refused) < 2):
            refused.add(claim_id)
            return 409, {"error": "Conflict", "message": "Another machine claims with this claim_id."}
        return answer(call)

    monkeypatch.setattr(coordinator, "_answer", refuse_two_ids)
    job = coordinator.submit(**shell("exit 0"), sync={})
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    assert {event["claim_id"] for event in worker.seen("claim_refused")} == refused and len(refused) == 2
