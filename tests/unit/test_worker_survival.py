"""What the worker makes of rubbish and of its own failures, as tables."""

from __future__ import annotations

import copy
import errno
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import pytest
import requests

from kelpie_worker import config
from kelpie_worker.command.process import why_not_started
from kelpie_worker.coordinator.calls import CoordinatorCalls
from kelpie_worker.coordinator.client import Api, ClaimRefused, Unreachable
from kelpie_worker.coordinator.heartbeat import HeldLease
from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.messages import (
    CeaseClaiming,
    ChildStarted,
    Claim,
    Claimed,
    Ending,
    Exited,
    Message,
    Refused,
    Report,
    Reported,
    Troubled,
    Verdict,
)
from kelpie_worker.pipeline import BROKEN, JobState, Phase, outcome_of_abandoned
from kelpie_worker.processes.restarts import ChildKeepsDying, Restarts
from kelpie_worker.state_file import StateFile, WorkerState, fresh_state
from kelpie_worker.supervisor import Supervisor
from kelpie_worker.system.linux import boottime

CLAIM = "5ab3a9b4-6fd1-4ef5-9a3e-0d6d3a0e9c11"
BLOCK = SyncBlock("b", "p/", "/out", "x$")
JOB = Job(CLAIM, "job", 3, 5.0, before=(BLOCK,), during=(BLOCK,), after=(BLOCK,))
COMPLETED = Ending(Verdict.COMPLETED, None, 0)
FAILED = Ending(Verdict.FAILED, "exit_code", 3)
P = Phase


# --- the state file -------------------------------------------------------------------------------------

Path_ = tuple[str | int, ...]
IN_HAND: Path_ = ("jobs", 0, "kelpie")
SAVED_JOB: Path_ = (*IN_HAND, "job")
SAVED_BLOCK: Path_ = (*SAVED_JOB, "after", 0)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """The state file of a worker that uploads the outputs of a job, and what it holds."""
    path = tmp_path / "kelpie-state.json"
    store = StateFile(str(path))
    store.state.claim_id = CLAIM
    store.state.put(JobState(JOB, P.UPLOADING, COMPLETED, (("/out", "/aside"),)))
    store.save()
    store.close()
    return path, json.loads(path.read_text())


def reread(path: Path, content: dict[str, Any]) -> WorkerState:
    path.write_text(json.dumps(content))
    store = StateFile(str(path))
    store.close()
    return store.state


def test_what_was_saved_is_taken_up_again(saved: tuple[Path, dict[str, Any]]) -> None:
    state = reread(*saved)
    assert state.jobs == {CLAIM: JobState(JOB, P.UPLOADING, COMPLETED, (("/out", "/aside"),))}
    assert state.claim_id == CLAIM and not list(saved[0].parent.glob("*.damaged-*"))


def test_what_a_command_printed_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "kelpie-state.json"
    store = StateFile(str(path))
    store.state.put(JobState(JOB, P.REPORTING, replace(COMPLETED, output="swordfish")))
    store.save()
    store.close()
    assert "swordfish" not in path.read_text()
    assert reread(path, json.loads(path.read_text())).jobs[CLAIM].outcome == COMPLETED


