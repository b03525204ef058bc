"""When the next claim may go out, and why not now. Pure: messages and the time go in, a new `Pacing` comes out.

    reason    what happened (n times in a row)         the next claim waits     n is 0 again after
    refused   the coordinator refused a claim          1 s, doubling to 30 s    an answered claim
    trouble   a job's files were in trouble            10 s, doubling to 300 s  a job that completed or failed
    stays     the instance was not given up, as asked  2 s, doubling to 300 s   a job that completed
    empty     a claim was answered without a job       as the answer says

Each doubling pause is shortened by up to half at random. Of several reasons the one that ends last counts. The
pause after trouble begins anew when the job's release is reported: a report may be repeated for longer than it.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from kelpie_worker.messages import Claimed, Departed, Message, Refused, Reported, Troubled, Verdict
from kelpie_worker.system.backoff import Backoff


class Reason(StrEnum):
    REFUSED = "refused"
    TROUBLE = "trouble"
    STAYS = "stays"
    EMPTY = "empty"


_BACKOFFS = {
    Reason.REFUSED: Backoff(1.0, 30.0),
    Reason.TROUBLE: Backoff(10.0, 300.0),
    Reason.STAYS: Backoff(2.0, 300.0),
}
_FORGOTTEN_AFTER = {
    Verdict.COMPLETED: (Reason.TROUBLE, Reason.STAYS),
    Verdict.FAILED: (Reason.TROUBLE,),
}


@dataclass(frozen=True)
class Pacing:
    """What is known of the reasons to wait. Times are CLOCK_BOOTTIME."""

    counts: Mapping[Reason, int] = field(default_factory=dict)  # how often in a row
    ends: Mapping[Reason, float] = field(default_factory=dict)  # until when each has the next claim wait
    unreported: float = 0.0  # seconds to wait after trouble, once the release is reported

    def after(
        self,
        message: Message,
        verdict: Verdict | None,
        now: float,
        jitter: Callable[[], float] = random.random,
    ) -> "Pacing":
        """The pacing after a message; `verdict` is how the job that it is about ends, as far as that is known."""
        match message:
            case Refused(reason="claim"):
                return self._again(Reason.REFUSED, now, jitter)
            case Troubled():
                troubled = self._again(Reason.TROUBLE, now, jitter)
                return replace(troubled, unreported=troubled.ends[Reason.TROUBLE] - now)
            case Departed(gone=False):
                return self._again(Reason.STAYS, now, jitter)
            case Claimed():
                answered = self._forgotten(Reason.REFUSED)
                return replace(answered, ends={**answered.ends, Reason.EMPTY: now + message.pause})
            case Reported() if verdict is not None:
                return self._released(now)._forgotten(*_FORGOTTEN_AFTER.get(verdict, ()))
        return self

    def wait(self, now: float) -> tuple[float, Reason | None]:
        """Seconds until the next claim may go out, and what it waits for; 0 and None if it may go now."""
        ahead = [(end - now, reason) for reason, end in self.ends.items() if end > now]
        return max(ahead, default=(0.0, None))

    def _again(self, reason: Reason, now: float, jitter: Callable[[], float]) -> "Pacing":
        count = self.counts.get(reason, 0) + 1
        end = now + _BACKOFFS[reason].after(count, jitter)
        return replace(self, counts={**self.counts, reason: count}, ends={**self.ends, reason: end})

    def _released(self, now: float) -> "Pacing":
        """The pause after trouble counts from now on."""
        if not self.unreported:
            return self
        return replace(self, ends={**self.ends, Reason.TROUBLE: now + self.unreported}, unreported=0.0)

    def _forgotten(self, *reasons: Reason) -> "Pacing":
        """A pause that has begun goes on all the same."""
        return replace(self, counts={reason: n for reason, n in self.counts.items() if reason not in reasons})
