"""READ FIRST: everything the worker's processes say to each other.

The worker is a star. The supervisor is its centre, and decides alone; around it are

    coordinator   calls the API: claims and reports      (threads of the supervisor: a call may wait for hours)
    instance      calls the metadata service             (a thread of the supervisor)
    runner        runs the command                       (a process)
    heartbeat     renews the leases                      (a process, so that no busy disk delays it)
    uploader      moves every file, down and up          (a process)

which never talk to each other. A *command* is an imperative and goes outwards, a *message* is in the past tense
and comes back. A command may arrive twice (a crash, a restarted child) and must then do no harm.

It is one file, although a long one, for it is read as a whole: records of a few lines in the order of a job's
life. The unions that end each half are what processes match on: what is missing there fails the check of types.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from kelpie_worker.job import CheckpointSignal, CheckpointStatus, Job, Manifest


class Verdict(StrEnum):
    """How an attempt ends. All but `dropped` are reported."""

    COMPLETED = "completed"
    FAILED = "failed"
    RELEASED = "released"  # given back, by a shutdown or by trouble with storage or disk: counts as no failure
    DROPPED = "dropped"  # the lease is not ours any more: a report would be refused


@dataclass(frozen=True)
class Ending:
    verdict: Verdict
    reason: str | None = None
    exit_code: int | None = None
    output: str | None = field(default=None, repr=False)  # may hold secrets that were not masked: never saved
    detail: str | None = field(default=None, repr=False)  # what happened, in a sentence; nor this
    stop: str | None = None  # why the command was stopped, where the coordinator or a limit of the job wanted it


# --- commands ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """Ask for a job, after a pause in seconds; repeated under the same id until it is answered.

    After `until` (CLOCK_BOOTTIME) no answer is one too.
    """

    claim_id: str
    after: float = 0.0
    until: float | None = None


@dataclass(frozen=True)
class Report:
    """Report to the API how the attempt ended; repeated until it is answered."""

    job: Job
    outcome: Ending
    again: bool = False  # an earlier run of the worker may have reported it
    # What the command told last, and the bytes that it printed in all: no heartbeat may have carried them.
    progress: Mapping[str, Any] | None = None
    output_bytes: int | None = None


@dataclass(frozen=True)
class ReportCheckpoint:
    """Report the manifest of a committed generation; repeated until it is answered, or a later one follows."""

    job: Job
    generation: int
    manifest: Manifest


@dataclass(frozen=True)
class ReportResume:
    """Report to the API in which state this attempt found its checkpoint."""

    job: Job
    checkpoint: str
    detail: str


@dataclass(frozen=True)
class SendOutput:
    """Send a piece of the output, which begins at `start`; what cannot be sent in time is left out.

    `again`: an earlier run of the worker may have sent pieces of this attempt.
    """

    job: Job
    start: int
    content: bytes = field(repr=False)
    again: bool = False


@dataclass(frozen=True)
class Recall:
    """Fetch what the state file does not keep of a job: its command, arguments and environment."""

    job: Job


@dataclass(frozen=True)
class CeaseClaiming:
    """The worker is shutting down: answer an open Claim soon, with no job, instead of waiting for work.

    The last reports are to be sent before `grace_ends` (CLOCK_BOOTTIME).
    """

    grace_ends: float


@dataclass(frozen=True)
class Run:
    job: Job


@dataclass(frozen=True)
class Stop:
    """End the command: at a shutdown by SIGTERM, at a cancel by SIGINT first; SIGKILL comes last.

    `checkpoint_signal` goes before SIGTERM, to the command's first process alone.
    """

    claim_id: str
    shutdown: bool
    checkpoint_signal: CheckpointSignal | None = None


@dataclass(frozen=True)
class Terminate:
    """The command that is being stopped has saved what it wanted to save: SIGTERM is due now."""

    claim_id: str


@dataclass(frozen=True)
class FollowOutput:
    """Hand out a piece of the output every second (followed), or every ten."""

    claim_id: str
    is_followed: bool


@dataclass(frozen=True)
class HoldLease:
    """Send heartbeats for this attempt until DropLease; the first is due at `due` (CLOCK_BOOTTIME).

    Another `phase` (of those that users see) than before is told at once.
    """

    job: Job
    due: float = 0.0
    phase: str | None = None


@dataclass(frozen=True)
class TellLag:
    """Since when (CLOCK_BOOTTIME) the bucket lacks a change; None: it has all. Heartbeats carry it from now on."""

    claim_id: str
    since: float | None


@dataclass(frozen=True)
class TellProgress:
    """How far the command is. The next heartbeat carries it."""

    claim_id: str
    progress: Mapping[str, Any]


@dataclass(frozen=True)
class TellOutput:
    """How many bytes the command has printed. Heartbeats carry it from now on."""

    claim_id: str
    total: int


@dataclass(frozen=True)
class TellStall:
    """Whether the command has stalled. A heartbeat carries it at once."""

    claim_id: str
    is_stalled: bool


@dataclass(frozen=True)
class DropLease:
    claim_id: str


@dataclass(frozen=True)
class Renew:
    """The lease is safe until then (seconds on CLOCK_BOOTTIME): the bucket may be changed."""

    claim_id: str
    until: float


@dataclass(frozen=True)
class Download:
    job: Job


@dataclass(frozen=True)
class Watch:
    """Watch the directories of `sync.during`.

    `again`: an earlier run of the worker did, and its files are there.
    """

    job: Job
    again: bool = False


@dataclass(frozen=True)
class Flush:
    """Send the last state of the watched directories, then stop watching them."""

    job: Job


@dataclass(frozen=True)
class Stage:
    """Move the outputs aside and empty the job's directories: the next job needs them."""

    job: Job


