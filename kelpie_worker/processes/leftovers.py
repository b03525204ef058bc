"""Processes that a killed worker or a command left running: found by their environment, and killed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from kelpie_worker.system.linux import (
    descendants,
    descends_from,
    kill_if,
    kill_until_gone,
    process_ids,
    read_proc,
)


def end_leftovers(state_file: str) -> None:
    """Kill what an earlier runner of this worker left running.

    A process whose environment has a job id and the path of this worker's state file descends from a command of
    this worker, if the path means the same file there: because of the lock on that file no other worker uses it.
    """
    is_marked = _mark_of(state_file)
    for pid in _marked(is_marked):
        kill_if(is_marked, pid)


def end_descendants(state_file: str) -> None:
    """Kill every process that the command left running, in other sessions too, and wait until they are gone.

    This process is a subreaper, so that orphans among its descendants stay its descendants. Those that another
    subreaper in between adopts are found by the command's environment.
    """
    is_marked = _mark_of(state_file)
    kill_until_gone(
        lambda: descendants(os.getpid()) | _marked(is_marked),
        lambda pid: descends_from(pid, os.getpid()) or is_marked(pid),
        _reap_all,
    )


def _reap_all() -> None:
    for _ in reaped():
        pass


def _marked(is_marked: Callable[[int], bool]) -> set[int]:
    return {pid for pid in process_ids() if is_marked(pid)} - {os.getpid(), os.getppid()}


def _mark_of(state_file: str) -> Callable[[int], bool]:
    """Tells whether a process has the environment of a command of this worker."""
    wanted = f"\0KELPIE_STATE_FILE={state_file}\0".encode()
    folder = Path(state_file).parent.resolve()

    def is_marked(pid: int) -> bool:
        with contextlib.suppress(OSError):  # the process ended, or is another user's
            variables = b"\0" + read_proc(pid, "environ")
            if wanted in variables and b"\0KELPIE_JOB_ID=" in variables:
                return _sees_same_folder(pid, folder)
        return False

    return is_marked


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
