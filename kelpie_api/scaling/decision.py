"""The decision of the autoscaler: how many replicas a container group should have, and the action for it
(docs/design/protocol.md, Scaling)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """The states of a container group at Salad."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEPLOYING = "deploying"


class Action(StrEnum):
    NONE = "none"
    START = "start"
    SCALE = "scale"
    START_AND_SCALE = "start_and_scale"
    STOP = "stop"
    HOLD = "hold"  # would be stopped, but every replica has a live lease, or a job came at the last moment
    REMOVE_RULE = "remove_rule"  # Salad no longer has the group


@dataclass(frozen=True)
class Demand:
    """`active`: jobs that are not final; `warm`: with those that finished lately; `leases`: live leases."""

    active: int
    warm: int
    leases: int


@dataclass(frozen=True)
class Observed:
    """State and replicas of a group at Salad. A stopped group has the replicas that it would start with.

    How many of them run and how many are on their way is for people to know: no decision depends on it.
    """

    state: State
    replicas: int
    running: int | None = None
    allocating: int | None = None

    @property
    def is_up(self) -> bool:
        return self.state in {State.PENDING, State.DEPLOYING, State.RUNNING}

    @property
    def present(self) -> int:
        return self.replicas if self.is_up else 0


@dataclass(frozen=True)
class Limits:
    min_replicas: int
    max_replicas: int

    def clamp(self, replicas: int) -> int:
        return max(self.min_replicas, min(replicas, self.max_replicas))


@dataclass(frozen=True)
class Decision:
    """`replicas` is their number once the action is carried out."""

    action: Action
    replicas: int


def decide(demand: Demand, observed: Observed, rule: Limits) -> Decision:
    """The action for a group. Recently finished jobs delay scaling down, they never scale up; a group with a live
    lease is never stopped.

        replicas  group             leases  action
        0         stopped           any     none
        0         not stopped       none    stop
        0         up, more          some    scale, to as many as there are leases
        0         else, not stopped some    hold
        above 0   up, as many       any     none
        above 0   up, not as many   any     scale
        above 0   down, as many     any     start
        above 0   down, not as many any     start_and_scale

    Up is running, pending or deploying; down is stopped, failed or succeeded.
    """
    replicas = rule.clamp(max(demand.active, min(demand.warm, observed.present)))
    if replicas == 0:
        return to_zero(demand, observed)
    differs = observed.replicas != replicas
    if observed.is_up:
        return Decision(Action.SCALE if differs else Action.NONE, replicas)
    return Decision(Action.START_AND_SCALE if differs else Action.START, replicas)


def to_zero(demand: Demand, observed: Observed) -> Decision:
    if observed.state == State.STOPPED:
        return Decision(Action.NONE, 0)
    if not demand.leases:
        return Decision(Action.STOP, 0)
    if observed.present > demand.leases:  # Salad takes the instances of the lowest deletion cost: idle ones
        return Decision(Action.SCALE, demand.leases)
    return Decision(Action.HOLD, observed.present)
