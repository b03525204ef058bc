"""A coordinator whose single answers a test can put in the place of the usual ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.doubles.coordinator import Call, FakeCoordinator, Handout

Answer = tuple[int, Any]

REPORTS = ("completed", "failed", "released")


class ScriptedCoordinator(FakeCoordinator):
    """`instead` of the usual answer, the requests to a path get the given ones, in order; a failure counts."""

    def __init__(self, extensions: str = "") -> None:
        self._instead: dict[str, list[Answer]] = {}
        self.always: dict[str, Answer] = {}
        super().__init__(extensions)

    def instead(self, path: str, *answers: Answer) -> None:
        self._instead[path] = list(answers)

    def told(self, job: str, report: str) -> list[Call]:
        """Every request that carried this report, answered or not."""
        return self.requests(lambda call: call.path == f"/jobs/{job}/{report}")

    def reads(self, job: str) -> list[Call]:
        return self.requests(lambda call: call.method == "GET" and call.path == f"/jobs/{job}")

    def claims(self) -> list[Call]:
        return self.requests(lambda call: call.path == "/work")

    def requests(self, which: Callable[[Call], bool]) -> list[Call]:
        return [call for call in list(self.calls) if which(call)]

    def _answer(self, call: Call) -> Answer:
        if self._instead.get(call.path):
            return self._instead[call.path].pop(0)
        return self.always.get(call.path) or super()._answer(call)

    def _report(self, handout: Handout, report: str, body: dict[str, Any]) -> Answer:
        if report == "failed" and handout.status == "running":
            handout.job["num_failures"] += 1
        return super()._report(handout, report, body)
