"""Processes that a killed worker or a command left running: found by their environment, and killed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.system.linux import (
    boottime,
    descendants,
    process_ids,
    read_proc,
)

_LONGEST_CLEANUP = 1.0  # seconds; a process in uninterruptible sleep (its disk is gone) is not waited for
_POLL = 0.005


def end_leftovers(state_file: str) -> None:
    """Kill what an earlier runner of this worker left running.

    A process whose environment has a job id and the path of this worker's state file descends from a command of
    this worker, if the path means the same file there: because of the lock on that file no other worker uses it.
    """
    for pid in _marked(state_file):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def end_descendants(state_file: str) -> None:
    """Kill every process that the command left running, in other sessions too, and wait until they are gone.

    This process is a subreaper, so that orphans among its descendants stay its descendants. Those that another
    subreaper in between adopts are found by the command's environment.
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
        time.sleep(_POLL)


def _marked(state_file: str) -> set[int]:
    """The ids of the processes that have the environment of a command of this worker."""
    wanted, found = f"\0KELPIE_STATE_FILE={state_file}\0".encode(), set()
    folder = Path(state_file).parent.resolve()
    for pid in process_ids():
        with contextlib.suppress(OSError):  # the process ended, or is another user's
            variables = b"\0" + read_proc(pid, "environ")
            if wanted in variables and b"\0KELPIE_JOB_ID=" in variables and _sees_same_folder(pid, folder):
                found.add(pid)
    return found - {os.getpid(), os.getppid()}


def _sees_same_folder(pid: int, folder: Path) -> bool:
    """Whether the path means the same folder to that process, which may run in another container.

    The root is compared too, because a link below another root would be resolved below ours.
    """
    root = Path(f"/proc/{pid}/root")
    return root.samefile("/") and (root / folder.relative_to("/")).samefile(folder)


def reaped() -> Iterator[tuple[int, int]]:
    """Reap the children that have ended; yields (process id, wait status) of each."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended
