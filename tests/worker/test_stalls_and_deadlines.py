"""When a job's time is over, and when its command has stalled: decisions at a clock of the test's own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kelpie_worker.job import Job, Steering
from kelpie_worker.messages import (
    ChildDied,
    Claimed,
    Command,
    Committed,
    Downloaded,
    Exited,
    FilesChanged,
    Flushed,
    FollowOutput,
    HoldLease,
    Message,
    OutputTaken,
    Printed,
    Progressed,
    Report,
    SendOutput,
    Started,
    Steered,
    Stop,
    TellOutput,
    TellProgress,
    TellStall,
    Terminate,
    Transferring,
    Verdict,
    Watching,
)
from tests.worker.one_job import JOB, c
from tests.worker.test_supervisor import Scene, killed

SPEAKS = ("output", "phase", "progress", "steer")
STEERED = replace(JOB, speaks=SPEAKS, steering=Steering(keep_output=100, stall_after=60))
RUNNING: list[Message] = [c(Downloaded), c(Watching), c(Started, 4711)]


def running(job: Job = STEERED) -> Scene:
    scene = Scene()
    scene.start()
    scene.hear(Claimed("claim-1", job), *RUNNING)
    return scene


def after(scene: Scene, seconds: float, *messages: Message) -> list[Command]:
    """What is sent while so many seconds pass, after the messages."""
    before = len(scene.sent)
    scene.hear(*messages)
    for _ in range(round(seconds)):
        scene.time += 1
        scene.supervisor.look()
    return scene.sent[before:]


def of(commands: list[Command], kind: type) -> list[Command]:
    return [command for command in commands if isinstance(command, kind)]


def report_of(scene: Scene) -> Report:
    scene.hear(c(Exited, None, 15, None, True))
    scene.hear(Committed("claim-1", 1, ()))
    (report,) = of(scene.hear(Flushed("claim-1")), Report)
    assert isinstance(report, Report)
    return report


def test_each_phase_is_told_with_the_lease() -> None:
    scene = running()
    phases = [command.phase for command in scene.sent if isinstance(command, HoldLease)]
    assert phases == [None, "downloading", "running"]


@pytest.mark.parametrize("sign", [c(Printed, 5), c(FilesChanged), c(Progressed, {"step": 1}, True)])
def test_any_sign_of_life_puts_a_stall_off(sign: Message) -> None:
    scene = running()
    assert of(after(scene, 59), TellStall) == [] and of(after(scene, 59, sign), TellStall) == []
    assert of(after(scene, 2), TellStall) == [TellStall("claim-1", True)]
    assert of(after(scene, 500), TellStall) == []


@pytest.mark.parametrize("noise", [c(Printed, 9), c(FilesChanged), c(Progressed, {"step": 1, "loss": 1}, False)])
def test_of_a_command_that_tells_progress_nothing_else_counts(noise: Message) -> None:
    scene = running()
    scene.hear(c(Progressed, {"step": 1}, True))
    after(scene, 50)
    assert of(after(scene, 11, noise), TellStall) == [TellStall("claim-1", True)]
    assert of(after(scene, 1, c(Progressed, {"step": 2}, True)), TellStall) == [TellStall("claim-1", False)]


def test_while_files_go_up_their_changes_are_not_missed() -> None:
    scene = running()
    assert of(after(scene, 100, c(Transferring, ("/job/checkpoint/w",))), TellStall) == []
    assert of(after(scene, 61, c(Transferring)), TellStall) == [TellStall("claim-1", True)]


def test_a_machine_that_slept_has_not_stalled() -> None:
    scene = running()
    scene.time += 3600
    assert of(after(scene, 50), TellStall) == []


@pytest.mark.parametrize(("on_stall", "verdict"), [("restart", Verdict.RELEASED), ("fail", Verdict.FAILED)])
def test_a_stall_ends_the_attempt_where_the_job_says_so(on_stall: str, verdict: Verdict) -> None:
    scene = running(replace(STEERED, steering=Steering(stall_after=5, on_stall=on_stall)))  # type: ignore[arg-type]
    assert of(after(scene, 5), Stop) == [Stop("claim-1", shutdown=True)]
    outcome = report_of(scene).outcome
    assert (outcome.verdict, outcome.reason, outcome.stop) == (verdict, "stalled", "stalled")


def test_a_deadline_can_be_moved_and_lifted() -> None:
    scene = running()
    assert of(after(scene, 9, c(Steered, None, False, scene.time + 10)), Stop) == []
    assert of(after(scene, 9, c(Steered, None, False, scene.time + 10)), Stop) == []
    assert of(after(scene, 50, c(Steered)), Stop) == []
    assert of(after(scene, 1, c(Steered, None, False, scene.time + 1)), Stop) != []
    assert report_of(scene).outcome.stop == "time_limit"


def test_a_wish_that_is_repeated_stops_once_and_an_end_before_the_first_signal_counts() -> None:
    scene = running()
    assert of(scene.hear(c(Steered, "hold"), c(Steered, "hold"), c(Steered, "cancel")), Stop) == [
        Stop("claim-1", shutdown=True)
    ]
    scene.hear(c(Exited, 0))
    assert scene.store.state.jobs["claim-1"].state.verdict is Verdict.COMPLETED


def test_why_a_command_was_stopped_survives_the_worker() -> None:
    scene = running()
    scene.hear(c(Steered, "interrupt"))
    again = killed(scene)
    assert again.store.state.jobs["claim-1"].state.outcome.stop == "interrupt"  # type: ignore[union-attr]
    assert again.store.state.jobs["claim-1"].state.job.speaks == SPEAKS


def test_only_a_checkpoint_that_was_seen_after_the_signal_lets_sigterm_follow() -> None:
    scene = running(replace(STEERED, steering=Steering(checkpoint_signal="USR1")))
    assert of(scene.hear(c(Steered, "interrupt")), Stop) == [Stop("claim-1", True, "USR1")]
    assert of(scene.hear(Committed("claim-1", 2, (), scene.time - 1)), Terminate) == []
    assert of(scene.hear(Committed("claim-1", 3, (), scene.time + 1)), Terminate) == [Terminate("claim-1")]
    assert of(scene.hear(Committed("claim-1", 4, (), scene.time + 2)), Terminate) == []


def test_output_is_sent_on_and_followed_as_the_answers_say() -> None:
    scene = running()
    sent = scene.hear(c(Printed, 4), c(Printed, 6, 0, b"output"))
    assert sent == [TellOutput("claim-1", 4), TellOutput("claim-1", 6), SendOutput(STEERED, 0, b"output")]
    answers = [c(Steered, None, True), c(OutputTaken, True), c(OutputTaken, False), c(Steered)]
    assert scene.hear(*answers) == [FollowOutput("claim-1", True), FollowOutput("claim-1", False)]


def test_another_heartbeat_process_is_told_what_the_one_before_it_was_told() -> None:
    scene = running()
    scene.hear(c(Printed, 4), c(Progressed, {"fraction": 0.5}, True))
    again = scene.hear(ChildDied("heartbeat", -9))
    assert again == [
        HoldLease(STEERED, phase="running"),
        TellOutput("claim-1", 4),
        TellProgress("claim-1", {"fraction": 0.5}),
    ]
