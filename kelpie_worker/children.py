"""The supervisor's processes: started, listened to, and replaced when they die."""

import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pickle import UnpicklingError
from queue import SimpleQueue

from kelpie_worker import heartbeat, logs, runner, uploader
from kelpie_worker.config import Config
from kelpie_worker.messages import ChildDied, Command, Message

_MAIN: dict[str, Callable[[Connection, Connection, Config], None]] = {
    "runner": runner.main,
    "heartbeat": heartbeat.main,
    "uploader": uploader.main,
}
_PATIENCE = {
    "runner": 2.0,
    "heartbeat": 0.3,
    "uploader": 0.3,
}  # seconds to end by itself; the runner has work to do


class Children:
    """The three processes. Their messages, and the news of their death, go to `tell`.

    Only to be used from the main thread: the kernel ends a child together with the thread that started it.
    """

    def __init__(self, config: Config, tell: Callable[[Message], None]) -> None:
        self._config = config
        self._tell = tell
        self._children: dict[str, _Child] = {}

    def start(self, name: str) -> None:
        """Start a child, or a fresh one in place of a dead one: nothing of the old queue is used again."""
        self._children[name] = _Child(name, self._config, self._tell)

    def start_all(self) -> None:
        for name in _MAIN:
            self.start(name)

    def send(self, name: str, command: Command) -> None:
        self._children[name].commands.put(command)

    def stop_all(self) -> None:
        """End every child, and with the runner the command and all that it started."""
        for child in self._children.values():
            child.commands.put(None)
        for child in self._children.values():
            child.join()
        runner.end_leftovers(self._config.state_file)  # of a runner that could not do it


class _Child:
    """One process and the two threads that write and read its pipes, so that the supervisor never waits."""

    def __init__(self, name: str, config: Config, tell: Callable[[Message], None]) -> None:
        # Forked children would share locks and file offsets with threads that exist only in the parent.
        spawn = multiprocessing.get_context("spawn")
        commands, self._command_end = spawn.Pipe(duplex=False)
        self._message_end, messages = spawn.Pipe(duplex=False)
        self.name = name
        self.commands: SimpleQueue[Command | None] = SimpleQueue()
        self._tell = tell
        self._process = spawn.Process(target=_MAIN[name], args=(commands, messages, config), name=name)
        self._process.start()
        logs.info("child_started", child=name, pid=self._process.pid)
        # With our copies of its ends closed, its death is the end of the message pipe.
        commands.close()
        messages.close()
        threading.Thread(target=self._write, daemon=True).start()
        threading.Thread(target=self._read, daemon=True).start()

    def join(self) -> None:
        """Wait a moment for it to end by itself, then make it."""
        self._process.join(_PATIENCE[self.name])
        self._process.kill()
        self._process.join(_PATIENCE[self.name])

    def _write(self) -> None:
        while (command := self.commands.get()) is not None:
            try:
                self._command_end.send(command)
            except OSError:
                return  # it died, which the reading thread tells
        self._command_end.close()

    def _read(self) -> None:
        try:
            while True:
                self._tell(self._message_end.recv())
        except (EOFError, OSError, UnpicklingError):
            self._process.join()
            self._tell(ChildDied(self.name, self._process.exitcode))