@pytest.mark.parametrize(
    ("place", "rubbish"),
    [
        (("machine_id",), 5),
        (("machine_id",), "\ud800"),
        (("claim_id",), "nonsense"),
        (("claim_id",), 5),
        (("claim_id",), ""),
        (("claim_id",), "{" + CLAIM + "}"),
        (("jobs",), {"a": 1}),
        (("jobs",), [3]),
        (("jobs", 0, "start"), None),
        (("jobs", 0, "end"), 3),
        (IN_HAND, None),
        ((*IN_HAND, "phase"), "dancing"),
        ((*IN_HAND, "phase"), "done"),
        ((*IN_HAND, "phase"), ["running"]),
        ((*IN_HAND, "outcome"), None),
        ((*IN_HAND, "outcome"), {}),
        ((*IN_HAND, "outcome", "verdict"), "maybe"),
        ((*IN_HAND, "outcome", "exit_code"), "0"),
        ((*IN_HAND, "outcome", "reason"), 1),
        ((*IN_HAND, "aside"), None),
        ((*IN_HAND, "aside"), ["ab"]),
        ((*IN_HAND, "aside"), [["/out", "aside"]]),
        ((*IN_HAND, "aside"), [["/out", 3]]),
        ((*IN_HAND, "begun"), -1),
        ((*SAVED_JOB, "claim_id"), None),
        ((*SAVED_JOB, "claim_id"), "../../etc"),
        ((*SAVED_JOB, "id"), ""),
        ((*SAVED_JOB, "id"), 7),
        ((*SAVED_JOB, "attempt"), "1"),
        ((*SAVED_JOB, "attempt"), True),
        ((*SAVED_JOB, "heartbeat_interval"), "abc"),
        ((*SAVED_JOB, "heartbeat_interval"), None),
        ((*SAVED_JOB, "heartbeat_interval"), 0),
        ((*SAVED_JOB, "heartbeat_interval"), float("nan")),
        ((*SAVED_JOB, "heartbeat_interval"), 1e300),
        ((*SAVED_JOB, "num_failures"), -1),
        ((*SAVED_JOB, "compression"), "yes"),
        ((*SAVED_JOB, "after"), "out"),
        ((*SAVED_JOB, "after"), [{"bucket": "b"}]),
        ((*SAVED_JOB, "command"), "from elsewhere"),
        ((*SAVED_BLOCK, "bucket"), 5),
        ((*SAVED_BLOCK, "prefix"), None),
        ((*SAVED_BLOCK, "local_path"), "relative"),
        ((*SAVED_BLOCK, "pattern"), 1),
        ((*SAVED_BLOCK, "mirrors_deletes"), 1),
    ],
)
def test_values_that_no_worker_saved_are_set_aside(
    saved: tuple[Path, dict[str, Any]], place: Path_, rubbish: Any
) -> None:
    path, content = saved
    damaged = copy.deepcopy(content)
    part: Any = damaged
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = rubbish

    state = reread(path, damaged)

    assert state.jobs == {} and state.claim_id is None
    assert json.loads(path.with_name(path.name + ".damaged-1").read_text()).keys() == content.keys()


@pytest.mark.parametrize("missing", ["pattern", "mirrors_deletes", "prefix"])
def test_a_block_without_one_of_its_fields_is_set_aside(saved: tuple[Path, dict[str, Any]], missing: str) -> None:
    path, content = saved
    del content["jobs"][0]["kelpie"]["job"]["during"][0][missing]
    assert reread(path, content).jobs == {}


def test_a_state_file_that_cannot_be_written_is_named_and_stays_as_it_was(
    saved: tuple[Path, dict[str, Any]],
) -> None:
    path, content = saved
    store = StateFile(str(path))
    path.with_name(path.name + ".tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="the state file cannot be written: No space left on device") as caught:
        store.save()
    store.close()
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert json.loads(path.read_text()) == content and not path.with_name(path.name + ".tmp").is_symlink()


# --- a worker that cannot go on -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "outcome", "told"),
    [
        (P.DOWNLOADING, None, Ending(Verdict.RELEASED, "disk_full")),
        (P.RUNNING, None, Ending(Verdict.RELEASED, "disk_full")),
        (P.STOPPING, Ending(Verdict.RELEASED, "storage"), Ending(Verdict.RELEASED, "storage")),
        (P.STOPPING, Ending(Verdict.DROPPED, "canceled"), None),
        (P.FLUSHING, FAILED, FAILED),
        (P.FLUSHING, COMPLETED, Ending(Verdict.RELEASED, "disk_full")),
        (P.UPLOADING, COMPLETED, Ending(Verdict.RELEASED, "disk_full")),
        (P.REPORTING, COMPLETED, COMPLETED),
        (P.WIPING, COMPLETED, None),
    ],
)
def test_what_is_told_of_a_job_that_its_worker_cannot_go_on_with(
    phase: Phase, outcome: Ending | None, told: Ending | None
) -> None:
    assert outcome_of_abandoned(JobState(JOB, phase, outcome), "disk_full") == told


@pytest.mark.parametrize(("phase", "verdict"), [(P.RUNNING, Verdict.FAILED), (P.DOWNLOADING, Verdict.RELEASED)])
def test_who_breaks_the_worker_is_the_command_that_runs(phase: Phase, verdict: Verdict) -> None:
    told = outcome_of_abandoned(JobState(JOB, phase), BROKEN, "it removed everything")
    assert told == Ending(verdict, BROKEN, detail="it removed everything")


def test_a_child_that_keeps_dying_is_given_up_and_another_ones_deaths_do_not_count() -> None:
    started: list[str] = []
    pauses: list[float] = []
    restarts = Restarts(started.append, pauses.append)
    for _ in range(4):
        restarts.restart("uploader")
        restarts.restart("runner")
    with pytest.raises(ChildKeepsDying, match="its runner died 5 times in a row"):
        restarts.restart("runner")
    assert started == ["uploader", "runner"] * 4
    assert len(pauses) == 8 and max(pauses) <= 2.0


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file"), Exited),
        (PermissionError(errno.EACCES, "Permission denied"), Exited),
        (OSError(errno.ENOEXEC, "Exec format error"), Exited),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), Exited),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), Troubled),
        (OSError(errno.E2BIG, "Argument list too long"), Refused),
        (ValueError("embedded null byte"), Refused),
    ],
)
def test_why_a_command_could_not_be_started(error: OSError | ValueError, message: type[Message]) -> None:
    told = why_not_started(JOB, error)
    assert type(told) is message
    if isinstance(told, Refused):
        assert told == Refused(CLAIM, "not_started", str(error))


