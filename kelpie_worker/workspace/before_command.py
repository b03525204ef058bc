"""The record of a job's directories from before its command ran, saved on disk so that it survives a crash.

The command may create links wherever it may write. Only the record tells them from the links of the operator.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.job import ObjectKey
from kelpie_worker.system import atomic
from kelpie_worker.system.linux import boot_id
from kelpie_worker.workspace.file_version import Signature, Snapshot
from kelpie_worker.workspace.own_files import keep_linked
from kelpie_worker.workspace.paths import is_inside, own_name


@dataclass
class DirectoryRecord:
    """The real paths of the directories, and the versions of the downloaded files, both by absolute path.

    Real paths and no inodes: a directory that the command deleted and created again is still the job's.
    """

    real: dict[str, str] = field(default_factory=dict)  # of the directories and of all folders above them
    directories: set[str] = field(default_factory=set)  # those that the job may have emptied
    brought: Snapshot = field(default_factory=dict)  # the downloaded files
    origins: dict[str, ObjectKey] = field(default_factory=dict)  # the objects that they were downloaded from
    taken: set[str] = field(default_factory=set)  # the directories of which a checkpoint was uploaded
    # The directories that were not empty when the command had ended; None: it has not ended.
    filled: set[str] | None = None
    boot: str = field(default_factory=boot_id)  # of the machine, when the files were downloaded

    def remember(self, directories: Iterable[str]) -> None:
        """Record the real paths before the command runs.

        Links that exist now are the operator's, and are followed.
        """
        for directory in directories:
            self.directories.add(directory)
            for part in _parts(directory):
                self.real[part] = os.path.realpath(part)

    def is_the_jobs(self, directory: str) -> bool:
        """Whether it was made for the job. A folder above one is recorded, too, and is not the job's."""
        return directory in self.directories

    def real_path(self, directory: str) -> str:
        """The directory's real path before the command; its current one if nothing is recorded."""
        return self.real.get(directory) or os.path.realpath(directory)

    def leads_away(self, directory: str) -> bool:
        """Whether the path leads elsewhere than before the command."""
        real = os.path.realpath(directory)
        return real != self.real_path(directory) or Path(real).is_symlink()  # realpath stops at links in a circle

    def lost(self, directories: Iterable[str]) -> str | None:
        """The first directory that is empty though files of it were downloaded or uploaded; None if there is none.

        The disk was replaced, for example, or the container was created anew.
        """
        for directory in directories:
            had = directory in self.taken or any(is_inside(path, directory) for path in self.brought)
            if had and is_empty(directory):
                return directory
        return None

    @property
    def is_of_another_boot(self) -> bool:
        """Whether the machine has booted since the download, or may have."""
        return not self.boot or self.boot != boot_id()

    def may_be_emptied(self, directory: str) -> bool:
        """Whether the contents are the job's. They are not if the directory is not recorded.

        The job is read from the state file, which may have been forged to name any directory.
        """
        return self.is_the_jobs(directory) and not self.leads_away(directory)

    def intruder(self, directory: str) -> str | None:
        """The link by which the command made the directory's path lead elsewhere; None if there is none.

        A link above the directory that was a link before the command is the operator's, wherever it leads now.
        """
        for part in _parts(directory):
            if part in self.real and self.leads_away(part):
                replaced = Path(part).is_symlink() and (part == directory or not self._was_link(part))
                return part if replaced else None
        return None

    def _was_link(self, part: str) -> bool:
        path = Path(part)
        return self.real[part] != str(Path(self.real.get(str(path.parent), "/"), path.name))


def is_empty(directory: str) -> bool:
    """Whether the directory is empty or missing. False if something else is in its place. Raises OSError."""
    place = Path(directory)
    return not os.path.lexists(place) or (place.is_dir() and not any(place.iterdir()))


def file_of(state_file: str, claim_id: str) -> Path:
    """The path of an attempt's record, beside the state file."""
    return Path(state_file).parent / own_name("places", claim_id)


def save(record: DirectoryRecord, path: Path) -> None:
    """Replace a saved record.

    A failure is logged and not raised: without what is new in it a resumed job repeats work, and loses no file.
    """
    try:
        write(record, path)
    except OSError as error:
        logs.warn("places_not_saved", detail=str(error))


def write(record: DirectoryRecord, path: Path) -> None:
    """Save the record. Raises OSError: without any record a resumed job's directories are not emptied."""
    saved = {
        "real": record.real,
        "directories": sorted(record.directories),
        "brought": {name: list(vars(version).values()) for name, version in record.brought.items()},
        "origins": record.origins,
        "taken": sorted(record.taken),
        "boot": record.boot,
        "filled": None if record.filled is None else sorted(record.filled),
    }
    keep_linked(path)
    atomic.write_text(path, json.dumps(saved), suffix=".new")


def load(path: Path) -> DirectoryRecord | None:
    """The saved record; None if there is none, or one that cannot be read."""
    try:
        saved = json.loads(path.read_text())
        brought = {str(name): Signature(*map(int, version)) for name, version in saved["brought"].items()}
        origins = {str(name): (str(bucket), str(key)) for name, (bucket, key) in saved.get("origins", {}).items()}
        taken = {str(directory) for directory in saved.get("taken", ())}
        filled = saved.get("filled")
        return DirectoryRecord(
            # An earlier version saved no directories: its job goes on after an update.
            directories={str(directory) for directory in saved.get("directories", saved["real"])},
            real={str(part): str(real) for part, real in saved["real"].items()},
            brought=brought,
            origins=origins,
            taken=taken,
            boot=str(saved.get("boot", "")),
            filled=None if filled is None else {str(directory) for directory in filled},
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logs.warn("places_not_loaded", detail=f"{type(error).__name__}: {error}")
        return None


def _parts(directory: str) -> list[str]:
    """The directory and its parents, the outermost first."""
    return [str(part) for part in (*reversed(Path(directory).parents), Path(directory))][1:]
