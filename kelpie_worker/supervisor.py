"""READ THIRD: the supervisor. A message arrives, the pipeline decides, the state is saved, commands are sent."""

import uuid
from collections.abc import Callable
from dataclasses import replace

from kelpie_worker import event_log, logs
from kelpie_worker.claim_pacing import Pacing
from kelpie_worker.job import RECALLED, CheckpointStatus
from kelpie_worker.job_in_hand import JobInHand
from kelpie_worker.lease import safe_until
from kelpie_worker.messages import (
    CARRIED_OUT_BY,
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
    JobMessage,
    Lagging,
    LeaseLost,
    LeaseRenewed,
    Message,
    ProveLease,
    Recall,
    Recalled,
    Refused,
    Renew,
    Report,
    ReportCheckpoint,
    Responded,
    ShutdownRequested,
    Steered,
    Stop,
    StopWished,
    TellLag,
    TellOutput,
    TellProgress,
    TimeRanOut,
    Transferring,
    Verdict,
    Watch,
    Watching,
)
from kelpie_worker.pipeline import BROKEN, JobState, Phase, advance, entering, outcome_of_abandoned
from kelpie_worker.salad.instance_policy import InstancePolicy
from kelpie_worker.state_file import StateStore, WorkerState
from kelpie_worker.steering import Steering
from kelpie_worker.system.linux import boottime

_MOST_BEGUN = 3  # times that a command may end the worker or its runner; after that the job is refused
_SHORTEST_RELEASE_TIME, _LONGEST_RELEASE_TIME = 1.0, 5.0
# Seconds for the answer to a report, once a heartbeat that crossed it was told that the job is over. Less than the
# watchdog takes for silence of the heartbeat.
_CROSSED_ANSWER = 10.0


