"""The last bytes of what a command prints, kept while the whole goes where it would go anyway."""

import base64
import json
import os
import re
import select
import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from kelpie_worker import logs

STDOUT, STDERR = 1, 2
_BLOCK = 65_536
_SMALL_CHUNK = 4096  # what is printed in single bytes must not cost an object each
_PATIENCE = 1.0  # seconds for the last bytes to get through; where nobody reads, they never do
_SHORTEST_SECRET = 4  # of a variable's value: a shorter one is a word like any other
_FLAGS = {"true", "false", "none", "null", "auto"}  # and so are these
_SHORTEST_SECRET_LINE = 16
_SECRET_NAME = re.compile(
    "KEY|TOKEN|SECRET|PASS|PWD|CREDENTIAL|AUTH|PRIVATE|SIGNATURE|COOKIE|SESSION|DSN|CONNECTION|WEBHOOK"
    "|^WANDB|^HF_|_PAT$|^PAT_",
    re.IGNORECASE,
)


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


def mask(content: bytes, secrets: Collection[bytes]) -> bytes:
    """The content with an asterisk for every byte of a secret."""
    masked = bytearray(content)
    for secret in secrets:
        at = content.find(secret)
        while at >= 0:
            masked[at : at + len(secret)] = b"*" * len(secret)
            at = content.find(secret, at + 1)
    return bytes(masked)


def secrets_of(environment: Mapping[str, str], known: Collection[str]) -> frozenset[bytes]:
    """What must not be seen of an environment: what is known to be secret, or bears a name that says so.

    Each as it is, and as programs show it: escaped, for a URL, in base64.
    """
    found = set(known)
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and not _is_plain(value):
            found.add(value)
            found |= {line for line in value.splitlines() if len(line) >= _SHORTEST_SECRET_LINE}
        found |= _password(value)
    return frozenset(form for secret in found if secret for form in _forms(secret))


def _is_plain(value: str) -> bool:
    """Whether it is no secret whatever its name: a flag, a number of workers, or a path (HF_HOME)."""
    return len(value) < _SHORTEST_SECRET or value.lower() in _FLAGS or value.startswith(("/", "./", "~/"))


def _password(url: str) -> set[str]:
    try:
        password = urlsplit(url).password if "://" in url else None
    except ValueError:
        return set()
    return {password, unquote(password, errors="surrogateescape")} if password else set()


def _forms(secret: str) -> Iterator[bytes]:
    content = secret.encode(errors="surrogateescape")
    yield content
    for escaped in (repr(secret), json.dumps(secret), json.dumps(secret, ensure_ascii=False)):
        yield escaped[1:-1].encode(errors="surrogateescape")
    yield quote(content, safe="").encode()
    yield quote(content, safe="/").encode()
    for encoded in (base64.b64encode(content), base64.urlsafe_b64encode(content)):
        yield encoded.rstrip(b"=")  # which is found where it is padded too


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
