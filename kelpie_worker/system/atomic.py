"""Replacing a small file as a whole."""

import os
import stat
from contextlib import suppress
from pathlib import Path


def write_text(path: Path, text: str, suffix: str = ".tmp") -> None:
    """Replace a file's content. After a crash at any moment the file is the old one or the new one, whole.

    It is written beside the old one first, under the same name with a `suffix`. Only this user may read it, as it
    says what runs here. Raises OSError; then, too, the file is whole, and no temporary one is left.
    """
    temporary = path.with_name(path.name + suffix)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                os.fchmod(file.fileno(), 0o600)  # one that a crash left may have another mode
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
