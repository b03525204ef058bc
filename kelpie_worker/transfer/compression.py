"""Compression of uploads, and decompression of downloads."""

import errno
import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_BLOCK = 1024 * 1024
# Bytes that any file may unpack to: a checkpoint that is mostly zeros packs a thousand times, and must come back.
MOST_UNPACKED = 64 * 1024**3
LARGEST_RATIO = 200  # of unpacked to packed bytes beyond that; deflate reaches 1030, checkpoints stay below 10
ROOM_LEFT = 64 * 1024 * 1024  # bytes that unpacking leaves free on the disk, for the state file among others


class NotPacked(Exception):
    """The file is no gzip file, or an incomplete one."""


def gzipped(blocks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The blocks compressed, in blocks of `size` again; the same content gives the same bytes."""
    packer = zlib.compressobj(wbits=31)
    waiting = b""
    for block in blocks:
        waiting += packer.compress(block)
        while len(waiting) >= size:
            yield waiting[:size]
            waiting = waiting[size:]
    waiting += packer.flush()
    while waiting:
        yield waiting[:size]
        waiting = waiting[size:]


class Bomb(NotPacked):
    """It unpacks to far more than it holds."""


def gunzipped(packed: Path, key: str) -> Path:
    """Unpack a file into one beside it and delete it; returns the new path. `key` is for errors.

    Raises NotPacked, Bomb, OSError.
    """
    unpacked = packed.with_name(packed.name + ".out")
    try:
        with gzip.open(packed) as source, unpacked.open("wb") as target:
            _copy_within_limits(source, target, packed.stat().st_size, key)
    except BaseException as error:
        unpacked.unlink(missing_ok=True)
        if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
            raise NotPacked(f"{key} cannot be unpacked: {error}") from error
        raise
    packed.unlink()
    return unpacked


def _copy_within_limits(source: gzip.GzipFile, target: IO[bytes], packed_size: int, key: str) -> None:
    """Copy what is unpacked. Raises Bomb; OSError (ENOSPC) where the disk has no room for an ordinary file."""
    written = 0
    while block := source.read(_BLOCK):
        written += len(block)
        swells = written > LARGEST_RATIO * packed_size
        if swells and written > MOST_UNPACKED:
            raise Bomb(
                f"{key} unpacks to more than {MOST_UNPACKED // 1024**3} GiB and {LARGEST_RATIO} times its own"
                f" {packed_size} bytes; store it without compression"
            )
        if _free(target) < ROOM_LEFT + len(block):
            if swells:
                raise Bomb(
                    f"{key} unpacks to more than {LARGEST_RATIO} times its own {packed_size} bytes, for which this"
                    " disk has no room"
                )
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {key} is not unpacked", target.name)
        target.write(block)


def _free(file: IO[bytes]) -> int:
    """Bytes that are free on the file's disk."""
    disk = os.fstatvfs(file.fileno())
    return disk.f_bavail * disk.f_frsize
