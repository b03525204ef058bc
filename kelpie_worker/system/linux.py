"""Linux system calls and files of /proc that Python's library does not cover."""

import ctypes
import errno
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from kelpie_worker import logs

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_BLOCK = 64 * 1024
_LARGEST_STATFS = 512  # bytes; more than the structure has on any system
_LONGEST_KILLING, _KILLED_AGAIN_AFTER = 1.0, 0.005  # seconds
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_ESCAPED = re.compile(rb"\\([0-7]{3})")
_libc = ctypes.CDLL(None, use_errno=True)


def boottime() -> float:
    """Seconds since boot, including time in suspend; the same in every process of the machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """An id that changes with every boot and is the same in all containers of a machine; empty if unknown."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def die_with(parent: int) -> None:
    """Have the kernel send this process SIGKILL when its parent ends. `parent` is the parent's process id.

    "Parent" is the thread that forked it, or the process that adopted it as an orphan.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the prctl call, so that no signal will come
        os._exit(1)


def set_process_name(name: str) -> None:
    """Set the name that `ps` and `top` show; the kernel cuts it to 15 bytes."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


def adopt_orphans() -> None:
    """Become a subreaper: the parent of every descendant whose own parent ends, so that it can be reaped here."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def gain_no_privileges() -> None:
    """Have the kernel give this process and all that it starts no privileges by setuid bits or file capabilities.

    A kernel or sandbox without this leaves everything as it is.
    """
    with suppress(OSError):
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def return_freed_memory() -> None:
    """Have the C library return large freed blocks to the system, and keep at most two arenas for all threads."""
    with suppress(AttributeError):  # a C library other than glibc has no mallopt
        _libc.mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)
        _libc.mallopt(_M_ARENA_MAX, 2)


def is_disk_full(error: BaseException) -> bool:
    """Whether the error means that the disk, or the user's quota, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def wake_on_child_ends() -> int:
    """A file descriptor that becomes readable whenever a child ends, adopted orphans included."""
    readable, written = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(written, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # the wakeup descriptor is written only if there is a handler
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    return readable


def process_ids() -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def read_proc(pid: int, file: str) -> bytes:
    """The content of /proc/PID/FILE. Raises OSError if the process ended, or may not be inspected."""
    return read_file(f"/proc/{pid}/{file}")


def read_file(path: str) -> bytes:
    """The content of a file of /proc. Raises OSError.

    Python's file objects would take longer than the kernel where there are hundreds of processes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = block = os.read(descriptor, _BLOCK)
        while block:
            block = os.read(descriptor, _BLOCK)
            content += block
        return content
    finally:
        os.close(descriptor)


def children_of_all() -> dict[int, set[int]]:
    """The process ids of the children of every process, zombies included."""
    children: dict[int, set[int]] = {}
    for pid in process_ids():
        with suppress(OSError):  # the process ended
            children.setdefault(parent_of(pid), set()).add(pid)
    return children


def parent_of(pid: int) -> int:
    """The process id of a process's parent; 0: it is in none of our namespaces. Raises OSError if it ended."""
    return int(stat_of(pid)[1])


def stat_of(pid: int) -> list[bytes]:
    """The fields after the name in /proc/PID/stat: state, parent, ... Raises OSError if the process ended."""
    return read_proc(pid, "stat").rpartition(b")")[2].split()


def descendants(ancestor: int, but: frozenset[int] = frozenset()) -> set[int]:
    """The process ids of all descendants of a process, without those in `but` and their descendants."""
    children = children_of_all()
    found, new = set[int](), {ancestor}
    while new := {child for parent in new for child in children.get(parent, ())} - found - but:
        found |= new
    return found


def descends_from(pid: int, ancestor: int) -> bool:
    """Whether the process is a descendant of that one. Raises OSError if one in between has ended."""
    while pid > 1 and pid != ancestor:
        pid = parent_of(pid)
    return pid == ancestor


def kill_if(is_meant: Callable[[int], bool], pid: int) -> None:
    """Send SIGKILL to a process if it is the one that is meant.

    It is asked once the process is held by a descriptor: its id may have passed to another one since it was looked
    up. A process that ended is let be.
    """
    with suppress(OSError):
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        except OSError:  # forbidden, or not known to this kernel
            if is_meant(pid):
                os.kill(pid, signal.SIGKILL)
            return
        try:
            if is_meant(pid):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


def kill_until_gone(
    find: Callable[[], set[int]], is_meant: Callable[[int], bool], reap: Callable[[], None]
) -> None:
    """Send SIGKILL to the processes that `find` finds, as `kill_if` does, and `reap`, until it finds none.

    A process in uninterruptible sleep (its disk is gone) is not waited for: the log says which are left.
    """
    deadline = boottime() + _LONGEST_KILLING
    while left := find():
        for pid in left:
            kill_if(is_meant, pid)
        reap()
        if boottime() >= deadline:
            logs.warn("leftovers_remain", pids=sorted(left))
            return
        time.sleep(_KILLED_AGAIN_AFTER)


def mount_of(path: Path) -> bytes:
    """The number of the mount that a path is on, for a disk may be mounted at several places; empty if unknown.

    Raises OSError.
    """
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        facts = read_file(f"/proc/self/fdinfo/{descriptor}").splitlines()
        return b"".join(fact for fact in facts if fact.startswith(b"mnt_id:"))
    finally:
        os.close(descriptor)


def mounts_in(directory: str) -> list[str]:
    """The mount points below a directory, which is absolute and without links; none where /proc does not tell."""
    found: list[str] = []
    with suppress(OSError):
        for line in read_file("/proc/self/mountinfo").splitlines():
            point = os.fsdecode(_ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), line.split()[4]))
            if point.startswith(directory.rstrip("/") + "/"):
                found.append(point)
    return found


def file_system_of(path: str) -> int:
    """The number by which the kernel knows the kind of the file system that the path is on. Raises OSError."""
    status = ctypes.create_string_buffer(_LARGEST_STATFS)
    if _libc.statfs(os.fsencode(path), status) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), path)
    return ctypes.c_ulong.from_buffer(status).value  # its first field


def oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes of this container the OOM killer has killed; None if the kernel does not tell."""
    for counter in _oom_counters(root):
        with suppress(OSError, ValueError):
            for line in counter.read_text().splitlines():
                name, _, number = line.partition(" ")
                if name == "oom_kill":
                    return int(number)
    return None


def _oom_counters(root: Path) -> Iterator[Path]:
    """The files that may hold the counter, the most specific first: of our cgroup (v1 or v2), of the system.

    A container may see its own cgroup mounted as the root, while /proc/self/cgroup shows the host's path of it.
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
