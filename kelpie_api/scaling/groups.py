"""Salad's container groups as the autoscaler observes and changes them: with the coordinator's own key, with
retries, and within the request budget."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, TypeGuard, TypeVar

from kelpie_api.backoff import Backoff
from kelpie_api.db import Row
from kelpie_api.errors import NoAnswer
from kelpie_api.salad.client import GroupName, Salad, SaladRefused, id_of
from kelpie_api.salad.request_budget import RequestBudget
from kelpie_api.scaling.decision import Observed, State

LONGEST_PAUSE = 60.0  # seconds; a longer Retry-After leaves the rule to the next run
TRIES = 4
BACKOFF = Backoff(timedelta(seconds=2), timedelta(seconds=10))  # between them

Result = TypeVar("Result")
Group = dict[str, Any]
Project = dict[str, Group]  # by their ids


class RunStopped(Exception):
    """The program is being stopped; what has not begun is left to the next run."""

    def __init__(self) -> None:
        super().__init__("the autoscaler was stopped before this could be done")


class GroupNotFound(Exception):
    """Salad no longer has the group, or another group has its name."""

    def __init__(self, with_project: bool = False) -> None:
        super().__init__(
            "Salad does not know this container group and its project (404); check SALAD_API_URL and SALAD_API_KEY"
            if with_project
            else "Salad does not know this container group (404)"
        )
        self.with_project = with_project


class UnexpectedGroup(Exception):
    """Salad's answer about a group is not as its specification says."""


class ContainerGroups:
    """Each call is retried while Salad gives no usable answer. Raises SaladRefused, NoAnswer, RunStopped.

    `before` runs right before each try and may prevent it by raising.
    """

    def __init__(
        self,
        salad: Salad,
        key: str,
        stopped: threading.Event,
        request_budget: RequestBudget,
        backoff: Backoff = BACKOFF,
    ) -> None:
        self.salad = salad
        self.key = key
        self.stopped = stopped
        self.request_budget = request_budget
        self.backoff = backoff

    def groups(self, organization: str, project: str, before: Callable[[], None]) -> list[dict[str, Any]]:
        return self._with_retries(lambda: self.salad.container_groups(self.key, organization, project), before)

    def group(self, name: GroupName, before: Callable[[], None]) -> dict[str, Any]:
        return self._with_retries(lambda: self.salad.container_group(self.key, name), before)

    def start(self, name: GroupName, before: Callable[[], None]) -> None:
        self._with_retries(lambda: self.salad.start(self.key, name), before)

    def stop(self, name: GroupName, before: Callable[[], None]) -> None:
        self._with_retries(lambda: self.salad.stop(self.key, name), before)

    def set_replicas(self, name: GroupName, replicas: int, before: Callable[[], None]) -> None:
        self._with_retries(lambda: self.salad.set_replicas(self.key, name, replicas), before)

    def _with_retries(self, ask: Callable[[], Result], before: Callable[[], None]) -> Result:
        for tries in range(1, TRIES):
            try:
                return self._once(ask, before)
            except NoAnswer as silence:
                if silence.retry_after > LONGEST_PAUSE:
                    raise
                if not silence.retry_after:  # else the request budget waits as long as Salad asked
                    self._wait(self.backoff.after(tries, random.random()).total_seconds())
        return self._once(ask, before)

    def _once(self, ask: Callable[[], Result], before: Callable[[], None]) -> Result:
        def asking() -> Result:
            before()
            return ask()

        return self.request_budget.ask(asking, self._wait)

    def _wait(self, seconds: float) -> None:
        """Wait, unless the program ends meanwhile: then only what need not wait is sent. Raises RunStopped."""
        if seconds > 0 and self.stopped.wait(seconds):
            raise RunStopped


class GroupObserver:
    """Observes groups with one request a project and run, since a thousand rules must fit into the budget."""

    def __init__(self, fleet: ContainerGroups, before: Callable[[], None]) -> None:
        self.fleet = fleet
        self.before = before
        self.projects: dict[tuple[str, str], Future[Project | None]] = {}

    def fetch_project(self, rule: Row) -> None:
        """Fetch all groups of the rule's project; `observe`, which comes after it, raises its errors."""
        answer = self.projects.setdefault(project_of(rule), Future())
        try:
            answer.set_result(self._ask(*project_of(rule)))
        except Exception as error:  # noqa: BLE001 - raised again by `observe`
            answer.set_exception(error)

    def observe(self, rule: Row) -> Observed:
        """The state and the replicas of a rule's group.

        Only Salad's own 404 for this very group means that it is gone: a list may be cut, or empty by mistake.
        Raises GroupNotFound, UnexpectedGroup, SaladRefused, NoAnswer, RunStopped.
        """
        group_id = str(rule["container_group_id"])
        project = self.projects[project_of(rule)].result()
        vanished = GroupNotFound(with_project=project is None)
        return observed((project or {}).get(group_id) or self._by_name(rule, group_id, vanished))

    def _by_name(self, rule: Row, group_id: str, vanished: GroupNotFound) -> Group:
        try:
            group = self.fleet.group(name_of(rule), self.before)
        except SaladRefused as refusal:
            if refusal.status == 404:
                raise vanished from refusal
            raise
        if id_of(group) != group_id:
            raise vanished
        return group

    def _ask(self, organization: str, project: str) -> Project | None:
        """The project's groups by id; None if Salad does not have the project."""
        try:
            groups = self.fleet.groups(organization, project, self.before)
        except SaladRefused as refusal:
            if refusal.status == 404:
                return None
            raise
        return {id_of(group): group for group in groups}


def project_of(rule: Row) -> tuple[str, str]:
    return rule["org_name"], rule["project_name"]


def name_of(rule: Row) -> GroupName:
    return GroupName(rule["org_name"], rule["project_name"], rule["container_group_name"])


def observed(group: Group) -> Observed:
    """State and replicas from Salad's description of a group. Raises UnexpectedGroup."""
    state = group.get("current_state")
    status = state.get("status") if isinstance(state, dict) else None
    replicas = group.get("replicas")
    if not is_state(status) or not is_count(replicas):
        raise UnexpectedGroup(
            f"Salad says of this group: status {str(status)[:50]!r}, replicas {str(replicas)[:50]!r}"
        )
    counts = state.get("instance_status_counts") if isinstance(state, dict) else None
    running = instances(counts, "running_count")
    return Observed(
        State(str(status)), int(str(replicas)), running, instances(counts, "allocating_count", "creating_count")
    )


def instances(counts: object, *names: str) -> int | None:
    """How many instances are in one of these states; null where Salad does not say it."""
    said = [counts.get(name) for name in names] if isinstance(counts, dict) else []
    found = [count for count in said if is_count(count)]
    return sum(found) if len(found) == len(names) else None


def is_state(status: object) -> bool:
    return isinstance(status, str) and status in set(State)


def is_count(replicas: object) -> TypeGuard[int]:
    """Whether this can be a number of replicas, which the database stores as an integer."""
    return type(replicas) is int and 0 <= replicas < 2**31
