"""Starts workers without the time of their imports: each is forked from a Python that has imported the program.

Half of what a short test with a worker costs is the import of its modules. The forked process runs
`python -m kelpie_worker` from its first line on, with an environment, a folder, streams and a session of its own.

    python -m tests.warm_worker SOCKET

is the Python that forks; it has one thread, for others would not be in the copy. It ends with its caller, and all
that it started with it.
"""

from __future__ import annotations

import array
import atexit
import importlib
import multiprocessing.process
import os
import pickle
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from local_stack.exec_tied import die_with
from local_stack.processes import CHECKOUT, Child

MODULE = "kelpie_worker"
# What the program imports at its start, and what its uploader imports for the first file.
IMPORTED = (
    "kelpie_worker.cli",
    "kelpie_worker.worker",
    "kelpie_worker.s3.connections",
    "kelpie_worker.s3.credential_process",
    "boto3",
)
LONGEST_REQUEST = 256 * 1024  # bytes


class WarmWorker:
    """What tests need of `subprocess.Popen`: its process stays a zombie until it has been waited for."""

    def __init__(self, folder: Path, environment: Mapping[str, str], stdout: int, stderr: int) -> None:
        theirs, self._keeper = socket.socketpair()
        request = pickle.dumps((str(folder), dict(environment)))
        socket.send_fds(_server(), [request], [theirs.fileno(), stdout, stderr])
        theirs.close()
        self.stderr: IO[str] | None = None
        self.returncode: int | None = None
        self.pid = self._number()

    @classmethod
    def piped(cls, folder: Path, environment: Mapping[str, str]) -> WarmWorker:
        """With its standard error at `stderr`."""
        reading, writing = os.pipe()
        worker = cls(folder, environment, sys.__stdout__.fileno(), writing)
        os.close(writing)
        worker.stderr = os.fdopen(reading, encoding="utf-8")
        return worker

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; minus the signal's number after a death by signal."""
        if self.returncode is None:
            told = select.poll()
            told.register(self._keeper, select.POLLIN)
            if not told.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(MODULE, timeout or 0)
            self.returncode = self._number()
            self._keeper.close()
        return self.returncode

    def _number(self) -> int:
        [number] = array.array("q", self._keeper.recv(8, socket.MSG_WAITALL))
        return number


class WarmChild(Child):
    """A worker of a local stack, started so."""

    def _begun(
        self,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str] | None,
        out: IO[bytes],
        err: IO[bytes],
    ) -> Any:
        if command[-2:] == ["-m", MODULE] and env and begins_plainly(env):
            return WarmWorker(cwd, env, out.fileno(), err.fileno())
        return super()._begun(command, cwd, env, out, err)


def begins_plainly(environment: Mapping[str, str]) -> bool:
    """Whether a Python of that environment runs nothing of a test's before its program."""
    return environment.get("PYTHONPATH") == str(CHECKOUT)


@cache
def _server() -> socket.socket:
    """The socket of this process's forking Python."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.warm_worker", str(theirs.fileno())],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
    )
    theirs.close()

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return ours


# --- in the Python that forks ---------------------------------------------------------------------------


def serve(requests: socket.socket) -> None:
    """Fork until the other end is closed."""
    for module in IMPORTED:
        importlib.import_module(module)

    server = os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are reaped by the kernel
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, LONGEST_REQUEST, 3)
        if not request:
            return
        if not os.fork():
            requests.close()
            keep(server, *pickle.loads(request), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def keep(server: int, folder: str, environment: dict[str, str], test: int, stdout: int, stderr: int) -> None:
    """Tell the test the worker's id, then its exit code, and reap it once the test has read that."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    die_with(server, signal.SIGKILL)
    keeper, pid = os.getpid(), os.fork()
    if not pid:
        os.close(test)
        die_with(keeper, signal.SIGKILL)
        become_worker(folder, environment, stdout, stderr)
    os.close(stdout)
    os.close(stderr)
    tell(test, pid)
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended
    tell(test, ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)
    os.read(test, 1)  # until it is closed
    os._exit(0)


def tell(test: int, number: int) -> None:
    os.write(test, array.array("q", [number]).tobytes())


def become_worker(folder: str, environment: dict[str, str], stdout: int, stderr: int) -> None:
    """`python -m kelpie_worker`, as a new process would run it."""
    os.setsid()
    for descriptor, number in ((stdout, 1), (stderr, 2)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.path[0] = [MODULE], folder
    multiprocessing.process.ORIGINAL_DIR = folder  # type: ignore[attr-defined]
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
