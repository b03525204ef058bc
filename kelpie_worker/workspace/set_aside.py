"""Directories set aside for the upload of outputs while the next job runs, and brought back after a crash."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from kelpie_worker.job import Job
from kelpie_worker.messages import Aside
from kelpie_worker.workspace.directories import own_files, why_not_to_wipe
from kelpie_worker.workspace.paths import is_inside, own_name
from kelpie_worker.workspace.record import DirectoryRecord
from kelpie_worker.workspace.tree import ASIDE, copy_contents, delete, fits, move_contents


class OutputReplaced(Exception):
    """An output directory is none any more: nothing of it can be sent, and that must not pass for success."""


def set_aside(job: Job, state_file: str, places: DirectoryRecord) -> Aside:
    """Move the contents of the output directories away, so that the next job finds them empty. OSError.

    May be repeated: what was moved already stays moved. A directory that is gone counts as empty; if something
    else is in its place, OutputReplaced is raised before anything is moved.
    """
    _demand_directories(job, places)
    pairs = places_aside(job, state_file, places)
    for directory, aside in pairs:
        Path(aside).mkdir(parents=True, exist_ok=True)
        if _must_stay(directory, state_file, places):
            copy_contents(directory, aside, own_files(state_file))
        else:
            move_contents(directory, aside)
    return pairs


def _must_stay(directory: str, state_file: str, places: DirectoryRecord) -> bool:
    return bool(why_not_to_wipe(directory, state_file)) or not places.may_be_emptied(directory)


def _demand_directories(job: Job, places: DirectoryRecord) -> None:
    for directory in _outermost(block.local_path for block in job.after):
        if places.leads_away(directory):
            raise OutputReplaced(f"the command replaced {directory} by a link to {os.path.realpath(directory)}")
        if os.path.lexists(directory) and not Path(directory).is_dir():
            raise OutputReplaced(f"the command replaced the directory {directory} by something else")


def places_aside(job: Job, state_file: str, places: DirectoryRecord) -> Aside:
    """The output directories and where each is, or would be, moved to."""
    name = own_name(ASIDE, job.claim_id)
    outputs = _outermost(block.local_path for block in job.after)
    return tuple(
        (directory, str(_place_for(directory, Path(name, str(number)), state_file, places)))
        for number, directory in enumerate(outputs)
    )


def bring_back(aside: Aside, job: Job, state_file: str, places: DirectoryRecord) -> None:
    """As it was before `set_aside`, which failed half-way; copies are deleted instead. OSError."""
    for directory, target in aside:
        if _must_stay(directory, state_file, places):
            remove_aside(((directory, target),), job)
        elif Path(target).is_dir():
            move_contents(target, directory)


def moved_path(directory: str, aside: Aside) -> str:
    """Where a directory's contents are now."""
    for source, target in aside:
        if is_inside(directory, source):
            return os.path.normpath(Path(target, os.path.relpath(directory, source)))
    return directory


def remove_aside(aside: Aside, job: Job) -> None:
    for _, target in aside:
        delete(target, job)
        with contextlib.suppress(OSError):
            Path(target).parent.rmdir()  # another of the job's directories may still lie beside it


def _outermost(directories: Iterable[str]) -> list[str]:
    """Each directory once, and none that lies in another."""
    outer: list[str] = []
    for directory in sorted(set(directories)):
        if not any(is_inside(directory, other) for other in outer):
            outer.append(directory)
    return outer


def _place_for(directory: str, name: Path, state_file: str, places: DirectoryRecord) -> Path:
    """Beside it, so that moving is renaming; where that may not be written, beside the state file.

    A mount point has no place of its own device beside it: if a copy does not fit there, within it. Once there is
    one of the two, it stays that one.
    """
    real = Path(places.real_path(directory))
    beside = real.parent if os.access(real.parent, os.W_OK) else Path(state_file).parent
    within = real / name
    if os.path.exists(within):  # noqa: PTH110 - false where the command closed the directory
        return within
    if (beside / name).exists() or not real.is_dir() or why_not_to_wipe(directory, state_file):
        return beside / name
    return beside / name if fits(real, beside) or not os.access(real, os.W_OK) else within
