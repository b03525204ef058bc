"""The supervisor's side of its child processes: starting them, talking to them, ending them."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pickle import UnpicklingError
from queue import SimpleQueue

from kelpie_worker import logs
from kelpie_worker.config import Config
from kelpie_worker.messages import ChildDied, ChildStarted, Command, Message, Respond
from kelpie_worker.processes import leftovers
from kelpie_worker.processes.forkserver import ForkServer, NotForked
from kelpie_worker.system.linux import children_of_all, descendants, descends_from, kill_until_gone

_PATIENCE = {
    "runner": 2.0,
    "heartbeat": 0.3,
    "uploader": 0.3,
}  # seconds to end by itself; the runner has to end the command first


class Children:
    """The three child processes. Their messages, and a ChildDied for each that dies, go to `tell`.

    To be used from the main thread only: the kernel kills a child when the thread that started it ends.

    The orphans of a command are adopted by the runner, and when the runner dies by this process, a subreaper. As
    the first process of a container it adopts all other orphans too. Children that it had at its start (of a
    shell that started something and then exec'ed Kelpie) are not touched.
    """

    def __init__(self, fork_server: ForkServer, config: Config, tell: Callable[[Message], None]) -> None:
        self._fork_server = fork_server
        self._config = config
        self._tell = tell
        self._children: dict[str, _Child] = {}
        self._not_ours = frozenset[int]()  # the children that this process had at its start
        self._killed = False

    def start(self, name: str) -> None:
        """Start a child, or replace a dead one. The commands queued for the dead one are dropped."""
        if name == "runner" and name in self._children:
            self._end_adopted()
        self._children[name] = _Child(name, self._fork_server, self._config, self._tell)

    def start_all(self) -> None:
        for name in _PATIENCE:
            self.start(name)
        self._not_ours = self._own_children() - self._pids()

    def reap_adopted(self) -> None:
        """Reap adopted processes that have ended.

        Our three children are reaped by the threads that read from them.
        """
        for pid in self._own_children() - self._pids():
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def send(self, name: str, command: Command | Respond) -> None:
        self._children[name].commands.put(command)

    def kill(self, name: str) -> None:
        """Kill a child; a ChildDied follows."""
        self._children[name].kill()

    def stop_all(self) -> None:
        """End every child, and with the runner the command and all its descendants."""
        if self._killed:
            return
        for child in self._children.values():
            child.commands.put(None)
        for child in self._children.values():
            child.join()
        self._fork_server.end()
        leftovers.end_leftovers(self._config.state_file)  # what a killed runner did not end
        self._end_adopted()

    def kill_all(self) -> None:
        """Kill every child and its descendants at once. Other children of this process are not touched."""
        for child in self._children.values():
            child.kill()
        self._fork_server.end()
        self._end_adopted()
        self._killed = True

    def _end_adopted(self) -> None:
        kill_until_gone(
            lambda: descendants(os.getpid(), but=self._not_ours | self._pids()),
            lambda pid: descends_from(pid, os.getpid()),
            self.reap_adopted,
        )

    def _pids(self) -> frozenset[int]:
        return frozenset(child.pid for child in self._children.values() if child.pid) | {self._fork_server.pid}

    @staticmethod
    def _own_children() -> frozenset[int]:
        return frozenset(children_of_all().get(os.getpid(), ()))


class _Child:
    """One child process, and the two threads that write and read its pipes so that the supervisor never blocks."""

    def __init__(
        self, name: str, fork_server: ForkServer, config: Config, tell: Callable[[Message], None]
    ) -> None:
        self.name = name
        self.pid = 0  # until the process is started
        self.commands: SimpleQueue[Command | Respond | None] = SimpleQueue()
        self._tell = tell
        self._ended = threading.Event()
        try:
            forked = fork_server.start(name, config)
        except NotForked as error:
            logs.error("child_not_started", child=name, detail=str(error))
            self._ended.set()
            tell(ChildDied(name, None))
            return
        self.pid, self._command_end, self._message_end = forked.pid, forked.commands, forked.messages
        logs.info("child_started", child=name, pid=self.pid)
        tell(ChildStarted(name))
        threading.Thread(target=self._write, daemon=True).start()
        threading.Thread(target=self._read, daemon=True).start()

    def join(self) -> None:
        """Give the process a moment to end by itself, then kill it."""
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
                return  # the process died; the reading thread sends ChildDied
        self._command_end.close()

    def _read(self) -> None:
        """Pass messages on until the pipe ends. No other process holds its other end: so this one has ended."""
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
        except ChildProcessError:  # `reap_adopted` was faster, before the process counted as one of the three
            return None
