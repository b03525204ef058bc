"""The supervisor's processes: started, listened to, and replaced when they die."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pickle import UnpicklingError
from queue import SimpleQueue

from kelpie_worker import heartbeat, logs, runner, uploader
from kelpie_worker.config import Config
from kelpie_worker.linux import adopt_orphans, boottime, children_of_all, descendants
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
_LONGEST_CLEANUP = 1.0  # seconds; a process that the kernel cannot end now is not waited for
_LOOK_AGAIN = 0.005


class Children:
    """The three processes. Their messages, and the news of their death, go to `tell`.

    Only to be used from the main thread: the kernel ends a child together with the thread that started it.

    What a command started is adopted by the runner, and when that dies by this process; as the first process of
    a container it adopts everybody's orphans. Whoever was its child before (a shell that started something and
    then became Kelpie) is left alone.
    """

    def __init__(self, config: Config, tell: Callable[[Message], None]) -> None:
        self._config = config
        self._tell = tell
        self._children: dict[str, _Child] = {}
        self._left_alone = frozenset[int]()
        adopt_orphans()

    def start(self, name: str) -> None:
        """Start a child, or a fresh one in place of a dead one: nothing of the old queue is used again."""
        if name == "runner" and name in self._children:
            self._end_adopted()
        self._children[name] = _Child(name, self._config, self._tell)

    def start_all(self) -> None:
        for name in _MAIN:
            self.start(name)
        self._left_alone = self._own_children() - self._pids()

    def bury(self) -> None:
        """Reap the adopted that have ended; the end of a child of ours is for whoever waits for it to hear."""
        for pid in self._own_children() - self._pids():
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def send(self, name: str, command: Command) -> None:
        self._children[name].commands.put(command)

    def stop_all(self) -> None:
        """End every child, and with the runner the command and all that it started."""
        for child in self._children.values():
            child.commands.put(None)
        for child in self._children.values():
            child.join()
        runner.end_leftovers(self._config.state_file)  # of a runner that could not do it
        self._end_adopted()

    def _end_adopted(self) -> None:
        deadline = boottime() + _LONGEST_CLEANUP
        while left := descendants(os.getpid(), but=self._left_alone | self._pids()):
            for pid in left:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self.bury()
            if boottime() >= deadline:
                logs.warn("leftovers_remain", pids=sorted(left))
                return
            time.sleep(_LOOK_AGAIN)

    def _pids(self) -> frozenset[int]:
        return frozenset(child.pid for child in self._children.values())

    @staticmethod
    def _own_children() -> frozenset[int]:
        return frozenset(children_of_all().get(os.getpid(), ()))


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
        self.pid = self._process.pid or 0
        logs.info("child_started", child=name, pid=self.pid)
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
