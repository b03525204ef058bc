"""The supervisor walks jobs through their phases: killed after any step, it goes on there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from kelpie_worker.job import Job, StoredObject, to_saved
from kelpie_worker.messages import (
    ChildDied,
    ChildStarted,
    Claim,
    Claimed,
    Command,
    Committed,
    Departed,
    Download,
    Downloaded,
    Exited,
    Flush,
    Flushed,
    HoldLease,
    LeaseLost,
    LeaseRenewed,
    Message,
    Recall,
    Recalled,
    Refused,
    Renew,
    Report,
    ReportCheckpoint,
    Reported,
    Run,
    ShutdownRequested,
    Stage,
    Staged,
    Started,
    Stop,
    TimeRanOut,
    Troubled,
    Upload,
    Uploaded,
    Watch,
    Watching,
    Wipe,
    Wiped,
)
from kelpie_worker.pipeline import JobState, Phase, advance
from kelpie_worker.state_file import WorkerState, fresh_state, parse
from kelpie_worker.supervisor import Supervisor
from kelpie_worker.workspace.paths import own_name
from tests.worker.one_job import JOB, RELEASED, c

P = Phase


# --- the supervisor -------------------------------------------------------------------------------------


class MemoryStateFile:
    """Keeps what a file would keep: the JSON, not the objects."""

    def __init__(self) -> None:
        self.state: WorkerState = fresh_state()
        self.saved = self.state.to_json()
        self.saves = 0

    def save(self) -> None:
        self.saved = self.state.to_json()
        self.saves += 1

    def reopened(self) -> MemoryStateFile:
        again = MemoryStateFile()
        again.state = parse(self.saved)
        again.saved = self.saved
        return again


class Scene:
    """A supervisor and what it has sent."""

    def __init__(self, store: MemoryStateFile | None = None) -> None:
        self.store = store or MemoryStateFile()
        self.sent: list[Command] = []
        self.restarted: list[str] = []
        self.scheduled: list[tuple[float, Message]] = []
        self.time = 1000.0
        self.supervisor = Supervisor(
            self.store,
            self.sent.append,
            self.restarted.append,
            lambda seconds, message: self.scheduled.append((seconds, message)),
            clock=lambda: self.time,
        )

    def start(self) -> None:
        self.supervisor.start()
        self.supervisor.on(ChildStarted("heartbeat"))

    def hear(self, *messages: Message) -> list[Command]:
        """The commands that answer these messages."""
        before = len(self.sent)
        for message in messages:
            self.supervisor.on(message)
        return self.sent[before:]

    def kinds(self, commands: Sequence[Command] | None = None) -> list[type]:
        return [type(command) for command in (self.sent if commands is None else commands)]


HAPPY: list[Message] = [
    Claimed("claim-1", JOB),
    Downloaded("claim-1", 3, 100),
    Watching("claim-1"),
    Started("claim-1", 4711),
    LeaseRenewed("claim-1", 10.0),
    Exited("claim-1", 0),
    Flushed("claim-1"),
    Staged("claim-1", (("/job/out", f"/job/{own_name('aside', 'claim-1')}/0"),)),
    Uploaded("claim-1", 1, 10),
    Reported("claim-1"),
    Wiped("claim-1"),
]


@pytest.mark.parametrize("steps", range(len(HAPPY) + 1))
def test_a_worker_killed_after_any_step_resumes_there(steps: int) -> None:
    first = Scene()
    first.start()
    first.hear(*HAPPY[:steps])

    second = Scene(first.store.reopened())  # kill -9: only the state file survives
    second.start()
    if second.store.state.jobs:
        second.hear(LeaseRenewed("claim-1", 20.0), Recalled("claim-1", JOB))
        if second.store.state.jobs["claim-1"].state.phase is Phase.RUNNING:
            assert [Run] == second.kinds(second.hear(Watching("claim-1")))
    second.hear(*HAPPY[steps:])

    assert second.store.state.jobs == {}
    listed = second.store.saved["jobs"]
    assert [(job["id"], job["status"], job["exitCode"]) for job in listed] == [("job-1", "completed", 0)]


@pytest.mark.parametrize("steps", range(1, len(HAPPY) - 1))
def test_a_saved_job_is_entered_only_after_an_accepted_heartbeat(steps: int) -> None:
    first = Scene()
    first.start()
    first.hear(*HAPPY[:steps])
    second = Scene(first.store.reopened())
    second.start()
    if second.store.state.jobs["claim-1"].state.phase is not Phase.WIPING:
        assert HoldLease in second.kinds()
        assert not {Download, Watch, Run, Flush, Stage, Upload, Report} & set(second.kinds())
        second.hear(LeaseLost("claim-1", "canceled"))
        assert Wipe in second.kinds() or Stop in second.kinds()


BEGINNING: list[Message] = [Claimed("claim-1", JOB), Downloaded("claim-1", 3, 100), Watching("claim-1")]
RESUMING: list[Message] = [LeaseRenewed("claim-1", 20.0), Recalled("claim-1", JOB), Watching("claim-1")]


def killed(scene: Scene, rebooted: bool = False) -> Scene:
    """The next run of a worker that ended together with the command, or with the whole machine."""
    if rebooted:
        scene.store.saved["boot"] = "an earlier one"
    following = Scene(scene.store.reopened())
    following.start()
    return following


def begun_by_three_lives() -> Scene:
    scene = Scene()
    scene.start()
    scene.hear(*BEGINNING)
    for _ in range(2):
        scene = killed(scene)
        assert scene.kinds(scene.hear(*RESUMING))[-1] is Run
    return scene


def broken(scene: Scene) -> bool:
    """Whether the job fails without its command being run."""
    scene.hear(Exited("claim-1", signalled=True), Flushed("claim-1"))
    reasons = [command.outcome.reason for command in scene.sent if isinstance(command, Report)]
    return reasons == ["worker_broken"]


def test_a_command_that_takes_the_worker_along_each_time_fails_rather_than_be_begun_for_ever() -> None:
    scene = killed(begun_by_three_lives())
    scene.hear(*RESUMING)
    assert Run not in scene.kinds() and broken(scene)


def test_a_command_that_takes_its_runner_along_each_time_fails_too_and_other_children_do_not_count() -> None:
    scene = Scene()
    scene.start()
    scene.hear(*BEGINNING)
    for _ in range(2):
        scene.hear(ChildDied("uploader", -9), Watching("claim-1"), ChildDied("heartbeat", -9), Watching("claim-1"))
        assert scene.hear(ChildDied("runner", -9), Watching("claim-1"))[-1] == Run(JOB)
    assert Run not in scene.kinds(scene.hear(ChildDied("runner", -9), Watching("claim-1"))) and broken(scene)


def test_a_command_is_counted_before_it_is_begun() -> None:
    scene = Scene()
    scene.start()
    saved: list[int] = []
    scene.supervisor._send = lambda command: saved.append(scene.store.saved["jobs"][0]["kelpie"]["begun"])
    scene.hear(*BEGINNING)
    assert saved[-1] == 1


def test_a_node_that_reboots_again_and_again_is_not_the_commands_fault() -> None:
    scene = begun_by_three_lives()
    for _ in range(5):
        scene = killed(scene, rebooted=True)
        assert scene.kinds(scene.hear(*RESUMING))[-1] is Run


@pytest.mark.parametrize(("generation", "fails"), [(1, True), (2, False)])
def test_a_command_that_got_somewhere_may_be_begun_again(generation: int, fails: bool) -> None:
    """Its first generation may only be what an earlier run left unsent."""
    scene = begun_by_three_lives()
    scene.hear(Committed("claim-1", generation, ()))
    scene = killed(scene)
    scene.hear(*RESUMING)
    assert broken(scene) is fails


def test_what_may_be_secret_is_not_saved_but_recalled() -> None:
    first = Scene()
    first.start()
    first.hear(*HAPPY[:3])
    assert "secret" not in str(first.store.saved) and "train" not in str(first.store.saved)
    second = Scene(first.store.reopened())
    second.start()
    assert second.hear(LeaseRenewed("claim-1", 9.0))[-1] == Recall(replace(JOB, command="", environment={}))
    second.hear(Recalled("claim-1", JOB))
    assert second.hear(Watching("claim-1")) == [Run(JOB)]


def test_nothing_is_claimed_before_there_is_a_heartbeat_to_hold_it() -> None:
    scene = Scene()
    scene.supervisor.start()
    scene.hear(ChildStarted("runner"), ChildDied("heartbeat", None))
    assert scene.sent == [] and scene.restarted == ["heartbeat"]
    assert scene.kinds(scene.hear(ChildStarted("heartbeat"))) == [Claim]
    scene.hear(ChildDied("heartbeat", -9))
    assert scene.kinds(scene.hear(Claimed("claim-1"))) == []
    assert scene.kinds(scene.hear(ChildStarted("heartbeat"))) == [Claim]


def test_the_claim_id_is_saved_before_the_call_and_kept_until_its_answer_is() -> None:
    first = Scene()
    first.start()
    (claim,) = first.sent
    assert isinstance(claim, Claim) and first.store.saved["claim_id"] == claim.claim_id
    second = Scene(first.store.reopened())
    second.start()
    assert second.sent == [claim]


def test_the_next_claim_goes_out_once_the_outputs_are_set_aside() -> None:
    scene = Scene()
    scene.start()
    assert Claim not in scene.kinds(scene.hear(*HAPPY[:7]))
    staged = scene.hear(HAPPY[7])
    assert scene.kinds(staged) == [HoldLease, Upload, Claim]


def test_the_next_claims_id_is_saved_with_the_job_before_it() -> None:
    """A save takes milliseconds, in which the machine would stand idle."""
    scene = Scene()
    scene.start()
    scene.hear(*HAPPY[:7])
    saved, saves = scene.store.saved["claim_id"], scene.store.saves
    (*_, claim) = scene.hear(HAPPY[7])
    assert isinstance(claim, Claim) and claim.claim_id == saved
    assert scene.store.saves == saves + 1


def test_an_empty_answer_is_followed_by_a_pause() -> None:
    scene = Scene()
    scene.start()
    (claim,) = scene.hear(Claimed("x", pause=10.0))
    assert isinstance(claim, Claim) and claim.after == 10.0


def test_after_trouble_the_pause_before_the_next_claim_doubles() -> None:
    scene = Scene()
    scene.start()
    pauses = []
    for _ in range(3):
        messages = (Claimed("claim-1", JOB), Troubled("claim-1", "storage"), Reported("claim-1"), Wiped("claim-1"))
        (*_, claim) = scene.hear(*messages)
        assert isinstance(claim, Claim)
        pauses.append(claim.after)
    assert 5 <= pauses[0] <= 10 <= pauses[1] <= 20 <= pauses[2] <= 40


def reporting(*ended: Message) -> Scene:
    scene = Scene()
    scene.start()
    scene.hear(*HAPPY[:3], *ended)
    assert scene.store.state.jobs["claim-1"].state.phase is Phase.REPORTING
    return scene


def test_a_heartbeat_that_crosses_the_report_leaves_the_end_to_its_answer() -> None:
    lost = LeaseLost("claim-1", "completed")
    scene = reporting(*HAPPY[3 : len(HAPPY) - 2])
    assert scene.hear(lost) == []
    assert scene.scheduled[-1][1] == lost
    assert Wipe in {type(command) for command in scene.hear(Reported("claim-1"))}


def test_a_job_that_is_over_frees_a_worker_whose_report_is_not_answered() -> None:
    scene = reporting(*HAPPY[3 : len(HAPPY) - 2])
    scene.hear(LeaseLost("claim-1", "canceled"))
    seconds, again = scene.scheduled[-1]
    assert 0 < seconds <= 30
    assert Wipe in {type(command) for command in scene.hear(again)}


def test_on_a_machine_that_cannot_be_left_the_pause_before_the_next_claim_doubles() -> None:
    scene = Scene()
    scene.start()
    pauses = []
    ended = (LeaseLost("claim-1", "canceled"), Wiped("claim-1"))
    for _ in range(3):
        (*_, claim) = scene.hear(Claimed("claim-1", JOB), Departed(gone=False), *ended)
        assert isinstance(claim, Claim)
        pauses.append(claim.after)
    assert 1 <= pauses[0] <= 2 <= pauses[1] <= 4 <= pauses[2] <= 8


@pytest.mark.parametrize(
    ("child", "commands"),
    [
        ("uploader", [Renew("claim-1", 10.0), Watch(JOB)]),
        ("heartbeat", [HoldLease(JOB)]),
        ("runner", [Watch(JOB)]),
    ],
)
def test_a_dead_child_is_replaced_and_only_it_is_told_again(child: str, commands: list[Command]) -> None:
    scene = Scene()
    scene.start()
    scene.hear(*HAPPY[:5])
    again = scene.hear(ChildDied(child, -9))
    assert scene.restarted == [child]
    assert again == commands


def test_a_job_claimed_while_the_worker_goes_is_given_back_at_once() -> None:
    scene = Scene()
    scene.start()
    scene.hear(ShutdownRequested())
    commands = scene.hear(Claimed("claim-1", JOB))
    assert Report(JOB, RELEASED) in commands
    assert Download not in scene.kinds()
    scene.hear(Reported("claim-1"), Wiped("claim-1"))
    assert scene.supervisor.finished


def test_the_time_for_the_releases_is_kept_free_at_the_end_of_the_grace() -> None:
    scene = Scene()
    scene.start()
    scene.hear(*HAPPY[:4], ShutdownRequested(), ShutdownRequested())
    (ran_out, first), (ended, _) = scene.scheduled
    assert isinstance(first, TimeRanOut) and 25 / 2 < ran_out < ended == 25
    assert Report(JOB, RELEASED) in scene.hear(first)


def test_saved_jobs_hold_no_secret_fields() -> None:
    assert not {"command", "arguments", "environment"} & set(to_saved(JOB))


@pytest.mark.parametrize("status", ["clean", "torn", "none"])
def test_a_checkpoint_that_was_found_clean_is_the_next_attempts_own(status: str) -> None:
    manifest = (StoredObject("b", "c/w", 5, "etag", "version"),)
    state = JobState(Job("claim-1", "job", attempt=2, checkpoint=manifest), P.DOWNLOADING)
    _, commands = advance(state, c(Downloaded, 1, 5, status))
    told = [command for command in commands if isinstance(command, ReportCheckpoint)]
    assert [(command.generation, command.manifest) for command in told] == [(1, manifest)] * (status == "clean")


class Memory:
    """A store that counts how often it was saved."""

    def __init__(self) -> None:
        self.state = fresh_state()
        self.saved: list[str | None] = []

    def save(self) -> None:
        self.saved.append(self.state.claim_id)


def test_a_refused_claim_is_followed_by_another_id_each_after_a_longer_pause() -> None:
    store, sent = Memory(), []
    time = 1000.0
    supervisor = Supervisor(
        store, sent.append, lambda name: None, lambda seconds, message: None, clock=lambda: time
    )
    supervisor.start()
    supervisor.on(ChildStarted("heartbeat"))
    for _ in range(7):
        time += sent[-1].after
        supervisor.on(Refused(sent[-1].claim_id, "claim"))
    assert all(isinstance(command, Claim) for command in sent)
    ids, pauses = [claim.claim_id for claim in sent], [claim.after for claim in sent]
    assert len(set(ids)) == 8 and set(ids) <= set(store.saved)
    assert pauses[0] == 0 and 0.5 <= pauses[1] <= 1 <= pauses[2] <= 2 and 15 <= pauses[7] <= 30
    time += sent[-1].after
    supervisor.on(Claimed(sent[-1].claim_id, pause=3.0))
    assert sent[-1].claim_id == ids[-1]  # an answered id is as good as ever
    assert sent[-1].after == pytest.approx(3.0)
