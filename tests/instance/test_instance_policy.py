"""How long a worker stays on its instance, and what a deletion of it would cost, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kelpie_worker.config import InstanceLimits
from kelpie_worker.coordinator.calls import _Deadline
from kelpie_worker.job import Job
from kelpie_worker.job_in_hand import JobInHand, Times
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
from kelpie_worker.salad.instance_policy import BUSIEST, IS_JOBS_OWN_FAULT, InstancePolicy, deletion_cost
from kelpie_worker.system.linux import boottime

RUNNING = JobState(Job("1", "job"), Phase.RUNNING)
UPLOADING = JobState(Job("1", "job"), Phase.UPLOADING, Ending(Verdict.COMPLETED), aside=())
FAILED = JobState(Job("1", "job"), Phase.WIPING, Ending(Verdict.FAILED, "exit_code", 1))
NEXT = Claimed("next")
NOW = Times("2026-01-01T00:00:00Z")

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
    jobs = {
        str(number): JobInHand(replace(RUNNING, phase=phase), NOW, heartbeats=heartbeats.get(str(number), 0))
        for number, phase in enumerate(phases)
    }
    assert deletion_cost(jobs) == cost


class Scene:
    """A policy, what it has sent, and a clock that the test turns."""

    def __init__(self, stay: InstanceLimits) -> None:
        self.time = 0.0
        self.jobs: dict[str, JobInHand] = {}
        self.sent: list[SetDeletionCost | LeaveInstance] = []
        self.instance_policy = InstancePolicy(stay, self.sent.append, lambda: self.time)

    def see(self, message: Message, *jobs: JobState) -> bool:
        """Whether the worker would rather go than claim."""
        for gone in self.jobs.keys() - {state.job.claim_id for state in jobs}:
            del self.jobs[gone]
        for state in jobs:
            self.jobs.setdefault(state.job.claim_id, JobInHand(state, NOW)).state = state
        self.instance_policy.see(message, self.jobs)
        free = not any(state.occupies_directories for state in jobs)
        return free and self.instance_policy.ends(self.jobs)

    @property
    def leaves(self) -> list[tuple[Departure, str]]:
        return [(command.departure, command.reason) for command in self.sent if isinstance(command, LeaveInstance)]


def test_only_a_change_of_the_cost_is_told() -> None:
    scene = Scene(InstanceLimits())
    scene.see(NEXT)
    scene.see(Claimed("1", RUNNING.job), RUNNING)
    scene.see(Claimed("1", RUNNING.job), RUNNING)
    scene.see(LeaseRenewed("1", 1.0), RUNNING)
    scene.see(LeaseRenewed("other", 1.0), RUNNING)
    scene.see(NEXT)
    assert scene.sent == [SetDeletionCost(1, True), SetDeletionCost(2, True), SetDeletionCost(0, False)]


# --- when it leaves -------------------------------------------------------------------------------------


def test_an_idle_worker_leaves_when_its_time_is_over_and_not_before() -> None:
    scene = Scene(InstanceLimits(max_idle=60))
    assert not scene.see(NEXT)
    scene.time = 59.9
    assert not scene.see(NEXT)
    scene.time = 60
    assert scene.see(NEXT) and scene.see(NEXT)
    assert scene.leaves == [(Departure.REALLOCATE, "no work for 60 seconds")]  # once
    scene.see(Departed(gone=False))
    assert scene.instance_policy.left  # whatever became of it


def test_work_begins_the_time_without_work_anew() -> None:
    scene = Scene(InstanceLimits(max_idle=60))
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
    scene = Scene(InstanceLimits(max_idle=60))
    assert not scene.see(NEXT, UPLOADING)
    scene.time = 100
    assert not scene.see(NEXT, UPLOADING)
    assert scene.instance_policy.wants_work_until() == 105  # then it looks again
    assert scene.see(NEXT) and scene.leaves


def test_without_a_limit_nothing_is_left_and_every_claim_may_wait() -> None:
    scene = Scene(InstanceLimits())
    scene.see(Reported("1"), FAILED)
    scene.time = 1e9
    assert not scene.see(NEXT) and scene.instance_policy.wants_work_until() is None


def test_failures_count_once_each_and_only_where_they_are_accepted() -> None:
    scene = Scene(InstanceLimits(max_failures=2))
    for _ in range(3):
        scene.see(Reported("1"), FAILED)
    other = replace(FAILED, job=Job("2", "job"))
    scene.see(Reported("2", accepted=False), other)
    scene.see(Reported("3"), replace(RUNNING, job=Job("3", "job"), phase=Phase.WIPING))
    assert not scene.see(NEXT)
    scene.see(Reported("2"), other)
    assert scene.see(NEXT)
    assert scene.leaves == [(Departure.REALLOCATE, "2 jobs failed here")]


@pytest.mark.parametrize("reason", [reason for reason, is_own in IS_JOBS_OWN_FAULT.items() if is_own])
def test_a_failure_that_is_the_jobs_own_fault_does_not_cost_the_machine(reason: str) -> None:
    scene = Scene(InstanceLimits(max_failures=1))
    failed = Ending(Verdict.FAILED, reason, detail="writing out/model: NoSuchBucket")
    scene.see(Reported("1"), replace(FAILED, outcome=failed))
    assert not scene.see(NEXT)


def test_an_upload_that_failed_for_an_error_of_the_machine_counts() -> None:
    scene = Scene(InstanceLimits(max_failures=1))
    failed = Ending(Verdict.FAILED, "upload", detail="OSError: [Errno 5] Input/output error: 'out/step'")
    scene.see(Reported("1"), replace(FAILED, outcome=failed))
    assert scene.see(NEXT)


@pytest.mark.parametrize("gone", [False, True])
def test_where_a_failing_machine_cannot_be_left_the_worker_goes_on(gone: bool) -> None:
    scene = Scene(InstanceLimits(max_failures=1))
    scene.see(Reported("1"), FAILED)
    assert scene.see(NEXT)
    assert scene.see(Departed(gone)) is gone and scene.instance_policy.left is gone


def test_a_failing_machine_that_could_not_be_left_is_asked_for_again_after_the_very_next_failure() -> None:
    scene = Scene(InstanceLimits(max_failures=3))
    for number in ("1", "2", "3"):
        scene.see(Reported(number), replace(FAILED, job=Job(number, "job")))
    assert scene.see(NEXT)
    assert not scene.see(Departed(gone=False))
    scene.see(Reported("4"), replace(FAILED, job=Job("4", "job")))
    assert scene.see(NEXT) and len(scene.leaves) == 2


def test_one_job_for_each_container() -> None:
    scene = Scene(InstanceLimits(one_job=True))
    assert not scene.see(NEXT)
    assert not scene.see(NEXT, RUNNING)
    assert scene.see(NEXT, UPLOADING) and not scene.leaves  # no other claim, but no end before the uploads'
    assert scene.see(NEXT)
    assert [departure for departure, _ in scene.leaves] == [Departure.RECREATE]


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
