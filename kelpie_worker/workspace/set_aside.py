"""Setting output directories aside, so that they are uploaded while the next job runs; undone if that fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.job import Job
from kelpie_worker.messages import Aside
from kelpie_worker.workspace.before_command import DirectoryRecord
from kelpie_worker.workspace.directories import own_files, why_not_to_wipe
from kelpie_worker.workspace.own_files import ids_of
from kelpie_worker.workspace.paths import is_inside, own_name, places_of
from kelpie_worker.workspace.tree import ASIDE, copy_contents, delete, fits, move_contents


class OutputReplaced(Exception):
    """Something else is in the place of an output directory: its files cannot be uploaded, so the job failed."""


def set_aside(job: Job, state_file: str, record: DirectoryRecord) -> Aside:
    """Move the contents of the output directories away, so that the next job finds them empty.

    May be repeated: what was moved already stays moved. A missing directory counts as empty. Returns each
    directory with the path of its contents. Raises OSError; OutputReplaced, before anything is moved, if
    something else is in a directory's place.
    """
    _require_directories(job, record)
    pairs, own = places_aside(job, state_file, record), own_files(state_file)
    for directory, aside in pairs:
        Path(aside).mkdir(parents=True, exist_ok=True)
        if _must_stay(directory, state_file, record):
            copy_contents(directory, aside, places_of(own), ids_of(own))
        else:
            move_contents(directory, aside, ids_of(own))
    return pairs


def _must_stay(directory: str, state_file: str, record: DirectoryRecord) -> bool:
    """Whether the contents are to be copied, because they may not be the job's own."""
    return bool(why_not_to_wipe(directory, state_file)) or not record.may_be_emptied(directory)


def _require_directories(job: Job, record: DirectoryRecord) -> None:
    for directory in _outermost(block.local_path for block in job.after):
        if record.leads_away(directory):
            raise OutputReplaced(f"the command replaced {directory} by a link to {os.path.realpath(directory)}")
        if os.path.lexists(directory) and not Path(directory).is_dir():
            raise OutputReplaced(f"the command replaced the directory {directory} by something else")


def places_aside(job: Job, state_file: str, record: DirectoryRecord) -> Aside:
    """The output directories, each with the path that its contents are, or would be, moved to."""
    name = own_name(ASIDE, job.claim_id)
    outputs = _outermost(block.local_path for block in job.after)
    return tuple(
        (directory, str(_place_for(directory, Path(name, str(number)), state_file, record)))
        for number, directory in enumerate(outputs)
    )


def bring_back(aside: Aside, job: Job, state_file: str, record: DirectoryRecord) -> None:
    """Undo a `set_aside` that failed: move contents back, delete copies. Raises OSError."""
    for directory, target in aside:
        if _must_stay(directory, state_file, record):
            remove_aside(((directory, target),), job)
        elif Path(target).is_dir():
            move_contents(target, directory)


def moved_path(directory: str, aside: Aside) -> str:
    """Where the contents of a directory are now."""
    for source, target in aside:
        if is_inside(directory, source):
            return os.path.normpath(Path(target, os.path.relpath(directory, source)))
    return directory


def is_place_aside(path: str, claim_id: str) -> bool:
    """Whether an absolute path is one that `places_aside` gives to an attempt's outputs.

    The state file may have been forged, and what it says is aside is uploaded and then deleted.
    """
    place = Path(path)
    return (
        place.parent.name == own_name(ASIDE, claim_id)
        and place.name.isascii()
        and place.name.isdigit()
        and ".." not in place.parts
    )


def remove_aside(aside: Aside, job: Job) -> None:
    """Delete outputs that were set aside. A path under another name, or behind a link, is left and logged."""
    for _, target in aside:
        if not is_place_aside(target, job.claim_id) or Path(target).parent.is_symlink():
            logs.warn("wipe_refused", job, directory=target, because="Kelpie set nothing aside there")
            continue
        delete(target, job)
        with contextlib.suppress(OSError):
            Path(target).parent.rmdir()  # fails if another of the job's directories is still in it


def _outermost(directories: Iterable[str]) -> list[str]:
    """The directories that lie in no other one, each once."""
    outer: list[str] = []
    for directory in sorted(set(directories)):
        if not any(is_inside(directory, other) for other in outer):
            outer.append(directory)
    return outer


def _place_for(directory: str, name: Path, state_file: str, record: DirectoryRecord) -> Path:
    """Where to move a directory's contents: beside it, so that moving is a rename, or else beside the state file.

    What is beside a mount point is on another device: if a copy does not fit there, a folder within the mount
    point is used. Once one of the two exists, it is used again.
    """
    real = Path(record.real_path(directory))
    beside = real.parent if os.access(real.parent, os.W_OK) else Path(state_file).parent
    within = real / name
    if os.path.exists(within):  # noqa: PTH110 - false where the command closed the directory
        return within
    if (beside / name).exists() or not real.is_dir() or why_not_to_wipe(directory, state_file):
        return beside / name
    return beside / name if fits(real, beside) or not os.access(real, os.W_OK) else within
