"""Restarting dead children with backoff, until one dies too often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.linux import boottime
from kelpie_worker.system.retry import sleep

_QUICK_DEATH = 30.0  # seconds; a child that lives shorter is restarted with a pause
_MOST_QUICK_DEATHS = 5  # of one child in a row
_BACKOFF = Backoff(0.1, 2.0)


class ChildKeepsDying(Exception):
    """A child died several times in a row soon after its start: restarting it does not help."""


@dataclass
class _Child:
    started: float  # CLOCK_BOOTTIME
    quick_deaths: int = 0  # in a row


class Restarts:
    """Restarts dead children: at once after a long life, with growing pauses after quick deaths in a row."""

    def __init__(self, start: Callable[[str], None], pause: Callable[[float], object] = sleep) -> None:
        self._start = start
        self._pause = pause
        self._begun = boottime()
        self._children: dict[str, _Child] = {}  # by name, once restarted

    def restart(self, name: str) -> None:
        """Start the child again. Raises ChildKeepsDying after too many quick deaths in a row."""
        child = self._children.setdefault(name, _Child(self._begun))
        lived = boottime() - child.started
        quick = child.quick_deaths = child.quick_deaths + 1 if lived < _QUICK_DEATH else 0
        if quick >= _MOST_QUICK_DEATHS:
            raise ChildKeepsDying(f"its {name} died {quick} times in a row, each time within {_QUICK_DEATH:.0f} s")
        if quick:
            self._pause(_BACKOFF.after(quick))
        child.started = boottime()
        self._start(name)
