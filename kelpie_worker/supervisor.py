"""The centre of the star: hears every message, decides by the pipeline, saves, then sends the next commands."""

import uuid
from collections.abc import Callable
from dataclasses import replace

from kelpie_worker import event_log, logs
from kelpie_worker.job import CheckpointStatus
from kelpie_worker.lease import safe_until
from kelpie_worker.messages import (
    CeaseClaiming,
    ChildDied,
    ChildStarted,
    Claim,
    Claimed,
    Command,
    Committed,
    Departed,
    Doubted,
    Ending,
    GraceEnded,
    HoldLease,
    Lagging,
    LeaseRenewed,
    Message,
    ProveLease,
    Recall,
    Recalled,
    Refused,
    Renew,
    Report,
    ReportCheckpoint,
    Reported,
    Responded,
    ShutdownRequested,
    TellLag,
    TimeRanOut,
    Transferring,
    Troubled,
    Verdict,
    Watch,
    Watching,
)
from kelpie_worker.pipeline import BROKEN, JobState, Phase, advance, entering, outcome_of_abandoned
from kelpie_worker.salad.instance_policy import InstancePolicy
from kelpie_worker.state_file import StateStore, WorkerState
from kelpie_worker.system.backoff import backoff

_FIRST_TROUBLE_PAUSE, _LONGEST_TROUBLE_PAUSE = 10.0, 300.0
_FIRST_STAY_PAUSE, _LONGEST_STAY_PAUSE = 2.0, 300.0  # on a machine that fails jobs and cannot be left
_FIRST_REFUSAL_PAUSE, _LONGEST_REFUSAL_PAUSE = 1.0, 30.0
_MOST_BEGUN = 3  # times that a command takes the worker, or its runner, along: the blame is its own then
_SHORTEST_RELEASE_TIME, _LONGEST_RELEASE_TIME = 1.0, 5.0


