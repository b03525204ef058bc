"""The composition root: one inbox, the supervisor that reads it, and the objects that carry out its commands."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue

from kelpie_version import VERSION
from kelpie_worker import event_log, logs
from kelpie_worker.command import runner
from kelpie_worker.config import VARIABLES, Config, ConfigError, TokenUse
from kelpie_worker.coordinator import heartbeat
from kelpie_worker.coordinator.calls import CoordinatorCalls
from kelpie_worker.coordinator.client import Api
from kelpie_worker.messages import (
    CARRIED_OUT_BY,
    CeaseClaiming,
    Claimed,
    Command,
    Ending,
    Message,
    Report,
    Reported,
    Respond,
    ShutdownRequested,
    Verdict,
)
from kelpie_worker.pipeline import BROKEN
from kelpie_worker.processes.forkserver import ForkServer, Main
from kelpie_worker.processes.parent import Children
from kelpie_worker.processes.restarts import ChildKeepsDying, Restarts
from kelpie_worker.processes.watchdog import Watchdog
from kelpie_worker.salad.imds import Imds, ImdsUnavailable, Whereabouts, log_trouble, whereabouts
from kelpie_worker.salad.instance import Instance
from kelpie_worker.salad.instance_policy import InstancePolicy
from kelpie_worker.state_file import StateFile, StateFileInUse
from kelpie_worker.supervisor import Supervisor
from kelpie_worker.sync import uploader
from kelpie_worker.system import frozen, signals
from kelpie_worker.system.linux import boottime, is_disk_full

MAINS: dict[str, Main] = {
    "runner": runner.main,
    "heartbeat": heartbeat.main,
    "uploader": uploader.main,
}  # what each child of the supervisor runs
_SHORTEST_GRACE = 1.0  # seconds; a release is sent even without any grace
_OVERTIME = 2.0  # seconds after the grace for the children to end
_LOOK_AGAIN = 1.0  # seconds between checks of the state file's lock and of children that hang


class ProgramFilesRemoved(Exception):
    """The program's own files, or its working directory, were removed. New files in their place do not help."""


def work(config: Config, fork_server: ForkServer) -> int:
    """Claim and run jobs until a signal ends it: 0, or until it cannot go on: 1, the jobs in hand given back.

    Raises StateFileInUse, ConfigError.
    """
    signals.when_told_to_end(lambda _: sys.exit(0))  # there is no job yet
    logs.configure(config)
    try:
        store = StateFile(config.state_file)
    except OSError as error:
        if is_disk_full(error):
            _tell_failure(error)
            return 1
        raise ConfigError(f"KELPIE_STATE_FILE {config.state_file} cannot be used: {error.strerror}.") from error
    try:
        config = _named(config, store.state.machine_id)
        logs.configure(config)
        return _work(config, fork_server, store)
    finally:
        store.close()


def _named(config: Config, own_id: str) -> Config:
    """With the machine and the queue that the settings leave open. Raises ConfigError.

    What a token names comes before an id of our own: the API lets it speak for its own machine and queue only.
    """
    if config.auth.token is TokenUse.BEARER and config.imds_url and not _is_named(config):
        token = _whereabouts(config.imds_url, config.stay.max_idle)
        config = replace(
            config,
            machine_id=config.machine_id or token.machine_id,
            container_group_id=config.container_group_id or token.container_group_id,
        )
    if not config.container_group_id:
        raise ConfigError("SALAD_CONTAINER_GROUP_ID must be set: the token names no container group.")
    return replace(config, machine_id=config.machine_id or own_id)


def _whereabouts(imds_url: str, max_idle: float | None) -> Whereabouts:
    """The machine and group that the token names.

    It is waited for as long as for work: without one there is none.
    """
    try:
        return whereabouts(imds_url, max_idle)
    except ImdsUnavailable as error:
        log_trouble(error)
        reason = f"no work for {max_idle:g} seconds"
        try:
            Imds(imds_url).reallocate(reason)
            logs.info("instance_left", reason=reason)
        except ImdsUnavailable as error:
            logs.warn("instance_not_left", reason=reason, detail=str(error))
        sys.exit(0)


def _is_named(config: Config) -> bool:
    return bool(config.machine_id and config.container_group_id)


def _work(config: Config, fork_server: ForkServer, store: StateFile) -> int:
    inbox: SimpleQueue[Message] = SimpleQueue()
    children = Children(fork_server, config, inbox.put)
    coordinator = CoordinatorCalls(Api(config), inbox.put)
    instance = Instance(config, inbox.put)
    supervisor = _supervisor(config, store, children, coordinator, instance, inbox)
    _listen_to_signals(inbox, children.reap_adopted, config.shutdown_grace)
    try:
        try:
            logs.info("worker_started", version=VERSION, container_group_id=config.container_group_id)
            warn_of_default_address(config)
            children.start_all()
            instance.start()
            supervisor.start()
            _hear(supervisor, inbox, store, children)
        except StateFileInUse:
            children.kill_all()  # no search for leftovers: those with our state file may be the other worker's
            raise
        finally:
            children.stop_all()  # in every case: children without a supervisor would hold its jobs for ever
            instance.end()
        logs.info("worker_stopped", jobs_in_hand=len(store.state.jobs))
        return 0
    except StateFileInUse:
        raise  # the jobs in hand are the other worker's now
    except Exception as error:  # noqa: BLE001 - logged, and answered with exit code 1
        reason = _tell_failure(error)
        _give_back(
            supervisor.last_reports(reason, _in_words(error)), reason, coordinator, inbox, config.shutdown_grace
        )
        return 1


