"""Detects a child that is alive and does nothing, because it was sent SIGSTOP for example. Decisions only."""

from collections.abc import Callable, Mapping

from kelpie_worker.job_in_hand import JobInHand
from kelpie_worker.messages import ChildStarted, LeaseRenewed, LeaseUnanswered, Message, Responded, Verdict
from kelpie_worker.pipeline import JobState, Phase
from kelpie_worker.system.linux import boottime

_PATIENCE = 20.0  # seconds beyond the interval: a heartbeat may wait for a token, a connection and an answer
_SHORTEST_SILENCE = 30.0  # seconds; a child replaced more often would count as dying quickly (see restarts.py)
_LONGEST_STEP = 2.0  # seconds counted at most between two calls: the worker itself may have been suspended
_ASKED = ("runner", "uploader")  # their work may take days, but does not keep them from responding
_ASK_EVERY = 30.0  # seconds
_LONGEST_ANSWER = 300.0  # seconds; starting a command from a slow disk may take minutes


class Watchdog:
    """Is told every message, and asked regularly for hanging children. `ask` requests a response from a child."""

    def __init__(self, ask: Callable[[str], None], clock: Callable[[], float] = boottime) -> None:
        self._ask = ask
        self._clock = clock
        self._looked = clock()
        self._unasked = 0.0  # seconds since the children were asked
        self._unanswered: dict[str, float] = {}  # by child: seconds since it was asked

    def hear(self, message: Message, jobs: Mapping[str, JobInHand]) -> None:
        match message:
            case LeaseRenewed() | LeaseUnanswered() if held := jobs.get(message.claim_id):
                held.silence = 0.0
            case Responded() | ChildStarted():
                self._unanswered.pop(message.name, None)

    def broken(self, jobs: Mapping[str, JobInHand]) -> list[str]:
        """The names of the children to be replaced; their silence is counted from zero again."""
        passed, self._looked = min(self._clock() - self._looked, _LONGEST_STEP), self._clock()
        return [*self._not_renewing(jobs, passed), *self._not_responding(bool(jobs), passed)]

    def _not_renewing(self, jobs: Mapping[str, JobInHand], passed: float) -> list[str]:
        """The heartbeat, if it has sent no news of a lease in hand for so long that it cannot be renewing it."""
        leases = [held for held in jobs.values() if _is_leased(held.state)]
        for held in leases:
            held.silence += passed
        if any(held.silence > _longest_silence(held.state) for held in leases):
            for held in leases:
                held.silence = 0.0
            return ["heartbeat"]
        return []

    def _not_responding(self, busy: bool, passed: float) -> list[str]:
        """Children whose answer is overdue. Without a job in hand none is asked, so that they sleep."""
        self._unanswered = {name: waited + passed for name, waited in self._unanswered.items()}
        silent = [name for name, waited in self._unanswered.items() if waited > _LONGEST_ANSWER]
        for name in silent:
            del self._unanswered[name]
        self._unasked += passed
        if busy and self._unasked >= _ASK_EVERY:
            self._unasked = 0.0
            for name in _ASKED:
                if name not in self._unanswered:
                    self._unanswered[name] = 0.0
                    self._ask(name)
        return silent


def _is_leased(job: JobState) -> bool:
    return job.phase not in (Phase.WIPING, Phase.DONE) and job.verdict is not Verdict.DROPPED


def _longest_silence(job: JobState) -> float:
    return max(_SHORTEST_SILENCE, job.job.heartbeat_interval + _PATIENCE)
