"""A job's way through its phases, as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kelpie_worker.messages import (
    Abandon,
    Command,
    Download,
    Downloaded,
    DropLease,
    Ending,
    Exited,
    Flush,
    Flushed,
    HoldLease,
    LeaseLost,
    Message,
    Refused,
    Report,
    Reported,
    Run,
    ShutdownRequested,
    Stage,
    Staged,
    Stop,
    TimeRanOut,
    Troubled,
    Upload,
    Uploaded,
    Verdict,
    Watch,
    Watching,
    Wipe,
    Wiped,
)
from kelpie_worker.pipeline import BROKEN, NEXT, JobState, Phase, advance, entering, outcome_of_abandoned
from tests.worker.one_job import JOB, RELEASED, c

COMPLETED = Ending(Verdict.COMPLETED, None, 0)
FAILED = Ending(Verdict.FAILED, "exit_code", 3)
P = Phase
SPOKEN = replace(COMPLETED, output="done")


def told(verdict: Verdict, reason: str, detail: str) -> Ending:
    return Ending(verdict, reason, detail=detail)


@pytest.mark.parametrize(
    ("phase", "outcome", "message", "next_phase", "next_outcome"),
    [
        # the way without trouble
        (P.DOWNLOADING, None, c(Downloaded), P.RUNNING, None),
        (P.RUNNING, None, c(Watching), P.RUNNING, None),
        (P.RUNNING, None, c(Exited, 0), P.FLUSHING, COMPLETED),
        (P.FLUSHING, COMPLETED, c(Flushed), P.STAGING, COMPLETED),
        (P.STAGING, COMPLETED, c(Staged), P.UPLOADING, COMPLETED),
        (P.UPLOADING, COMPLETED, c(Uploaded), P.REPORTING, COMPLETED),
        (P.REPORTING, COMPLETED, c(Reported), P.WIPING, COMPLETED),
        (P.WIPING, COMPLETED, c(Wiped), P.DONE, COMPLETED),
        # the command fails: the last checkpoint still goes up, outputs do not
        (P.RUNNING, None, c(Exited, 3), P.FLUSHING, FAILED),
        (P.RUNNING, None, c(Exited, None, 9), P.FLUSHING, Ending(Verdict.FAILED, "signal", 137)),
        (
            P.RUNNING,
            None,
            c(Exited, None, None, "no file"),
            P.FLUSHING,
            told(Verdict.FAILED, "not_found", "no file"),
        ),
        (P.RUNNING, None, c(Exited, None, 9, None, False, True), P.FLUSHING, Ending(Verdict.FAILED, "oom", 137)),
        (P.RUNNING, None, c(Exited, 1, None, None, False, True), P.FLUSHING, Ending(Verdict.FAILED, "oom", 1)),
        (P.STOPPING, RELEASED, c(Exited, None, 9, None, True, True), P.FLUSHING, RELEASED),
        (P.FLUSHING, FAILED, c(Flushed), P.REPORTING, FAILED),
        # what it printed last stays with the outcome
        (P.RUNNING, None, c(Exited, 0, None, None, False, False, "done"), P.FLUSHING, SPOKEN),
        (P.RUNNING, None, c(Exited, 3, None, None, False, False, "no"), P.FLUSHING, replace(FAILED, output="no")),
        (P.UPLOADING, SPOKEN, c(Refused, "upload"), P.REPORTING, Ending(Verdict.FAILED, "upload", None, "done")),
        # storage refuses: failed. Storage or disk in trouble: released
        (P.DOWNLOADING, None, c(Refused, "download", "why"), P.REPORTING, told(Verdict.FAILED, "download", "why")),
        (
            P.DOWNLOADING,
            None,
            c(Troubled, "storage", "why"),
            P.REPORTING,
            told(Verdict.RELEASED, "storage", "why"),
        ),
        (P.FLUSHING, COMPLETED, c(Refused, "upload"), P.REPORTING, Ending(Verdict.FAILED, "upload")),
        (P.FLUSHING, FAILED, c(Refused, "upload"), P.REPORTING, FAILED),
        (P.STAGING, COMPLETED, c(Troubled, "disk_full"), P.REPORTING, Ending(Verdict.RELEASED, "disk_full")),
        (P.UPLOADING, COMPLETED, c(Refused, "upload"), P.REPORTING, Ending(Verdict.FAILED, "upload")),
        (P.RUNNING, None, c(Troubled, "resources"), P.STOPPING, Ending(Verdict.RELEASED, "resources")),
        # a shutdown: what Kelpie has signalled decides nothing by its exit code
        (P.DOWNLOADING, None, ShutdownRequested(), P.REPORTING, RELEASED),
        (P.RUNNING, None, ShutdownRequested(), P.STOPPING, RELEASED),
        (P.STOPPING, RELEASED, c(Exited, 0, None, None, True), P.FLUSHING, RELEASED),
        (P.STOPPING, RELEASED, c(Exited, 3, None, None, True), P.FLUSHING, RELEASED),
        (P.STOPPING, RELEASED, c(Exited, 0, None, None, False), P.FLUSHING, COMPLETED),
        (P.FLUSHING, RELEASED, c(Flushed), P.REPORTING, RELEASED),
        (P.UPLOADING, COMPLETED, ShutdownRequested(), P.UPLOADING, COMPLETED),
        (P.UPLOADING, COMPLETED, TimeRanOut(), P.REPORTING, RELEASED),
        (P.FLUSHING, FAILED, TimeRanOut(), P.REPORTING, FAILED),
        (P.REPORTING, COMPLETED, TimeRanOut(), P.REPORTING, COMPLETED),
        # the lease is lost: nothing is sent and nothing reported
        (P.DOWNLOADING, None, c(LeaseLost, "canceled"), P.WIPING, Ending(Verdict.DROPPED, "canceled")),
        (P.RUNNING, None, c(LeaseLost, "canceled"), P.STOPPING, Ending(Verdict.DROPPED, "canceled")),
        (P.UPLOADING, COMPLETED, c(LeaseLost, "x"), P.WIPING, Ending(Verdict.DROPPED, "x")),
        (P.REPORTING, COMPLETED, c(LeaseLost, "completed"), P.WIPING, COMPLETED),
        # late and repeated messages
        (P.UPLOADING, COMPLETED, c(Exited, 3), P.UPLOADING, COMPLETED),
        (P.WIPING, COMPLETED, c(LeaseLost, "completed"), P.WIPING, COMPLETED),
        (P.STOPPING, RELEASED, c(Watching), P.STOPPING, RELEASED),
    ],
)
def test_where_a_message_leads(
    phase: Phase, outcome: Ending | None, message: Message, next_phase: Phase, next_outcome: Ending | None
) -> None:
    after, _ = advance(JobState(JOB, phase, outcome), message)
    assert (after.phase, after.outcome) == (next_phase, next_outcome)


def test_a_dropped_job_whose_command_has_ended_is_wiped_at_once() -> None:
    dropped = JobState(JOB, P.STOPPING, Ending(Verdict.DROPPED, "canceled"))
    after, commands = advance(dropped, Exited("claim-1", 0))
    assert after.phase is P.WIPING
    assert commands == [DropLease("claim-1"), Wipe(JOB, None)]


def test_a_job_without_outputs_is_reported_without_uploading() -> None:
    staging = JobState(replace(JOB, after=()), P.STAGING, COMPLETED)
    assert advance(staging, Staged("claim-1"))[0].phase is P.REPORTING


def test_the_command_starts_only_when_the_watch_is_ready() -> None:
    running = JobState(JOB, P.RUNNING)
    assert entering(running) == [HoldLease(JOB), Watch(JOB)]
    assert advance(running, Watching("claim-1")) == (running, [Run(JOB)])


@pytest.mark.parametrize(
    ("state", "commands"),
    [
        (JobState(JOB, P.DOWNLOADING), [HoldLease(JOB), Download(JOB)]),
        (JobState(JOB, P.STOPPING, RELEASED), [HoldLease(JOB), Stop("claim-1", shutdown=True)]),
        (
            JobState(JOB, P.STOPPING, Ending(Verdict.DROPPED)),
            [Abandon("claim-1"), Stop("claim-1", shutdown=False)],
        ),
        (JobState(JOB, P.FLUSHING, FAILED), [HoldLease(JOB), Flush(JOB)]),
        (JobState(JOB, P.STAGING, COMPLETED), [HoldLease(JOB), Stage(JOB)]),
        (JobState(JOB, P.UPLOADING, COMPLETED, (("a", "b"),)), [HoldLease(JOB), Upload(JOB, (("a", "b"),))]),
        (JobState(JOB, P.REPORTING, COMPLETED), [HoldLease(JOB), Abandon("claim-1"), Report(JOB, COMPLETED)]),
        (JobState(JOB, P.WIPING, COMPLETED, (("a", "b"),)), [DropLease("claim-1"), Wipe(JOB, (("a", "b"),))]),
        (JobState(JOB, P.DONE, COMPLETED), []),
    ],
)
def test_what_a_phase_begins_with(state: JobState, commands: list[Command]) -> None:
    assert entering(state) == commands


def test_every_phase_but_the_last_has_a_way_out_when_the_lease_is_lost() -> None:
    ends = {phase for phase, message in NEXT if message is LeaseLost}
    assert ends == set(Phase) - {Phase.WIPING, Phase.DONE}


@pytest.mark.parametrize(("exit_code", "following"), [(0, P.STAGING), (3, P.REPORTING)])
def test_without_checkpoints_there_is_nothing_to_flush(exit_code: int, following: Phase) -> None:
    state, commands = advance(JobState(replace(JOB, during=()), P.RUNNING), Exited("claim-1", exit_code))
    assert state.phase is following
    assert Flush not in map(type, commands)


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
def test_what_breaks_the_worker_is_the_command_that_runs(phase: Phase, verdict: Verdict) -> None:
    told = outcome_of_abandoned(JobState(JOB, phase), BROKEN, "it removed everything")
    assert told == Ending(verdict, BROKEN, detail="it removed everything")
