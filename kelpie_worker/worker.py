"""The composition root: one inbox, the supervisor that reads it, and those who obey it."""

import signal
import threading
from dataclasses import replace
from queue import SimpleQueue

from kelpie_worker import __version__, logs
from kelpie_worker.api import Api
from kelpie_worker.backoff import backoff
from kelpie_worker.children import Children
from kelpie_worker.config import Config, ConfigError
from kelpie_worker.coordinator import Coordinator
from kelpie_worker.linux import boottime
from kelpie_worker.messages import OBEYED_BY, Command, Message, ShutdownRequested
from kelpie_worker.state_file import StateFile
from kelpie_worker.supervisor import Supervisor

_QUICK_DEATH = 30.0  # seconds; a child that lives shorter is restarted with a pause


def work(config: Config) -> int:
    """Claim and run jobs until a signal ends it. Raises StateFileInUse, ConfigError."""
    logs.configure(config)
    try:
        store = StateFile(config.state_file)
    except OSError as error:
        raise ConfigError(f"KELPIE_STATE_FILE {config.state_file} cannot be used: {error.strerror}.") from error
    config = replace(config, machine_id=config.machine_id or store.state.machine_id)
    logs.configure(config)
    inbox: SimpleQueue[Message] = SimpleQueue()
    children = Children(config, inbox.put)
    supervisor = _supervisor(config, store, children, inbox)
    # SimpleQueue.put may interrupt itself, which is what a signal handler needs.
    signal.signal(signal.SIGTERM, lambda *_: inbox.put(ShutdownRequested()))
    signal.signal(signal.SIGINT, lambda *_: inbox.put(ShutdownRequested(finish_uploads=False)))
    logs.info("worker_started", version=__version__, container_group_id=config.container_group_id)
    children.start_all()
    supervisor.start()
    while not supervisor.finished:
        supervisor.on(inbox.get())
    children.stop_all()
    logs.info("worker_stopped", jobs_in_hand=len(store.state.jobs))
    store.close()
    return 0


def _supervisor(config: Config, store: StateFile, children: Children, inbox: SimpleQueue[Message]) -> Supervisor:
    coordinator = Coordinator(Api(config), inbox.put)
    restarts = _Restarts(children)

    def send(command: Command) -> None:
        name = OBEYED_BY[type(command)]
        if name == "coordinator":
            coordinator.obey(command)  # type: ignore[arg-type]
        else:
            children.send(name, command)

    def schedule(seconds: float, message: Message) -> None:
        timer = threading.Timer(seconds, inbox.put, args=(message,))
        timer.daemon = True
        timer.start()

    return Supervisor(store, send, restarts.restart, schedule, config.shutdown_grace)


class _Restarts:
    """Replaces dead children, in a row of quick deaths with growing pauses."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._last = 0.0
        self._quick = 0

    def restart(self, name: str) -> None:
        self._quick = self._quick + 1 if boottime() - self._last < _QUICK_DEATH else 0
        if self._quick:
            threading.Event().wait(backoff(self._quick, 0.1, 2.0))
        self._last = boottime()
        self._children.start(name)
