"""How long the worker stays on its instance: the current deletion cost, and when it asks for reallocation.

Decisions only; `instance.py` carries them out. A failure that every machine would have is no reason to leave this
one. The coordinator has the same rules for the machines that it has reallocated (`kelpie_api/queue/bans.py`, which
says why for each reason); a test compares them.
"""

import re
from collections.abc import Callable, Mapping

from kelpie_worker.config import InstanceLimits
from kelpie_worker.job_in_hand import JobInHand
from kelpie_worker.messages import (
    Departed,
    Departure,
    Ending,
    LeaseRenewed,
    LeaveInstance,
    Message,
    Reported,
    SetDeletionCost,
    Verdict,
)
from kelpie_worker.pipeline import Phase
from kelpie_worker.system.linux import boottime

BUSIEST = 999_999_999  # during final uploads: the worst time for an interruption
_FINAL_UPLOADS = (Phase.FLUSHING, Phase.STAGING, Phase.UPLOADING, Phase.REPORTING)
# Whether a failure with this reason is the job's own fault. One with another reason may be the machine's.
IS_JOBS_OWN_FAULT = {
    "exit_code": False,
    "signal": False,
    "oom": False,
    "not_found": True,
    "not_started": True,
    "download": True,
    "upload": True,  # unless its sentence is an error of the machine
    "pattern": True,
    "worker_broken": True,
    "stalled": True,
}
# What the sentence of an upload begins with that failed because of this machine; and what S3 says of the bucket.
MACHINES_ERROR = re.compile(r"\w*(Error|Exception)\b|.*\[Errno ")
REFUSED = re.compile(
    r"\b(NoSuchBucket|InvalidBucketName|AccessDenied|AllAccessDisabled|InvalidAccessKeyId|Forbidden)\b"
)
_ROLLING = 5.0  # seconds until the worker looks again, where only uploads keep it
Jobs = Mapping[str, JobInHand]  # by claim id
Send = Callable[[SetDeletionCost | LeaveInstance], None]


def deletion_cost(jobs: Jobs) -> int:
    """The cost of deleting a worker with these jobs: that of its most expensive job.

    A job's cost grows with every heartbeat, because more work would be lost.
    """
    return max((_cost_of(held) for held in jobs.values()), default=0)


def _cost_of(held: JobInHand) -> int:
    return BUSIEST if held.state.phase in _FINAL_UPLOADS else min(1 + held.heartbeats, BUSIEST - 1)


def counts_against_machine(failure: Ending) -> bool:
    """Whether a failed attempt may be this machine's fault. One without a reason may be."""
    if failure.reason == "upload":
        detail = failure.detail or ""
        return not detail or (bool(MACHINES_ERROR.match(detail)) and not REFUSED.search(detail))
    return failure.reason is None or not IS_JOBS_OWN_FAULT.get(failure.reason, False)


class InstancePolicy:
    """Sees every message and the jobs in hand after it. `left` once nothing keeps the worker here."""

    def __init__(
        self,
        stay: InstanceLimits | None = None,
        send: Send = lambda command: None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self.left = False
        self._stay = stay or InstanceLimits()
        self._send = send
        self._clock = clock
        self._failures = 0  # of jobs on this machine
        self._has_worked = False
        self._free_since: float | None = None
        self._told = SetDeletionCost(0, holds_job=False)
        self._leave: LeaveInstance | None = None
        self._asked = False

    def see(self, message: Message, jobs: Jobs) -> None:
        match message:
            case LeaseRenewed() if held := jobs.get(message.claim_id):
                held.heartbeats += 1
            case Reported(accepted=True, counted=True) if held := jobs.get(message.claim_id):
                self._count_failure(held)
            case Departed():
                self._departed(message)
        self._has_worked = self._has_worked or bool(jobs)
        if any(held.state.occupies_directories for held in jobs.values()):
            self._free_since = None
        self._tell_cost(jobs)

    def ends(self, jobs: Jobs) -> bool:
        """Whether the worker is to leave instead of claiming another job; it does once its uploads are done."""
        if self._free_since is None:
            self._free_since = self._clock()
        self._leave = self._leave or self._due(jobs)
        if self._leave and not jobs and not self._asked:
            self._asked = True
            self._send(self._leave)
        return self._leave is not None

    def wants_work_until(self) -> float | None:
        """When a claim is to be answered at the latest (CLOCK_BOOTTIME), with or without a job; None: no limit."""
        if self._stay.max_idle is None or self._free_since is None:
            return None
        return max(self._free_since + self._stay.max_idle, self._clock() + _ROLLING)

    def _due(self, jobs: Jobs) -> LeaveInstance | None:
        limit, since = self._stay.max_idle, self._free_since
        if self._stay.max_failures and self._failures >= self._stay.max_failures:
            return LeaveInstance(Departure.REALLOCATE, f"{self._failures} jobs failed here", exits=False)
        if self._stay.one_job and self._has_worked:
            return LeaveInstance(Departure.RECREATE, "a job is over, and the next one wants a fresh container")
        if limit is not None and since is not None and not jobs and self._clock() - since >= limit:
            return LeaveInstance(Departure.REALLOCATE, f"no work for {limit:g} seconds")
        return None

    def _departed(self, departed: Departed) -> None:
        if departed.gone or self._leave is None or self._leave.exits:
            self.left = True
        else:  # it has to do with this machine, and asks again after the next failure
            self._leave, self._asked = None, False
            self._failures -= 1

    def _count_failure(self, held: JobInHand) -> None:
        """Count a failed job once, even if its report is answered repeatedly, and not for the job's own faults."""
        failure = held.state.outcome
        if failure is None or failure.verdict is not Verdict.FAILED or held.failure_counted:
            return
        if counts_against_machine(failure):
            held.failure_counted = True
            self._failures += 1

    def _tell_cost(self, jobs: Jobs) -> None:
        telling = SetDeletionCost(deletion_cost(jobs), holds_job=bool(jobs))
        if telling != self._told:
            self._told = telling
            self._send(telling)
