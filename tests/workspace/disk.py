"""A disk on which a command did its worst to its directory."""

from __future__ import annotations

import shutil
from pathlib import Path

from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.workspace.before_command import DirectoryRecord
from kelpie_worker.workspace.directories import make, wipe


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


class Disk:
    """One job's directory `ck` on a disk with files that are not the job's."""

    def __init__(self, root: Path) -> None:
        self.state_file = str(root / "state" / "kelpie-state.json")
        self.shared, self.directory = root / "shared", root / "work" / "ck"
        self.job = Job("claim", "job", after=(SyncBlock("b", "", str(self.directory)),))
        for made in (self.shared / "ck", root / "state", root / "work"):
            made.mkdir(parents=True)
        (self.shared / "foreign").write_text("somebody's")
        (self.shared / "ck" / "foreign").write_text("somebody's")

    def make(self) -> DirectoryRecord:
        return make(self.job, self.state_file)

    def wipe(self, known: DirectoryRecord) -> None:
        wipe(self.job, self.state_file, known)

    def replace_by_link(self, target: Path | str) -> None:
        shutil.rmtree(self.directory)
        self.directory.symlink_to(target)

    @property
    def foreign_is_there(self) -> bool:
        return (self.shared / "foreign").exists() and (self.shared / "ck" / "foreign").exists()