class Supervisor:
    """Decides; does no I/O but the state file.

    `send` takes a command to whoever obeys it, `restart` replaces a dead child, `schedule` delivers a message
    to `on` after some seconds.
    """

    def __init__(
        self,
        store: StateStore,
        send: Callable[[Command], None],
        restart: Callable[[str], None],
        schedule: Callable[[float, Message], None],
        shutdown_grace: float = 25.0,
        instance_policy: InstancePolicy | None = None,
    ) -> None:
        self._store = store
        self._send = send
        self._restart = restart
        self._schedule = schedule
        self._grace = shutdown_grace
        self._instance_policy = instance_policy or InstancePolicy()
        self._resuming: set[str] = set()  # jobs of an earlier life whose lease is not proven yet
        self._renewals: dict[str, float] = {}
        self._lags: dict[str, TellLag] = {}
        self._running: set[str] = set()  # jobs whose command the runner of today was told to run
        self._claiming = False
        self._heartbeat_lives = False  # without it a job that is claimed would be held by nobody
        self._pause = 0.0
        self._troubles = 0
        self._refusals = 0
        self._stays = 0
        self._stopping = False
        self._grace_ended = False

    @property
    def finished(self) -> bool:
        idle = not self._state.jobs and not self._claiming
        return self._grace_ended or ((self._stopping or self._instance_policy.left) and idle)

    def start(self) -> None:
        """Take up what an earlier life left in the state file."""
        for claim_id, job in self._state.jobs.items():
            if job.phase is Phase.WIPING:
                self._enter(job)
            else:
                self._resuming.add(claim_id)
                self._send(HoldLease(job.job))
        self._store.save()
        self._claim_if_free()

    def on(self, message: Message) -> None:
        """Everything that happens, one message at a time."""
        match message:
            case Claimed():
                self._take(message)
            case Refused() if message.claim_id == self._state.claim_id:
                self._forget_claim()
            case LeaseRenewed():
                self._renew(message)
            case Recalled():
                self._recalled(message)
            case Committed():
                self._tell_checkpoint(message)
            case Lagging():
                self._tell_lag(message)
            case Doubted():
                self._send(ProveLease(message.claim_id))
            case Transferring():
                self._note_transfers(message)
            case ChildStarted():
                self._heartbeat_lives = self._heartbeat_lives or message.name == "heartbeat"
            case ChildDied():
                self._replace_child(message)
            case Responded():
                pass  # which is for the vigil to know
            case ShutdownRequested():
                self._shut_down(message)
            case TimeRanOut():
                self._advance_all(message)
            case GraceEnded():
                self._grace_ended = True
            case Departed():
                self._stay_on(message)
            case _:
                self._hear(message.claim_id, message)
        self._instance_policy.see(message, self._state.jobs)
        self._claim_if_free()

    def last_reports(self, reason: str, detail: str) -> list[Report]:
        """What remains to be told of the jobs in hand when the worker itself fails, its children ended already."""
        reports = []
        for claim_id, job in self._state.jobs.items():
            outcome = outcome_of_abandoned(job, reason, detail)
            # A lease that is not proven yet is spoken of only where the server compares attempts.
            proven = claim_id not in self._resuming or job.job.attempt is not None
            if outcome is not None and proven:
                reports.append(Report(job.job, outcome))
        return reports

    @property
    def _state(self) -> WorkerState:
        return self._store.state

    # --- claiming -----------------------------------------------------------------------------------

    def _claim_if_free(self) -> None:
        """Ask for the next job once nothing occupies the directories. The id is saved before the call."""
        if not self._is_free() or self._instance_policy.ends(self._state.jobs):
            return
        if self._state.claim_id is None:
            self._state.claim_id = str(uuid.uuid4())
            self._store.save()
        self._claiming = True
        self._send(Claim(self._state.claim_id, after=self._pause, until=self._instance_policy.wants_work_until()))
        self._pause = 0.0

    def _is_free(self) -> bool:
        occupied = any(job.occupies_directories for job in self._state.jobs.values())
        return self._heartbeat_lives and not (self._claiming or self._stopping or occupied)

    def _forget_claim(self) -> None:
        """The server wants no claim of this id: the next one gets another, after a pause."""
        self._claiming = False
        self._state.claim_id = None
        self._refusals += 1
        self._pause = backoff(self._refusals, _FIRST_REFUSAL_PAUSE, _LONGEST_REFUSAL_PAUSE)

    def _take(self, claimed: Claimed) -> None:
        self._claiming = False
        self._refusals = 0
        if claimed.job is None or claimed.claim_id in self._state.jobs:  # asked twice, it is told twice
            self._pause = claimed.pause
            return
        job = JobState(claimed.job)
        self._state.claim_id = str(uuid.uuid4())  # of the next claim, which need not wait for another save
        if self._stopping:
            job = replace(job, phase=Phase.REPORTING, outcome=Ending(Verdict.RELEASED, "shutdown"))
        event_log.tell(claimed, claimed.job)
        until = safe_until(claimed.sent_at, claimed.job.heartbeat_interval)
        self._keep(job)
        self._send(HoldLease(claimed.job, due=claimed.sent_at + claimed.job.heartbeat_interval))
        self._forward_renewal(claimed.claim_id, until)
        self._issue(entering(job))

    # --- the jobs in hand ---------------------------------------------------------------------------

    def _hear(self, claim_id: str, message: Message) -> None:
        """Let the pipeline answer a message about a job in hand; about any other there is nothing to do."""
        before = self._state.jobs.get(claim_id)
        if before is None:
            return
        counted, message = self._count_begin(before, message)
        after, commands = advance(counted, message)
        event_log.tell(message, before.job, after.outcome)
        self._learn_from(message, after)
        if after != before:
            self._resuming.discard(claim_id)
            self._keep(after)
        self._issue(commands)

    def _count_begin(self, job: JobState, message: Message) -> tuple[JobState, Message]:
        """Count before the command is begun, for it may end the worker in no time; too often, and it is refused.

        Where it takes everybody along, the next life of the worker begins it again, and none of them sees its end:
        released, or begun once more, it would go round for ever.
        """
        claim_id = job.job.claim_id
        if not isinstance(message, Watching) or job.phase is not Phase.RUNNING or claim_id in self._running:
            return job, message
        self._running.add(claim_id)
        if job.begun < _MOST_BEGUN:
            return replace(job, begun=job.begun + 1), message
        detail = f"{job.begun} times the worker, or the process of it that runs the command, died with the command"
        return job, Refused(claim_id, BROKEN, f"{detail}: does it kill its parents, or all memory?")

    def _advance_all(self, message: Message) -> None:
        for claim_id in list(self._state.jobs):
            self._hear(claim_id, message)

    def _enter(self, job: JobState) -> None:
        self._issue(entering(job))

    def _keep(self, job: JobState) -> None:
        """Save before the commands go out: whatever they do, a successor knows of it."""
        self._state.put(job)
        if job.phase is Phase.DONE:
            self._renewals.pop(job.job.claim_id, None)
            self._lags.pop(job.job.claim_id, None)
            self._running.discard(job.job.claim_id)
        self._store.save()

    def _issue(self, commands: list[Command]) -> None:
        for command in commands:
            event_log.tell_command(command)
            self._send(command)

    def _learn_from(self, message: Message, job: JobState) -> None:
        """After trouble with storage or disk the next claim waits, longer each time
        (docs/worker.md, Why did my job restart?)."""
        if isinstance(message, Troubled):
            self._troubles += 1
            self._pause = backoff(self._troubles, _FIRST_TROUBLE_PAUSE, _LONGEST_TROUBLE_PAUSE)
        elif isinstance(message, Reported) and job.verdict in (Verdict.COMPLETED, Verdict.FAILED):
            self._troubles = 0
        if isinstance(message, Reported) and job.verdict is Verdict.COMPLETED:
            self._stays = 0

    # --- leases -------------------------------------------------------------------------------------

    def _renew(self, renewed: LeaseRenewed) -> None:
        job = self._state.jobs.get(renewed.claim_id)
        if job is None or job.phase is Phase.WIPING:
            return
        self._forward_renewal(renewed.claim_id, renewed.until)
        if renewed.claim_id in self._resuming:
            self._resume(job)

    def _forward_renewal(self, claim_id: str, until: float) -> None:
        self._renewals[claim_id] = until
        self._send(Renew(claim_id, until))

    def _resume(self, job: JobState) -> None:
        """The lease of a saved job is still ours: go on where it was, from the local files."""
        if job.phase in (Phase.DOWNLOADING, Phase.RUNNING) and not job.job.command:
            self._send(Recall(job.job))
            return
        self._resuming.discard(job.job.claim_id)
        if job.phase is Phase.RUNNING:  # from files that nobody compared: some may be half written
            job = replace(job, job=replace(job.job, checkpoint_status=CheckpointStatus.NONE))
            self._state.jobs[job.job.claim_id] = job
        logs.info("resumed", job.job, phase=job.phase)
        again = [
            replace(command, again=True) if isinstance(command, Report | Watch) else command
            for command in entering(job)
        ]
        self._issue(again)

    def _recalled(self, recalled: Recalled) -> None:
        job = self._state.jobs.get(recalled.claim_id)
        if job is None or recalled.claim_id not in self._resuming:
            return
        secrets = {name: getattr(recalled.job, name) for name in ("command", "arguments", "environment")}
        job = replace(job, job=replace(job.job, **secrets))
        self._state.jobs[recalled.claim_id] = job
        self._resume(job)

    # --- the worker itself --------------------------------------------------------------------------

    def _stay_on(self, departed: Departed) -> None:
        """Whether the worker goes, the residence says. If not, it must not fail the whole queue at full speed."""
        if not departed.gone:
            self._stays += 1
            self._pause = backoff(self._stays, _FIRST_STAY_PAUSE, _LONGEST_STAY_PAUSE)

    def _tell_checkpoint(self, committed: Committed) -> None:
        """Also while it is ended: whoever resumes the job needs the last one most."""
        job = self._state.jobs.get(committed.claim_id)
        if job is not None and job.phase not in (Phase.REPORTING, Phase.WIPING):
            self._send(ReportCheckpoint(job.job, committed.generation, committed.manifest))
            self._note_progress(job, committed.generation)

    def _note_progress(self, job: JobState, generation: int) -> None:
        """The first generation of each directory may be what an earlier life left there."""
        if job.begun and generation > len(job.job.during):
            self._keep(replace(job, begun=0))

    def _tell_lag(self, lagging: Lagging) -> None:
        if lagging.claim_id in self._state.jobs:
            self._lags[lagging.claim_id] = TellLag(lagging.claim_id, lagging.since)
            self._send(self._lags[lagging.claim_id])

    def _note_transfers(self, message: Transferring) -> None:
        if message.claim_id in self._state.jobs:
            self._state.transfers[message.claim_id] = message
            self._store.save()

    def _replace_child(self, death: ChildDied) -> None:
        """Start another, and enter every phase again: it knows nothing, and the others ignore repetitions."""
        if death.exit_code == 0:
            logs.debug("child_renewed", child=death.name)  # it had nothing to do, and gives its memory back
        else:
            logs.error("child_restarted", child=death.name, exit_code=death.exit_code)
        if death.name == "runner":
            self._running.clear()
        if death.name == "heartbeat":
            self._heartbeat_lives = False
        self._restart(death.name)
        for claim_id, job in self._state.jobs.items():
            if claim_id in self._renewals:
                self._send(Renew(claim_id, self._renewals[claim_id]))
            if claim_id in self._resuming:
                self._send(HoldLease(job.job))
            else:
                self._enter(job)
            if claim_id in self._lags:
                self._send(self._lags[claim_id])

    def _shut_down(self, request: ShutdownRequested) -> None:
        """Let go of everything within the grace; the time for the releases is kept free at its end."""
        if self._stopping:
            return
        self._stopping = True
        logs.info("stopping", grace=self._grace, jobs=len(self._state.jobs))
        # Even without any grace a release is sent: it takes a moment, and saves the job a whole lapse.
        reserve = min(max(self._grace / 4, _SHORTEST_RELEASE_TIME), _LONGEST_RELEASE_TIME)
        self._schedule(max(0.0, self._grace - reserve), TimeRanOut())
        self._schedule(max(self._grace, reserve), GraceEnded())
        self._send(CeaseClaiming())
        self._advance_all(request)
        if not request.finish_uploads:
            self._release_uploading()

    def _release_uploading(self) -> None:
        for claim_id, job in list(self._state.jobs.items()):
            if job.phase in (Phase.STAGING, Phase.UPLOADING):
                self._hear(claim_id, TimeRanOut())
