"""The job's directories: created before the command, emptied after it. Nothing outside of them is touched."""

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
from kelpie_worker.system.linux import mounts_in
from kelpie_worker.workspace.before_command import DirectoryRecord, is_empty
from kelpie_worker.workspace.paths import is_or_holds, own_name
from kelpie_worker.workspace.tree import delete, entries, holds_aside


class FilesLost(Exception):
    """Files that the command left are gone, and this worker did not delete them."""


def own_files(state_file: str) -> frozenset[str]:
    """The paths of Kelpie's own files that may lie in a job's directory. They are neither uploaded nor deleted."""
    file = Path(state_file)
    set_aside = file.parent.glob(f"{glob.escape(file.name)}.*-[0-9]*")  # damaged state files that were kept
    return frozenset((state_file, f"{state_file}.lock", f"{state_file}.tmp", *map(str, set_aside)))


def make(job: Job, state_file: str) -> DirectoryRecord:
    """Create the directories before the command runs, even if an earlier job left something else in their place.

    Returns the record of their real paths. Raises OSError.
    """
    for directory in job.directories:
        if os.path.lexists(directory) and not Path(directory).is_dir():
            _move_out_of_the_way(directory, job, state_file)
        Path(directory).mkdir(parents=True, exist_ok=True)
    record = DirectoryRecord()
    record.remember(job.directories)
    return record


def make_missing(job: Job) -> None:
    """Create directories that are missing. Used once the command may have run: what it put in their place stays.

    Raises OSError.
    """
    for directory in job.directories:
        if not os.path.lexists(directory):
            Path(directory).mkdir(parents=True, exist_ok=True)


def wipe(job: Job, state_file: str, record: DirectoryRecord) -> None:
    """Empty the job's directories (docs/worker.md, Directories). What cannot or must not be deleted is logged."""
    for directory in job.directories:
        try:
            _wipe_one(directory, job, state_file, record)
        except FileNotFoundError:
            continue
        except OSError as error:
            logs.warn("wipe_incomplete", job, path=directory, detail=str(error))


def _wipe_one(directory: str, job: Job, state_file: str, record: DirectoryRecord) -> None:
    if intruder := record.intruder(directory):
        logs.warn("directory_replaced", job, directory=directory, link=intruder)
        Path(intruder).unlink()
    elif not record.is_the_jobs(directory):
        if not is_empty(directory):  # one that an earlier try emptied needs no warning
            logs.warn("wipe_refused", job, directory=directory, because="no record says that it is the job's")
    elif not record.may_be_emptied(directory):
        logs.warn("wipe_refused", job, directory=directory, because="it leads elsewhere than before the command")
    elif danger := why_not_to_wipe(directory, state_file):
        logs.warn("wipe_refused", job, directory=directory, because=danger)
    elif stat.S_ISDIR(Path(directory).stat().st_mode):
        _wipe_contents(directory, job)
    else:  # it was a directory before the command ran
        delete(directory, job)


def _wipe_contents(directory: str, job: Job) -> None:
    """Delete everything but outputs that were set aside in it and are still to be uploaded."""
    pending = [directory]
    while pending:
        folder = pending.pop()
        for entry in entries(folder):
            if holds_aside(entry):
                pending.append(entry.path)
            else:
                delete(entry.path, job, within=folder)


def why_not_to_wipe(directory: str, state_file: str) -> str | None:
    """A phrase that says why the directory must not be emptied: it is or contains something that is not the job's.

    None if it may be emptied. Links are resolved. Bind mounts, also those in the directory, are known by device
    and inode.
    """
    real = os.path.realpath(directory)
    if real == "/":
        return "it is the root"
    places = (directory, *mounts_in(real))
    for path, meaning in _protected(state_file):
        if any(is_or_holds(place, path) for place in places):
            return f"it is or holds {meaning}"
    return None


def _protected(state_file: str) -> Iterator[tuple[str, str]]:
    """Paths that must never be deleted, each with a phrase that says what it is."""
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


def _move_out_of_the_way(directory: str, job: Job, state_file: str) -> None:
    """Delete a dangling link in the directory's place, or rename a file there: its contents may be needed.

    OSError.
    """
    if why_not_to_wipe(directory, state_file):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
    place = Path(directory)
    if place.is_symlink():
        logs.warn("directory_replaced", job, directory=directory, link=directory)
        place.unlink()
    else:
        moved_to = place.with_name(own_name("replaced"))
        place.rename(moved_to)
        logs.warn("directory_replaced", job, directory=directory, moved_to=str(moved_to))
