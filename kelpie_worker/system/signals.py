"""What signals mean to Kelpie's processes: the supervisor is told to end, and its children leave that to it."""

import signal
from collections.abc import Callable

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_MAY_BE_IGNORED = (signal.SIGHUP, signal.SIGQUIT)  # by who starts us with `nohup`, or with & from a shell
_MEANINGLESS = (signal.SIGUSR1, signal.SIGUSR2)  # their default would end us without a word to anybody


def when_told_to_end(end: Callable[[int], object]) -> None:
    """Call `end` with the number of every signal that asks this process to end; a later call replaces it."""
    for number in _ENDING:
        if number not in _MAY_BE_IGNORED or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: end(number))
    for number in _MEANINGLESS:
        signal.signal(number, signal.SIG_IGN)


def leave_to_supervisor() -> None:
    """Whoever signals the whole process group means the supervisor, which decides when it is time to go."""
    for number in (*_ENDING, *_MEANINGLESS):
        signal.signal(number, signal.SIG_IGN)


def as_usual() -> None:
    """As any program that does nothing about them."""
    for number in (*_ENDING, *_MEANINGLESS):
        signal.signal(number, signal.SIG_DFL)
