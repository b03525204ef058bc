"""Which files a sync block means. The one place that knows the dialect of its `pattern`.

A pattern is a stranger's program: some need longer than the universe for one name, and while the engine looks
it lets no other thread run. So a process of its own looks, which the kernel ends when one name takes too long.
"""

import multiprocessing
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize

from regress import Regex, RegressError

LONGEST_LOOK = 1.0  # seconds of CPU time for one name: what else the machine does cannot use it up
_MOST_REMEMBERED = 100_000  # names


class PatternTooSlow(ValueError):
    """The pattern cannot be matched against a name in any reasonable time."""


def matcher(pattern: str | None) -> Callable[[str], bool]:
    """Whether a name holds a match: the whole key of a download, the relative path of an upload.

    Patterns are ECMAScript's
    (docs/design/protocol.md, Sync blocks), which Python's `re` reads differently. ValueError for one
    that does not compile; the function that is returned may raise PatternTooSlow.
    """
    if pattern is None:
        return lambda name: True
    try:
        Regex(pattern)
    except RegressError as error:
        raise ValueError(f"the pattern {pattern!r} does not compile: {error}") from error
    return _Remembering(pattern)


class _Remembering:
    """Asks for each name once: a watched directory has the same names in every scan."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._known: dict[str, bool] = {}

    def __call__(self, name: str) -> bool:
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            known = self._known[name] = _judge.finds(self._pattern, name)
        return known


class Judge:
    """The process that looks, started on first need; from any thread, one look at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: SpawnProcess | None = None
        self._line: Connection | None = None

    def finds(self, pattern: str, name: str) -> bool:
        """Raises PatternTooSlow; OSError if the process was ended by somebody else."""
        with self._lock:
            line = self._line or self._start()
            try:
                line.send((pattern, name))
                return bool(line.recv())
            except (EOFError, OSError) as error:
                if self._end() == -signal.SIGPROF:
                    raise PatternTooSlow(
                        f"the pattern {pattern!r} needs more than {LONGEST_LOOK:.0f} s for the name {name!r}"
                    ) from error
                raise OSError("the process that matches patterns was ended") from error

    def _start(self) -> Connection:
        spawn = multiprocessing.get_context("spawn")
        self._line, theirs = spawn.Pipe()
        # A daemon, so that nobody waits for it; the end of the line tells it to end.
        self._process = spawn.Process(target=look, args=(theirs,), daemon=True, name="pattern")
        self._process.start()
        theirs.close()
        # At our end, before multiprocessing waits for its daemons: this one heeds no SIGTERM.
        Finalize(None, self._line.close, exitpriority=1)
        return self._line

    def _end(self) -> int | None:
        assert self._process and self._line
        self._line.close()
        self._process.join()
        exit_code = self._process.exitcode
        self._process = self._line = None
        return exit_code


def look(line: Connection) -> None:
    """Answer whether patterns are found in names, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process also where no Python code can run
    compiled: dict[str, Regex] = {}
    try:
        while True:
            pattern, name = line.recv()
            regex = compiled.setdefault(pattern, Regex(pattern))
            signal.setitimer(signal.ITIMER_PROF, LONGEST_LOOK)
            found = regex.find(name) is not None
            signal.setitimer(signal.ITIMER_PROF, 0)
            line.send(found)
    except (EOFError, OSError):
        return


_judge = Judge()
