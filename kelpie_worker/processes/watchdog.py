"""Notices a child that lives and does nothing: one that was stopped, say. Decisions only."""

from collections.abc import Callable, Mapping

from kelpie_worker.messages import ChildStarted, LeaseRenewed, LeaseUnanswered, Message, Responded, Verdict
from kelpie_worker.pipeline import JobState, Phase
from kelpie_worker.system.linux import boottime

_PATIENCE = 20.0  # seconds beyond an interval: a heartbeat may wait for a token, a connection and an answer
_SHORTEST_SILENCE = 30.0  # seconds; what is replaced more often counts as dying all the time
_LONGEST_LOOK = 2.0  # seconds that count at most from one look to the next: the worker itself may have slept
_ASKED = ("runner", "uploader")  # their work may take days, but it keeps neither from answering
_ASK_EVERY = 30.0  # seconds
_LONGEST_ANSWER = 300.0  # seconds; to start a command from a slow disk, or to save on one, takes its time


class Watchdog:
    """Hears every message, and looks again and again. `ask` has a child respond."""

    def __init__(self, ask: Callable[[str], None], clock: Callable[[], float] = boottime) -> None:
        self._ask = ask
        self._clock = clock
        self._looked = clock()
        self._silence: dict[str, float] = {}  # of leases
        self._unasked = 0.0  # seconds since everybody was asked
        self._unanswered: dict[str, float] = {}  # seconds, of children

    def hear(self, message: Message) -> None:
        match message:
            case LeaseRenewed() | LeaseUnanswered():
                self._silence[message.claim_id] = 0.0
            case Responded() | ChildStarted():
                self._unanswered.pop(message.name, None)

    def broken(self, jobs: Mapping[str, JobState]) -> list[str]:
        """The children that are to be replaced. With each of them it begins anew."""
        passed, self._looked = min(self._clock() - self._looked, _LONGEST_LOOK), self._clock()
        return [*self._leaving_leases(jobs, passed), *self._not_responding(bool(jobs), passed)]

    def _leaving_leases(self, jobs: Mapping[str, JobState], passed: float) -> list[str]:
        """Of the heartbeat nothing was heard of a lease in hand for so long that nobody renews it."""
        held = {claim_id: job for claim_id, job in jobs.items() if _is_held(job)}
        self._silence = {claim_id: self._silence.get(claim_id, 0.0) + passed for claim_id in held}
        if any(self._silence[claim_id] > _longest_silence(job) for claim_id, job in held.items()):
            self._silence.clear()
            return ["heartbeat"]
        return []

    def _not_responding(self, busy: bool, passed: float) -> list[str]:
        """Nobody is asked without a job in hand: an idle worker lets its processes sleep."""
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


def _is_held(job: JobState) -> bool:
    return job.phase not in (Phase.WIPING, Phase.DONE) and job.verdict is not Verdict.DROPPED


def _longest_silence(job: JobState) -> float:
    return max(_SHORTEST_SILENCE, job.job.heartbeat_interval + _PATIENCE)
