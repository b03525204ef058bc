"""Reallocation of bad machines: the outbox is carried out at Salad (docs/design/protocol.md, Bad machines).

Taking a reallocation and recording its result are short statements; Salad is asked in between, outside of any
transaction.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from kelpie_api import logs
from kelpie_api.backoff import Backoff
from kelpie_api.db import SQL, Database, Row
from kelpie_api.errors import KelpieError, NoAnswer, Unavailable
from kelpie_api.salad.client import GroupName, Salad, SaladRefused, is_name, name_of_group, what_to_do
from kelpie_api.salad.request_budget import REALLOCATION, RequestBudget

IDLE = 2.0  # seconds between two looks at an empty outbox
AT_WORK = 5.0  # seconds between two reallocations of three requests each: the autoscaler shares the request budget
KEYLESS_PAUSE = 60.0  # seconds
TROUBLE_PAUSE = 10.0  # seconds
HOLD = timedelta(minutes=2)  # longer than all calls of one reallocation take; then another process may take it
GIVE_UP_AFTER = timedelta(hours=24)
# A machine that is moved this soon after its last failure has done little of a next job. Later it finishes its job
# first.
STILL_FRESH = timedelta(minutes=1)
BACKOFF = Backoff(timedelta(seconds=10), timedelta(hours=1))  # before a reallocation is tried again
LONGEST_SILENCE = 60.0  # seconds of a Retry-After by which all of them wait

Result = TypeVar("Result")


class ReallocationState(StrEnum):
    """How a reallocation ends."""

    REALLOCATED = "reallocated"
    GONE = "gone"  # the machine no longer belongs to the group, which was the aim
    GIVEN_UP = "given_up"


@dataclass(frozen=True)
class ReallocationResult:
    outcome: ReallocationState
    error: str | None = None


class Gone(Exception):
    """None of the instances that Salad lists for the group is on the machine."""


class Reallocator:
    """Carries out one reallocation after the other; any number of processes may do so.

    Without the coordinator's own key reallocations are stored for a day and then given up.
    """

    def __init__(self, db: Database, salad: Salad, key: str | None, stopped: threading.Event) -> None:
        self.db = db
        self.salad = salad
        self.key = key
        self.stopped = stopped
        self.request_budget = RequestBudget(db, REALLOCATION)
        self.said_keyless = False

    def run(self) -> None:
        """Carry reallocations out until stopped. An error is logged and the loop goes on: no caller reads it."""
        while not self.stopped.is_set():
            try:
                pause = self.round()
                self.db.outage.back("reallocations")
            except Unavailable as error:
                self.db.outage.away("reallocations", error)
                pause = TROUBLE_PAUSE
            except KelpieError as error:
                logs.warning("reallocations_wait", message=error.message)
                pause = TROUBLE_PAUSE
            except Exception as error:  # noqa: BLE001 - a defect at one must not end them all
                logs.error("reallocations_failed", error)
                pause = TROUBLE_PAUSE
            self.stopped.wait(pause)

    def round(self) -> float:
        """Carry out the reallocation that has been due longest; return the seconds until the next look."""
        if self.key is None:
            return self._do_without_a_key()
        taken = self.db.one_or_none(SQL.take_reallocation, hold=HOLD)
        if taken is None:
            return IDLE
        if taken["busy"] and (taken["tries"] > 1 or taken["age"] > STILL_FRESH):
            self._postpone(taken, "the machine holds a job; it is moved once it holds none", timedelta())
            return IDLE
        try:
            end = self.carry_out(taken, self.key)
        except NoAnswer as silence:
            self._postpone(taken, str(silence), timedelta(seconds=silence.retry_after))
            return max(AT_WORK, min(silence.retry_after, LONGEST_SILENCE))
        except SaladRefused as refusal:
            self._postpone(taken, what_to_do(refusal), timedelta())
            return AT_WORK
        self._end(taken, end)
        return AT_WORK

    def carry_out(self, reallocation: Row, key: str) -> ReallocationResult:
        """Have Salad move the machine's instance to another machine. Raises NoAnswer, SaladRefused."""
        try:
            group_id = UUID(reallocation["container_group"])
        except ValueError:
            return ReallocationResult(ReallocationState.GIVEN_UP, "the container group's id is none of Salad's")
        organization, project = reallocation["organization"], reallocation["project"]
        if not (is_name(organization) and is_name(project)):
            return ReallocationResult(
                ReallocationState.GIVEN_UP, "the key that reported the failures is of no organization at Salad"
            )
        try:
            name = self._group_name(key, organization, project, group_id)
            for instance_id in self._instances(key, name, reallocation["machine_id"]):
                self._ask(partial(self.salad.reallocate, key, name, instance_id))
        except Gone:
            return ReallocationResult(ReallocationState.GONE)
        return ReallocationResult(ReallocationState.REALLOCATED)

    def _group_name(self, key: str, organization: str, project: str, group_id: UUID) -> GroupName:
        name = name_of_group(self._ask(lambda: self.salad.container_groups(key, organization, project)), group_id)
        if name is None:
            raise NoAnswer("Salad lists no such container group in the project")
        return GroupName(organization, project, name)

    def _instances(self, key: str, name: GroupName, machine_id: str) -> list[str]:
        """The ids of the instances on a machine: Salad needs these, and workers know only the machine's id."""
        found = [
            str(instance.get("id"))
            for instance in self._ask(lambda: self.salad.instances(key, name))
            if str(instance.get("machine_id")).lower() == machine_id.lower()
        ]
        if not found:
            raise Gone
        return found

    def _ask(self, question: Callable[[], Result]) -> Result:
        """Send a request within the budget. Raises NoAnswer, SaladRefused."""
        return self.request_budget.ask(question, self._wait)

    def _wait(self, seconds: float) -> None:
        if self.stopped.wait(seconds):
            raise NoAnswer("the sender was stopped before Salad could be asked")

    def _end(self, taken: Row, end: ReallocationResult) -> None:
        self.db.execute(
            SQL.end_reallocation, id=taken["id"], tries=taken["tries"], outcome=end.outcome, error=end.error
        )
        say = logs.warning if end.outcome == ReallocationState.GIVEN_UP else logs.info
        say("reallocation_ended", outcome=end.outcome, error=end.error, **facts(taken))

    def _postpone(self, taken: Row, error: str, asked_for: timedelta) -> None:
        pause = max(BACKOFF.after(taken["tries"], random.random()), asked_for)
        if taken["age"] + pause > GIVE_UP_AFTER:
            self._end(taken, ReallocationResult(ReallocationState.GIVEN_UP, error))
            return
        self.db.execute(SQL.postpone_reallocation, id=taken["id"], tries=taken["tries"], pause=pause, error=error)
        logs.warning("reallocation_postponed", error=error, seconds=pause.total_seconds(), **facts(taken))

    def _do_without_a_key(self) -> float:
        waiting = self.db.one_or_none(SQL.count_due_reallocations)
        if waiting and waiting["due"] and not self.said_keyless:
            self.said_keyless = True
            logs.warning(
                "no_salad_api_key",
                message="SALAD_API_KEY is not set: bad machines are noted, but not reallocated.",
                waiting=waiting["due"],
            )
        self.db.execute(SQL.give_up_reallocations, age=GIVE_UP_AFTER, error="SALAD_API_KEY was not set")
        return KEYLESS_PAUSE


def facts(taken: Row) -> dict[str, Any]:
    return {name: taken[name] for name in ("container_group", "machine_id", "tries")}
