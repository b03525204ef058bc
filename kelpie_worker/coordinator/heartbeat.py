"""The child that renews the leases, one thread for each job in hand."""

import os
import threading
from multiprocessing.connection import Connection

from kelpie_worker import logs
from kelpie_worker.config import Config
from kelpie_worker.coordinator.client import Api, Unreachable
from kelpie_worker.coordinator.credentials import Credentials
from kelpie_worker.job import Job
from kelpie_worker.lease import safe_until
from kelpie_worker.messages import (
    DropLease,
    HoldLease,
    LeaseLost,
    LeaseRenewed,
    LeaseUnanswered,
    ProveLease,
    TellLag,
)
from kelpie_worker.processes.child import ChildWork, Tell, run_child
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.linux import boottime, die_with

_FIRST_PAUSE = 0.5
_LONGEST_TIMEOUT = 10.0


def main(commands: Connection, messages: Connection, config: Config) -> None:
    die_with(os.getppid())
    threading.excepthook = _die
    run_child(commands, messages, config, lambda tell: Heartbeat(config, tell))


def _die(failure: threading.ExceptHookArgs) -> None:
    """End the process with its thread: a child that ends is replaced, one without its thread loses a lease."""
    logs.error("heartbeat_failed", detail=f"{failure.exc_type.__name__}: {failure.exc_value}")
    os._exit(1)


class Heartbeat(ChildWork):
    def __init__(self, config: Config, tell: Tell) -> None:
        self._config = config
        self._tell = tell
        self._identity = Credentials(config.auth, config.imds_url)
        self._held: dict[str, HeldLease] = {}

    def carry_out(self, command: HoldLease | TellLag | ProveLease | DropLease) -> None:
        match command:
            case HoldLease():
                claim_id = command.job.claim_id
                if claim_id not in self._held:
                    self._held[claim_id] = HeldLease(command.job, Api(self._config, self._identity), self._tell)
                    self._held[claim_id].start(command.due)
            case TellLag():
                if held := self._held.get(command.claim_id):
                    held.lag = command
            case ProveLease():
                if held := self._held.get(command.claim_id):
                    held.wake()
            case DropLease():
                if held := self._held.pop(command.claim_id, None):
                    held.drop()


class HeldLease:
    """Heartbeats for one attempt: every interval, and sooner while the API does not answer."""

    def __init__(self, job: Job, api: Api, tell: Tell) -> None:
        self.job = job
        self.dropped = threading.Event()
        self.lag: TellLag | None = None  # nothing is known of it yet
        self._woken = threading.Event()
        self._api = api
        self._tell = tell
        self._failures = 0
        self._until: float | None = None  # when the lease ceases to be safe, as far as it is known here

    def start(self, due: float) -> None:
        interval = self.job.heartbeat_interval
        self._until = safe_until(due - interval, interval) if due else None
        threading.Thread(target=self._hold, args=(max(0.0, due - boottime()),), daemon=True).start()

    def _hold(self, pause: float) -> None:
        self._woken.wait(pause)
        while not self.dropped.is_set():
            self._woken.clear()
            self._woken.wait(self.beat())

    def wake(self) -> None:
        """Let the next heartbeat be sent at once."""
        self._woken.set()

    def drop(self) -> None:
        self.dropped.set()
        self.wake()

    def beat(self) -> float:
        """Send one heartbeat; the seconds until the next. Ends the lease on any answer but `running`."""
        interval = self.job.heartbeat_interval
        sent_at = boottime()
        try:
            timeout = min(_LONGEST_TIMEOUT, max(1.0, interval))
            status = self._api.heartbeat(self.job, timeout, seconds_behind(self.lag, sent_at))
        except Unreachable as error:
            return self._unanswered(error)
        self._failures = 0
        if self.dropped.is_set():
            return 0.0
        if status != "running":
            self.dropped.set()
            self._tell(LeaseLost(self.job.claim_id, status))
            return 0.0
        self._until = safe_until(sent_at, interval)
        self._tell(LeaseRenewed(self.job.claim_id, self._until))
        return max(0.0, interval - (boottime() - sent_at))

    def _unanswered(self, error: Unreachable) -> float:
        self._failures += 1
        self._tell(LeaseUnanswered(self.job.claim_id))
        logs.warn("heartbeat_unanswered", self.job, detail=str(error), failures=self._failures)
        if self._until is not None and boottime() >= self._until:
            self._until = None
            logs.warn("lease_unsafe", self.job, detail="the bucket is not changed until a heartbeat is accepted")
        interval = self.job.heartbeat_interval
        return Backoff(min(_FIRST_PAUSE, interval), interval).after(self._failures)


def seconds_behind(lag: TellLag | None, now: float) -> int | None:
    """The age in seconds of the oldest change that the bucket lacks, 0 if it has all; None if not known."""
    if lag is None or lag.since is None:
        return None if lag is None else 0
    return max(0, round(now - lag.since))
