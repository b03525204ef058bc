"""What the coordinator and a job's limits want of it: when its command is stopped, and what is told of it before.

Decisions only; whether a command has stalled, `stall.py` says. The supervisor passes every message on, and asks
about once a second what is due.
"""

from collections.abc import Callable, Mapping

from kelpie_worker import logs
from kelpie_worker.job_in_hand import JobInHand
from kelpie_worker.messages import (
    Command,
    Committed,
    FilesChanged,
    FollowOutput,
    Message,
    OutputTaken,
    Printed,
    Progressed,
    SendOutput,
    Started,
    Steered,
    StopWished,
    TellOutput,
    TellProgress,
    TellStall,
    Terminate,
)
from kelpie_worker.pipeline import Phase
from kelpie_worker.system.linux import boottime

_LONGEST_STEP = 2.0  # seconds counted at most between two calls: the worker itself may have been suspended
_STOPPABLE = (Phase.DOWNLOADING, Phase.RUNNING)
Jobs = Mapping[str, JobInHand]  # by claim id


class Steering:
    """`send` takes the commands that follow; the jobs' records keep what was heard."""

    def __init__(self, send: Callable[[Command], None], clock: Callable[[], float] = boottime) -> None:
        self._send = send
        self._clock = clock
        self._asked = clock()

    def hear(self, message: Message, held: JobInHand) -> None:
        """Note what a message says, and pass it on to those that need it."""
        match message:
            case Steered():
                held.deadline = message.deadline
                self._follow(held, message.is_followed)
            case OutputTaken():
                self._follow(held, message.is_followed)
            case Started():
                held.is_followed = False
                held.stall.begin()
            case Progressed():
                self._tell(held, TellProgress(message.claim_id, message.progress))
                if held.stall.note_progress(message.has_moved):
                    self._tell_stall(held)
            case Printed():
                self._pass_on(message, held)
                if held.stall.note_change():
                    self._tell_stall(held)
            case FilesChanged():
                if held.stall.note_change():
                    self._tell_stall(held)
            case Committed():
                self._note_saved(message, held)

    def due(self, jobs: Jobs) -> list[StopWished]:
        """The stops that are due now, and at most once for each job. To be called about once a second."""
        passed, self._asked = min(self._clock() - self._asked, _LONGEST_STEP), self._clock()
        return [stop for held in jobs.values() if (stop := self._due_of(held, passed))]

    def _due_of(self, held: JobInHand, passed: float) -> StopWished | None:
        claim_id = held.state.job.claim_id
        if held.state.phase not in _STOPPABLE:
            return None
        if held.deadline is not None and self._clock() >= held.deadline:
            return StopWished(claim_id, "time_limit")
        if held.state.phase is Phase.RUNNING and self._has_stalled(held, passed):
            how = held.state.job.steering.on_stall
            return None if how == "notify" else StopWished(claim_id, "stalled", fails=how == "fail")
        return None

    def _has_stalled(self, held: JobInHand, passed: float) -> bool:
        """Whether the command stalls from now on, and had not before."""
        after = held.state.job.steering.stall_after
        is_uploading = bool(held.transfers and held.transfers.uploads)
        if after is None or not held.stall.pass_time(passed, after, is_uploading):
            return False
        logs.warn("stalled", held.state.job, detail=f"no {held.stall.missing} for {after:g} seconds")
        self._tell_stall(held)
        return True

    def _tell_stall(self, held: JobInHand) -> None:
        self._tell(held, TellStall(held.state.job.claim_id, held.stall.is_stalled))

    def _pass_on(self, printed: Printed, held: JobInHand) -> None:
        self._tell(held, TellOutput(printed.claim_id, printed.total))
        if printed.content:
            self._send(SendOutput(held.state.job, printed.start, printed.content, again=held.is_resumed))

    def _follow(self, held: JobInHand, is_followed: bool) -> None:
        if held.is_followed != is_followed:
            held.is_followed = is_followed
            self._send(FollowOutput(held.state.job.claim_id, is_followed))

    def _note_saved(self, committed: Committed, held: JobInHand) -> None:
        """What the command saved when it was asked to is whole in the bucket: it need not run any longer."""
        asked = held.asked_to_save
        if held.state.phase is Phase.STOPPING and asked is not None and committed.looked >= asked:
            held.asked_to_save = None
            self._send(Terminate(committed.claim_id))

    def _tell(self, held: JobInHand, telling: TellProgress | TellOutput | TellStall) -> None:
        held.told[type(telling)] = telling
        self._send(telling)
