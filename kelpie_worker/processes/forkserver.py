"""The fork server: forked from the worker before its first thread, it forks the supervisor's children.

Forked processes share memory pages until one writes to them, so that four processes take little more memory than
one. But only a process with a single thread may fork safely: a lock that another thread holds would stay locked
for ever in the copy. The supervisor has many threads, the fork server has one.

It forks twice, and the process in between ends at once. So the new process is an orphan that the supervisor, a
subreaper, adopts: the supervisor can wait for it, and it is killed when the supervisor dies (see
`linux.die_with`).
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
from kelpie_worker.system import frozen, signals
from kelpie_worker.system.linux import adopt_orphans, die_with, return_freed_memory, set_process_name

Main = Callable[[Connection, Connection, Config], None]
_LONGEST_START = 5.0  # seconds; the supervisor waits that long and reads no messages
_LONGEST_FIRST_START = 30.0  # seconds, if the fork server itself has to be spawned
_LONGEST_NAME = 64  # bytes


class NotForked(Exception):
    """The process could not be started; a later try may succeed."""


@dataclass(frozen=True)
class Forked:
    """A started process: its id, and the supervisor's ends of its two pipes."""

    pid: int
    commands: Connection
    messages: Connection


class ForkServer:
    """Starts processes that run one of `mains`, by name. To be used from the main thread only."""

    def __init__(self, mains: Mapping[str, Main]) -> None:
        """To be called while this process has a single thread."""
        self._mains = dict(mains)
        # What exists now lives until the end; the garbage collector would only write to the shared pages.
        gc.collect()
        gc.freeze()
        adopt_orphans()
        return_freed_memory()
        self._socket, server_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        supervisor = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            self._socket.close()
            _run_and_exit(lambda: _serve(server_socket, supervisor, self._mains))
        server_socket.close()

    def start(self, name: str, config: Config) -> Forked:
        """Start a process. Raises NotForked."""
        try:
            return self._started(name, config, _LONGEST_START)
        except TimeoutError:
            self._replace()  # the fork server was sent SIGSTOP, for example
        except (OSError, EOFError):
            self._replace_if_dead()
        try:
            return self._started(name, config, _LONGEST_FIRST_START)
        except (OSError, EOFError) as error:
            raise NotForked(f"the {name} could not be started: {type(error).__name__}") from error

    def end(self) -> None:
        """End and reap the fork server. The processes that it started go on."""
        self._socket.close()
        with suppress(OSError):
            if os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)

    def _started(self, name: str, config: Config, timeout: float) -> Forked:
        child_commands, commands = Pipe(duplex=False)
        messages, child_messages = Pipe(duplex=False)
        with child_commands, child_messages:
            socket.send_fds(self._socket, [name.encode()], [child_commands.fileno(), child_messages.fileno()])
        if not messages.poll(timeout):
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
        """Start another fork server. It is spawned, not forked, because this process has threads by now."""
        self.end()
        self._socket, server_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(target=_serve, args=(server_socket, os.getpid(), self._mains), name="forkserver")
        process.start()
        server_socket.close()
        self.pid = process.pid or 0
        logs.warn("nursery_replaced", pid=self.pid)


# --- in the fork server (which the log's events call the nursery) --------------------------------------


def _serve(requests: socket.socket, supervisor: int, mains: Mapping[str, Main]) -> None:
    """Start the processes that are requested, until the supervisor is gone."""
    set_process_name("kelpie-forkserver")
    die_with(supervisor)
    signals.leave_to_supervisor()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # it may have been started with SIGCHLD ignored
    while True:
        name, descriptors, _, _ = socket.recv_fds(requests, _LONGEST_NAME, 2)
        if not name:
            return
        try:
            _fork_twice(requests, supervisor, name.decode(), mains[name.decode()], descriptors)
        except OSError as error:  # no process can be forked now; the supervisor sees the pipes end
            logs.error("child_not_started", child=name.decode(), detail=str(error))
        for descriptor in descriptors:
            os.close(descriptor)


def _fork_twice(requests: socket.socket, supervisor: int, name: str, main: Main, descriptors: list[int]) -> None:
    """Fork a process that the supervisor adopts. It begins once the process in between has been reaped."""
    adopted, not_adopted = os.pipe()
    between = os.fork()
    if between:
        os.waitpid(between, 0)  # from here on the supervisor is the new process's parent
        os.close(not_adopted)
        os.close(adopted)
        return
    if os.fork():
        os._exit(0)

    def begin() -> None:
        requests.close()
        os.close(not_adopted)
        os.read(adopted, 1)  # returns when the fork server closes its end
        os.close(adopted)
        _begin(supervisor, name, main, *descriptors)

    _run_and_exit(begin)


def _begin(supervisor: int, name: str, main: Main, reading: int, writing: int) -> None:
    if os.getppid() != supervisor:  # the supervisor ended meanwhile
        return
    set_process_name(f"kelpie-{name}")
    frozen.hide_bundle()  # for each program that it starts
    commands, messages = Connection(reading, writable=False), Connection(writing, readable=False)
    messages.send(os.getpid())
    main(commands, messages, commands.recv())


def _run_and_exit(begin: Callable[[], None]) -> NoReturn:
    """Run a forked process to its end.

    It skips the exit handlers, which belong to the process it was copied from.
    """
    try:
        begin()
    except BaseException:  # noqa: BLE001 - printed as the interpreter would
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
