"""Notices a heartbeat child that lives and does nothing: one that was stopped, say. Decisions only."""

from collections.abc import Callable, Mapping

from kelpie_worker.linux import boottime
from kelpie_worker.messages import LeaseRenewed, LeaseUnanswered, Message, Verdict
from kelpie_worker.pipeline import JobState, Phase

_PATIENCE = 20.0  # seconds beyond an interval: a heartbeat may wait for a token, a connection and an answer
_SHORTEST_SILENCE = 30.0  # seconds; what is replaced more often counts as dying all the time
_LONGEST_LOOK = 2.0  # seconds that count at most from one look to the next: the worker itself may have slept


class Vigil:
    """Hears every message, and looks again and again."""

    def __init__(self, clock: Callable[[], float] = boottime) -> None:
        self._clock = clock
        self._looked = clock()
        self._silence: dict[str, float] = {}

    def hear(self, message: Message) -> None:
        if isinstance(message, LeaseRenewed | LeaseUnanswered):
            self._silence[message.claim_id] = 0.0

    def is_broken(self, jobs: Mapping[str, JobState]) -> bool:
        """Whether nothing was heard of a lease in hand for so long that nobody renews it. Then it begins anew."""
        passed, self._looked = min(self._clock() - self._looked, _LONGEST_LOOK), self._clock()
        held = {claim_id: job for claim_id, job in jobs.items() if _is_held(job)}
        self._silence = {claim_id: self._silence.get(claim_id, 0.0) + passed for claim_id in held}
        if any(self._silence[claim_id] > _longest_silence(job) for claim_id, job in held.items()):
            self._silence.clear()
            return True
        return False


def _is_held(job: JobState) -> bool:
    return job.phase not in (Phase.WIPING, Phase.DONE) and job.verdict is not Verdict.DROPPED


def _longest_silence(job: JobState) -> float:
    return max(_SHORTEST_SILENCE, job.job.heartbeat_interval + _PATIENCE)
