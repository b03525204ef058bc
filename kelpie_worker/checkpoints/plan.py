"""What the bucket has of a watched directory, and in which order it gets what it lacks. Decisions only."""

from pathlib import PurePosixPath

from kelpie_worker.workspace.file_version import Snapshot

_SMALL_MARKER = 1024 * 1024


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
