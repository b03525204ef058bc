"""Write an answer's body to a file while its MD5 is computed beside, in blocks that are used again and again."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from kelpie_worker.s3.answers import Answer, fill

_BLOCK = 256 * 1024  # bytes
_BLOCKS = 4
_own = threading.local()


def received_into(path: Path, answer: Answer, check: Callable[[], None], with_md5: bool) -> tuple[int, str]:
    """Write a body to a new file. Returns the number of bytes and their MD5, which is empty unless it is wanted.

    `check` is called for each block, and raises to end this. Raises OSError, and what the answer raises.
    """
    with new_file(path) as descriptor:
        block = own_block()
        count = fill(answer, block)
        check()
        write_at(descriptor, block[:count], 0)
        if count < len(block):  # the usual case: no other thread is worth its start
            return count, hashlib.md5(block[:count], usedforsecurity=False).hexdigest() if with_md5 else ""
        with SumBeside(block, with_md5) as md5:
            return _write_rest(descriptor, answer, check, md5, count), md5.hexdigest()


def _write_rest(descriptor: int, answer: Answer, check: Callable[[], None], md5: SumBeside, position: int) -> int:
    """Write what follows `position`; returns the size of the file."""
    while True:
        block = md5.free_block()
        count = fill(answer, block)
        check()
        if not count:
            return position
        write_at(descriptor, block[:count], position)
        md5.add(block, count)
        position += count


class SumBeside:
    """An MD5 that another thread computes, so that it takes no time from the one that waits for the next block."""

    def __init__(self, begun: memoryview, is_wanted: bool) -> None:
        """`begun` is the beginning of the content."""
        self._digest = hashlib.md5(begun, usedforsecurity=False) if is_wanted else None
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._filled: SimpleQueue[tuple[memoryview, int] | None] = SimpleQueue()
        for _ in range(_BLOCKS):
            self._free.put(memoryview(bytearray(_BLOCK)))
        self._thread = threading.Thread(target=self._compute, daemon=True, name="md5")

    def __enter__(self) -> SumBeside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._filled.put(None)
        self._thread.join()

    def free_block(self) -> memoryview:
        """A block to fill, as soon as there is one."""
        return self._free.get()

    def add(self, block: memoryview, count: int) -> None:
        """Add the first bytes of a block, which is free again after that."""
        if self._digest:
            self._filled.put((block, count))
        else:
            self._free.put(block)

    def hexdigest(self) -> str:
        """The sum of all that was added; empty if none is wanted."""
        self._filled.put(None)
        self._thread.join()
        return self._digest.hexdigest() if self._digest else ""

    def _compute(self) -> None:
        while filled := self._filled.get():
            block, count = filled
            if self._digest:
                self._digest.update(block[:count])
            self._free.put(block)


def write_at(descriptor: int, content: memoryview, position: int) -> None:
    """Write all of it. Raises OSError."""
    while content:
        written = os.pwrite(descriptor, content, position)
        content, position = content[written:], position + written


@contextmanager
def new_file(path: Path) -> Iterator[int]:
    """The descriptor of a file that is made, or emptied, to be written."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def own_block() -> memoryview:
    """A block of this thread's own, for as long as it lives."""
    if not hasattr(_own, "block"):
        _own.block = memoryview(bytearray(_BLOCK))
    block: memoryview = _own.block
    return block
