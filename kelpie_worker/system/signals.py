"""Signals: the ones that end the supervisor, and its children ignore all of them, because it ends them."""

import signal
from collections.abc import Callable

from kelpie_worker.system.linux import boottime

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_MAY_BE_IGNORED = (signal.SIGHUP, signal.SIGQUIT)  # `nohup`, or & in a shell, start a program that ignores them
_MEANINGLESS = (signal.SIGUSR1, signal.SIGUSR2)  # their default action would end the process without a log line


def when_told_to_end(end: Callable[[int], object]) -> None:
    """Call `end` with the number of every signal that asks this process to end; a later call replaces it."""
    for number in _ENDING:
        if number not in _MAY_BE_IGNORED or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: end(number))
    for number in _MEANINGLESS:
        signal.signal(number, signal.SIG_IGN)


def leave_to_supervisor() -> None:
    """Ignore the signals that end a process: sent to the whole process group, they are for the supervisor."""
    for number in (*_ENDING, *_MEANINGLESS):
        signal.signal(number, signal.SIG_IGN)


class Termination:
    """Whether SIGTERM reached this process lately, which ignores it otherwise.

    Slurm, and systemd without `KillMode=mixed`, send it to all of a worker's processes at once, its command's too.
    """

    def __init__(self) -> None:
        self._received: float | None = None
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: object) -> None:
        self._received = boottime()

    def within(self, seconds: float) -> bool:
        """Whether it came within so many last seconds."""
        return self._received is not None and boottime() - self._received <= seconds


def as_usual() -> None:
    """Restore the default action of every signal that this module changes."""
    for number in (*_ENDING, *_MEANINGLESS):
        signal.signal(number, signal.SIG_DFL)
