"""A worker at a coordinator that announces nothing by which jobs are seen and steered: all is as it was."""

from __future__ import annotations

import json

import pytest

from local_stack.processes import wait_for
from tests.doubles.coordinator import EXTENSIONS, FakeCoordinator
from tests.real_worker import UNTIL_TOLD, Worker, finished, shell

PRINTS = "echo 0.5 > $KELPIE_PROGRESS; echo 'openjd_progress: 1'; echo ${KELPIE_ATTEMPT:-none} > seen"


@pytest.mark.parametrize("coordinator", [EXTENSIONS, ""], indirect=True)
def test_a_server_that_announces_none_of_it_is_told_none_of_it(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    wanted = {"keep_output": 65536, "stall_after": 1, "on_stall": "fail", "checkpoint_signal": "USR1"}
    job = coordinator.submit(**shell(f"{PRINTS}; {UNTIL_TOLD}"), **wanted, sync={})
    coordinator.wishes = {"stop": {"why": "hold"}, "deadline": 0, "watched": True}
    worker.start()
    wait_for(lambda: coordinator.heartbeats(job) >= 3, "heartbeats")
    (worker.folder / "go").touch()
    kind, report = finished(coordinator, job)
    assert kind == "completed" and "stop" not in report and coordinator.speaks(job) is None
    assert {name for beat in coordinator.beats(job) for name in beat} <= {
        "machine_id", "container_group_id", "attempt", "checkpoint_lag",
    }  # fmt: skip
    assert not [call for call in coordinator.calls if call.path.endswith("/output")]
    attempt = "1" if "attempt" in coordinator.extensions else "none"
    assert (worker.folder / "seen").read_text() == f"{attempt}\n"
    assert "progress" not in json.dumps(worker.state())
