"""The job's directories: made, moved aside, emptied, and never more than that."""

import errno
import glob
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.job import Job
from kelpie_worker.system import frozen
from kelpie_worker.workspace.paths import is_inside, own_name
from kelpie_worker.workspace.record import DirectoryRecord
from kelpie_worker.workspace.tree import delete, entries, holds_aside


class FilesLost(Exception):
    """What the command left is gone, though nobody of this worker took it away."""


def own_files(state_file: str) -> frozenset[str]:
    """Kelpie's files that may lie in a job's directory: neither sent nor deleted."""
    file = Path(state_file)
    set_aside = file.parent.glob(f"{glob.escape(file.name)}.*-[0-9]*")  # damaged or copied, when the worker began
    return frozenset((state_file, f"{state_file}.lock", f"{state_file}.tmp", *map(str, set_aside)))


def make(job: Job, state_file: str) -> DirectoryRecord:
    """Make the directories before the command runs, whatever an earlier job left in their place. OSError."""
    for directory in job.directories:
        if os.path.lexists(directory) and not Path(directory).is_dir():
            _clear_the_place(directory, job, state_file)
        Path(directory).mkdir(parents=True, exist_ok=True)
    places = DirectoryRecord()
    places.remember(job.directories)
    return places


def make_missing(job: Job) -> None:
    """Once the command may have run, what is in a directory's place is its business. OSError."""
    for directory in job.directories:
        if not os.path.lexists(directory):
            Path(directory).mkdir(parents=True, exist_ok=True)


def wipe(job: Job, state_file: str, places: DirectoryRecord) -> None:
    """Empty the job's directories. What cannot or must not be deleted stays, and is told
    (docs/worker.md, Directories)."""
    for directory in job.directories:
        try:
            _wipe_one(directory, job, state_file, places)
        except FileNotFoundError:
            continue
        except OSError as error:
            logs.warn("wipe_incomplete", job, path=directory, detail=str(error))


def _wipe_one(directory: str, job: Job, state_file: str, places: DirectoryRecord) -> None:
    if intruder := places.intruder(directory):
        logs.warn("directory_replaced", job, directory=directory, link=intruder)
        Path(intruder).unlink()
    elif not places.may_be_emptied(directory):
        logs.warn("wipe_refused", job, directory=directory, because="it leads elsewhere than before the command")
    elif danger := why_not_to_wipe(directory, state_file):
        logs.warn("wipe_refused", job, directory=directory, because=danger)
    elif stat.S_ISDIR(Path(directory).stat().st_mode):
        _wipe_contents(directory, job)
    elif places.is_known(directory):  # it was a directory when it was remembered
        delete(directory, job)


def _wipe_contents(directory: str, job: Job) -> None:
    """All but outputs that were set aside somewhere in it, and are on their way still."""
    for entry in entries(directory):
        if holds_aside(entry):
            _wipe_contents(entry.path, job)
        else:
            delete(entry.path, job, within=directory)


def why_not_to_wipe(directory: str, state_file: str) -> str | None:
    """What would be lost with this directory's contents; None if only the job's own files would.

    Whatever holds something precious is as precious. Links are followed: the danger is where they lead.
    """
    real = os.path.realpath(directory)
    if real == "/":
        return "it is the root"
    for precious, meaning in _precious(state_file):
        if is_inside(os.path.realpath(precious), real):
            return f"it is or holds {meaning}"
    return None


def _precious(state_file: str) -> Iterator[tuple[str, str]]:
    yield str(Path.cwd()), "the working directory"
    yield state_file, "the state file"
    for path in frozen.program_files():
        yield path, "the program itself"
    yield str(Path(__file__).parent.parent), "the program itself"
    if home := os.environ.get("HOME"):
        yield home, "a home directory"
    for account in pwd.getpwall():
        if account.pw_dir not in ("", "/"):
            yield account.pw_dir, "a home directory"


def _clear_the_place(directory: str, job: Job, state_file: str) -> None:
    """Before `make`: a link to nowhere holds nothing; a file may be somebody's, and is kept beside. OSError."""
    if why_not_to_wipe(directory, state_file):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
    place = Path(directory)
    if place.is_symlink():
        logs.warn("directory_replaced", job, directory=directory, link=directory)
        place.unlink()
    else:
        kept = place.with_name(own_name("replaced"))
        place.rename(kept)
        logs.warn("directory_replaced", job, directory=directory, moved_to=str(kept))
