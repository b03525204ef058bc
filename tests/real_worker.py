"""A worker as a test drives it: the real program in a process of its own, read by its log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kelpie_worker.system.linux import descendants
from local_stack.processes import wait_for
from local_stack.stack import NO_METADATA_SERVICE
from tests.doubles.coordinator import FakeCoordinator
from tests.warm_worker import WarmWorker, begins_plainly

CHECKOUT = Path(__file__).resolve().parents[1]

Event = dict[str, Any]
Sync = dict[str, list[dict[str, Any]]]

UNTIL_TOLD = "until [ -e go ]; do sleep 0.05; done"
# Ways in which what a command starts gets out of its process group.
ESCAPES = {
    "a session of its own": "setsid sleep 1000 &",
    "a clean environment too": "env -i setsid sleep 1000 &",
    "its parents gone": "(setsid sh -c 'env -i sleep 1000 & exit 0' &)",
}


class Worker:
    """`python -m kelpie_worker` in a folder; `start` again after it has ended is a restart on the same disk."""

    def __init__(self, folder: Path, api_url: str, environment: Mapping[str, str]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.state_file = folder / "kelpie-state.json"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "PYTHONPATH": str(CHECKOUT),
            "KELPIE_API_URL": api_url,
            "KELPIE_API_KEY": "a-key-that-nobody-logs",
            "SALAD_CONTAINER_GROUP_ID": "group",
            "SALAD_MACHINE_ID": "machine",
            "SALAD_IMDS_URL": NO_METADATA_SERVICE,
            "KELPIE_RUNTIME_DIR": str(folder.parent / "run"),
            "HEARTBEAT_INTERVAL_S": "0.2",
            "INPUT_DIR": str(folder / "input"),
            "CHECKPOINT_DIR": str(folder / "checkpoint"),
            "OUTPUT_DIR": str(folder / "output"),
            **environment,
        }
        self._process: subprocess.Popen[str] | WarmWorker | None = None
        self._reader: threading.Thread | None = None
        self.lines: list[str] = []
        self._events: list[Event] = []
        self._parsed = 0  # lines

    def start(self, through: Sequence[str] = (), **environment: str) -> Worker:
        """`through` is a command line that runs the program whose command line follows it."""
        self.close()
        settings = {**self._environment, **environment}
        if through or not begins_plainly(settings):
            self._process = subprocess.Popen(
                [*through, sys.executable, "-m", "kelpie_worker"],
                cwd=self.folder,
                env=settings,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        else:
            self._process = WarmWorker.piped(self.folder, settings)
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        return self

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def events(self) -> list[Event]:
        """What it logged. Each line is parsed once, for a wait asks fifty times a second."""
        new = self.lines[self._parsed :]
        self._events += [json.loads(line) for line in new if line.startswith("{")]
        self._parsed += len(new)
        return self._events.copy()

    def seen(self, event: str, **facts: Any) -> list[Event]:
        """The events of that name with those facts, so far."""
        wanted = {"event": event, **facts}
        return [found for found in self.events if wanted.items() <= found.items()]

    def wait_for(self, event: str, count: int = 1, timeout: float = 30, **facts: Any) -> Event:
        def found() -> Event | None:
            seen = self.seen(event, **facts)
            return seen[count - 1] if len(seen) >= count else None

        try:
            return wait_for(found, f"event {event} {facts or ''} of the worker", timeout, pause=0.02)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; its log:\n" + "\n".join(self.lines)) from error

    def child(self, name: str) -> int:
        """The process id of the latest child of that name."""
        self.wait_for("child_started", child=name)
        return int(self.seen("child_started", child=name)[-1]["pid"])

    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.state_file.read_text()))

    def kill(self) -> None:
        """kill -9 of the supervisor alone: what becomes of the rest is what is tested."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def wait(self, timeout: float = 30) -> int:
        """The exit code, once it has ended and its whole log is read."""
        assert self._process and self._reader
        code = self._process.wait(timeout)
        self._reader.join(timeout)
        return code

    def close(self) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        process, self._process = self._process, None
        assert self._reader and process.stderr
        self._reader.join(10)
        assert not self._reader.is_alive(), "a process that the worker started outlives it"
        process.stderr.close()

    def _read(self, process: subprocess.Popen[str] | WarmWorker) -> None:
        assert process.stderr
        for line in process.stderr:
            self.lines.append(line.rstrip("\n"))


# --- what it is given to do -----------------------------------------------------------------------------


def shell(script: str) -> dict[str, Any]:
    return {"command": "sh", "arguments": ["-euc", script]}


def python(script: str) -> dict[str, Any]:
    return {"command": sys.executable, "arguments": ["-c", script]}


def finished(coordinator: FakeCoordinator, job: str) -> tuple[str, dict[str, Any]]:
    """The first accepted report of a job, once there is one."""
    return wait_for(lambda: coordinator.reports(job), f"a report of job {job}", pause=0.02)[0]


def block(bucket: str, name: str, **more: Any) -> dict[str, Any]:
    """Prefix and directory of the same name."""
    return {"bucket": bucket, "prefix": f"{name}/", "local_path": name, **more}


# --- what runs of it ------------------------------------------------------------------------------------


def is_alive(pid: int) -> bool:
    """Whether it runs; one that only waits to be reaped does not."""
    return state_of(pid) not in "XZ"


def state_of(pid: int) -> str:
    """Of a process, as /proc shows it: R and S and D run, T is stopped, Z only waits to be reaped, X is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def group_of(pid: int) -> list[int]:
    """The living members of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def believing_refusals_soon(folder: Path) -> str:
    """A PYTHONPATH with which a worker believes refusals after half a second, not ten minutes, of its command."""
    (folder / "sitecustomize.py").write_text(
        "from kelpie_worker.s3 import whose_fault\nwhose_fault.LONGEST = 0.5\n"
    )
    return f"{folder}{os.pathsep}{CHECKOUT}"


def kill_everything(worker: Worker) -> None:
    """Kill every process at once, like the loss of a machine: none can clean up after another."""
    everybody: set[int] = set()
    while begun := {worker.pid, *descendants(worker.pid)} - everybody:  # also what began before its parent stopped
        for pid in begun:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        wait_for(lambda new=begun: not any(state_of(pid) in "RSD" for pid in new), "them to stop", pause=0.001)
        everybody |= begun
    worker.kill()
    for pid in everybody - {worker.pid}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(is_alive, everybody)), "all processes to be gone")


def sleeping_under(ancestor: int) -> list[int]:
    """The descendants of a process that sleep for 1000 seconds."""
    found, parents = [], {ancestor}
    while parents:
        listed = [Path(f"/proc/{pid}/task/{pid}/children").read_text().split() for pid in parents if is_alive(pid)]
        parents = {int(pid) for pids in listed for pid in pids}
        found += [pid for pid in parents if command_line(pid) == ["sleep", "1000"]]
    return found


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def own_namespace() -> list[str]:
    """What starts a program as process 1 of a namespace."""
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespace can be made here")
    return alone