# --- claims ---------------------------------------------------------------------------------------------


class Memory:
    """A store that counts how often it was saved."""

    def __init__(self) -> None:
        self.state = fresh_state()
        self.saved: list[str | None] = []

    def save(self) -> None:
        self.saved.append(self.state.claim_id)


def test_a_refused_claim_is_followed_by_another_id_each_after_a_longer_pause() -> None:
    store, sent = Memory(), []
    supervisor = Supervisor(store, sent.append, lambda name: None, lambda seconds, message: None)
    supervisor.start()
    supervisor.on(ChildStarted("heartbeat"))
    for _ in range(7):
        supervisor.on(Refused(sent[-1].claim_id, "claim"))
    assert all(isinstance(command, Claim) for command in sent)
    ids, pauses = [claim.claim_id for claim in sent], [claim.after for claim in sent]
    assert len(set(ids)) == 8 and set(ids) <= set(store.saved)
    assert pauses[0] == 0 and 0.5 <= pauses[1] <= 1 <= pauses[2] <= 2 and 15 <= pauses[7] <= 30
    supervisor.on(Claimed(sent[-1].claim_id, pause=3.0))
    assert sent[-1].claim_id == ids[-1] and sent[-1].after == 3.0  # an answered id is as good as ever


class Held:
    """An API whose claim is held back until the test answers it; asked at once, it has what was `given`."""

    waits = knows_claims = True

    def __init__(self, given: Job | None = None) -> None:
        self.given = given
        self.asked, self.answered = threading.Event(), threading.Event()

    def claim(self, claim_id: str, until: float | None = None, at_once: bool = False) -> Claimed:
        self.asked.set()
        if at_once:
            return Claimed(claim_id, self.given)
        assert self.answered.wait(30)
        return Claimed(claim_id, JOB)


@pytest.mark.parametrize("given", [None, JOB])
def test_a_claim_that_the_server_holds_back_does_not_delay_the_end_and_its_job_is_told(given: Job | None) -> None:
    api, told = Held(given), SimpleQueue[Message]()
    coordinator = CoordinatorCalls(cast(Api, api), told.put)
    coordinator.obey(Claim(CLAIM))
    assert api.asked.wait(30)
    coordinator.obey(CeaseClaiming())
    assert told.get(timeout=30) == Claimed(CLAIM, given)
    api.answered.set()
    assert told.get(timeout=30) == Claimed(CLAIM, JOB)


def test_an_answer_that_comes_at_the_last_moment_is_the_only_one() -> None:
    api, told = Held(), SimpleQueue[Message]()
    coordinator = CoordinatorCalls(cast(Api, api), told.put)
    coordinator.obey(Claim(CLAIM))
    assert api.asked.wait(30)
    coordinator.obey(CeaseClaiming())
    api.answered.set()
    assert told.get(timeout=30) == Claimed(CLAIM, JOB)
    coordinator._ask_again(CLAIM)
    assert told.empty()


class Stumbling:
    """An API whose every call fails once in a way that nobody thought of."""

    waits = False

    def __init__(self) -> None:
        self.calls: list[str] = []

    def _stumble(self, name: str) -> None:
        self.calls.append(name)
        if self.calls.count(name) == 1:
            raise ZeroDivisionError(name)

    def claim(self, claim_id: str, until: float | None = None) -> Claimed:
        self._stumble("claim")
        return Claimed(claim_id, JOB)

    def report(self, job: Job, outcome: Ending) -> bool:
        self._stumble("report")
        return True


def test_an_unexpected_error_leaves_no_claim_and_no_report_unanswered(capfd: pytest.CaptureFixture[str]) -> None:
    told = SimpleQueue[Message]()
    coordinator = CoordinatorCalls(cast(Api, Stumbling()), told.put)
    coordinator.obey(Claim(CLAIM))
    assert told.get(timeout=30) == Claimed(CLAIM, JOB)
    coordinator.obey(Report(JOB, COMPLETED))
    assert told.get(timeout=30) == Reported(CLAIM)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["event"], line["detail"]) for line in lines] == [
        ("coordinator_failed", "ZeroDivisionError: claim"),
        ("coordinator_failed", "ZeroDivisionError: report"),
    ]


