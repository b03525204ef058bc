"""The `pattern` of a sync block: which files it matches. No other module knows its dialect.

A pattern comes from a job and may need exponential time, during which the regex engine holds the interpreter's
lock. So patterns are matched in a process of their own, which the kernel kills when one name takes too long.
"""

import multiprocessing
import signal
import threading
from collections.abc import Callable
from functools import lru_cache, partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize

from regress import Regex, RegressError

from kelpie_worker.limits import LONGEST_PATTERN

LONGEST_MATCH = 1.0  # seconds of CPU time for one name, so that a busy machine does not use it up
_MOST_CACHED = 100_000  # names


class PatternTooSlow(ValueError):
    """Matching the pattern against a name took longer than LONGEST_MATCH."""


def matcher(pattern: str | None) -> Callable[[str], bool]:
    """A function that tells whether a name contains a match (docs/design/protocol.md, Sync blocks).

    The name is the whole key for a download, the relative path for an upload. Patterns are ECMAScript's, which
    Python's `re` reads differently. Raises ValueError for one that does not compile; the returned function may
    raise PatternTooSlow.
    """
    if pattern is None:
        return lambda name: True
    if len(pattern) > LONGEST_PATTERN:
        # Not even compiled: that could overflow the stack, which would end this process.
        raise ValueError(f"the pattern {pattern[:40]!r}... does not compile: over {LONGEST_PATTERN} characters")
    try:
        Regex(pattern)
    except RegressError as error:
        raise ValueError(f"the pattern {pattern!r} does not compile: {error}") from error
    # Each name is matched once: a watched directory has the same names in every scan.
    return lru_cache(_MOST_CACHED)(partial(_process.finds, pattern))


class MatcherProcess:
    """The process that matches patterns, started on first use.

    Threads may share it; it matches one name at a time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    def finds(self, pattern: str, name: str) -> bool:
        """Whether the name contains a match.

        Raises PatternTooSlow; OSError if the process was killed otherwise.
        """
        with self._lock:
            connection = self._connection or self._start()
            try:
                connection.send((pattern, name))
                return bool(connection.recv())
            except (EOFError, OSError) as error:
                if self._end() == -signal.SIGPROF:
                    raise PatternTooSlow(
                        f"the pattern {pattern!r} needs more than {LONGEST_MATCH:.0f} s for the name {name!r}"
                    ) from error
                raise OSError("the process that matches patterns was ended") from error

    def _start(self) -> Connection:
        spawn = multiprocessing.get_context("spawn")
        self._connection, child_end = spawn.Pipe()
        # A daemon, so that the exit of this process does not wait for it: it ends when the connection is closed.
        self._process = spawn.Process(target=serve, args=(child_end,), daemon=True, name="pattern")
        self._process.start()
        child_end.close()
        # multiprocessing joins its daemons when this process exits, and this one ignores SIGTERM. So the
        # connection must be closed before that.
        Finalize(None, self._connection.close, exitpriority=1)
        return self._connection

    def _end(self) -> int | None:
        assert self._process and self._connection
        self._connection.close()
        self._process.join()
        exit_code = self._process.exitcode
        self._process = self._connection = None
        return exit_code


def serve(connection: Connection) -> None:
    """The process: answers whether a pattern is found in a name, until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the default action kills, though no Python code can run then
    compiled: dict[str, Regex] = {}
    try:
        while True:
            pattern, name = connection.recv()
            regex = compiled.setdefault(pattern, Regex(pattern))
            signal.setitimer(signal.ITIMER_PROF, LONGEST_MATCH)
            found = regex.find(name) is not None
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send(found)
    except (EOFError, OSError):
        return


_process = MatcherProcess()
