"""The directories of one job whose prefixes in a bucket overlap: which of their files becomes an object.

Users let checkpoints and outputs share a prefix, and move files from one directory to the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.workspace.file_version import Signature, Snapshot
from kelpie_worker.workspace.pattern import matcher


@dataclass(frozen=True)
class _Directory:
    block: SyncBlock
    number: int  # in the order of the job
    matches: Callable[[str], bool]

    def path_of(self, key: str) -> str | None:
        """The relative path of the file that becomes this object; None if no file of the directory does."""
        path = key.removeprefix(self.block.prefix)
        return path if path and key.startswith(self.block.prefix) and self.matches(path) else None

    def has(self, key: str) -> bool:
        """Whether the file of that object exists right now; True if that cannot be found out."""
        path = self.path_of(key)
        try:
            return path is not None and Path(self.block.local_path, path).is_file()
        except OSError:
            return True

    def overlaps(self, block: SyncBlock) -> bool:
        one, other = self.block.prefix, block.prefix
        return self.block.bucket == block.bucket and (one.startswith(other) or other.startswith(one))


class Overlaps:
    """Which of the blocks of `sync.during` (and, at the end, of `sync.after`) a shared object belongs to."""

    def __init__(self, job: Job) -> None:
        self._during = _directories(job.during)
        self._after = _directories(job.after)
        self._seen: dict[int, Snapshot] = {}  # by the directory's number

    def left_to(self, block: SyncBlock, found: Snapshot) -> Snapshot:
        """The files found in a directory that it is to send: of two files for one object the newest is sent."""
        if not (others := self._beside(block)):
            return found
        own = next(directory.number for directory in self._during if directory.block is block)
        self._seen[own] = found
        return {
            path: version
            for path, version in found.items()
            if not any(self._overrules(other, block.prefix + path, version, own) for other in others)
        }

    def have(self, block: SyncBlock, path: str, final: bool) -> bool:
        """Whether another directory has a file for the object; with `final`, also one of `sync.after`."""
        key = block.prefix + path
        after = [directory for directory in self._after if directory.overlaps(block)] if final else []
        return any(directory.has(key) for directory in [*self._beside(block), *after])

    def _overrules(self, other: _Directory, key: str, version: Signature, own: int) -> bool:
        """Whether the other directory has a newer file for the object, which it has seen, so will send."""
        path = other.path_of(key)
        rival = self._seen.get(other.number, {}).get(path) if path else None
        if rival is None or (rival.mtime_ns, other.number) < (version.mtime_ns, own):
            return False
        return other.has(key)

    def _beside(self, block: SyncBlock) -> list[_Directory]:
        return [other for other in self._during if other.block is not block and other.overlaps(block)]


def _directories(blocks: Sequence[SyncBlock]) -> list[_Directory]:
    return [_Directory(block, number, matcher(block.pattern)) for number, block in enumerate(blocks)]
