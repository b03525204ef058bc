"""Salad's container groups as the autoscaler works on them: with the coordinator's own key, patiently, and within
a budget of requests."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from kelpie_api.allowance import Allowance
from kelpie_api.errors import NoAnswer
from kelpie_api.salad import GroupName, Salad

LONGEST_PAUSE = 60.0  # who is asked to wait longer leaves it to the next run
PAUSES = (1.0, 4.0, 10.0)  # seconds before the second, third and last try

Answer = TypeVar("Answer")


class Ended(Exception):
    """The program is being stopped; what was not begun is left to the next run."""

    def __init__(self) -> None:
        super().__init__("the autoscaler was stopped before this could be done")


class Fleet:
    """Each call is tried again while Salad gives no answer. `before` runs right before each try and may forbid it
    by raising. Raises SaladRefused, NoAnswer, Ended."""

    def __init__(
        self,
        salad: Salad,
        key: str,
        stopped: threading.Event,
        allowance: Allowance,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self.salad = salad
        self.key = key
        self.stopped = stopped
        self.allowance = allowance
        self.pauses = pauses

    def groups(self, organization: str, project: str, before: Callable[[], None]) -> list[dict[str, Any]]:
        return self._patiently(lambda: self.salad.container_groups(self.key, organization, project), before)

    def group(self, name: GroupName, before: Callable[[], None]) -> dict[str, Any]:
        return self._patiently(lambda: self.salad.container_group(self.key, name), before)

    def start(self, name: GroupName, before: Callable[[], None]) -> None:
        self._patiently(lambda: self.salad.start(self.key, name), before)

    def stop(self, name: GroupName, before: Callable[[], None]) -> None:
        self._patiently(lambda: self.salad.stop(self.key, name), before)

    def set_replicas(self, name: GroupName, replicas: int, before: Callable[[], None]) -> None:
        self._patiently(lambda: self.salad.set_replicas(self.key, name, replicas), before)

    def _patiently(self, ask: Callable[[], Answer], before: Callable[[], None]) -> Answer:
        for pause in self.pauses:
            try:
                return self._once(ask, before)
            except NoAnswer as silence:
                if silence.retry_after > LONGEST_PAUSE:
                    raise
                if not silence.retry_after:  # else the allowance knows how long to wait
                    self._wait(pause * random.uniform(0.75, 1.25))
        return self._once(ask, before)

    def _once(self, ask: Callable[[], Answer], before: Callable[[], None]) -> Answer:
        def asking() -> Answer:
            before()
            return ask()

        return self.allowance.ask(asking, self._wait)

    def _wait(self, seconds: float) -> None:
        """What can be sent at once is sent, also while the program ends: a rule that was begun is finished."""
        if seconds > 0 and self.stopped.wait(seconds):
            raise Ended