@dataclass(frozen=True)
class Upload:
    job: Job
    aside: "Aside"


@dataclass(frozen=True)
class Abandon:
    """Send nothing more to the bucket for this attempt."""

    claim_id: str


@dataclass(frozen=True)
class Wipe:
    """Abandon the attempt, and delete its files: those set aside if there are, else its directories."""

    job: Job
    aside: "Aside | None"


@dataclass(frozen=True)
class ProveLease:
    """Send a heartbeat for this attempt now."""

    claim_id: str


@dataclass(frozen=True)
class SetDeletionCost:
    """What it would cost to delete this instance now, as far as this worker knows."""

    cost: int
    holds_job: bool


class Departure(StrEnum):
    REALLOCATE = "reallocate"  # to another machine
    RECREATE = "recreate"  # a fresh container on this one


@dataclass(frozen=True)
class LeaveInstance:
    """Give the instance up, unless another worker on it holds a job; `exits`: end in any case."""

    departure: Departure
    reason: str
    exits: bool = True


@dataclass(frozen=True)
class Respond:
    """Answer with Responded: every child takes this, and no work of it delays the answer."""

    name: str


Aside = tuple[tuple[str, str], ...]  # (directory of the job, where its contents were moved to), ...

Command = (
    Claim | Report | ReportCheckpoint | ReportResume | SendOutput | Recall | CeaseClaiming
    | SetDeletionCost | LeaveInstance
    | Run | Stop | Terminate | FollowOutput
    | HoldLease | TellLag | TellProgress | TellOutput | TellStall | ProveLease | DropLease
    | Renew | Download | Watch | Flush | Stage | Upload | Abandon | Wipe
)  # fmt: skip

CARRIED_OUT_BY: dict[type[Command], str] = {
    **dict.fromkeys(
        (Claim, Report, ReportCheckpoint, ReportResume, SendOutput, Recall, CeaseClaiming), "coordinator"
    ),
    **dict.fromkeys((SetDeletionCost, LeaveInstance), "instance"),
    **dict.fromkeys((Run, Stop, Terminate, FollowOutput), "runner"),
    **dict.fromkeys((HoldLease, TellLag, TellProgress, TellOutput, TellStall, ProveLease, DropLease), "heartbeat"),
    **dict.fromkeys((Renew, Download, Watch, Flush, Stage, Upload, Abandon, Wipe), "uploader"),
}


# --- messages ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claimed:
    """The answer to Claim: a job, or none and the pause (seconds) before it is worth asking again."""

    claim_id: str
    job: Job | None = None
    sent_at: float = 0.0  # CLOCK_BOOTTIME when the request left: the lease is not younger than that
    pause: float = 0.0


@dataclass(frozen=True)
class Recalled:
    claim_id: str
    job: Job


@dataclass(frozen=True)
class Reported:
    """The report was answered; `accepted` is false where it was refused, `counted` where it is no failure."""

    claim_id: str
    accepted: bool = True
    counted: bool = True


@dataclass(frozen=True)
class Started:
    claim_id: str
    pid: int


@dataclass(frozen=True)
class Exited:
    """The command has ended.

    One of `exit_code`, `signal` and `error` is set; none if the runner did not know it.
    """

    claim_id: str
    exit_code: int | None = None
    signal: int | None = None
    error: str | None = None  # it could not be started
    signalled: bool = False  # Kelpie had sent it a signal: then its exit code decides nothing
    oom: bool = False  # the kernel killed it, or a process of it, for its memory
    output: str | None = field(default=None, repr=False)  # its last bytes, where they are asked for


