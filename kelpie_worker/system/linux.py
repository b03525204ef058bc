"""The few calls of Linux that Python has no name for."""

import ctypes
import errno
import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_BLOCK = 64 * 1024
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_libc = ctypes.CDLL(None, use_errno=True)


def boottime() -> float:
    """Seconds since boot, those of a suspended machine included; the same for every process on it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """The same for as long as the machine runs, in every container on it; empty where it is not known."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that spawned it ends, or the process that adopted it."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os._exit(1)


def be_called(name: str) -> None:
    """Bear a name in `ps` and `top`, of 15 bytes at most."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that it can be reaped."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def give_memory_back() -> None:
    """Have the C library return what is freed, where it is much at once, and not keep a store for each thread."""
    with suppress(AttributeError):  # another C library than GNU's
        _libc.mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)
        _libc.mallopt(_M_ARENA_MAX, 2)


def is_disk_full(error: BaseException) -> bool:
    """Whether there was no room, or no more of a user's quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def wake_on_child_ends() -> int:
    """A descriptor that becomes readable whenever a child ends, an adopted one too."""
    readable, written = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(written, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler nothing is written
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    return readable


def process_ids() -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def about(pid: int, file: str) -> bytes:
    """What a file of /proc says about a process: OSError if it ended, or is somebody else's.

    Without Python's file objects, which take longer than the kernel where there are hundreds of processes.
    """
    descriptor = os.open(f"/proc/{pid}/{file}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = block = os.read(descriptor, _BLOCK)
        while block:
            block = os.read(descriptor, _BLOCK)
            content += block
        return content
    finally:
        os.close(descriptor)


def children_of_all() -> dict[int, set[int]]:
    """The children of every process, those included that wait to be reaped."""
    children: dict[int, set[int]] = {}
    for pid in process_ids():
        with suppress(OSError):  # it ended
            parent = about(pid, "stat").rpartition(b")")[2].split(None, 2)[1]
            children.setdefault(int(parent), set()).add(pid)
    return children


def descendants(ancestor: int, but: frozenset[int] = frozenset()) -> set[int]:
    """The descendants of a process, without some of them and theirs."""
    children = children_of_all()
    found, new = set[int](), {ancestor}
    while new := {child for parent in new for child in children.get(parent, ())} - found - but:
        found |= new
    return found


def files_being_written() -> set[int]:
    """The inodes of the files that a process has open for writing, as far as this one may look."""
    found: set[int] = set()
    for pid in process_ids():
        with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as descriptors:
            for descriptor in descriptors:
                with suppress(OSError):  # closed since
                    # The bits of the link itself say what the descriptor may be used for.
                    if descriptor.stat(follow_symlinks=False).st_mode & stat.S_IWUSR:
                        opened = descriptor.stat()
                        if stat.S_ISREG(opened.st_mode):  # sockets and pipes have numbers of their own
                            found.add(opened.st_ino)
    return found


def oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes of this container the kernel has killed for want of memory; None if it does not say."""
    for counter in _oom_counters(root):
        with suppress(OSError, ValueError):
            for line in counter.read_text().splitlines():
                name, _, number = line.partition(" ")
                if name == "oom_kill":
                    return int(number)
    return None


def _oom_counters(root: Path) -> Iterator[Path]:
    """Where it may say so, the most telling first: of our own cgroup (of either version), of the whole system.

    A container may see its own cgroup as the root, and yet the path that the host gives it.
    """
    mounted = root / "sys/fs/cgroup"
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                yield mounted / "memory" / path.lstrip("/") / "memory.oom_control"
                yield mounted / "memory" / "memory.oom_control"
            elif not controllers:
                yield mounted / path.lstrip("/") / "memory.events"
                yield mounted / "memory.events"
    yield root / "proc/vmstat"


def _prctl(option: int, value: int | ctypes.c_char_p) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
