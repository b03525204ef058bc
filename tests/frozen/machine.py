"""A container with the frozen worker in it, as a user's image has it, and a look at what is in there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import docker
from docker.models.containers import Container

from local_stack.processes import wait_for

MARK = "that-is-all"
LOOK = """
echo $$
for process in /proc/[0-9]*; do
    program=$(readlink $process/exe) && read -r stat <$process/stat && echo "$stat|$program"
done
true
"""


class Process(NamedTuple):
    pid: int
    parent: int
    program: str


class Layers(NamedTuple):
    """One worker's processes from the outside in, each a child of the one before."""

    staticx: int
    pyinstaller: int
    worker: int


class Machine:
    """A container that shares this machine's network and nothing else.

    Its first process is the worker, or idle.
    """

    def __init__(
        self,
        image: str,
        binary: Path,
        environment: Mapping[str, str],
        *,
        command: tuple[str, ...] = ("sleep", "infinity"),
        tmpfs: Mapping[str, str] | None = None,
    ) -> None:
        self._docker = docker.from_env()
        self._container: Container = self._docker.containers.run(
            image,
            list(command),
            detach=True,
            environment=dict(environment),
            network_mode="host",
            tmpfs=dict(tmpfs or {}),
            volumes={str(binary): {"bind": "/usr/local/bin/kelpie", "mode": "ro"}},
        )

    def remove(self) -> None:
        self._container.remove(force=True)
        self._docker.close()

    def shell(self, script: str) -> str:
        """What a script prints. Raises AssertionError if it fails."""
        code, output = self._container.exec_run(["sh", "-c", script])
        text: str = output.decode(errors="replace")
        assert code == 0, f"{script}: {text}"
        return text

    def look(self, script: str) -> str:
        """What a script prints that changes nothing.

        The engine may lose what a program prints that ends before its client listens. So a mark stands at the end,
        and without it the script is run again.
        """
        marked = wait_for(lambda: self._marked(script), f"what {script} prints")
        return marked.removesuffix(f"{MARK}\n")

    def _marked(self, script: str) -> str | None:
        printed = self.shell(f"{script}\necho {MARK}")
        return printed if printed.endswith(f"{MARK}\n") else None

    def environment(self) -> dict[str, str]:
        """What a program sees that is started in here without Kelpie.

        The engine may lose the output of a program that ends before its client listens, so an empty one is none.
        """
        return variables(wait_for(lambda: self._container.exec_run(["env"]).output, "the environment").decode())

    def printed(self) -> str:
        """What the first process and its children wrote on standard output."""
        return str(self._container.logs(stdout=True, stderr=False).decode())

    def complaints(self) -> str:
        return str(self._container.logs(stdout=False, stderr=True).decode())

    def stop(self) -> int:
        """SIGTERM to the first process; its exit code."""
        self._container.stop(timeout=20)
        return self.wait()

    def wait(self) -> int:
        return int(self._container.wait(timeout=30)["StatusCode"])

    def changed(self) -> list[str]:
        """The files that are there now and not in the image, or changed; also once it has ended."""
        return [change["Path"] for change in self._container.diff() or []]

    # --- workers beside an idle first process ---------------------------------------------------

    def start_worker(self, name: str = "worker") -> Layers:
        before = self.processes()
        script = f"mkdir -p /{name} && cd /{name} && exec kelpie >>log 2>&1"
        self._container.exec_run(["sh", "-c", script], detach=True)
        return wait_for(lambda: self._new_layers(before, name), "the worker to start its children")

    def kill(self, *pids: int) -> None:
        self.shell(f"kill -KILL {' '.join(map(str, pids))}")

    def processes(self) -> list[Process]:
        """All that run a program but the first, and the shell that looks."""
        found = []
        looks, *lines = self.look(LOOK).splitlines()
        for line in lines:
            stat, program = line.split("|", 1)
            pid, parent = stat.split()[0], stat.rpartition(")")[2].split()[1]
            found.append(Process(int(pid), int(parent), program))
        return [
            process for process in found if process.pid not in (1, int(looks)) and process.parent != int(looks)
        ]

    def unpacked(self) -> set[str]:
        """The folders in /tmp."""
        return set(self.look("ls -A /tmp").split())

    def _new_layers(self, before: list[Process], name: str) -> Layers | None:
        if self.shell(f"cat /{name}/log 2>/dev/null || true").count('"child_started"') < 3:
            return None
        known = {process.pid for process in before}
        new = [process for process in self.processes() if process.pid not in known]
        outer = next(process.pid for process in new if process.program == "/usr/local/bin/kelpie")
        inner = next(process.pid for process in new if process.parent == outer)
        return Layers(outer, inner, next(process.pid for process in new if process.parent == inner))


def variables(printed: str) -> dict[str, str]:
    """What `env` printed."""
    return dict(line.split("=", 1) for line in printed.splitlines())
