"""The child that renews the leases, one thread for each job in hand."""

import os
import threading
from dataclasses import replace
from multiprocessing.connection import Connection

from kelpie_worker import logs
from kelpie_worker.config import Config
from kelpie_worker.coordinator.client import Api, HeartbeatAnswer, News, Unreachable
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
    Steered,
    TellLag,
    TellOutput,
    TellProgress,
    TellStall,
)
from kelpie_worker.processes.child import ChildWork, Tell, run_child
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.linux import boottime, die_with

_FIRST_PAUSE = 0.5
_LONGEST_TIMEOUT = 10.0
_LONGEST_STEERED = 10.0  # seconds between heartbeats where their answers steer, however long the interval
_SETTLE = 0.2  # seconds; a phase that is over sooner is not told of


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

    def carry_out(
        self, command: HoldLease | TellLag | TellProgress | TellOutput | TellStall | ProveLease | DropLease
    ) -> None:
        match command:
            case HoldLease():
                claim_id = command.job.claim_id
                if claim_id not in self._held:
                    self._held[claim_id] = HeldLease(command.job, Api(self._config, self._identity), self._tell)
                    self._held[claim_id].start(command.due)
                self._held[claim_id].enter(command.phase)
            case TellLag() | TellProgress() | TellOutput() | TellStall():
                if held := self._held.get(command.claim_id):
                    held.hear(command)
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
        self._lag: TellLag | None = None  # nothing is known of it yet
        self._news = News()  # what the next heartbeat tells besides
        self._sent_progress: object = None  # what the server has
        self._is_unsettled = False  # the phase has changed, and may change again at once
        self._woken = threading.Event()
        self._api = api
        self._tell = tell
        self._failures = 0
        self._until: float | None = None  # when the lease ceases to be safe, as far as it is known here

    def start(self, due: float) -> None:
        interval = self.job.heartbeat_interval
        self._until = safe_until(due - interval, interval) if due else None
        threading.Thread(target=self._hold, args=(max(0.0, due - boottime()),), daemon=True).start()

    def enter(self, phase: str | None) -> None:
        """The job is in this phase now (of those that users see): a change is told at once."""
        if phase is not None and phase != self._news.phase:
            self._news = replace(self._news, phase=phase)
            self._is_unsettled = True
            self.wake()

    def hear(self, telling: TellLag | TellProgress | TellOutput | TellStall) -> None:
        """Have heartbeats tell this from now on."""
        match telling:
            case TellLag():
                self._lag = telling
            case TellProgress():
                self._news = replace(self._news, progress=telling.progress)
            case TellOutput():
                self._news = replace(self._news, output_bytes=telling.total)
            case TellStall():
                self._news = replace(self._news, stalled=telling.is_stalled)
                self.wake()

    def _hold(self, pause: float) -> None:
        self._woken.wait(pause)
        while not self.dropped.is_set():
            if self._is_unsettled and self.dropped.wait(_SETTLE):
                return
            self._is_unsettled = False
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
        sent_at, news = boottime(), self._unsent()
        try:
            timeout = min(_LONGEST_TIMEOUT, max(1.0, interval))
            news = replace(news, checkpoint_lag=seconds_behind(self._lag, sent_at))
            answer = self._api.heartbeat(self.job, timeout, news)
        except Unreachable as error:
            return self._unanswered(error)
        self._failures = 0
        if self.dropped.is_set():
            return 0.0
        if answer.status != "running":
            self.dropped.set()
            self._tell(LeaseLost(self.job.claim_id, answer.status))
            return 0.0
        self._until = safe_until(sent_at, interval)
        self._tell(LeaseRenewed(self.job.claim_id, self._until))
        if news.progress is not None:
            self._sent_progress = news.progress
        self._tell_wishes(answer, sent_at)
        pause = min(interval, _LONGEST_STEERED) if "steer" in self.job.speaks else interval
        return max(0.0, pause - (boottime() - sent_at))

    def _unsent(self) -> News:
        """The news, with the progress only if the server has another."""
        news = self._news
        return replace(news, progress=None) if news.progress is self._sent_progress else news

    def _tell_wishes(self, answer: HeartbeatAnswer, sent_at: float) -> None:
        if not self.job.speaks:
            return
        due = None if answer.deadline is None else sent_at + answer.deadline
        self._tell(Steered(self.job.claim_id, answer.stop, answer.is_followed, due))

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
