"""Replacing a small file as a whole."""

import os
from contextlib import suppress
from pathlib import Path


def write_text(path: Path, text: str, suffix: str = ".tmp") -> None:
    """Replace a file's content. After a crash at any moment the file is the old one or the new one, whole.

    It is written beside the old one first, under the same name with a `suffix`. Raises OSError; then,
    too, the file is whole, and no temporary one is left.
    """
    temporary = path.with_name(path.name + suffix)
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else the new name may lead to nothing after a crash of the machine
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError:
        with suppress(OSError):  # half a file only takes space that is missed elsewhere
            temporary.unlink()
        raise


def _sync_directory(path: Path) -> None:
    """The new name is on the disk only with its directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
