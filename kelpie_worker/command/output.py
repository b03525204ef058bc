"""The last bytes of what a command prints, kept while the whole goes where it would go anyway."""

import os
import select
import threading
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from kelpie_worker import logs
from kelpie_worker.command.masking import mask

STDOUT, STDERR = 1, 2
_BLOCK = 65_536
_SMALL_CHUNK = 4096  # what is printed in single bytes must not cost an object each
_PATIENCE = 1.0  # seconds for the last bytes to get through; where nobody reads, they never do


@dataclass
class _Chunk:
    number: int  # by which the streams' chunks are put in the order in which they were read
    content: bytearray


@dataclass
class _Stream:
    chunks: deque[_Chunk] = field(default_factory=deque)
    held: int = 0


class Tail:
    """The streams of one command, each passed on by a thread of its own, which waits as long as its reader does.

    Where stdout and stderr are one, they share a pipe, so that the order of what is written to them stays.
    """

    def __init__(self, size: int, secrets: Collection[bytes], after: "Tail | None" = None) -> None:
        """Keep `size` bytes; what is left of the streams `after` which these come goes out first."""
        self._size = size
        self._secrets = secrets
        # A secret of which only the end was kept would not be recognized: so much more is kept, and cut off.
        self._limit = size + max(map(len, secrets), default=0)
        self._streams: dict[int, _Stream] = {}
        self._number = 0
        self._lock = threading.Lock()
        self._pipes = {STDOUT: os.pipe()}
        if not os.path.sameopenfile(STDOUT, STDERR):
            self._pipes[STDERR] = os.pipe()
        self._threads = [
            threading.Thread(target=self._pass_on, args=(pipe[0], target, after), daemon=True, name="output")
            for target, pipe in self._pipes.items()
        ]

    @property
    def stdout(self) -> int:
        """What the command is to write to."""
        return self._pipes[STDOUT][1]

    @property
    def stderr(self) -> int:
        return self._pipes.get(STDERR, self._pipes[STDOUT])[1]

    def begin(self) -> None:
        """The command has its ends of the pipes, or will never have them: without ours the end of it is heard."""
        for _, written in self._pipes.values():
            os.close(written)
        for thread in self._threads:
            thread.start()

    def wait(self, patience: float | None = _PATIENCE) -> None:
        """Until everything has gone out, or has not for so many seconds."""
        for thread in self._threads:
            thread.join(patience)

    def text(self) -> str:
        """The last bytes of both streams in the order in which they were read, secrets masked."""
        with self._lock:
            numbered = [piece for stream in self._streams.values() for piece in self._masked(stream)]
        whole = b"".join(content for _, content in sorted(numbered))
        kept = whole[-self._size :]
        if len(kept) < len(whole):
            kept = _from_a_whole_character(kept)
        return kept.decode(errors="replace").replace("\0", "\ufffd")  # no database keeps a NUL

    def _pass_on(self, source: int, target: int, after: "Tail | None") -> None:
        if after:
            after.wait(None)
        try:
            self._copy(source, target)
        except BrokenPipeError:
            pass  # its reader is gone: with our end closed the command hears of it as it would without us
        finally:
            os.close(source)

    def _copy(self, source: int, target: int) -> None:
        writable = True
        while block := os.read(source, _BLOCK):
            self._keep(target, block)
            try:
                if writable:
                    _write_all(target, block)
            except BrokenPipeError:
                raise
            except OSError as error:  # a full disk is no reason to stop a command that might not even notice
                writable = False
                logs.warn("output_not_written", descriptor=target, detail=str(error))

    def _keep(self, target: int, block: bytes) -> None:
        with self._lock:
            stream = self._streams.setdefault(target, _Stream())
            last = stream.chunks[-1] if stream.chunks else None
            if last and last.number == self._number and len(last.content) < _SMALL_CHUNK:
                last.content += block
            else:
                self._number += 1
                stream.chunks.append(_Chunk(self._number, bytearray(block)))
            stream.held += len(block)
            while stream.held - len(stream.chunks[0].content) >= self._limit:
                stream.held -= len(stream.chunks.popleft().content)

    def _masked(self, stream: _Stream) -> Iterator[tuple[int, bytes]]:
        """A stream's chunks with their numbers. A secret may lie in several; its mask is as long as itself."""
        masked = mask(b"".join(chunk.content for chunk in stream.chunks), self._secrets)
        for chunk in stream.chunks:
            yield chunk.number, masked[: len(chunk.content)]
            masked = masked[len(chunk.content) :]


def _write_all(target: int, block: bytes) -> None:
    left = memoryview(block)
    while left:
        try:
            left = left[os.write(target, left) :]
        except BlockingIOError:  # somebody who shares it made it so
            poll = select.poll()
            poll.register(target, select.POLLOUT)
            poll.poll()


def _from_a_whole_character(content: bytes) -> bytes:
    """Without the rest of a character in UTF-8 that was cut."""
    for cut in range(min(4, len(content))):
        if content[cut] & 0xC0 != 0x80:
            return content[cut:]
    return content
