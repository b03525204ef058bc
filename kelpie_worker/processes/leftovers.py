"""Processes that a killed worker or command left behind, found by their environment and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.system.linux import (
    about,
    boottime,
    descendants,
    process_ids,
)

_LONGEST_CLEANUP = 1.0  # seconds; a process that the kernel cannot end now (its disk is away) is not waited for
_LOOK_AGAIN = 0.005


def end_leftovers(state_file: str) -> None:
    """Kill what an earlier runner of this worker left running.

    Whoever has this state file's name and a job id in its environment, and means the same file by that name,
    descends from a command of this worker: the lock on the file says that there is no other.
    """
    for pid in _marked(state_file):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def end_descendants(state_file: str) -> None:
    """Kill whatever the command left behind, in sessions of its own too, and wait until it is gone.

    This process adopts the orphans among its descendants, so that they stay its descendants. Who is adopted by
    somebody in between has the command's environment.
    """
    deadline = boottime() + _LONGEST_CLEANUP
    while left := descendants(os.getpid()) | _marked(state_file):
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for _ in reaped():
            pass
        if boottime() >= deadline:
            logs.warn("leftovers_remain", pids=sorted(left))
            return
        time.sleep(_LOOK_AGAIN)


def _marked(state_file: str) -> set[int]:
    """The processes with the environment of a command of the worker that has this state file."""
    wanted, found = f"\0KELPIE_STATE_FILE={state_file}\0".encode(), set()
    folder = Path(state_file).parent.resolve()
    for pid in process_ids():
        with contextlib.suppress(OSError):  # it ended, or is somebody else's
            variables = b"\0" + about(pid, "environ")
            if wanted in variables and b"\0KELPIE_JOB_ID=" in variables and _sees_as_we_do(pid, folder):
                found.add(pid)
    return found - {os.getpid(), os.getppid()}


def _sees_as_we_do(pid: int, folder: Path) -> bool:
    """Whether the path means the same to that process, which may be one of another container.

    The root is compared too, for a link below another root would be followed below ours.
    """
    root = Path(f"/proc/{pid}/root")
    return root.samefile("/") and (root / folder.relative_to("/")).samefile(folder)


def reaped() -> Iterator[tuple[int, int]]:
    """Collect the children that have ended: (process id, wait status), ..."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended
