"""The main loop that all child processes of the supervisor share."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from kelpie_worker import logs
from kelpie_worker.config import Config
from kelpie_worker.messages import Message, Respond, Responded
from kelpie_worker.system import signals

Tell = Callable[[Message], None]


class ChildWork(ABC):
    """The work of one child process, called by the loop."""

    @abstractmethod
    def carry_out(self, command: Any) -> None:
        """Begin to carry out a command, and return at once. A repeated command must be harmless."""

    def tick(self) -> float | None:
        """Do what is due. Returns the seconds until it is to be called again; None: not before the next event."""
        return None

    def is_spent(self) -> bool:
        """Whether the process holds memory that it cannot give back. Then it ends, and is replaced."""
        return False

    def descriptors(self) -> list[int]:
        """The file descriptors that wake the loop when they are readable."""
        return []

    def clean_up(self) -> None:  # noqa: B027 - most children have nothing to clean up
        """Called at the end of the loop: end what would outlive this process."""


def run_child(
    commands: Connection, messages: Connection, config: Config, begin: Callable[[Tell], ChildWork]
) -> None:
    """Carry out commands until the supervisor is gone or `is_spent`. A child process runs this until its end."""
    signals.leave_to_supervisor()
    logs.configure(config)
    tell = _Teller(messages)
    work = begin(tell)
    try:
        while not work.is_spent():
            pause = work.tick()
            if commands in wait([commands, *work.descriptors()], pause):
                command = commands.recv()
                if isinstance(command, Respond):
                    tell(Responded(command.name))
                else:
                    work.carry_out(command)
    except (EOFError, ConnectionError):
        return
    finally:
        work.clean_up()


class _Teller:
    """Sends messages to the supervisor, from any thread."""

    def __init__(self, messages: Connection) -> None:
        self._messages = messages
        self._lock = threading.Lock()

    def __call__(self, message: Message) -> None:
        with self._lock:
            self._messages.send(message)
