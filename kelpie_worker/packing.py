"""Compressing what goes up, and unpacking what comes down."""

import gzip
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path


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


def gunzipped(packed: Path) -> Path:
    """Unpack a file into one beside it, which is left alone. OSError, EOFError, zlib.error if it is not whole."""
    unpacked = packed.with_name(packed.name + ".out")
    with gzip.open(packed) as source, unpacked.open("wb") as target:
        shutil.copyfileobj(source, target, 1024 * 1024)
    packed.unlink()
    return unpacked
