"""How long a worker stays on its instance, as tables; and the workers of one machine, who find each other."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kelpie_worker.config import Authorization, Stay, TokenUse
from kelpie_worker.coordinator.calls import _Deadline
from kelpie_worker.coordinator.client import longest_wait
from kelpie_worker.coordinator.credentials import Credentials, NoToken, life_of, organization_of
from kelpie_worker.job import Job
from kelpie_worker.messages import (
    Claimed,
    Departed,
    Departure,
    Ending,
    LeaseRenewed,
    LeaveInstance,
    Message,
    Reported,
    SetDeletionCost,
    Verdict,
)
from kelpie_worker.pipeline import JobState, Phase
from kelpie_worker.salad.imds import Imds, ImdsUnavailable
from kelpie_worker.salad.instance_policy import BUSIEST, InstancePolicy, deletion_cost
from kelpie_worker.salad.peers import Peers, PeerState
from kelpie_worker.system.linux import boottime

RUNNING = JobState(Job("1", "job"), Phase.RUNNING)
UPLOADING = JobState(Job("1", "job"), Phase.UPLOADING, Ending(Verdict.COMPLETED), aside=())
FAILED = JobState(Job("1", "job"), Phase.WIPING, Ending(Verdict.FAILED, "exit_code", 1))
NOTHING: dict[str, JobState] = {}
NEXT = Claimed("next")

# --- what a deletion would cost -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phases", "heartbeats", "cost"),
    [
        ([], {}, 0),
        ([Phase.DOWNLOADING], {}, 1),
        ([Phase.RUNNING], {"0": 7}, 8),
        ([Phase.STOPPING], {"0": 1}, 2),
        ([Phase.FLUSHING], {"0": 1}, BUSIEST),
        ([Phase.STAGING], {}, BUSIEST),
        ([Phase.UPLOADING], {}, BUSIEST),
        ([Phase.REPORTING], {}, BUSIEST),
        ([Phase.WIPING], {}, 1),
        ([Phase.RUNNING, Phase.UPLOADING], {"0": 7}, BUSIEST),
        ([Phase.WIPING, Phase.RUNNING], {"0": 3, "1": 9}, 10),
        ([Phase.RUNNING], {"0": 2 * BUSIEST}, BUSIEST - 1),
    ],
)
def test_the_deletion_cost_is_that_of_the_dearest_job(
    phases: list[Phase], heartbeats: dict[str, int], cost: int
) -> None:
    jobs = {str(number): replace(RUNNING, phase=phase) for number, phase in enumerate(phases)}
    assert deletion_cost(jobs, heartbeats) == cost


class Scene:
    """A residence, what it has sent, and a clock that the test turns."""

    def __init__(self, stay: Stay) -> None:
        self.time = 0.0
        self.sent: list[SetDeletionCost | LeaveInstance] = []
        self.instance_policy = InstancePolicy(stay, self.sent.append, lambda: self.time)

    def see(self, message: Message, *jobs: JobState) -> bool:
        """Whether the worker would rather go than claim."""
        held = {job.job.claim_id: job for job in jobs}
        self.instance_policy.see(message, held)
        free = not any(job.occupies_directories for job in jobs)
        return free and self.instance_policy.ends(held)

    @property
    def leaves(self) -> list[tuple[Departure, str]]:
        return [(command.departure, command.reason) for command in self.sent if isinstance(command, LeaveInstance)]


def test_only_a_change_of_the_cost_is_told() -> None:
    scene = Scene(Stay())
    scene.see(NEXT)
    scene.see(Claimed("1", RUNNING.job), RUNNING)
    scene.see(Claimed("1", RUNNING.job), RUNNING)
    scene.see(LeaseRenewed("1", 1.0), RUNNING)
    scene.see(LeaseRenewed("other", 1.0), RUNNING)
    scene.see(NEXT)
    assert scene.sent == [SetDeletionCost(1, True), SetDeletionCost(2, True), SetDeletionCost(0, False)]


# --- when it leaves -------------------------------------------------------------------------------------


def test_an_idle_worker_leaves_when_its_time_is_over_and_not_before() -> None:
    scene = Scene(Stay(max_idle=60))
    assert not scene.see(NEXT)
    scene.time = 59.9
    assert not scene.see(NEXT)
    scene.time = 60
    assert scene.see(NEXT) and scene.see(NEXT)
    assert scene.leaves == [(Departure.REALLOCATE, "no work for 60 seconds")]  # once
    scene.see(Departed(gone=False))
    assert scene.instance_policy.left  # whatever became of it


def test_work_begins_the_time_without_work_anew() -> None:
    scene = Scene(Stay(max_idle=60))
    scene.see(NEXT)
    scene.time = 50
    scene.see(NEXT, RUNNING)
    scene.time = 100
    assert not scene.see(NEXT)
    scene.time = 150
    assert not scene.see(NEXT)
    scene.time = 160
    assert scene.see(NEXT)


def test_uploads_keep_an_idle_worker_but_are_no_work() -> None:
    scene = Scene(Stay(max_idle=60))
    assert not scene.see(NEXT, UPLOADING)
    scene.time = 100
    assert not scene.see(NEXT, UPLOADING)
    assert scene.instance_policy.wants_work_until() == 105  # then it looks again
    assert scene.see(NEXT) and scene.leaves


def test_without_a_limit_nothing_is_left_and_every_claim_may_wait() -> None:
    scene = Scene(Stay())
    scene.see(Reported("1"), FAILED)
    scene.time = 1e9
    assert not scene.see(NEXT) and scene.instance_policy.wants_work_until() is None


def test_failures_count_once_each_and_only_where_they_are_accepted() -> None:
    scene = Scene(Stay(max_failures=2))
    for _ in range(3):
        scene.see(Reported("1"), FAILED)
    other = replace(FAILED, job=Job("2", "job"))
    scene.see(Reported("2", accepted=False), other)
    scene.see(Reported("3"), replace(RUNNING, job=Job("3", "job"), phase=Phase.WIPING))
    assert not scene.see(NEXT)
    scene.see(Reported("2"), other)
    assert scene.see(NEXT)
    assert scene.leaves == [(Departure.REALLOCATE, "2 jobs failed here")]


@pytest.mark.parametrize("gone", [False, True])
def test_where_a_failing_machine_cannot_be_left_the_worker_goes_on(gone: bool) -> None:
    scene = Scene(Stay(max_failures=1))
    scene.see(Reported("1"), FAILED)
    assert scene.see(NEXT)
    assert scene.see(Departed(gone)) is gone and scene.instance_policy.left is gone


def test_a_failing_machine_that_could_not_be_left_is_asked_for_again_after_the_very_next_failure() -> None:
    scene = Scene(Stay(max_failures=3))
    for number in ("1", "2", "3"):
        scene.see(Reported(number), replace(FAILED, job=Job(number, "job")))
    assert scene.see(NEXT)
    assert not scene.see(Departed(gone=False))
    scene.see(Reported("4"), replace(FAILED, job=Job("4", "job")))
    assert scene.see(NEXT) and len(scene.leaves) == 2


def test_one_job_for_each_container() -> None:
    scene = Scene(Stay(one_job=True))
    assert not scene.see(NEXT)
    assert not scene.see(NEXT, RUNNING)
    assert scene.see(NEXT, UPLOADING) and not scene.leaves  # no other claim, but no end before the uploads'
    assert scene.see(NEXT)
    assert [departure for departure, _ in scene.leaves] == [Departure.RECREATE]


@pytest.mark.parametrize(
    ("until", "seconds"), [(None, 20), (100.0, 20), (112.2, 13), (104.0, 4), (101.0, 3), (90.0, 3)]
)
def test_how_long_a_claim_may_wait(until: float | None, seconds: int) -> None:
    now = 70.0 if until == 100.0 else 100.0
    assert longest_wait(until, now) == seconds


@pytest.mark.parametrize(
    ("left", "pause", "ended", "cut_short"),
    [
        (None, 5, False, False),
        (None, 5, True, True),
        (60, 5, False, False),
        (-1, 5, False, True),
        (60, 5, True, True),
    ],
)
def test_a_pause_ends_with_claiming_or_when_no_work_is_wanted(
    left: float | None, pause: float, ended: bool, cut_short: bool
) -> None:
    paused: list[float] = []

    def wait(seconds: float) -> bool:
        paused.append(seconds)
        return ended

    deadline = _Deadline(None if left is None else boottime() + left, wait)
    assert deadline.pause(pause) is cut_short
    assert paused == [0 if left == -1 else pause]


# --- several workers on one machine ---------------------------------------------------------------------


def test_workers_see_what_the_others_tell_and_forget_who_left(tmp_path: Path) -> None:
    directory = str(tmp_path / "run")
    one, two = Peers(directory), Peers(directory)
    assert one.others() == [PeerState()]
    two.tell(PeerState(BUSIEST, True))
    assert one.others() == [PeerState(BUSIEST, True)]
    two.tell(PeerState(7, False))
    assert (one.others(), two.others()) == ([PeerState(7, False)], [PeerState()])
    two.leave()
    assert one.others() == []
    one.leave()
    assert not Path(directory).exists()


def test_the_file_of_a_dead_worker_counts_for_nothing_and_is_removed(tmp_path: Path) -> None:
    one = Peers(str(tmp_path))
    dead = tmp_path / "1-dead.worker"
    dead.write_text(json.dumps({"cost": 9, "holds_job": True}))
    assert one.others() == [] and not dead.exists()
    one.leave()


def test_a_living_worker_that_nobody_understands_is_taken_to_hold_a_job(tmp_path: Path) -> None:
    one, two = Peers(str(tmp_path)), Peers(str(tmp_path))
    os.pwrite(two._file, b"{]" + b" " * 100, 0)
    assert one.others() == [PeerState(0, True)]
    one.leave()
    two.leave()


def test_a_turn_that_is_never_given_back_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelpie_worker.salad.peers._PATIENCE", 0.05)
    one, two = Peers(str(tmp_path)), Peers(str(tmp_path))
    with one.turn(), two.turn():
        pass
    one.leave()
    two.leave()


# --- tokens ---------------------------------------------------------------------------------------------


def token(claims: Any) -> str:
    return f"h.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.s"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (token({"iat": 100, "exp": 400}), 300),
        (token({"iat": 100, "exp": 110}), 10),
        (token({"iat": 100, "exp": 1e12}), 86_400),
        (token({"exp": 400}), 300),
        (token({"iat": 400, "exp": 100}), 300),
        (token({"iat": "1", "exp": []}), 300),
        (token([1]), 300),
        ("no token", 300),
        ("a.!!.b", 300),
        ("", 300),
    ],
)
def test_how_long_a_token_lives_by_its_issuers_clock(text: str, seconds: float) -> None:
    assert life_of(text) == seconds


@pytest.mark.parametrize("name", [None, "", 5, "a\nb", "ü"])
def test_an_organization_that_no_header_can_carry_is_none(name: Any) -> None:
    with pytest.raises(ImdsUnavailable, match="SALAD_ORGANIZATION"):
        organization_of(token({"salad_organization_name": name}))


def test_without_a_metadata_service_there_is_no_token() -> None:
    identity = Credentials(Authorization({}, TokenUse.BEARER), None)
    with pytest.raises(NoToken):
        identity.headers(patience=0.01)


def test_a_key_needs_no_metadata_service() -> None:
    assert Credentials(Authorization({"X-Kelpie-Key": "k"}), None).headers() == {"X-Kelpie-Key": "k"}


# --- the metadata service -------------------------------------------------------------------------------


@contextmanager
def answering(content: bytes) -> Iterator[str]:
    """The address of a server that answers one request with this, and then keeps silent."""
    hung_up = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.recv(65_536)
                connection.sendall(content)
                hung_up.wait(60)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        hung_up.set()
        thread.join()


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"SSH-2.0\r\n",
        OK,
        OK + b"Content-Length: 100\r\n\r\n{",
        OK + b"Content-Length: 2\r\n\r\n[]",
        OK + b"Content-Length: 2\r\n\r\n{}",
        OK + b"Content-Length: 5\r\n\r\n<htm>",
        OK + b'Content-Length: 11\r\n\r\n{"jwt": 12}',
        OK + b'Content-Length: 17\r\n\r\n{"jwt":"a\\r\\nb:c"}',
    ],
)
def test_whatever_is_no_token_is_no_answer(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelpie_worker.salad.imds._TIMEOUT", 0.2)
    with answering(content) as url, pytest.raises(ImdsUnavailable):
        Imds(url).token()


def test_an_answer_that_never_ends_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then: the socket's own time-out never comes."""
    monkeypatch.setattr("kelpie_worker.salad.imds.LONGEST_CALL", 0.3)
    monkeypatch.setattr("kelpie_worker.salad.imds._TIMEOUT", 30.0)
    with answering(OK + b"Content-Length: 100\r\n\r\n{") as url, pytest.raises(ImdsUnavailable):
        Imds(url).token()
