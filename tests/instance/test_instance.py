"""The worker and Salad's metadata service: real workers beside a double that is held to the specification."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jwt
import pytest
from werkzeug.wrappers import Response

from kelpie_worker.salad.instance_policy import BUSIEST
from kelpie_worker.system.linux import boottime
from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.doubles.coordinator import Call, FakeCoordinator
from tests.doubles.double import page
from tests.doubles.faulty_proxy import FaultyProxy
from tests.doubles.tokens import TokenDouble
from tests.real_worker import Worker, block, finished, shell

Make = Callable[..., Worker]
WITHOUT_KEYS = {"KELPIE_API_KEY": "", "SALAD_PROJECT_NAME": "default"}


@pytest.fixture
def on_salad(make_worker: Make, tokens: TokenDouble) -> Make:
    """Workers on a machine of Salad's."""

    def make(name: str = "worker", **environment: str) -> Worker:
        return make_worker(name, SALAD_IMDS_URL=tokens.url, **environment)

    return make


class Gate:
    """Holds the bucket's writes under a prefix back until it is opened."""

    def __init__(self, proxy: FaultyProxy, prefix: str) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self._prefix = prefix
        proxy.fault = self._pass

    def _pass(self, method: str, path: str) -> None:
        if method in ("PUT", "POST") and self._prefix in path:
            self.reached.set()
            assert self.opened.wait(60)


def submit_with_output(coordinator: FakeCoordinator, bucket: str, script: str = "echo 1 > out/result") -> str:
    return coordinator.submit(**shell(script), sync={"after": [block(bucket, "out")]})


# --- deletion cost --------------------------------------------------------------------------------------


def test_the_deletion_cost_grows_with_the_job_and_is_highest_in_its_final_uploads(
    coordinator: FakeCoordinator, on_salad: Make, tokens: TokenDouble, bucket: str, faulty: FaultyProxy
) -> None:
    gate = Gate(faulty, "/out/")
    worker = on_salad(AWS_ENDPOINT_URL=faulty.url).start()
    wait_for(lambda: tokens.costs == [0], "the cost of an idle worker")
    job = submit_with_output(coordinator, bucket, "while [ ! -e done ]; do sleep 0.05; done; echo 1 > out/result")
    wait_for(lambda: max(tokens.costs) >= 4, "the cost after three heartbeats")
    (worker.folder / "done").touch()
    wait_for(lambda: tokens.costs[-1] == BUSIEST, "the cost in the final uploads")
    assert gate.reached.wait(30)
    gate.opened.set()
    wait_for(lambda: tokens.costs[-1] == 0, "the cost of an idle worker")
    assert finished(coordinator, job)[0] == "completed"
    grown = tokens.costs[1 : tokens.costs.index(BUSIEST)]
    assert grown[0] == 1 and all(later > earlier for earlier, later in pairwise(grown))


def test_a_metadata_service_that_never_answers_delays_nothing(
    coordinator: FakeCoordinator, on_salad: Make, tokens: TokenDouble
) -> None:
    tokens.hold()
    job = coordinator.submit(**shell("sleep 3.5"), sync={})
    worker = on_salad(KELPIE_SHUTDOWN_GRACE_S="1000").start()
    assert finished(coordinator, job)[0] == "completed"
    assert coordinator.heartbeats(job) >= 3
    wait_for(lambda: "/v1/deletion-cost" in tokens.asked, "the metadata service to be asked")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert tokens.costs == []


def test_a_metadata_service_that_comes_back_is_told_the_cost_of_now(
    coordinator: FakeCoordinator, on_salad: Make, tokens: TokenDouble
) -> None:
    tokens.instead = page(503)
    coordinator.submit(**shell("sleep 1000"), sync={})
    worker = on_salad().start()
    worker.wait_for("deletion_cost_not_set")
    worker.wait_for("command_started")
    tokens.instead = None
    wait_for(lambda: tokens.costs, "the cost")
    assert tokens.costs[0] >= 1
    assert len(worker.seen("deletion_cost_not_set")) == 1


# --- leaving --------------------------------------------------------------------------------------------


