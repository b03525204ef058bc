"""What a file's times can tell of writes to it, which depends on the file system."""

import mmap
import os
import time
from collections.abc import Callable
from contextlib import suppress

from kelpie_worker.system.linux import file_system_of
from kelpie_worker.workspace.file_version import NoCopy, Signature, nameless, signature_of

# The kernel alone sets a file's change time there, at every write through a descriptor. Elsewhere a server or a
# program does (NFS, SMB, 9p, FUSE), or the time of the last write stands in its place, which any program may set.
# Not tmpfs: its pages are never saved, so a page that was mapped and read can be written, and no time moves.
_OVERLAY = 0x794C7630
_KERNEL_KEEPS_TIMES = {
    0xEF53: "ext",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0xF2F52010: "f2fs",
    0x2FC12FC1: "zfs",
    0xCA451A4E: "bcachefs",
    _OVERLAY: "overlay",
}
TICK = 0.01  # seconds; two writes within it may bear one time, where times are fine
_FINE = 10_000_000  # nanoseconds; times that are whole multiples are rounded (FAT, ext3: to seconds)


def tells_writes(path: str, version: Signature, flush_reveals: Callable[[], bool]) -> bool:
    """Whether every write to the file that comes later than TICK after this version changes its signature.

    That is, through a descriptor, or a mapping that is made after this version. `flush_reveals` says what
    `flush_reveals_writes` does in its folder: it is called for overlays only, which may lie over a tmpfs.
    """
    if version.ctime_ns % _FINE == 0:
        return False
    with suppress(OSError):
        kind = file_system_of(path)
        return kind in _KERNEL_KEEPS_TIMES and (kind != _OVERLAY or flush_reveals())
    return False


def flush(path: str) -> None:
    """Save the file's changed pages, so that the kernel moves its times at the next write to one that is mapped.

    Of the calls that save pages this one has the effect on overlays, too. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def flush_reveals_writes(folder: str) -> bool:
    """Whether `flush` has that effect in this folder: tried with a file that has no name. Not so on tmpfs."""
    try:
        with nameless(folder) as file:
            file.write(bytes(mmap.PAGESIZE))  # on a full disk an error; to fill a hole in a mapping is a SIGBUS
            with mmap.mmap(file.fileno(), mmap.PAGESIZE) as page:
                page[0] = 1
                os.fdatasync(file.fileno())
                before = signature_of(os.fstat(file.fileno()))
                time.sleep(2 * TICK)
                page[0] = 2
                return signature_of(os.fstat(file.fileno())) != before
    except (NoCopy, OSError):
        return False