# --- leases ---------------------------------------------------------------------------------------------


class Renewing:
    """An API that tells of every heartbeat."""

    def __init__(self) -> None:
        self.heard = SimpleQueue[Job]()

    def heartbeat(self, job: Job, timeout: float, checkpoint_lag: int | None) -> str:
        self.heard.put(job)
        return "canceled"


def test_the_first_heartbeat_is_due_an_interval_after_the_claim_however_late_its_child_hears_of_it() -> None:
    api, job = Renewing(), replace(JOB, heartbeat_interval=600.0)
    late, fresh = (HeldLease(job, cast(Api, api), lambda message: None) for _ in range(2))
    fresh.start(due=boottime() + 600)
    late.start(due=boottime() - 1)
    assert api.heard.get(timeout=30) == job and late.dropped.wait(30)
    assert api.heard.empty() and not fresh.dropped.is_set()
    fresh.drop()


# --- the API's answers ----------------------------------------------------------------------------------


def response(status: int, content: bytes, extensions: str | None = None) -> requests.Response:
    made = requests.Response()
    made.status_code, made._content = status, content
    made.headers["Content-Type"] = "text/html" if content.startswith(b"<") else "application/json"
    if extensions is not None:
        made.headers["Kelpie-Extensions"] = extensions
    return made


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Api]:
    """An API client whose calls get these answers in turn."""

    def make(*answers: requests.Response) -> Api:
        left = list(answers)
        monkeypatch.setattr(requests.Session, "request", lambda *_, **__: left.pop(0))
        return Api(config.load({"KELPIE_API_KEY": "key", "SALAD_CONTAINER_GROUP_ID": "group"}))

    return make


def test_certificates_that_are_not_there_are_no_reason_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/not/there.pem")
    settings = {"KELPIE_API_URL": "https://localhost:1", "KELPIE_API_KEY": "k", "SALAD_CONTAINER_GROUP_ID": "g"}
    with pytest.raises(Unreachable, match=r"/not/there\.pem"):
        Api(config.load(settings)).claim(CLAIM)


NAMED = "attempt, claim-id, release"
LEARNED = frozenset({"attempt", "claim-id", "release"})
PAGE = b"<html>Not Found</html>"


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (response(404, PAGE), LEARNED),
        (response(502, PAGE), LEARNED),
        (response(401, b"{}", ""), LEARNED),
        (response(200, PAGE), LEARNED),
        (response(404, b'{"error": "Route Not Found"}'), LEARNED),
        (response(200, b"{}"), LEARNED),
        (response(200, b"[]"), frozenset()),  # the server itself is one of the original API now
        (response(200, b"[]", "attempt"), frozenset({"attempt"})),
    ],
)
def test_only_the_api_itself_can_take_an_extension_back(
    answering: Callable[..., Api], answer: requests.Response, left: frozenset[str]
) -> None:
    api = answering(response(200, b"[]", NAMED), response(200, b"[]", NAMED), answer)
    api.claim(CLAIM)
    assert api.extensions == LEARNED
    try:
        api.claim(CLAIM)
    except (Unreachable, ClaimRefused):
        assert left == LEARNED
    assert api.extensions == left


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, ClaimRefused), (409, ClaimRefused), (422, ClaimRefused), (401, Unreachable), (403, Unreachable),
     (429, Unreachable), (302, Unreachable), (503, Unreachable)],
)  # fmt: skip
def test_a_claim_is_refused_by_a_client_error_alone(
    answering: Callable[..., Api], status: int, expected: type[Exception]
) -> None:
    api = answering(response(200, b"{}", NAMED), response(status, b'{"message": "Another one has it."}', NAMED))
    with pytest.raises(expected, match=str(status)):
        api.claim(CLAIM)


@pytest.mark.parametrize(
    ("named", "retry_after", "pause"),
    [
        ("attempt", None, 10.0),  # the pause between polls
        ("attempt, wait", None, 1.0),  # it did not wait: it is about to end
        ("attempt, wait", "5", 5.0),  # too many wait there
        ("attempt, wait", "Wed, 21 Oct 2026 07:28:00 GMT", 1.0),
        ("attempt, wait", "99999", 60.0),
    ],
)
def test_an_empty_answer_that_came_at_once_is_not_asked_for_again_at_once(
    answering: Callable[..., Api], named: str, retry_after: str | None, pause: float
) -> None:
    answer = response(200, b"[]", named)
    if retry_after:
        answer.headers["Retry-After"] = retry_after
    api = answering(response(200, b"{}", named), answer)
    assert api.claim(CLAIM).pause == pause
