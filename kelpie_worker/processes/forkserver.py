"""Where the supervisor's processes are born: a copy of the worker from before its first thread, which only forks.

A fork shares its pages with everybody else's until they are written to, so that four processes take little more
memory than one. But only a process with a single thread may fork: a lock that another thread holds would be held
for ever in the copy. The supervisor has many threads; this process has one.

It forks twice, and the one between ends at once. So the new process is an orphan, which the supervisor adopts: it
is the supervisor's own child, whose end it hears of, and that ends with it (see `linux.die_with`).
"""

import gc
import multiprocessing
import os
import signal
import socket
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import NoReturn

from kelpie_worker import logs
from kelpie_worker.config import Config
from kelpie_worker.system import signals
from kelpie_worker.system.linux import adopt_orphans, be_called, die_with, give_memory_back

Main = Callable[[Connection, Connection, Config], None]
_LONGEST_BIRTH = 5.0  # seconds; the supervisor waits for it, and hears of nothing else
_LONGEST_FIRST_BIRTH = 30.0  # seconds, in a nursery that begins from nothing
_LONGEST_NAME = 64  # bytes


class NotForked(Exception):
    """The process did not come to life; another may."""


@dataclass(frozen=True)
class Forked:
    """A process, and our ends of its pipes."""

    pid: int
    commands: Connection
    messages: Connection


class ForkServer:
    """Begins processes that run one of `mains`, by name. Each must be begun from the main thread."""

    def __init__(self, mains: Mapping[str, Main]) -> None:
        """To be called before this process has a second thread."""
        self._mains = dict(mains)
        # What exists now lives until the end: to look through it for garbage would only write to shared pages.
        gc.collect()
        gc.freeze()
        adopt_orphans()
        give_memory_back()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        supervisor = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            self._line.close()
            _run(lambda: _serve(theirs, supervisor, self._mains))
        theirs.close()

    def begin(self, name: str, config: Config) -> Forked:
        """Raises Stillborn."""
        try:
            return self._begun(name, config, _LONGEST_BIRTH)
        except TimeoutError:
            self._replace()  # it was stopped, say
        except (OSError, EOFError):
            self._replace_if_dead()
        try:
            return self._begun(name, config, _LONGEST_FIRST_BIRTH)
        except (OSError, EOFError) as error:
            raise NotForked(f"the {name} could not be started: {type(error).__name__}") from error

    def end(self) -> None:
        self._line.close()
        with suppress(OSError):
            if os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)

    def _begun(self, name: str, config: Config, patience: float) -> Forked:
        their_commands, commands = Pipe(duplex=False)
        messages, their_messages = Pipe(duplex=False)
        with their_commands, their_messages:
            socket.send_fds(self._line, [name.encode()], [their_commands.fileno(), their_messages.fileno()])
        if not messages.poll(patience):
            raise TimeoutError
        pid = messages.recv()
        commands.send(config)
        return Forked(pid, commands, messages)

    def _replace_if_dead(self) -> None:
        with suppress(ChildProcessError):  # reaped already
            if os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                return
        self._replace()

    def _replace(self) -> None:
        """Begin another, from nothing, for this process has threads by now."""
        self.end()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(target=_serve, args=(theirs, os.getpid(), self._mains), name="nursery")
        process.start()
        theirs.close()
        self.pid = process.pid or 0
        logs.warn("nursery_replaced", pid=self.pid)


# --- in the nursery -------------------------------------------------------------------------------------


def _serve(line: socket.socket, supervisor: int, mains: Mapping[str, Main]) -> None:
    """Begin what is asked for, until the supervisor is gone."""
    be_called("kelpie-nursery")
    die_with(supervisor)
    signals.leave_to_supervisor()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever started us may ignore it
    while True:
        asked, descriptors, _, _ = socket.recv_fds(line, _LONGEST_NAME, 2)
        if not asked:
            return
        try:
            _bear(line, supervisor, asked.decode(), mains[asked.decode()], descriptors)
        except OSError as error:  # no process is to be had now; the end of its pipes tells the supervisor
            logs.error("child_not_started", child=asked.decode(), detail=str(error))
        for descriptor in descriptors:
            os.close(descriptor)


def _bear(line: socket.socket, supervisor: int, name: str, main: Main, descriptors: list[int]) -> None:
    adopted, alone = os.pipe()
    between = os.fork()
    if between:
        os.waitpid(between, 0)  # then the supervisor has adopted the other
        os.close(alone)
        os.close(adopted)
        return
    if os.fork():
        os._exit(0)

    def begin() -> None:
        line.close()
        os.close(alone)
        os.read(adopted, 1)
        os.close(adopted)
        _begin(supervisor, name, main, *descriptors)

    _run(begin)


def _begin(supervisor: int, name: str, main: Main, reading: int, writing: int) -> None:
    if os.getppid() != supervisor:
        return
    be_called(f"kelpie-{name}")
    commands, messages = Connection(reading, writable=False), Connection(writing, readable=False)
    messages.send(os.getpid())
    main(commands, messages, commands.recv())


def _run(begin: Callable[[], None]) -> NoReturn:
    """The whole life of a forked process: nothing of the one that it is a copy of is done at its end."""
    try:
        begin()
    except BaseException:  # noqa: BLE001 - shown as the interpreter would
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
