"""Compression of uploads, and decompression of downloads."""

import gzip
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path


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


def gunzipped(packed: Path, key: str) -> Path:
    """Unpack a file into one beside it and delete it; returns the new path. `key` is for errors.

    Raises NotPacked, OSError.
    """
    unpacked = packed.with_name(packed.name + ".out")
    try:
        with gzip.open(packed) as source, unpacked.open("wb") as target:
            shutil.copyfileobj(source, target, 1024 * 1024)
    except BaseException as error:
        unpacked.unlink(missing_ok=True)
        if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
            raise NotPacked(f"{key} cannot be unpacked: {error}") from error
        raise
    packed.unlink()
    return unpacked
