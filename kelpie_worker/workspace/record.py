"""What is known of a job's directories from before its command ran, and must not be forgotten in a crash.

The command may put links wherever it may write. Only what was there before it tells which of them are meant.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.job import ObjectKey
from kelpie_worker.system import atomic
from kelpie_worker.workspace.file_version import Signature, Snapshot
from kelpie_worker.workspace.paths import is_inside, own_name


@dataclass
class DirectoryRecord:
    """Where the directories really were, and what the download brought into them, by absolute path.

    Real paths, and no inodes: a directory that the command made anew in its place is still the job's.
    """

    real: dict[str, str] = field(default_factory=dict)
    brought: Snapshot = field(default_factory=dict)
    origins: dict[str, ObjectKey] = field(default_factory=dict)  # of what was brought
    taken: set[str] = field(default_factory=set)  # the directories of which the bucket took a checkpoint
    filled: set[str] | None = (
        None  # the directories that held anything when the command had ended; None: it has not
    )

    def remember(self, directories: Iterable[str]) -> None:
        """Before the command runs: links that are there now are the operator's, and are followed."""
        for directory in directories:
            for part in _parts(directory):
                self.real[part] = os.path.realpath(part)

    def is_known(self, directory: str) -> bool:
        return directory in self.real

    def real_path(self, directory: str) -> str:
        """Where the directory was; where nothing is remembered, where it is."""
        return self.real.get(directory) or os.path.realpath(directory)

    def leads_away(self, directory: str) -> bool:
        """Whether the path is known to lead elsewhere than before the command."""
        real = os.path.realpath(directory)
        return real != self.real_path(directory) or Path(real).is_symlink()  # a link still: it leads in a circle

    def lost(self, directories: Iterable[str]) -> str | None:
        """A directory that is empty though the bucket has files of it: on another disk, or in a new container."""
        for directory in directories:
            had = directory in self.taken or any(is_inside(path, directory) for path in self.brought)
            if had and is_empty(directory):
                return directory
        return None

    def may_be_emptied(self, directory: str) -> bool:
        """Whether its contents are the job's: after a crash that left nothing remembered, no link is trusted."""
        if self.is_known(directory):
            return not self.leads_away(directory)
        return not Path(directory).is_symlink()

    def intruder(self, directory: str) -> str | None:
        """The link that the command put into the path of a directory, if one leads it away.

        A link above the directory that was a link before is the operator's, wherever it leads by now.
        """
        for part in _parts(directory):
            if self.is_known(part) and self.leads_away(part):
                replaced = Path(part).is_symlink() and (part == directory or not self._was_link(part))
                return part if replaced else None
        return None

    def _was_link(self, part: str) -> bool:
        path = Path(part)
        return self.real[part] != str(Path(self.real.get(str(path.parent), "/"), path.name))


def is_empty(directory: str) -> bool:
    """Also where it is missing; what is in its place is not nothing. OSError."""
    place = Path(directory)
    return not os.path.lexists(place) or (place.is_dir() and not any(place.iterdir()))


def file_of(state_file: str, claim_id: str) -> Path:
    """Beside the state file, one for each attempt."""
    return Path(state_file).parent / own_name("places", claim_id)


def save(places: DirectoryRecord, path: Path) -> None:
    """As well as it can be done: what is lost with it is convenience after a crash, never a file."""
    saved = {
        "real": places.real,
        "brought": {name: list(vars(version).values()) for name, version in places.brought.items()},
        "origins": places.origins,
        "taken": sorted(places.taken),
        "filled": None if places.filled is None else sorted(places.filled),
    }
    try:
        atomic.write_text(path, json.dumps(saved), suffix=".new")
    except OSError as error:
        logs.warn("places_not_saved", detail=str(error))


def load(path: Path) -> DirectoryRecord | None:
    """What was saved; None if nothing was, or nothing that can be read."""
    try:
        saved = json.loads(path.read_text())
        brought = {str(name): Signature(*map(int, version)) for name, version in saved["brought"].items()}
        origins = {str(name): (str(bucket), str(key)) for name, (bucket, key) in saved.get("origins", {}).items()}
        taken = {str(directory) for directory in saved.get("taken", ())}
        filled = saved.get("filled")
        return DirectoryRecord(
            real={str(part): str(real) for part, real in saved["real"].items()},
            brought=brought,
            origins=origins,
            taken=taken,
            filled=None if filled is None else {str(directory) for directory in filled},
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logs.warn("places_not_loaded", detail=f"{type(error).__name__}: {error}")
        return None


def _parts(directory: str) -> list[str]:
    """The directory and those above it, the outermost first."""
    return [str(part) for part in (*reversed(Path(directory).parents), Path(directory))][1:]