def warn_of_default_address(config: Config) -> None:
    """Log at once that the worker asks an API that its user did not name: it sends its key there."""
    default = VARIABLES["KELPIE_API_URL"].default
    if config.api_url == default:
        logs.warn(
            "default_api_url",
            message=f"KELPIE_API_URL is not set: this worker asks {default} for jobs, with its key; name yours.",
        )


def _hear(supervisor: Supervisor, inbox: SimpleQueue[Message], store: StateFile, children: Children) -> None:
    watchdog = Watchdog(lambda name: children.send(name, Respond(name)))
    while not supervisor.finished:
        message = _next(inbox)
        store.keep_lock()
        _demand_a_place()
        if message is not None:
            watchdog.hear(message, store.state.jobs)
            supervisor.on(message)
        supervisor.look()
        for name in watchdog.broken(store.state.jobs):
            logs.error("child_silent", child=name, detail="it lives and does nothing: it is replaced")
            children.kill(name)


def _demand_a_place() -> None:
    """Raises ProgramFilesRemoved if a file or folder that the program runs from is gone."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise ProgramFilesRemoved("the worker's working directory was removed") from error
    if folder := frozen.missing():
        raise ProgramFilesRemoved(
            f"the worker's own files were removed from {folder.parent}: let TMPDIR name another folder"
        )


def _next(inbox: SimpleQueue[Message]) -> Message | None:
    with suppress(Empty):
        return inbox.get(timeout=_LOOK_AGAIN)
    return None


def _supervisor(
    config: Config,
    store: StateFile,
    children: Children,
    coordinator: CoordinatorCalls,
    instance: Instance,
    inbox: SimpleQueue[Message],
) -> Supervisor:
    def send(command: Command) -> None:
        name = CARRIED_OUT_BY[type(command)]
        if name == "coordinator":
            coordinator.carry_out(command)  # type: ignore[arg-type]
        elif name == "instance":
            instance.carry_out(command)  # type: ignore[arg-type]
        else:
            children.send(name, command)

    def schedule(seconds: float, message: Message) -> None:
        timer = threading.Timer(seconds, inbox.put, args=(message,))
        timer.daemon = True
        timer.start()

    restarts, instance_policy = Restarts(children.start), InstancePolicy(config.stay, send)
    return Supervisor(store, send, restarts.restart, schedule, config.shutdown_grace, instance_policy)


# --- the end --------------------------------------------------------------------------------------------


def _listen_to_signals(inbox: SimpleQueue[Message], reap_adopted: Callable[[], None], grace: float) -> None:
    """Have a signal asked of the supervisor, and the process ended in time even if nothing answers it.

    The handlers run in the main thread alone, which a write to a dead disk may hold; the file descriptor is
    written whatever that thread does. The children end with their parent.
    """
    heard, said = os.pipe()
    os.set_blocking(said, False)
    signal.set_wakeup_fd(said, warn_on_full_buffer=False)

    def end_in_time() -> None:
        while os.read(heard, 1)[0] == signal.SIGCHLD:
            pass
        threading.Event().wait(max(grace, _SHORTEST_GRACE) + _OVERTIME)
        os._exit(1)

    threading.Thread(target=end_in_time, daemon=True).start()
    # SimpleQueue.put may interrupt itself, which is what a signal handler needs.
    signals.when_told_to_end(lambda number: inbox.put(ShutdownRequested(finish_uploads=number != signal.SIGINT)))
    signal.signal(signal.SIGCHLD, lambda *_: reap_adopted())


def _tell_failure(error: Exception) -> str:
    """Print in one line why the worker cannot go on; returns the reason with which it releases its jobs."""
    reason = (
        BROKEN if isinstance(error, ProgramFilesRemoved) else "disk_full" if is_disk_full(error) else "internal"
    )
    where = traceback.extract_tb(error.__traceback__)[-1]
    logs.error(
        "worker_failed",
        reason=reason,
        detail=f"The worker ends and gives its jobs back: {_in_words(error)}.",
        at=f"{where.filename.rpartition('/')[2]}:{where.lineno}",
    )
    return reason


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return (
        str(error)
        if isinstance(error, ChildKeepsDying | ProgramFilesRemoved)
        else f"{type(error).__name__}: {error}"
    )


def _give_back(
    reports: list[Report], reason: str, coordinator: CoordinatorCalls, inbox: SimpleQueue[Message], grace: float
) -> None:
    """Send the last reports, that of a job claimed meanwhile among them, and wait for the answers in the grace."""
    deadline = boottime() + max(grace, _SHORTEST_GRACE)
    coordinator.carry_out(CeaseClaiming(deadline))
    awaited: dict[str, Report] = {}

    def send(report: Report) -> None:
        awaited[report.job.claim_id] = report
        coordinator.carry_out(report)

    for report in reports:
        send(report)
    while awaited and (left := deadline - boottime()) > 0:
        with suppress(Empty):
            message = inbox.get(timeout=left)
            if isinstance(message, Reported) and message.claim_id in awaited:
                report = awaited.pop(message.claim_id)
                event_log.tell(message, report.job, report.outcome)
            elif isinstance(message, Claimed) and message.job is not None:
                send(Report(message.job, Ending(Verdict.RELEASED, reason)))