def test_after_too_many_failures_the_instance_is_reallocated_and_no_job_is_claimed_any_more(
    coordinator: FakeCoordinator, on_salad: Make, tokens: TokenDouble
) -> None:
    failing = [coordinator.submit(**shell("exit 3"), sync={}) for _ in range(2)]
    next_job = coordinator.submit(**shell("exit 0"), sync={})
    worker = on_salad(MAX_JOB_FAILURES="2").start()
    assert worker.wait() == 0
    assert tokens.departures == ["reallocate: 2 jobs failed here"]
    assert [coordinator.status(job) for job in failing] == ["failed", "failed"]
    assert coordinator.attempts(next_job) == 0


@pytest.mark.parametrize("answer", [page(503), page(403)])
def test_a_machine_that_cannot_be_left_goes_on_working(
    coordinator: FakeCoordinator, on_salad: Make, tokens: TokenDouble, answer: Callable[[], Response]
) -> None:
    tokens.instead = answer
    coordinator.submit(**shell("exit 3"), sync={})
    next_job = coordinator.submit(**shell("exit 0"), sync={})
    worker = on_salad(MAX_JOB_FAILURES="1").start()
    assert finished(coordinator, next_job)[0] == "completed"
    assert worker.seen("instance_not_left")


def test_elsewhere_than_on_salad_the_metadata_service_is_skipped_after_one_warning(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    failing = [coordinator.submit(**shell("exit 3"), sync={}) for _ in range(4)]
    worker.start(SALAD_MACHINE_ID="", SALAD_IMDS_URL="", MAX_JOB_FAILURES="4")
    for job in failing:
        assert finished(coordinator, job)[0] == "failed"
    worker.wait_for("instance_not_left")
    assert len(worker.seen("imds_skipped")) == 1
    last = coordinator.submit(**shell("exit 0"), sync={})
    assert finished(coordinator, last)[0] == "completed"


@pytest.mark.parametrize("down", [False, True])
def test_after_too_long_without_work_the_instance_is_reallocated(
    coordinator: FakeCoordinator, on_salad: Make, tokens: TokenDouble, down: bool
) -> None:
    coordinator.down = down
    worker = on_salad(MAX_TIME_WITH_NO_WORK_S="1").start()
    assert worker.wait() == 0
    assert tokens.departures == ["reallocate: no work for 1 seconds"]
    assert coordinator.calls


def test_a_metadata_service_that_never_answers_does_not_keep_an_idle_worker(
    on_salad: Make, tokens: TokenDouble
) -> None:
    tokens.hold()
    assert on_salad(MAX_TIME_WITH_NO_WORK_S="1").start().wait() == 0
    assert tokens.departures == []


@pytest.mark.parametrize("coordinator", ["attempt, claim-id, release, wait"], indirect=True)
def test_a_claim_waits_no_longer_than_work_is_wanted(coordinator: FakeCoordinator, on_salad: Make) -> None:
    coordinator.held_back = True
    worker = on_salad(MAX_TIME_WITH_NO_WORK_S="4").start()
    assert worker.wait() == 0
    assert {call.query["wait"] for call in coordinator.calls if call.path == "/work"} <= {"3", "4", "5"}


def test_an_idle_worker_stays_for_its_uploads(
    coordinator: FakeCoordinator, on_salad: Make, tokens: TokenDouble, bucket: str, faulty: FaultyProxy
) -> None:
    gate = Gate(faulty, "/out/")
    job = submit_with_output(coordinator, bucket)
    worker = on_salad(AWS_ENDPOINT_URL=faulty.url, MAX_TIME_WITH_NO_WORK_S="1").start()
    assert gate.reached.wait(30)
    over = boottime() + 1.5
    wait_for(lambda: boottime() > over, "the time without work to be over")
    assert tokens.departures == [] and coordinator.status(job) == "running"
    gate.opened.set()
    assert worker.wait() == 0
    assert coordinator.status(job) == "completed"
    assert tokens.departures == ["reallocate: no work for 1 seconds"]


def test_between_jobs_the_container_is_made_anew_once_everything_is_uploaded(
    coordinator: FakeCoordinator,
    on_salad: Make,
    tokens: TokenDouble,
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
) -> None:
    gate = Gate(faulty, "/out/")
    job, next_job = submit_with_output(coordinator, bucket), coordinator.submit(**shell("exit 0"), sync={})
    worker = on_salad(AWS_ENDPOINT_URL=faulty.url, KELPIE_RECREATE_BETWEEN_JOBS="true").start()
    assert gate.reached.wait(30)
    wait_for(lambda: coordinator.heartbeats(job) >= 2, "two heartbeats in the uploads")
    assert tokens.departures == []
    gate.opened.set()
    assert worker.wait() == 0
    assert (coordinator.status(job), coordinator.attempts(next_job)) == ("completed", 0)
    assert s3.files(bucket, "out/") == {"result": b"1\n"}
    assert tokens.departures == ["recreate"]


# --- several workers on one machine ---------------------------------------------------------------------


def test_workers_on_one_machine_publish_the_highest_of_their_costs(
    coordinator: FakeCoordinator, on_salad: Make, tokens: TokenDouble
) -> None:
    coordinator.submit(**shell("sleep 1000"), sync={})
    on_salad("busy").start()
    wait_for(lambda: tokens.costs and tokens.costs[-1] >= 2, "the cost of the one at work")
    before = len(tokens.costs)
    idle = on_salad("idle").start()
    idle.wait_for("worker_started")
    wait_for(lambda: len(tokens.costs) >= before + 4, "some more costs")
    assert min(tokens.costs[before:]) >= 2


def test_a_worker_leaves_alone_while_another_holds_a_job(
    coordinator: FakeCoordinator, on_salad: Make, tokens: TokenDouble
) -> None:
    job = coordinator.submit(**shell("while [ ! -e done ]; do sleep 0.05; done"), sync={})
    busy = on_salad("busy").start()
    busy.wait_for("command_started")
    idle = on_salad("idle").start(MAX_TIME_WITH_NO_WORK_S="1", KELPIE_LOG_LEVEL="debug")
    assert idle.wait() == 0
    assert idle.seen("instance_kept") and tokens.departures == []
    (busy.folder / "done").touch()
    assert finished(coordinator, job)[0] == "completed"


def test_a_worker_that_was_killed_keeps_no_other(
    coordinator: FakeCoordinator, on_salad: Make, tokens: TokenDouble
) -> None:
    coordinator.submit(**shell("sleep 1000"), sync={})
    killed = on_salad("killed").start()
    killed.wait_for("command_started")
    killed.kill()
    idle = on_salad("idle").start(MAX_TIME_WITH_NO_WORK_S="1")
    assert idle.wait() == 0
    assert tokens.departures == ["reallocate: no work for 1 seconds"]


# --- authorization --------------------------------------------------------------------------------------


def bearers(coordinator: FakeCoordinator) -> list[str]:
    """The tokens that the API has seen, each once, in order."""
    seen = [call.headers.get("Authorization", "").removeprefix("Bearer ") for call in list(coordinator.calls)]
    return list(dict.fromkeys(seen))


def test_without_keys_every_call_carries_the_token_of_the_metadata_service(
    coordinator: FakeCoordinator, on_salad: Make, tokens: TokenDouble
) -> None:
    job = coordinator.submit(**shell("sleep 1.2"), sync={})
    worker = on_salad(**WITHOUT_KEYS).start()
    assert finished(coordinator, job)[0] == "completed"
    claims: dict[str, Any] = jwt.decode(bearers(coordinator)[0], options={"verify_signature": False})
    assert claims["salad_machine_id"] == tokens.machine
    assert all(call.headers["Salad-Project"] == "default" for call in coordinator.calls)
    assert not any({"X-Kelpie-Key", "Salad-Api-Key"} & call.headers.keys() for call in coordinator.calls)
    assert not any(token in line for token in bearers(coordinator) for line in worker.lines)


def test_a_token_is_renewed_before_it_ends(
    coordinator: FakeCoordinator, on_salad: Make, tokens: TokenDouble
) -> None:
    tokens.life = 4
    job = coordinator.submit(**shell("sleep 1000"), sync={})
    ended: list[Call] = []

    def is_alive(call: Call) -> bool:
        token = call.headers["Authorization"].removeprefix("Bearer ")
        try:
            jwt.decode(token, options={"verify_signature": False, "verify_exp": True, "verify_aud": False})
        except jwt.ExpiredSignatureError:
            ended.append(call)
        return True

    coordinator.admits = is_alive
    on_salad(**WITHOUT_KEYS).start()

    def beats() -> set[str]:
        path = f"/jobs/{job}/heartbeat"
        return {call.headers["Authorization"] for call in list(coordinator.calls) if call.path == path}

    wait_for(lambda: len(beats()) >= 3, "heartbeats with three tokens")
    assert ended == []


def test_a_token_that_the_api_refuses_is_fetched_anew(
    coordinator: FakeCoordinator, on_salad: Make, tokens: TokenDouble
) -> None:
    refused: set[str] = set()
    coordinator.admits = lambda call: call.headers["Authorization"] not in refused
    job = coordinator.submit(**shell("while [ ! -e done ]; do sleep 0.05; done"), sync={})
    worker = on_salad(**WITHOUT_KEYS).start()
    wait_for(lambda: coordinator.heartbeats(job) >= 2, "heartbeats")
    refused.update(call.headers["Authorization"] for call in list(coordinator.calls))
    wait_for(
        lambda: any(
            call.path.endswith("/heartbeat") and call.headers["Authorization"] not in refused
            for call in list(coordinator.calls)
        ),
        "a heartbeat with another token",
    )
    (worker.folder / "done").touch()
    assert finished(coordinator, job)[0] == "completed"
    assert coordinator.attempts(job) == 1 and not worker.seen("lease_lost")


def test_a_worker_waits_for_a_metadata_service_that_is_not_up_yet(
    coordinator: FakeCoordinator, on_salad: Make, tokens: TokenDouble
) -> None:
    tokens.instead = page(502)
    job = coordinator.submit(**shell("exit 0"), sync={})
    worker = on_salad(**WITHOUT_KEYS).start()
    worker.wait_for("token_not_fetched")
    worker.wait_for("api_unreachable")
    assert coordinator.calls == []  # no call without credentials
    tokens.instead = None
    assert finished(coordinator, job)[0] == "completed"


@pytest.mark.parametrize("machine_id", ["", "machine"])
def test_a_worker_that_gets_no_token_has_no_work_either(
    on_salad: Make, tokens: TokenDouble, machine_id: str
) -> None:
    tokens.instead = page(404)
    worker = on_salad(**WITHOUT_KEYS, MAX_TIME_WITH_NO_WORK_S="1", SALAD_MACHINE_ID=machine_id).start()
    assert worker.wait() == 0
    assert "KELPIE_API_KEY" in worker.seen("token_not_fetched")[0]["advice"]
    assert worker.seen("instance_not_left")


def test_the_organization_may_come_from_the_token(coordinator: FakeCoordinator, on_salad: Make) -> None:
    job = coordinator.submit(**shell("exit 0"), sync={})
    on_salad(KELPIE_API_KEY="", SALAD_API_KEY="a-salad-key", SALAD_PROJECT="default").start()
    assert finished(coordinator, job)[0] == "completed"
    for call in coordinator.calls:
        assert (call.headers["Salad-Organization"], call.headers["Salad-Api-Key"]) == ("acme", "a-salad-key")
        assert "Authorization" not in call.headers


def test_a_proxy_of_the_environment_is_not_asked_for_metadata(on_salad: Make, tokens: TokenDouble) -> None:
    on_salad(http_proxy="http://127.0.0.1:9", no_proxy="").start()
    wait_for(lambda: tokens.costs == [0], "the cost of an idle worker")


def test_the_state_file_keeps_no_token(coordinator: FakeCoordinator, on_salad: Make) -> None:
    job = coordinator.submit(**shell("sleep 1000"), sync={})
    worker = on_salad(**WITHOUT_KEYS).start()
    wait_for(lambda: coordinator.heartbeats(job), "a heartbeat")
    assert not any(token in json.dumps(worker.state()) for token in bearers(coordinator))


def test_a_password_for_the_apis_host_does_not_replace_the_token(
    coordinator: FakeCoordinator, on_salad: Make
) -> None:
    job = coordinator.submit(**shell("exit 0"), sync={})
    worker = on_salad(**WITHOUT_KEYS)
    home = worker.folder / "home"
    home.mkdir()
    (home / ".netrc").write_text("machine 127.0.0.1 login somebody password something\n")
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    assert all(call.headers["Authorization"].startswith("Bearer ") for call in coordinator.calls)
