"""The last bytes that a command printed, on both streams in the order in which they were read, secrets masked."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from kelpie_worker.command.masking import mask

_SMALL_CHUNK = 4096  # bytes; small reads are joined up to this size, so that single bytes cost no object each


@dataclass
class _Chunk:
    at: int  # the offset of its first byte in the whole output
    content: bytearray


@dataclass
class _Stream:
    chunks: deque[_Chunk] = field(default_factory=deque)
    held: int = 0


class OutputTail:
    """Keeps the last `size` bytes. Its methods may be called by any thread.

    A secret that was cut at its beginning would not be recognized. So one secret's length more is kept of each
    stream, and cut off after masking.
    """

    def __init__(self, size: int, secrets: Collection[bytes]) -> None:
        self.total = 0  # bytes that were printed
        self._size = size
        self._secrets = secrets
        self._limit = size + max(map(len, secrets), default=0)
        self._streams: dict[int, _Stream] = {}
        self._last = 0  # the stream that was printed to last
        self._lock = threading.Lock()

    def add(self, name: int, block: bytes) -> None:
        """Note what was printed to a stream."""
        with self._lock:
            stream = self._streams.setdefault(name, _Stream())
            last = stream.chunks[-1] if stream.chunks else None
            if last and last.at + len(last.content) == self.total and len(last.content) < _SMALL_CHUNK:
                last.content += block
            else:
                stream.chunks.append(_Chunk(self.total, bytearray(block)))
            self.total += len(block)
            self._last = name
            stream.held += len(block)
            while stream.held - len(stream.chunks[0].content) >= self._limit:
                stream.held -= len(stream.chunks.popleft().content)

    def text(self, size: int) -> str:
        """The last `size` bytes."""
        with self._lock:
            whole = b"".join(content for _, content in sorted(self._masked({})))
        kept = whole[-size:]
        if len(kept) < len(whole):
            kept = _from_a_whole_character(kept)
        return kept.decode(errors="replace").replace("\0", "\ufffd")  # no database keeps a NUL

    def since(self, offset: int, final: bool) -> tuple[int, bytes]:
        """What was printed from this offset on, with the offset at which it begins: later, if more was printed.

        What may be the beginning of a secret waits for the rest of it, until the output is `final`. Where the
        other stream was printed to meanwhile it is masked instead, for a piece has no holes.
        """
        with self._lock:
            begun = {} if final else {name: self._begun_secret(name) for name in self._streams}
            waiting = begun.pop(self._last, 0)
            chunks = sorted(self._masked(begun))
            end = self._place_before_the_last(waiting)
            start = min(max(offset, self.total - self._size), max(offset, end))
        parts = (content[max(0, start - at) : max(0, end - at)] for at, content in chunks)
        return start, b"".join(parts)

    def _begun_secret(self, name: int) -> int:
        """How many of the last bytes of a stream may be the beginning of a secret that goes on."""
        whole = b"".join(chunk.content for chunk in self._streams[name].chunks)
        return max((_overlap(whole, secret) for secret in self._secrets), default=0)

    def _place_before_the_last(self, count: int) -> int:
        """The offset of the first of the last `count` bytes of the stream that was printed to last."""
        for chunk in reversed(self._streams[self._last].chunks if count else ()):
            if count <= len(chunk.content):
                return chunk.at + len(chunk.content) - count
            count -= len(chunk.content)
        return self.total

    def _masked(self, begun: dict[int, int]) -> Iterator[tuple[int, bytes]]:
        """All chunks, masked, with their offsets; also the last `begun` bytes of a stream.

        A secret may extend over several chunks. A mask has the length of its secret, so that the chunks keep their
        lengths.
        """
        for name, stream in self._streams.items():
            masked = mask(b"".join(chunk.content for chunk in stream.chunks), self._secrets)
            if count := begun.get(name, 0):
                masked = masked[:-count] + b"*" * count
            done = 0
            for chunk in stream.chunks:
                yield chunk.at, masked[done : done + len(chunk.content)]
                done += len(chunk.content)


def _overlap(content: bytes, secret: bytes) -> int:
    """The length of the longest proper beginning of the secret that the content ends with."""
    first, at = secret[:1], max(0, len(content) - len(secret) + 1)
    while (at := content.find(first, at)) >= 0:
        if secret.startswith(content[at:]):
            return len(content) - at
        at += 1
    return 0


def _from_a_whole_character(content: bytes) -> bytes:
    """The content without the remaining bytes of a UTF-8 character that was cut at its beginning."""
    for cut in range(min(4, len(content))):
        if content[cut] & 0xC0 != 0x80:
            return content[cut:]
    return content
