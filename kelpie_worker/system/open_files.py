"""Which files processes may write to: those that they have open for writing, or mapped into their memory.

A write to a mapped file is no system call. The kernel moves the file's times at the first write to a page after
that page was saved to disk, or, where pages are never saved (tmpfs), after it was mapped; and at no other write.
So equal times say nothing of a file that is mapped. A file that is open may be in the middle of one long `write`,
which moves the times when it begins.
"""

import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from kelpie_worker.system.linux import descendants, parent_of, process_ids, read_file

FileId = tuple[int, int]  # device and inode

# 7f20-7f30 rw-s 00000000 fe:00 2146929    /path: a shared mapping of a file
_SHARED_MAPPING = re.compile(
    rb"^(\S+) .(.).s \S+ ([0-9a-f]+):([0-9a-f]+) (\d+) +(/(?!dev/(?!shm/)|memfd:|SYSV).*)$", re.MULTILINE
)


@dataclass(frozen=True)
class FilesInUse:
    """The files that processes may write to, as far as this one may inspect others."""

    written: frozenset[FileId] = frozenset()  # open for writing, or mapped so that it can be written
    mapped: frozenset[FileId] = frozenset()  # for reading too: a process may change the protection of its pages
    is_all: bool = True  # no process of this worker's command was closed to inspection


def files_in_use() -> FilesInUse:
    """Look at the open files of all processes, and at the mappings of those that descend from this worker.

    To look at all mappings would double the time.
    """
    opened: set[FileId] = set()
    mapped: dict[FileId, bool] = {}
    is_all = True
    own = _of_this_worker()
    for pid in process_ids():
        try:
            for folder, maps in _memories(pid) if pid in own else [(f"/proc/{pid}", b"")]:
                opened |= _open_for_writing(folder)
                for file, can_be_written in _shared_mappings(folder, maps):
                    mapped[file] = mapped.get(file, False) or can_be_written
        except PermissionError:
            is_all = is_all and pid not in own
        except OSError:
            continue  # the process ended
    writable = {file for file, can_be_written in mapped.items() if can_be_written}
    return FilesInUse(frozenset(opened | writable), frozenset(mapped), is_all)


def _memories(pid: int) -> Iterable[tuple[str, bytes]]:
    """The folder of /proc that shows the process's files, and its mappings.

    If its first thread has ended, that one shows nothing, and those of the other threads are returned.
    """
    folder = f"/proc/{pid}"
    if maps := read_file(f"{folder}/maps"):
        return [(folder, maps)]
    with os.scandir(f"{folder}/task") as threads:
        others = [thread.path for thread in threads if thread.name != str(pid)]
    return [(thread, read_file(f"{thread}/maps")) for thread in others]


def _open_for_writing(folder: str) -> set[FileId]:
    found: set[FileId] = set()
    with os.scandir(f"{folder}/fd") as descriptors:
        for descriptor in descriptors:
            with suppress(OSError):  # closed meanwhile
                # The mode bits of the link itself say whether the descriptor was opened for writing.
                if descriptor.stat(follow_symlinks=False).st_mode & stat.S_IWUSR:
                    opened = descriptor.stat()
                    if stat.S_ISREG(opened.st_mode):  # sockets and pipes have inode numbers of their own
                        found.add((opened.st_dev, opened.st_ino))
    return found


def _shared_mappings(folder: str, maps: bytes) -> Iterable[tuple[FileId, bool]]:
    """Each file that is mapped and shared, and whether its pages can be written as they are now.

    It is named twice if the device in `maps` is another than what `stat` shows, as with btrfs and overlays.
    """
    found: dict[tuple[bytes, ...], tuple[bytes, bool]] = {}
    for pages, protection, *file in _SHARED_MAPPING.findall(maps):
        first, can_be_written = found.get(tuple(file), (pages, False))
        found[tuple(file)] = first, can_be_written or protection == b"w"
    for (major, minor, inode, path), (pages, can_be_written) in found.items():
        yield (os.makedev(int(major, 16), int(minor, 16)), int(inode)), can_be_written
        if status := _status(folder.encode(), pages, path):
            yield (status.st_dev, status.st_ino), can_be_written


def _status(folder: bytes, pages: bytes, path: bytes) -> os.stat_result | None:
    """The status of a mapped file; by its path where the link to the mapping may not be followed."""
    for name in (b"%b/map_files/%b" % (folder, pages), b"%b/root%b" % (folder, path)):
        with suppress(OSError):
            return os.stat(name)  # noqa: PTH116 - a path of bytes
    return None


def _of_this_worker() -> set[int]:
    """The descendants of the supervisor: the parent of the process that this one was forked from.

    All processes, if that one is hidden in another namespace.
    """
    parent = os.getppid()
    with suppress(OSError):
        return descendants(parent_of(parent) or parent)
    return set(process_ids())
