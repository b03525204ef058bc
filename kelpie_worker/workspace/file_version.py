"""One version of a file, however long it takes to read it, and whatever becomes of the file meanwhile.

A file is read through one descriptor. Replaced by rename meanwhile, it is read whole from its old inode; grown
meanwhile, its first bytes are as they were; rewritten in place, it is Spoiled.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from kelpie_worker.workspace.paths import own_name

_BLOCK = 8 * 1024 * 1024
_TAIL = 4096


class Spoiled(Exception):
    """The file was removed or rewritten while it was read; there is a newer version to send."""


class NoCopy(Exception):
    """There is no room for a copy, or no permission."""


@dataclass(frozen=True)
class Signature:
    """A file's version: another content has another signature, also where its writer restores the times.

    Renaming may change `ctime_ns`, and nothing else.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int = 0

    def is_but_renamed(self, other: "Signature") -> bool:
        """Whether they may be one version, moved. Only where nobody can have written between."""
        return (self.inode, self.size, self.mtime_ns) == (other.inode, other.size, other.mtime_ns)


Snapshot = dict[str, Signature]  # by path relative to the directory, with `/`


def signature_of(status: os.stat_result) -> Signature:
    return Signature(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class PinnedFile:
    """One version of a file, held by its descriptor. Raises Spoiled, OSError."""

    def __init__(self, descriptor: int, path: str) -> None:
        """The version that it is in now. `path` is for errors; the descriptor is closed in the end."""
        self._descriptor = descriptor
        self._path = path
        self._version = signature_of(os.fstat(descriptor))
        self._digest = hashlib.blake2b()
        self.tail = b""  # of what was read

    @classmethod
    def of(cls, path: str, version: Signature) -> "PinnedFile":
        try:
            # Not blocking: what was a file a moment ago may be a pipe now.
            file = cls(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), path)
        except FileNotFoundError as error:
            raise Spoiled(path) from error
        if file._version != version:
            os.close(file._descriptor)
            raise Spoiled(path)
        return file

    @property
    def size(self) -> int:
        return self._version.size

    def __enter__(self) -> "PinnedFile":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def blocks(self, size: int) -> Iterator[bytes]:
        """The content in blocks of equal size, the last one shorter; an empty file is one empty block."""
        self._digest = hashlib.blake2b()
        yield from self._read(size) if self._version.size else iter([b""])

    def verify(self) -> None:
        """After `blocks`: that what was read is what the file held. Raises Spoiled."""
        now = signature_of(os.fstat(self._descriptor))
        if now == self._version:
            return
        rewritten = now.size == self._version.size and now.mtime_ns != self._version.mtime_ns
        if now.size < self._version.size or rewritten:
            raise Spoiled(self._path)
        # Grown, renamed, or written with its time restored: nothing but a second reading tells them apart.
        first, self._digest = self._digest.digest(), hashlib.blake2b()
        for _ in self._read(_BLOCK):
            pass
        if self._digest.digest() != first:
            raise Spoiled(self._path)

    def copy_to(self, copy: IO[bytes]) -> None:
        """Faster than by `blocks`, for no digest is made: so whatever happens to the file meanwhile spoils it."""
        for offset in range(0, self.size, _BLOCK):
            block = self._read_at(offset, min(_BLOCK, self.size - offset))
            if copy.write(block) < len(block):
                raise OSError("the disk took only a part")
        if signature_of(os.fstat(self._descriptor)) != self._version:
            raise Spoiled(self._path)

    def _read(self, size: int) -> Iterator[bytes]:
        offset = 0
        while offset < self._version.size:
            block = self._read_at(offset, min(size, self._version.size - offset))
            self._digest.update(block)
            offset += len(block)
            self.tail = (self.tail + block[-_TAIL:])[-_TAIL:]
            yield block

    def _read_at(self, offset: int, length: int) -> bytes:
        pieces = []
        while length:
            piece = os.pread(self._descriptor, length, offset)
            if not piece:
                raise Spoiled(self._path)  # truncated
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return b"".join(pieces)


def tail_of(path: str, size: int) -> bytes:
    """The last bytes of the first `size` of a file as it is now; none if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        start = max(0, size - _TAIL)
        return os.pread(descriptor, size - start, start)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


@contextmanager
def nameless(folder: str) -> Iterator[IO[bytes]]:
    """A file that is gone once it is closed. Raises NoCopy."""
    try:
        file = tempfile.TemporaryFile(prefix=own_name("copy-"), dir=folder, buffering=0)  # noqa: SIM115 - below
    except OSError as error:
        raise NoCopy(str(error)) from error
    with file:
        yield file
