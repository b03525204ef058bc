"""What goes over the wire to the API, field by field: to the original, which announces nothing, and to ours."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

from local_stack.processes import wait_for
from tests.contract_worker.conftest import Pair
from tests.contract_worker.server import ScriptedCoordinator
from tests.real_worker import block, finished, shell

HOLDER = {"machine_id": "machine", "container_group_id": "group"}
HEADERS_OF_HTTP = {"host", "connection", "accept", "accept-encoding", "content-length", "content-type"}


def test_a_claim_at_the_original_names_machine_and_group_and_nothing_else(original: Pair) -> None:
    claim = wait_for(original.api.claims, "a claim")[0]
    assert (claim.method, claim.query, claim.body) == ("GET", HOLDER, {})
    headers = {name.lower(): value for name, value in claim.headers.items()}
    assert headers["x-kelpie-key"] == "a-key-that-nobody-logs"
    assert re.fullmatch(r"kelpie/\d+\.\d+\.\d+\S*", headers["user-agent"])
    assert headers.keys() - HEADERS_OF_HTTP <= {"x-kelpie-key", "user-agent"}


def test_a_heartbeat_at_the_original_is_two_names_in_json(original: Pair) -> None:
    job = original.api.submit(
        **shell("while [ ! -e go-on ]; do sleep 0.02; done; rm go-on"), sync=None, heartbeat_interval=0.3
    )
    beat = wait_for(lambda: original.api.told(job, "heartbeat"), "a heartbeat")[0]
    (original.worker.folder / "go-on").touch()
    assert (beat.method, beat.body) == ("POST", HOLDER)
    assert beat.headers["Content-Type"].startswith("application/json")
    assert finished(original.api, job)[0] == "completed"


@pytest.mark.parametrize(("code", "report"), [(0, "completed"), (3, "failed")])
def test_a_final_report_at_the_original_names_the_holder_and_carries_no_extension(
    original: Pair, code: int, report: str
) -> None:
    job = original.api.submit(**shell(f"exit {code}"), sync=None)
    name, body = finished(original.api, job)
    assert name == report
    assert body.items() >= HOLDER.items()
    assert body.keys() <= {*HOLDER, "exit_code", "reason"}
    assert len(original.api.told(job, report)) == 1


@pytest.mark.parametrize(
    "lacking",
    [
        {"sync": None},
        {"sync": {"before": None, "during": None, "after": None}},
        {"arguments": None, "environment": None, "sync": {}},
        {"compression": None, "max_failures": None, "webhook": None, "sync": None},
        {"heartbeat_interval": None, "num_failures": None, "started": None, "heartbeat": None, "sync": None},
        {f"{kind}_{what}": None for kind in ("input", "checkpoint", "output") for what in ("bucket", "prefix")},
    ],
)
def test_what_the_originals_answer_lacks_keeps_no_job(original: Pair, lacking: dict[str, Any]) -> None:
    job = original.api.submit(**({"command": "true"} | lacking))
    assert finished(original.api, job)[0] == "completed"


def test_the_original_is_never_told_of_a_release(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair("")
    job = pair.api.submit(**shell("sleep 1000"), sync=None)
    pair.worker.start().wait_for("command_started")
    pair.worker.signal(signal.SIGTERM)
    assert pair.worker.wait() == 0
    assert {call.path for call in pair.api.calls} <= {"/users/me", "/work", f"/jobs/{job}/heartbeat"}


def test_a_failure_that_the_original_counted_unheard_is_not_told_again(original: Pair) -> None:
    job = original.api.submit(**shell("while [ ! -e fail ]; do sleep 0.02; done; rm fail; exit 1"), sync=None)
    with original.api.silent(f"/jobs/{job}/failed"):
        (original.worker.folder / "fail").touch()
        wait_for(lambda: original.api.reads(job), "the job to be read")
    next_job = original.api.submit(command="true", sync=None)
    assert finished(original.api, next_job)[0] == "completed"
    assert len(original.api.told(job, "failed")) == 1


def test_a_failure_that_the_original_did_not_count_is_told_again_once_the_job_was_read(original: Pair) -> None:
    job = original.api.submit(**shell("while [ ! -e fail ]; do sleep 0.02; done; rm fail; exit 1"), sync=None)
    original.api.instead(f"/jobs/{job}/failed", (502, {"error": "Bad Gateway"}))
    (original.worker.folder / "fail").touch()
    assert finished(original.api, job)[0] == "failed"
    told = [call.method + call.path for call in original.api.calls if f"/jobs/{job}" in call.path]
    failed = [at for at, call in enumerate(told) if call == f"POST/jobs/{job}/failed"]
    assert len(failed) == 2 and f"GET/jobs/{job}" in told[failed[0] : failed[1]]


def test_nor_is_it_told_again_by_the_next_life_of_the_worker(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair("")
    job = pair.api.submit(**shell("exit 1"), sync=None)
    pair.api.always[f"/jobs/{job}/heartbeat"] = (200, {"status": "running"})  # it compares no machines
    with pair.api.silent(f"/jobs/{job}/failed"):
        pair.worker.start()
        wait_for(lambda: pair.api.reports(job), "the report to arrive")
        pair.worker.kill()
    pair.worker.start()
    wait_for(
        lambda: [entry for entry in pair.worker.state()["jobs"] if entry["end"]], "the job to be off the books"
    )
    assert len(pair.api.told(job, "failed")) == 1


def test_extensions_are_used_once_the_server_has_named_them(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair("attempt, claim-id, release, wait")
    pair.worker.start()
    claim = wait_for(pair.api.claims, "a claim")[0]
    assert claim.query.keys() == {*HOLDER, "claim_id", "wait"}
    assert 0 < int(claim.query["wait"]) <= 30
    assert pair.api.calls[0].query == {}  # what was asked before the server had named any
    job = pair.api.submit(**shell("sleep 1000"), sync={})
    pair.worker.wait_for("command_started")
    pair.worker.signal(signal.SIGTERM)
    assert pair.worker.wait() == 0
    report, body = finished(pair.api, job)
    assert (report, body.keys() - {"reason", "exit_code"}) == ("released", {*HOLDER, "attempt"})


def test_every_report_to_a_server_that_knows_attempts_carries_the_attempt(own: Pair, bucket: str) -> None:
    script = "echo 1 > during/state; while [ ! -e go-on ]; do sleep 0.02; done; rm go-on"
    job = own.api.submit(**shell(script), sync={"during": [block(bucket, "during")]})
    wait_for(lambda: own.api.told(job, "heartbeat"), "a heartbeat")
    (own.worker.folder / "go-on").touch()
    finished(own.api, job)
    posts = own.api.requests(lambda call: call.path.startswith(f"/jobs/{job}/"))
    assert {call.path.rsplit("/", 1)[1] for call in posts} >= {"heartbeat", "checkpoint", "completed"}
    assert all(call.body.items() >= {**HOLDER, "attempt": 1}.items() for call in posts)


def test_a_failed_report_says_the_exit_code_and_the_reason(own: Pair) -> None:
    job = own.api.submit(**shell("exit 7"), sync={})
    assert finished(own.api, job) == ("failed", {**HOLDER, "attempt": 1, "exit_code": 7, "reason": "exit_code"})


def test_an_api_below_a_path_is_asked_there(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    pair.worker.start(KELPIE_API_URL=f"{pair.api.url}/kelpie/")
    assert wait_for(lambda: list(pair.api.calls), "a request")[0].path.startswith("/kelpie/")


# --- which answers end what -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["pending", "completed", "failed", "canceled", "something-new"])
def test_a_heartbeat_answered_with_anything_but_running_ends_the_job_without_a_report(
    own: Pair, status: str
) -> None:
    job = own.api.submit(**shell("sleep 1000"), sync={}, heartbeat_interval=0.3)
    own.worker.wait_for("command_started", job_id=job)
    own.api.always[f"/jobs/{job}/heartbeat"] = (200, {"status": status})
    own.worker.wait_for("wiped", job_id=job)
    assert own.api.reports(job) == []


def test_a_heartbeat_for_a_job_that_nobody_knows_ends_it(own: Pair) -> None:
    job = own.api.submit(**shell("sleep 1000"), sync={}, heartbeat_interval=0.3)
    own.worker.wait_for("command_started", job_id=job)
    own.api.always[f"/jobs/{job}/heartbeat"] = (404, {"error": "Not Found"})
    own.worker.wait_for("wiped", job_id=job)
    assert own.api.reports(job) == []


@pytest.mark.parametrize(
    "answer",
    [
        (401, {}), (403, {}), (409, {}), (429, {}), (500, {}), (200, []), (200, {"status": None}), (302, {}),
    ],
)  # fmt: skip
def test_any_other_answer_to_a_heartbeat_is_an_outage(own: Pair, answer: tuple[int, Any]) -> None:
    job = own.api.submit(
        **shell("while [ ! -e go-on ]; do sleep 0.02; done; rm go-on"), sync={}, heartbeat_interval=0.3
    )
    path = f"/jobs/{job}/heartbeat"
    own.api.instead(path, answer)
    own.worker.wait_for("command_started", job_id=job)
    wait_for(lambda: len(own.api.told(job, "heartbeat")) >= 2, "another heartbeat")
    (own.worker.folder / "go-on").touch()
    assert finished(own.api, job)[0] == "completed"


@pytest.mark.parametrize("status", [400, 404, 409])
def test_a_report_answered_with_a_clients_error_is_answered(own: Pair, status: int) -> None:
    job = own.api.submit(command="true", sync={})
    own.api.always[f"/jobs/{job}/completed"] = (status, {"error": "No", "message": "No."})
    wait_for(lambda: own.api.told(job, "completed"), "the report")
    own.worker.wait_for("wiped", job_id=job)
    next_job = own.api.submit(command="true", sync={})
    assert finished(own.api, next_job)[0] == "completed"
    assert len(own.api.told(job, "completed")) == 1


@pytest.mark.parametrize("answer", [(401, {}), (403, {}), (500, {}), (302, {})])
def test_a_report_that_is_not_answered_is_repeated_until_it_is(own: Pair, answer: tuple[int, Any]) -> None:
    job = own.api.submit(command="true", sync={})
    own.api.instead(f"/jobs/{job}/completed", answer)
    assert finished(own.api, job)[0] == "completed"
    assert len(own.api.told(job, "completed")) == 2


def test_a_redirect_takes_no_key_to_another_host(make_pair: Callable[..., Pair]) -> None:
    elsewhere = ScriptedCoordinator()
    pair = make_pair()
    pair.api.redirects_to = elsewhere.url
    try:
        pair.worker.start()
        wait_for(lambda: len(pair.api.calls) >= 2, "a request to be repeated")
        assert elsewhere.calls == []
    finally:
        elsewhere.close()


@pytest.mark.parametrize(
    "answer",
    [(200, {}), (200, [{}]), (200, [None]), (200, [{"id": 5}]), (401, {}), (404, {})],
)  # fmt: skip
def test_an_answer_to_a_claim_that_is_no_job_is_survived(own: Pair, answer: tuple[int, Any]) -> None:
    own.api.instead("/work", answer)
    job = own.api.submit(command="true", sync={})
    assert finished(own.api, job)[0] == "completed"
