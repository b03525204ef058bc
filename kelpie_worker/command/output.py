"""The output of a command: passed on to the worker's own stdout and stderr, while its last bytes are kept."""

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
_SMALL_CHUNK = 4096  # bytes; small reads are joined up to this size, so that single bytes cost no object each
_LONGEST_FLUSH = 1.0  # seconds for the last bytes to be written; while the reader is blocked, they never are


@dataclass
class _Chunk:
    number: int  # the order in which the chunks of both streams were read
    content: bytearray


@dataclass
class _Stream:
    chunks: deque[_Chunk] = field(default_factory=deque)
    held: int = 0


class OutputRelay:
    """Passes on the two output streams of one command, each in its own thread, and keeps their last bytes.

    A thread blocks while the reader of the worker's output does. If stdout and stderr of the worker are the same
    file, the command gets one pipe for both, so that the order of what it writes is kept.
    """

    def __init__(self, size: int, secrets: Collection[bytes], after: "OutputRelay | None" = None) -> None:
        """Keep `size` bytes. The output of `after`, the relay of the previous command, is written first."""
        self._size = size
        self._secrets = secrets
        # A secret that was cut at its beginning would not be recognized. So one secret's length more is kept, and
        # cut off after masking.
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
        """The file descriptor that is the command's stdout."""
        return self._pipes[STDOUT][1]

    @property
    def stderr(self) -> int:
        return self._pipes.get(STDERR, self._pipes[STDOUT])[1]

    def begin(self) -> None:
        """Start to pass on. To be called once the command has its ends of the pipes, or failed to start.

        Our copies of those ends are closed, so that the pipes end with the command.
        """
        for _, written in self._pipes.values():
            os.close(written)
        for thread in self._threads:
            thread.start()

    def wait(self, timeout: float | None = _LONGEST_FLUSH) -> None:
        """Wait until everything is passed on, at most `timeout` seconds for each stream; None: without limit."""
        for thread in self._threads:
            thread.join(timeout)

    def text(self) -> str:
        """The last `size` bytes of both streams, in the order in which they were read, with secrets masked."""
        with self._lock:
            numbered = [piece for stream in self._streams.values() for piece in self._masked(stream)]
        whole = b"".join(content for _, content in sorted(numbered))
        kept = whole[-self._size :]
        if len(kept) < len(whole):
            kept = _from_a_whole_character(kept)
        return kept.decode(errors="replace").replace("\0", "\ufffd")  # no database keeps a NUL

    def _pass_on(self, source: int, target: int, after: "OutputRelay | None") -> None:
        if after:
            after.wait(None)
        try:
            self._copy(source, target)
        except BrokenPipeError:
            pass  # the reader is gone: closing our end gives the command SIGPIPE, as if it wrote there directly
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
            except OSError as error:  # such as a full disk: the command goes on, its output is read and dropped
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
        """A stream's chunks, masked, with their numbers. A secret may extend over several chunks.

        A mask has the length of its secret, so that the chunks keep their lengths.
        """
        masked = mask(b"".join(chunk.content for chunk in stream.chunks), self._secrets)
        for chunk in stream.chunks:
            yield chunk.number, masked[: len(chunk.content)]
            masked = masked[len(chunk.content) :]


def _write_all(target: int, block: bytes) -> None:
    left = memoryview(block)
    while left:
        try:
            left = left[os.write(target, left) :]
        except BlockingIOError:  # another process that shares the file made it non-blocking
            poll = select.poll()
            poll.register(target, select.POLLOUT)
            poll.poll()


def _from_a_whole_character(content: bytes) -> bytes:
    """The content without the remaining bytes of a UTF-8 character that was cut at its beginning."""
    for cut in range(min(4, len(content))):
        if content[cut] & 0xC0 != 0x80:
            return content[cut:]
    return content
