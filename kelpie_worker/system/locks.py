"""Locks on files that end with the process that holds them, however it ends (flock)."""

import fcntl
import os
from pathlib import Path


class LockedElsewhere(Exception):
    """Another process holds the lock."""


def try_lock(descriptor: int, shared: bool = False) -> bool:
    """Lock an open file until the descriptor is closed, without waiting; False if another process has it.

    A shared lock only keeps exclusive ones away. Raises OSError where the file system has no locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_file(path: Path) -> int:
    """The descriptor of a lock file, held from now on. The file and its folder are made if they are missing.

    Raises LockedElsewhere, OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if not try_lock(descriptor):
            os.close(descriptor)
            raise LockedElsewhere(str(path))
        if is_at(path, descriptor):
            return descriptor
        os.close(descriptor)  # the file was removed between the two calls


def is_free(path: Path) -> bool:
    """Whether no process holds this lock file; nothing is made or changed. OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        return try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one at the path: a lock on a file that was removed keeps no process away."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
