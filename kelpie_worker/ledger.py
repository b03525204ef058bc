"""What the bucket has of a watched directory, and in which order it gets what it lacks. Decisions only."""

from dataclasses import dataclass, field
from pathlib import PurePosixPath

from kelpie_worker.scan import Snapshot

_SMALL_MARKER = 1024 * 1024


@dataclass
class Ledger:
    """What is known of a directory's files and of their objects. Paths are relative."""

    sent: Snapshot = field(default_factory=dict)  # in the bucket in this version, or brought by the download
    had: set[str] = field(default_factory=set)  # seen here in this attempt, and not deleted from the bucket since
    previous: set[str] = field(default_factory=set)  # files of the generation before

    def is_settled(self, now: Snapshot) -> bool:
        """Whether nothing was written, and nothing removed, since the last generation."""
        return not self.changed(now) and set(now) == self.previous

    def changed(self, now: Snapshot) -> Snapshot:
        return {path: version for path, version in now.items() if self.sent.get(path) != version}

    def due_for_deletion(self, now: Snapshot, final: bool) -> list[str]:
        """Files the command has removed, and that neither this generation nor the one before it has.

        Only what this attempt had can be in it: absence at the start never deletes (contract section 7).
        """
        kept = set(now) if final else set(now) | self.previous
        return sorted(self.had - kept)


def commit_order(files: Snapshot) -> list[str]:
    """Oldest first; small files that tell a reader which others to use come after all of them."""
    return sorted(files, key=lambda path: (is_marker(path, files[path].size), files[path].mtime_ns, path))


def prepare_order(files: Snapshot, small: int) -> list[str]:
    """What may go away before its turn comes: small files wait for no line, and the oldest are removed first."""
    return sorted(files, key=lambda path: (files[path].size > small, -files[path].mtime_ns, path))


def commit_steps(files: Snapshot) -> tuple[list[str], list[str]]:
    """Those that may be committed several at a time, begun in order, and those that come after them one by one.

    Alone are the markers, and the newest of the others: it may well be what a reader looks for first.
    """
    order = commit_order(files)
    names = [path for path in order if not is_marker(path, files[path].size)]
    together = max(0, len(names) - 1)
    return order[:together], order[together:]


def is_marker(path: str, size: int) -> bool:
    name = PurePosixPath(path)
    named_so = name.suffix in (".json", ".index") or name.name == "checkpoint" or name.name.startswith("latest")
    return named_so and size <= _SMALL_MARKER
