"""The job's directories: made, moved aside, emptied, and never more than that."""

import contextlib
import os
import pwd
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.job import Job
from kelpie_worker.messages import Aside
from kelpie_worker.scan import OWN_PREFIX, is_inside


def own_files(state_file: str) -> frozenset[str]:
    """Kelpie's files that may lie in a job's directory: neither sent nor deleted."""
    return frozenset((state_file, f"{state_file}.lock", f"{state_file}.tmp"))


def make(job: Job) -> None:
    for directory in job.directories:
        Path(directory).mkdir(parents=True, exist_ok=True)


def wipe(job: Job, state_file: str) -> None:
    """Empty the job's directories. What must not be deleted is left, and said so (contract section 7)."""
    for directory in job.directories:
        if danger := why_not_to_wipe(directory, state_file):
            logs.warn("wipe_refused", job, directory=directory, because=danger)
        else:
            _empty(directory, job)


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


def set_aside(job: Job, state_file: str) -> Aside:
    """Move the contents of the output directories away, so that the next job finds them empty. OSError.

    May be repeated: what was moved already stays moved.
    """
    places = places_aside(job, state_file)
    for directory, aside in places:
        Path(aside).mkdir(parents=True, exist_ok=True)
        if why_not_to_wipe(directory, state_file):
            _copy_contents(directory, aside, own_files(state_file))
        else:
            _move_contents(directory, aside)
    return places


def places_aside(job: Job, state_file: str) -> Aside:
    """The output directories and where each is, or would be, moved to."""
    name = f"{OWN_PREFIX}aside-{job.claim_id}"
    outputs = _outermost(block.local_path for block in job.after)
    return tuple(
        (directory, str(_place_beside(directory, state_file) / name / str(number)))
        for number, directory in enumerate(outputs)
    )


def moved_path(directory: str, aside: Aside) -> str:
    """Where a directory's contents are now."""
    for source, target in aside:
        if is_inside(directory, source):
            return os.path.normpath(Path(target, os.path.relpath(directory, source)))
    return directory


def remove_aside(aside: Aside) -> None:
    for _, target in aside:
        shutil.rmtree(target, ignore_errors=True)
        with contextlib.suppress(OSError):
            Path(target).parent.rmdir()  # another of the job's directories may still lie beside it


def _precious(state_file: str) -> Iterator[tuple[str, str]]:
    yield str(Path.cwd()), "the working directory"
    yield state_file, "the state file"
    yield sys.executable, "the program itself"
    yield str(Path(__file__).parent), "the program itself"
    if home := os.environ.get("HOME"):
        yield home, "a home directory"
    for account in pwd.getpwall():
        if account.pw_dir not in ("", "/"):
            yield account.pw_dir, "a home directory"


def _empty(directory: str, job: Job) -> None:
    for entry in _entries(directory):
        try:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                Path(entry.path).unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            logs.warn("wipe_incomplete", job, path=entry.path, detail=str(error))


def _entries(directory: str) -> list[os.DirEntry[str]]:
    """What is in a directory, but for what Kelpie itself put there; a missing one is empty."""
    try:
        with os.scandir(directory) as opened:
            return [entry for entry in opened if not entry.name.startswith(f"{OWN_PREFIX}aside-")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _outermost(directories: Iterable[str]) -> list[str]:
    """Each directory once, and none that lies in another."""
    outer: list[str] = []
    for directory in sorted(set(directories)):
        if not any(is_inside(directory, other) for other in outer):
            outer.append(directory)
    return outer


def _place_beside(directory: str, state_file: str) -> Path:
    """Next to it, so that moving is renaming; where that may not be written, next to the state file."""
    parent = Path(directory).parent
    return parent if os.access(parent, os.W_OK) else Path(state_file).parent


def _move_contents(source: str, target: str) -> None:
    """Entry by entry: the directory itself stays, be it a mount point or a layer of a container's image."""
    for entry in _entries(source):
        destination = Path(target, entry.name)
        try:
            Path(entry.path).rename(destination)
        except OSError:
            _move_across(entry, destination)


def _move_across(entry: os.DirEntry[str], destination: Path) -> None:
    """To another device: copied whole under another name first, so that a crash leaves no half file behind."""
    if entry.is_dir(follow_symlinks=False):
        destination.mkdir(parents=True, exist_ok=True)
        _move_contents(entry.path, str(destination))
        Path(entry.path).rmdir()
    elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
        _copy_whole(entry.path, destination)
        Path(entry.path).unlink()
    else:
        Path(entry.path).unlink()  # a pipe or a socket holds nothing to keep


def _copy_contents(source: str, target: str, leave: frozenset[str]) -> None:
    for entry in _entries(source):
        destination = Path(target, entry.name)
        if entry.is_dir(follow_symlinks=False):
            destination.mkdir(parents=True, exist_ok=True)
            _copy_contents(entry.path, str(destination), leave)
        elif entry.is_file(follow_symlinks=False) and entry.path not in leave:
            _copy_whole(entry.path, destination)


def _copy_whole(source: str, destination: Path) -> None:
    unfinished = destination.with_name(f"{OWN_PREFIX}copy")
    shutil.copy2(source, unfinished, follow_symlinks=False)
    unfinished.replace(destination)
