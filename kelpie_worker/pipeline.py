"""READ SECOND: a job's way through the worker, as pure functions.

A phase begins with the commands of `entering()`, ends with a message, and `NEXT` names the phase after it.
To resume after a crash is to enter the saved phase again. docs/design/architecture.md draws every arrow, this
the usual ones:

    downloading -> running -> flushing -> staging -> uploading -> reporting -> wiping -> done
                      |          ^                                    ^
                      v          |                                    |
                   stopping -----+     failed, released: straight ----+      lease lost: straight to wiping
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from kelpie_worker.job import CheckpointStatus, Job, Manifest
from kelpie_worker.messages import (
    Abandon,
    Aside,
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
    ReportCheckpoint,
    Reported,
    ReportResume,
    Run,
    ShutdownRequested,
    Stage,
    Staged,
    Stop,
    StopWished,
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


class Phase(StrEnum):
    DOWNLOADING = "downloading"
    RUNNING = "running"
    STOPPING = "stopping"  # Kelpie ends the command
    FLUSHING = "flushing"  # the last checkpoint is uploaded, whatever the exit code
    STAGING = "staging"  # the outputs are moved aside; the next job may start after it
    UPLOADING = "uploading"
    REPORTING = "reporting"
    WIPING = "wiping"
    DONE = "done"


@dataclass(frozen=True)
class JobState:
    """A job in hand.

    `aside` is set once its directories belong to the next job. `begun` is how often its command was begun since it
    last got anywhere, without its end being seen.
    """

    job: Job
    phase: Phase = Phase.DOWNLOADING
    outcome: Ending | None = None
    aside: Aside | None = None
    begun: int = 0

    @property
    def verdict(self) -> Verdict | None:
        return self.outcome.verdict if self.outcome else None

    @property
    def occupies_directories(self) -> bool:
        return self.aside is None and self.phase is not Phase.DONE


P = Phase
NEXT: dict[tuple[Phase, type[Message]], Phase] = {
    (P.DOWNLOADING, Downloaded): P.RUNNING,
    (P.RUNNING, Exited): P.FLUSHING,
    (P.FLUSHING, Flushed): P.STAGING,
    (P.STAGING, Staged): P.UPLOADING,
    (P.UPLOADING, Uploaded): P.REPORTING,
    (P.REPORTING, Reported): P.WIPING,
    (P.WIPING, Wiped): P.DONE,
    # the worker is asked to go
    (P.DOWNLOADING, ShutdownRequested): P.REPORTING,
    (P.RUNNING, ShutdownRequested): P.STOPPING,
    (P.STOPPING, Exited): P.FLUSHING,
    (P.DOWNLOADING, StopWished): P.REPORTING,
    (P.RUNNING, StopWished): P.STOPPING,
    (P.DOWNLOADING, TimeRanOut): P.REPORTING,
    (P.STOPPING, TimeRanOut): P.REPORTING,
    (P.FLUSHING, TimeRanOut): P.REPORTING,
    (P.STAGING, TimeRanOut): P.REPORTING,
    (P.UPLOADING, TimeRanOut): P.REPORTING,
    # files cannot be moved
    (P.DOWNLOADING, Refused): P.REPORTING,
    (P.DOWNLOADING, Troubled): P.REPORTING,
    (P.RUNNING, Refused): P.STOPPING,
    (P.RUNNING, Troubled): P.STOPPING,
    (P.FLUSHING, Refused): P.REPORTING,
    (P.FLUSHING, Troubled): P.REPORTING,
    (P.STAGING, Refused): P.REPORTING,
    (P.STAGING, Troubled): P.REPORTING,
    (P.UPLOADING, Refused): P.REPORTING,
    (P.UPLOADING, Troubled): P.REPORTING,
    # canceled, or handed to another worker
    (P.DOWNLOADING, LeaseLost): P.WIPING,
    (P.RUNNING, LeaseLost): P.STOPPING,
    (P.STOPPING, LeaseLost): P.STOPPING,
    (P.FLUSHING, LeaseLost): P.WIPING,
    (P.STAGING, LeaseLost): P.WIPING,
    (P.UPLOADING, LeaseLost): P.WIPING,
    (P.REPORTING, LeaseLost): P.WIPING,
}


def advance(state: JobState, message: Message) -> tuple[JobState, list[Command]]:
    """The job after a message, and what is to be done now. A late or repeated message changes nothing."""
    if isinstance(message, Watching) and state.phase is Phase.RUNNING:
        return state, [Run(state.job)]  # only now: the watch is ready, so that it misses no file
    following = NEXT.get((state.phase, type(message)))
    if following is None:
        return state, []
    given = state.job.checkpoint
    state = learned(state, message)
    state = replace(state, phase=applicable(following, state))
    return state, [*tellings(state, message, given), *entering(state)]


def tellings(state: JobState, message: Message, given: Manifest) -> list[Command]:
    """What the coordinator is told beside the job's way on.

    The manifest that was found to hold is this attempt's own from now on, until its first generation replaces it:
    should it end in the middle of that one, the next attempt may go back to the versions of this.
    """
    if not isinstance(message, Downloaded) or message.checkpoint == CheckpointStatus.NONE:
        return []
    found: list[Command] = [ReportResume(state.job, message.checkpoint, message.detail)]
    if message.checkpoint == CheckpointStatus.CLEAN:
        found.append(ReportCheckpoint(state.job, 1, message.found or given))
    return found


def entering(state: JobState) -> list[Command]:
    """The commands a phase begins with. Resuming after a crash is entering again."""
    job, hold = state.job, HoldLease(state.job, phase=shown_phase(state))
    match state.phase:
        case Phase.DOWNLOADING:
            return [hold, Download(job)]
        case Phase.RUNNING:
            return [hold, Watch(job)]  # and Run, once the watch is ready
        case Phase.STOPPING:
            if state.verdict is Verdict.DROPPED:
                return [Abandon(job.claim_id), Stop(job.claim_id, shutdown=False)]
            return [hold, Stop(job.claim_id, shutdown=True, checkpoint_signal=job.steering.checkpoint_signal)]
        case Phase.FLUSHING:
            return [hold, Flush(job)]
        case Phase.STAGING:
            return [hold, Stage(job)]
        case Phase.UPLOADING:
            return [hold, Upload(job, state.aside or ())]
        case Phase.REPORTING:
            assert state.outcome is not None
            return [hold, Abandon(job.claim_id), Report(job, state.outcome)]
        case Phase.WIPING:
            return [DropLease(job.claim_id), Wipe(job, state.aside)]
        case Phase.DONE:
            return []


def shown_phase(state: JobState) -> str | None:
    """The phase as users see it; None where the coordinator is not told of phases."""
    if "phase" not in state.job.speaks:
        return None
    match state.phase:
        case Phase.DOWNLOADING:
            return "downloading"
        case Phase.RUNNING | Phase.STOPPING:
            return "running"
        case _:
            return "uploading"


def applicable(phase: Phase, state: JobState) -> Phase:
    """The phase itself, or the first one after it that this job has to go through."""
    if state.verdict is Verdict.DROPPED and phase not in (Phase.STOPPING, Phase.DONE):
        return Phase.WIPING
    if phase is Phase.FLUSHING and not state.job.during:
        phase = Phase.STAGING
    if phase in (Phase.STAGING, Phase.UPLOADING) and state.verdict is not Verdict.COMPLETED:
        return Phase.REPORTING
    if phase is Phase.UPLOADING and not state.job.after:
        return Phase.REPORTING
    return phase


def learned(state: JobState, message: Message) -> JobState:
    """The job with what a message says about its outcome, and about where its outputs are."""
    if isinstance(message, Staged):
        state = replace(state, aside=message.aside)
    if isinstance(message, Downloaded):
        state = replace(state, job=replace(state.job, checkpoint=(), checkpoint_status=message.checkpoint))
    return replace(state, outcome=judged(state, message))


def judged(state: JobState, message: Message) -> Ending | None:
    """How the attempt ends, as far as it is known after this message.

    Completed can still turn into failed or released (an upload is missing). Failed and released stay. A lost
    lease outweighs everything, but for a report on its way: that the job is over may be that report's doing.
    """
    if isinstance(message, LeaseLost):
        reporting = state.phase is Phase.REPORTING
        return state.outcome if reporting else Ending(Verdict.DROPPED, message.status)
    if isinstance(message, Exited) and state.verdict is not Verdict.DROPPED and not message.signalled:
        return exit_outcome(message)
    if state.verdict in (Verdict.FAILED, Verdict.RELEASED, Verdict.DROPPED):
        return state.outcome
    match message:
        case Exited():
            return Ending(Verdict.RELEASED, "shutdown")
        case Refused():
            output = state.outcome.output if state.outcome else None
            return Ending(Verdict.FAILED, message.reason, output=output, detail=message.detail or None)
        case Troubled():
            return Ending(Verdict.RELEASED, message.reason, detail=message.detail or None)
        case StopWished():
            verdict = Verdict.FAILED if message.fails else Verdict.RELEASED
            return Ending(verdict, message.why, stop=message.why)
        case ShutdownRequested() | TimeRanOut():
            return Ending(Verdict.RELEASED, "shutdown")
        case _:
            return state.outcome


def exit_outcome(exited: Exited) -> Ending:
    """What the end of a command that Kelpie had not signalled means (docs/design/guarantees.md, I7)."""
    if exited.error is not None:
        return Ending(Verdict.FAILED, "not_found", detail=exited.error)
    code = exited.exit_code if exited.signal is None else 128 + exited.signal
    if exited.oom:
        return Ending(Verdict.FAILED, "oom", code, exited.output)
    if exited.signal is not None:
        return Ending(Verdict.FAILED, "signal", code, exited.output)
    if exited.exit_code != 0:
        return Ending(Verdict.FAILED, "exit_code", code, exited.output)
    return Ending(Verdict.COMPLETED, None, 0, exited.output)


BROKEN = "worker_broken"  # the reason, where a command ends its worker or removes its files


def outcome_of_abandoned(job: JobState, reason: str, detail: str | None = None) -> Ending | None:
    """How an attempt ends that its worker cannot go on with; None if it is not to be reported.

    What is decided stays. Success is decided once everything is uploaded, which is where the report begins. A
    worker is broken by the command that runs, which would break the next one if it were released.
    """
    if job.phase in (Phase.WIPING, Phase.DONE) or job.verdict is Verdict.DROPPED:
        return None
    if job.phase is Phase.RUNNING and reason == BROKEN:
        return Ending(Verdict.FAILED, BROKEN, detail=detail)
    if job.outcome is None or (job.verdict is Verdict.COMPLETED and job.phase is not Phase.REPORTING):
        return Ending(Verdict.RELEASED, reason, detail=detail)
    return job.outcome