@dataclass(frozen=True)
class Printed:
    """The command has printed so many bytes. `content` is a piece of it that is to be sent, from `start` on."""

    claim_id: str
    total: int
    start: int = 0
    content: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Progressed:
    """What the command says of its progress has changed; `has_moved`: its step or fraction did."""

    claim_id: str
    progress: Mapping[str, Any]
    has_moved: bool


@dataclass(frozen=True)
class LeaseRenewed:
    claim_id: str
    until: float


@dataclass(frozen=True)
class Steered:
    """What else the answer to a heartbeat says of an attempt that is still ours.

    `stop` is why it is to be stopped, `deadline` (CLOCK_BOOTTIME) when its time is over.
    """

    claim_id: str
    stop: str | None = None
    is_followed: bool = False
    deadline: float | None = None


@dataclass(frozen=True)
class OutputTaken:
    """A piece of the output was answered."""

    claim_id: str
    is_followed: bool


@dataclass(frozen=True)
class StopWished:
    """The command is to be stopped gracefully, with its last checkpoint; `fails`: the attempt fails with that."""

    claim_id: str
    why: str
    fails: bool = False


@dataclass(frozen=True)
class LeaseUnanswered:
    """A heartbeat was sent, and not answered."""

    claim_id: str


@dataclass(frozen=True)
class LeaseLost:
    """A heartbeat was answered with anything but `running`."""

    claim_id: str
    status: str


@dataclass(frozen=True)
class Downloaded:
    claim_id: str
    files: int = 0
    bytes: int = 0
    checkpoint: str = CheckpointStatus.NONE
    detail: str = ""  # why the checkpoint is torn
    found: Manifest = ()  # what it consists of, if that is not the newest manifest and was found whole


@dataclass(frozen=True)
class Committed:
    """A generation is whole in the bucket; everything that is there of the watched directories."""

    claim_id: str
    generation: int
    manifest: Manifest
    looked: float = 0.0  # CLOCK_BOOTTIME of the look at the directory that it is of


@dataclass(frozen=True)
class FilesChanged:
    """A file in a watched directory has changed."""

    claim_id: str


@dataclass(frozen=True)
class Lagging:
    """The bucket lacks a change of a watched directory, since then (CLOCK_BOOTTIME); None: it has all."""

    claim_id: str
    since: float | None


@dataclass(frozen=True)
class Doubted:
    """The bucket has an object that another program wrote: a heartbeat must show whether the lease is ours."""

    claim_id: str


@dataclass(frozen=True)
class Watching:
    claim_id: str


@dataclass(frozen=True)
class Flushed:
    claim_id: str


@dataclass(frozen=True)
class Staged:
    claim_id: str
    aside: Aside = ()


@dataclass(frozen=True)
class Uploaded:
    claim_id: str
    files: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Wiped:
    claim_id: str


@dataclass(frozen=True)
class Refused:
    """It cannot be done, now or later (no such bucket, no permission, no such command): the attempt fails."""

    claim_id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Troubled:
    """Files cannot be moved here and now (storage away, disk full): the attempt is given back."""

    claim_id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Transferring:
    """The local paths that are being transferred, for the state file."""

    claim_id: str
    uploads: tuple[str, ...] = ()
    downloads: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShutdownRequested:
    """SIGTERM, or SIGINT: then not even running uploads of outputs are waited for."""

    finish_uploads: bool = True


@dataclass(frozen=True)
class TimeRanOut:
    """Of the shutdown's grace only the time for the releases is left."""


@dataclass(frozen=True)
class GraceEnded:
    pass


@dataclass(frozen=True)
class Departed:
    """The answer to LeaveInstance.

    Not `gone`: the instance could not be given up, and no other worker needs it.
    """

    gone: bool


@dataclass(frozen=True)
class ChildStarted:
    name: str


@dataclass(frozen=True)
class Responded:
    """A child has read Respond."""

    name: str


@dataclass(frozen=True)
class ChildDied:
    name: str
    exit_code: int | None


JobMessage = (
    Claimed | Recalled | Reported | OutputTaken | Started | Printed | Progressed | Exited
    | LeaseRenewed | Steered | StopWished | LeaseUnanswered | LeaseLost
    | Downloaded | Watching | Committed | FilesChanged | Lagging | Doubted | Flushed | Staged | Uploaded | Wiped
    | Refused | Troubled | Transferring
)  # fmt: skip
WorkerMessage = ShutdownRequested | TimeRanOut | GraceEnded | Departed | ChildStarted | Responded | ChildDied
Message = JobMessage | WorkerMessage