class Supervisor:
    """Decides; does no I/O but the state file.

    `send` takes a command to the process or thread that carries it out, `restart` replaces a dead child,
    `schedule` delivers a message to `on` after some seconds, `clock` is CLOCK_BOOTTIME.
    """

    def __init__(
        self,
        store: StateStore,
        send: Callable[[Command], None],
        restart: Callable[[str], None],
        schedule: Callable[[float, Message], None],
        shutdown_grace: float = 25.0,
        instance_policy: InstancePolicy | None = None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._store = store
        self._send = send
        self._restart = restart
        self._schedule = schedule
        self._grace = shutdown_grace
        self._instance_policy = instance_policy or InstancePolicy()
        self._clock = clock
        self._steering = Steering(send, clock)
        self._pacing = Pacing()
        self._claiming = False
        self._heartbeat_lives = False  # without the heartbeat process the lease of a claimed job would lapse
        self._stopping = False
        self._grace_ended = False

    @property
    def finished(self) -> bool:
        idle = not self._state.jobs and not self._claiming
        return self._grace_ended or ((self._stopping or self._instance_policy.left) and idle)

    def start(self) -> None:
        """Resume the jobs that an earlier run left in the state file."""
        for held in self._state.jobs.values():
            if held.state.phase is Phase.WIPING:
                self._enter(held.state)
            else:
                held.is_proven, held.is_resumed = False, True
                self._send(HoldLease(held.state.job))
        self._store.save()
        self._claim_if_free()

    def on(self, message: Message) -> None:
        """Everything that happens, one message at a time."""
        if isinstance(message, JobMessage) and (held := self._state.jobs.get(message.claim_id)):
            self._steering.hear(message, held)
        match message:
            case Claimed():
                self._take(message)
            case Refused() if message.claim_id == self._state.claim_id:
                self._forget_claim(message)
            case LeaseRenewed():
                self._renew(message)
            case Recalled():
                self._recalled(message)
            case Steered() if message.stop:
                self._stop(StopWished(message.claim_id, message.stop))
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
                pass  # only the watchdog reads it
            case ShutdownRequested():
                self._shut_down(message)
            case TimeRanOut():
                self._advance_all(message)
            case GraceEnded():
                self._grace_ended = True
            case Departed():
                self._pace(message)
            case _:
                self._advance(message.claim_id, message)
        self._instance_policy.see(message, self._state.jobs)
        self._claim_if_free()

    def look(self) -> None:
        """Have the stops begin that time makes due. To be called about once a second, whatever happens."""
        for stop in self._steering.due(self._state.jobs):
            self._stop(stop)

    def _stop(self, wish: StopWished) -> None:
        """Stop the command, unless it is being stopped or has ended: until then each heartbeat brings the wish."""
        held = self._state.jobs.get(wish.claim_id)
        if held and held.state.phase in (Phase.DOWNLOADING, Phase.RUNNING):
            self._advance(wish.claim_id, wish)

    def last_reports(self, reason: str, detail: str) -> list[Report]:
        """The reports that are still due when the worker itself fails and its children are gone."""
        reports = []
        for held in self._state.jobs.values():
            outcome = outcome_of_abandoned(held.state, reason, detail)
            # A lease that is not proven yet is spoken of only where the server compares attempts.
            if outcome is not None and (held.is_proven or held.state.job.attempt is not None):
                reports.append(Report(held.state.job, outcome))
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
        pause, reason = self._pacing.wait(self._clock())
        if reason:
            logs.debug("claim_waits", seconds=round(pause, 1), reason=reason)
        self._send(Claim(self._state.claim_id, after=pause, until=self._instance_policy.wants_work_until()))

    def _is_free(self) -> bool:
        occupied = any(held.state.occupies_directories for held in self._state.jobs.values())
        return self._heartbeat_lives and not (self._claiming or self._stopping or occupied)

    def _pace(self, message: Message, verdict: Verdict | None = None) -> None:
        self._pacing = self._pacing.after(message, verdict, self._clock())

    def _forget_claim(self, refused: Refused) -> None:
        """The server refuses this claim id: the next claim gets another one, after a pause."""
        self._claiming = False
        self._state.claim_id = None
        self._pace(refused)

    def _take(self, claimed: Claimed) -> None:
        self._claiming = False
        self._pace(claimed)
        if claimed.job is None or claimed.claim_id in self._state.jobs:  # a repeated claim is answered twice
            return
        job = JobState(claimed.job)
        self._state.claim_id = str(uuid.uuid4())  # of the next claim, which need not wait for another save
        if self._stopping:
            job = replace(job, phase=Phase.REPORTING, outcome=Ending(Verdict.RELEASED, "shutdown"))
        event_log.tell(claimed, claimed.job)
        until = safe_until(claimed.sent_at, claimed.job.heartbeat_interval)
        self._keep(job)
        self._send(HoldLease(claimed.job, due=claimed.sent_at + claimed.job.heartbeat_interval))
        self._forward_renewal(self._state.jobs[claimed.claim_id], until)
        self._issue(entering(job))

    # --- the jobs in hand ---------------------------------------------------------------------------

    def _advance(self, claim_id: str, message: Message) -> None:
        """Let the pipeline decide about a message of a job in hand. A message of any other job is ignored."""
        held = self._state.jobs.get(claim_id)
        if held is None or self._is_told_by_the_report(held, message):
            return
        before = held.state
        counted, message = self._count_begin(held, message)
        after, commands = advance(counted, message)
        event_log.tell(message, before.job, after.outcome)
        self._pace(message, after.verdict)
        if after != before:
            held.is_proven = True
            self._keep(after)
        self._issue(commands)

    def _is_told_by_the_report(self, held: JobInHand, message: Message) -> bool:
        """Whether the end of a lease is left to the answer of the job's report, which is under way.

        A heartbeat that crosses the report is told that the job is over, which is mostly the report's own doing.
        Only the report's answer says whether it was accepted, and whether the failure counts against this machine.
        Where none comes in time the lease is lost as ever: so canceling a job frees a worker whose reports fail.
        """
        if not isinstance(message, LeaseLost) or held.state.phase is not Phase.REPORTING or not held.is_proven:
            return False
        if held.is_crossed:
            return False
        held.is_crossed = True
        self._schedule(_CROSSED_ANSWER, message)
        return True

    def _count_begin(self, held: JobInHand, message: Message) -> tuple[JobState, Message]:
        """Count before the command is begun, for it may end the worker in no time; too often, and it is refused.

        If it ends the whole worker, the next run of the worker begins it again, and none of them sees its end:
        released, or begun once more, it would do that for ever.
        """
        job = held.state
        if not isinstance(message, Watching) or job.phase is not Phase.RUNNING or held.is_begun:
            return job, message
        held.is_begun = True
        if job.begun < _MOST_BEGUN:
            return replace(job, begun=job.begun + 1), message
        detail = f"{job.begun} times the worker, or the process of it that runs the command, died with the command"
        return job, Refused(job.job.claim_id, BROKEN, f"{detail}: does it kill its parents, or all memory?")

    def _advance_all(self, message: Message) -> None:
        for claim_id in list(self._state.jobs):
            self._advance(claim_id, message)

    def _enter(self, job: JobState) -> None:
        self._issue(entering(job))

    def _keep(self, job: JobState) -> None:
        """Save the state, then send the commands: whatever they do, the next run of the worker knows of it."""
        self._state.put(job)
        self._store.save()

    def _issue(self, commands: list[Command]) -> None:
        for command in commands:
            event_log.tell_command(command)
            self._note_asking(command)
            self._send(self._with_news(command) if isinstance(command, Report) else command)

    def _with_news(self, report: Report) -> Report:
        """The report with what the last heartbeat would have carried."""
        held = self._state.jobs.get(report.job.claim_id)
        for telling in held.told.values() if held else ():
            if isinstance(telling, TellProgress):
                report = replace(report, progress=telling.progress)
            elif isinstance(telling, TellOutput):
                report = replace(report, output_bytes=telling.total)
        return report

    def _note_asking(self, command: Command) -> None:
        """Note when a command is asked to save, for what it saves then may end it sooner."""
        if isinstance(command, Stop) and command.checkpoint_signal:
            self._state.jobs[command.claim_id].asked_to_save = self._clock()

    # --- leases -------------------------------------------------------------------------------------

    def _renew(self, renewed: LeaseRenewed) -> None:
        held = self._state.jobs.get(renewed.claim_id)
        if held is None or held.state.phase is Phase.WIPING:
            return
        self._forward_renewal(held, renewed.until)
        if not held.is_proven:
            self._resume(held)

    def _forward_renewal(self, held: JobInHand, until: float) -> None:
        held.renewed_until = until
        self._send(Renew(held.state.job.claim_id, until))

    def _resume(self, held: JobInHand) -> None:
        """The lease of a resumed job is still ours: go on in its phase, with the local files."""
        job = held.state
        if job.phase in (Phase.DOWNLOADING, Phase.RUNNING) and not job.job.command:
            self._send(Recall(job.job))
            return
        held.is_proven = True
        if job.phase is Phase.RUNNING:  # from files that were not compared: some may be half written
            job = replace(job, job=replace(job.job, checkpoint_status=CheckpointStatus.NONE))
            held.state = job
        logs.info("resumed", job.job, phase=job.phase)
        again = [
            replace(command, again=True) if isinstance(command, Report | Watch) else command
            for command in entering(job)
        ]
        self._issue(again)

    def _recalled(self, recalled: Recalled) -> None:
        held = self._state.jobs.get(recalled.claim_id)
        if held is None or held.is_proven:
            return
        known = {name: getattr(recalled.job, name) for name in RECALLED}
        held.state = replace(held.state, job=replace(held.state.job, **known))
        self._resume(held)

    # --- the worker itself --------------------------------------------------------------------------

    def _tell_checkpoint(self, committed: Committed) -> None:
        """Report a manifest, also while the job is being ended: the next attempt needs the last one most."""
        held = self._state.jobs.get(committed.claim_id)
        if held is not None and held.state.phase not in (Phase.REPORTING, Phase.WIPING):
            self._send(ReportCheckpoint(held.state.job, committed.generation, committed.manifest))
            self._note_progress(held.state, committed.generation)

    def _note_progress(self, job: JobState, generation: int) -> None:
        """The first generation of each directory may be of files that an earlier run left there."""
        if job.begun and generation > len(job.job.during):
            self._keep(replace(job, begun=0))

    def _tell_lag(self, lagging: Lagging) -> None:
        if held := self._state.jobs.get(lagging.claim_id):
            held.told[TellLag] = TellLag(lagging.claim_id, lagging.since)
            self._send(held.told[TellLag])

    def _note_transfers(self, message: Transferring) -> None:
        if held := self._state.jobs.get(message.claim_id):
            held.transfers = message
            self._store.save()

    def _replace_child(self, death: ChildDied) -> None:
        """Start another child, and tell it again of every job. What the others were told they carry out, or have
        carried out already: their answers may be on their way, and a download that was repeated beside the command
        would undo what the command wrote."""
        if death.exit_code == 0:
            logs.debug("child_renewed", child=death.name)  # it was idle, and ended to free its memory
        else:
            logs.error("child_restarted", child=death.name, exit_code=death.exit_code)
        if death.name == "heartbeat":
            self._heartbeat_lives = False
        self._restart(death.name)
        for held in self._state.jobs.values():
            held.is_begun = held.is_begun and death.name != "runner"
            self._issue([command for command in self._all_commands(held) if _begins_with(death.name, command)])

    def _all_commands(self, held: JobInHand) -> list[Command]:
        """What brings new children to where this job is."""
        job = held.state.job
        renewal: list[Command] = [] if held.renewed_until is None else [Renew(job.claim_id, held.renewed_until)]
        phase = entering(held.state) if held.is_proven else [HoldLease(job)]
        return [*renewal, *phase, *held.told.values()]

    def _shut_down(self, request: ShutdownRequested) -> None:
        """End or release every job within the grace. Time for the releases is reserved at its end."""
        if self._stopping:
            return
        self._stopping = True
        logs.info("stopping", grace=self._grace, jobs=len(self._state.jobs))
        # A release is sent even without any grace: it takes a moment, and else the job waits for its lease to
        # lapse.
        reserve = min(max(self._grace / 4, _SHORTEST_RELEASE_TIME), _LONGEST_RELEASE_TIME)
        self._schedule(max(0.0, self._grace - reserve), TimeRanOut())
        self._schedule(max(self._grace, reserve), GraceEnded())
        self._send(CeaseClaiming(self._clock() + max(self._grace, reserve)))
        self._advance_all(request)
        if not request.finish_uploads:
            self._release_uploading()

    def _release_uploading(self) -> None:
        for claim_id, held in list(self._state.jobs.items()):
            if held.state.phase in (Phase.STAGING, Phase.UPLOADING):
                self._advance(claim_id, TimeRanOut())


def _begins_with(child: str, command: Command) -> bool:
    """Whether the work of a new child begins with this command; the runner's with the answer to Watch."""
    return CARRIED_OUT_BY[type(command)] == child or (child == "runner" and isinstance(command, Watch))
