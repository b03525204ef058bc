"""Real processes on this machine: starting, watching and killing them so that none is left over."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")

CHECKOUT = Path(__file__).resolve().parent.parent
EXEC_TIED = Path(__file__).with_name("exec_tied.py")
# Below the range of ephemeral ports: a port chosen here is still free when its server is started again after a
# kill.
PORTS = range(20_000, 32_000)
SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 0.25  # seconds between two looks at what is waited for


@dataclass(frozen=True)
class Account:
    """An unprivileged user that a program runs as."""

    uid: int
    gid: int


class Child:
    """One program in a session of its own. It is killed when this process ends, for whatever reason.

    Standard output goes to `<folder>/<name>.out`, standard error to `<folder>/<name>.log`, both appended to.
    Start children from the main thread only: the kernel kills a child when the thread that started it ends.
    """

    def __init__(
        self,
        name: str,
        program: Sequence[str | Path],
        *,
        folder: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
        account: Account | None = None,
    ) -> None:
        self.name = name
        self.output = folder / f"{name}.out"
        self.log = folder / f"{name}.log"
        command = [*exec_tied(death_signal, account), *map(str, program)]
        with self.output.open("ab") as out, self.log.open("ab") as err:
            self._process = self._begun(command, cwd or folder, env, out, err)

    def _begun(
        self,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str] | None,
        out: IO[bytes],
        err: IO[bytes],
    ) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout: float) -> int:
        """The exit code; minus the signal's number after a death by signal."""
        return self._process.wait(timeout)

    def kill(self) -> None:
        """SIGKILL for the whole process group, like the loss of a machine."""
        self._signal_group(signal.SIGKILL)
        self._process.wait()

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = 10) -> None:
        """Send a signal that asks for an orderly end, and SIGKILL after `timeout` seconds."""
        if self.alive:
            self._process.send_signal(how)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        self._signal_group(signal.SIGKILL)  # what the program itself left running

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return  # the whole group has ended already

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its log, for an error message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def exec_tied(death_signal: signal.Signals, account: Account | None) -> list[str]:
    user = [f"{account.uid}:{account.gid}"] if account else []
    return [sys.executable, "-I", "-S", str(EXEC_TIED), str(os.getpid()), str(int(death_signal)), *user, "--"]


def wait_for(fact: Callable[[], T | None], what: str, timeout: float = 30, pause: float | None = None) -> T:
    """Call `fact` until it returns something true, and return that.

    `pause` is the seconds between two calls. Without it they are a twentieth of what has been waited, within
    limits: what takes long need not be asked for often. Raises TimeoutError naming `what` after `timeout` seconds.
    """
    began = time.monotonic()
    while True:
        answer = fact()
        if answer:
            return answer
        waited = time.monotonic() - began
        if waited > timeout:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(min(max(SHORTEST_PAUSE, waited / 20), LONGEST_PAUSE) if pause is None else pause)


def wait_until_ready(child: Child, answers: Callable[[], bool], timeout: float = 30) -> None:
    """Wait until a server answers. Raises RuntimeError with the end of its log if it ends instead."""

    def ready() -> bool:
        if not child.alive:
            raise RuntimeError(f"{child.name} ended while starting:\n{child.log_tail()}")
        return answers()

    try:
        wait_for(ready, f"{child.name} to answer", timeout)
    except TimeoutError as error:
        raise RuntimeError(f"{error}:\n{child.log_tail()}") from error


def processes_in(folder: Path) -> list[int]:
    """Ids of the processes that work inside a folder, or worked there before it was removed. Linux only."""
    here = str(folder.resolve())
    return [pid for pid, place in working_folders() if place == here or place.startswith(f"{here}/")]


def processes_in_session(session: int) -> list[int]:
    """Ids of the processes of a Child and of its descendants, while they stay in its session. Linux only."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                found.append(int(entry.name))
    return found


def kill_all_in(folder: Path) -> None:
    for pid in processes_in(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def lose(disk: Path) -> None:
    """SIGKILL for all that works in a folder, which is then deleted, as when a machine is lost."""

    def is_quiet() -> bool:
        kill_all_in(disk)
        return not processes_in(disk)

    wait_for(is_quiet, f"everything on {disk.name} to end", pause=0.01)
    shutil.rmtree(disk)


def working_folders() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            yield int(entry.name), str((entry / "cwd").readlink())
        except OSError:
            continue  # the process ended, is a zombie, or belongs to another user


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder that is removed afterwards. Other users may enter it but not list it."""
    folder = Path(tempfile.mkdtemp(prefix="kelpie-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that no process listens on."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("100 ports of 127.0.0.1 were tried and all are taken")
