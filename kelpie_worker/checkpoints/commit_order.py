"""The order in which the files of a generation are prepared and committed. Decisions only."""

from pathlib import PurePosixPath

from kelpie_worker.workspace.file_version import Snapshot

_SMALL_MARKER = 1024 * 1024


def commit_order(files: Snapshot) -> list[str]:
    """Paths, oldest first; markers, small files that tell a reader which others to use, come after all others."""
    return sorted(files, key=lambda path: (is_marker(path, files[path].size), files[path].mtime_ns, path))


def prepare_order(files: Snapshot, small: int) -> list[str]:
    """Paths in the order in which they are read, so that few are removed before their turn comes.

    Small files, of up to `small` bytes, come first, as they take no time. After them come the newest, as commands
    remove their oldest files.
    """
    return sorted(files, key=lambda path: (files[path].size > small, -files[path].mtime_ns, path))


def commit_steps(files: Snapshot) -> tuple[list[str], list[str]]:
    """The paths that may be committed several at a time, begun in order; and those that follow one by one.

    One by one come the newest file that is no marker, for a reader may look for it first, and the markers.
    """
    order = commit_order(files)
    names = [path for path in order if not is_marker(path, files[path].size)]
    together = max(0, len(names) - 1)
    return order[:together], order[together:]


def is_marker(path: str, size: int) -> bool:
    """Whether a file is small and named as an index, or as a pointer to the latest of others."""
    name = PurePosixPath(path)
    named_so = name.suffix in (".json", ".index") or name.name == "checkpoint" or name.name.startswith("latest")
    return named_so and size <= _SMALL_MARKER
