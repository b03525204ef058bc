"""The loop that all children of the supervisor share."""

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


class Duty(ABC):
    """What one child does."""

    @abstractmethod
    def obey(self, command: Any) -> None:
        """Begin with a command; harmless if it has come before. Returns at once."""

    def tick(self) -> float | None:
        """Do what is due; the seconds until the next time, None if nothing is waited for."""
        return None

    def is_spent(self) -> bool:
        """Whether it holds memory that nobody needs any more. Then it ends, and a fresh one takes its place."""
        return False

    def descriptors(self) -> list[int]:
        """What to wake up for besides a command."""
        return []

    def orphaned(self) -> None:  # noqa: B027 - most have nothing that outlives them
        """The supervisor is gone: leave nothing behind."""


def live(commands: Connection, messages: Connection, config: Config, begin: Callable[[Tell], Duty]) -> None:
    """Obey commands until the supervisor is gone, or the duty is spent."""
    signals.leave_to_supervisor()
    logs.configure(config)
    tell = _Teller(messages)
    duty = begin(tell)
    try:
        while not duty.is_spent():
            pause = duty.tick()
            if commands in wait([commands, *duty.descriptors()], pause):
                command = commands.recv()
                if isinstance(command, Respond):
                    tell(Responded(command.name))
                else:
                    duty.obey(command)
    except (EOFError, ConnectionError):
        return
    finally:
        duty.orphaned()


class _Teller:
    """Sends messages to the supervisor, from any thread."""

    def __init__(self, messages: Connection) -> None:
        self._messages = messages
        self._lock = threading.Lock()

    def __call__(self, message: Message) -> None:
        with self._lock:
            self._messages.send(message)
