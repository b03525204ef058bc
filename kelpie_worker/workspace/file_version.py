"""Reading one version of a file, however long that takes and whatever happens to the file meanwhile.

A file is read through one descriptor. If it is replaced by a rename meanwhile, the old inode is read to its end;
if it grows, its first bytes still are that version; if it is rewritten in place, Spoiled is raised.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from kelpie_worker.system.open_files import FileId
from kelpie_worker.workspace.paths import own_name

_BLOCK = 8 * 1024 * 1024
_TAIL = 4096


class Spoiled(Exception):
    """The file was removed or rewritten while it was read: what was read is no version of it."""


class NoCopy(Exception):
    """A file cannot be copied: the disk is full, or permission is missing."""


@dataclass(frozen=True)
class Signature:
    """What tells one version of a file from another, even if the program that wrote it restored its mtime.

    Renaming a file may change its `ctime_ns` and no other field. Two that differ are two versions. Two that are
    equal may be two all the same: see checkpoints/unseen_changes.py.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int = 0
    device: int = 0

    @property
    def file(self) -> FileId:
        """The file that it is a version of: an inode number alone may be on several disks."""
        return self.device, self.inode

    def is_longer(self, before: "Signature") -> bool:
        """Whether it is the same file with more bytes; not, whether it was only appended to."""
        return self.file == before.file and self.size > before.size

    def is_but_renamed(self, other: "Signature") -> bool:
        """Whether both may be one version under two names.

        To be used only if no process can have written between.
        """
        return (self.file, self.size, self.mtime_ns) == (other.file, other.size, other.mtime_ns)


Snapshot = dict[str, Signature]  # by path relative to the directory, with `/`


def signature_of(status: os.stat_result) -> Signature:
    return Signature(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_dev)


class PinnedFile:
    """One version of a file, held by an open descriptor. Methods raise Spoiled and OSError."""

    def __init__(self, descriptor: int, path: str) -> None:
        """The current version of an open file. `path` is for errors; the descriptor is closed on exit."""
        self._descriptor = descriptor
        self._path = path
        self._version = signature_of(os.fstat(descriptor))
        self._digest = hashlib.blake2b()
        self._skipped = 0  # bytes of the beginning that `blocks` leaves out
        self.tail = b""  # the last bytes, up to _TAIL, of what was read

    @classmethod
    def of(cls, path: str, version: Signature, may_have_grown: bool = False) -> "PinnedFile":
        """With `may_have_grown` the version may be the beginning of what is there now."""
        try:
            # Non-blocking: if the file was replaced by a pipe, open must not wait for its other end.
            file = cls(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), path)
        except (FileNotFoundError, NotADirectoryError) as error:  # also its folder may be a file by now
            raise Spoiled(path) from error
        now, file._version = file._version, version
        has_grown = now.file == version.file and now.size > version.size
        if now != version and not (may_have_grown and has_grown):
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

    @property
    def digest(self) -> bytes:
        """The digest of what was read: of the whole version, after `blocks`."""
        return self._digest.digest()

    def skip(self, lengths: Sequence[int]) -> list[bytes]:
        """Read the beginning in pieces of these lengths, before `blocks`, which then leaves it out.

        Returns the MD5 of each piece.
        """
        digests = []
        for length in lengths:
            piece = hashlib.md5(usedforsecurity=False)
            for block in self._read(_BLOCK, self._skipped, self._skipped + length):
                piece.update(block)
            self._skipped += length
            digests.append(piece.digest())
        return digests

    def digest_of_first(self, size: int) -> bytes:
        """The digest of the first `size` bytes, of which `skip` has read all or some."""
        digest = self._digest.copy()
        for offset in range(self._skipped, size, _BLOCK):
            digest.update(self._read_at(offset, min(_BLOCK, size - offset)))
        return digest.digest()

    def blocks(self, size: int) -> Iterator[bytes]:
        """The content in blocks of equal size, the last one shorter; an empty file is one empty block."""
        yield from self._read(size, self._skipped, self.size) if self.size else iter([b""])

    def verify(self) -> None:
        """Check after `blocks` that what was read is that version. Raises Spoiled."""
        now = signature_of(os.fstat(self._descriptor))
        if now == self._version:
            return
        rewritten = now.size == self._version.size and now.mtime_ns != self._version.mtime_ns
        if now.size < self._version.size or rewritten:
            raise Spoiled(self._path)
        # Grown, renamed, or rewritten with its mtime restored: only reading it again tells them apart.
        first, self._digest = self._digest.digest(), hashlib.blake2b()
        for _ in self._read(_BLOCK, 0, self.size):
            pass
        if self._digest.digest() != first:
            raise Spoiled(self._path)

    def has_moved(self) -> bool:
        """Whether its signature has changed since it was opened."""
        return signature_of(os.fstat(self._descriptor)) != self._version

    def copy_to(self, copy: IO[bytes]) -> None:
        """Copy the version. Faster than `blocks`, because no digest is computed: so any change raises Spoiled."""
        for offset in range(0, self.size, _BLOCK):
            block = self._read_at(offset, min(_BLOCK, self.size - offset))
            if copy.write(block) < len(block):
                raise OSError("the disk took only a part")
        if self.has_moved():
            raise Spoiled(self._path)

    def _read(self, size: int, offset: int, end: int) -> Iterator[bytes]:
        while offset < end:
            block = self._read_at(offset, min(size, end - offset))
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


def digest_of(path: str, version: Signature, go_on: Callable[[], None]) -> bytes:
    """The digest of a version, as `PinnedFile` has it after it was read.

    `go_on` is called between blocks, and may raise. Raises Spoiled if the file has another signature, before or
    after; OSError.
    """
    with PinnedFile.of(path, version) as file:
        for _ in file.blocks(_BLOCK):
            go_on()
            if file.has_moved():
                raise Spoiled(path)
        return file.digest


def tail_of(path: str, size: int) -> bytes:
    """The last bytes, up to _TAIL, of the file's first `size` bytes as it is now; empty if it cannot be read."""
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


def begins_with(path: str, size: int, digest: bytes) -> bool:
    """Whether the file's first `size` bytes, as it is now, have that digest. Reads them all. Raises OSError."""
    try:
        with PinnedFile(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), path) as file:
            return file.digest_of_first(size) == digest
    except (Spoiled, FileNotFoundError):  # it is shorter, or gone
        return False


@contextmanager
def nameless(folder: str) -> Iterator[IO[bytes]]:
    """A temporary file without a name, deleted by the system when it is closed. Raises NoCopy."""
    try:
        file = tempfile.TemporaryFile(prefix=own_name("copy-"), dir=folder, buffering=0)  # noqa: SIM115 - below
    except OSError as error:
        raise NoCopy(str(error)) from error
    with file:
        yield file
