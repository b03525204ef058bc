"""The supervisor's processes: started, listened to, and replaced when they die."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pickle import UnpicklingError
from queue import SimpleQueue

from kelpie_worker import logs
from kelpie_worker.config import Config
from kelpie_worker.messages import ChildDied, ChildStarted, Command, Message, Respond
from kelpie_worker.processes import leftovers
from kelpie_worker.processes.forkserver import ForkServer, NotForked
from kelpie_worker.system.linux import boottime, children_of_all, descendants

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

    def __init__(self, fork_server: ForkServer, config: Config, tell: Callable[[Message], None]) -> None:
        self._fork_server = fork_server
        self._config = config
        self._tell = tell
        self._children: dict[str, _Child] = {}
        self._left_alone = frozenset[int]()
        self._killed = False

    def start(self, name: str) -> None:
        """Start a child, or a fresh one in place of a dead one: nothing of the old queue is used again."""
        if name == "runner" and name in self._children:
            self._end_adopted()
        self._children[name] = _Child(name, self._fork_server, self._config, self._tell)

    def start_all(self) -> None:
        for name in _PATIENCE:
            self.start(name)
        self._left_alone = self._own_children() - self._pids()

    def bury(self) -> None:
        """Reap the adopted that have ended; the end of a child of ours is for whoever waits for it to hear."""
        for pid in self._own_children() - self._pids():
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def send(self, name: str, command: Command | Respond) -> None:
        self._children[name].commands.put(command)

    def kill(self, name: str) -> None:
        """End one; its death is told as any other."""
        self._children[name].kill()

    def stop_all(self) -> None:
        """End every child, and with the runner the command and all that it started."""
        if self._killed:
            return
        for child in self._children.values():
            child.commands.put(None)
        for child in self._children.values():
            child.join()
        self._fork_server.end()
        leftovers.end_leftovers(self._config.state_file)  # of a runner that could not do it
        self._end_adopted()

    def kill_all(self) -> None:
        """End every child and what descends from it, at once, and nobody else."""
        for child in self._children.values():
            child.kill()
        self._fork_server.end()
        self._end_adopted()
        self._killed = True

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
        return frozenset(child.pid for child in self._children.values() if child.pid) | {self._fork_server.pid}

    @staticmethod
    def _own_children() -> frozenset[int]:
        return frozenset(children_of_all().get(os.getpid(), ()))


class _Child:
    """One process and the two threads that write and read its pipes, so that the supervisor never waits."""

    def __init__(
        self, name: str, fork_server: ForkServer, config: Config, tell: Callable[[Message], None]
    ) -> None:
        self.name = name
        self.pid = 0  # as long as there is none
        self.commands: SimpleQueue[Command | Respond | None] = SimpleQueue()
        self._tell = tell
        self._ended = threading.Event()
        try:
            born = fork_server.begin(name, config)
        except NotForked as error:
            logs.error("child_not_started", child=name, detail=str(error))
            self._ended.set()
            tell(ChildDied(name, None))
            return
        self.pid, self._command_end, self._message_end = born.pid, born.commands, born.messages
        logs.info("child_started", child=name, pid=self.pid)
        tell(ChildStarted(name))
        threading.Thread(target=self._write, daemon=True).start()
        threading.Thread(target=self._read, daemon=True).start()

    def join(self) -> None:
        """Wait a moment for it to end by itself, then make it."""
        if not self._ended.wait(_PATIENCE[self.name]):
            self.kill()

    def kill(self) -> None:
        if not self._ended.is_set():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._ended.wait(_PATIENCE[self.name])

    def _write(self) -> None:
        while (command := self.commands.get()) is not None:
            try:
                self._command_end.send(command)
            except OSError:
                return  # it died, which the reading thread tells
        self._command_end.close()

    def _read(self) -> None:
        """Until the end of its messages, which is its own: nobody else has the other end."""
        try:
            while True:
                self._tell(self._message_end.recv())
        except (EOFError, OSError, UnpicklingError):
            exit_code = self._reaped()
            self._ended.set()
            self._tell(ChildDied(self.name, exit_code))

    def _reaped(self) -> int | None:
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:  # it ended before anybody knew that it is one of ours
            return None
