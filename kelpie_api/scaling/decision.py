"""How many replicas a container group should have, and what has to be done for it
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
    HOLD = "hold"  # it would be stopped, but jobs are running in all of it, or one came at the last moment
    REMOVE_RULE = "remove_rule"  # Salad does not know the group any more


@dataclass(frozen=True)
class Demand:
    """What a group is wanted for: jobs that are not final, with those that finished a moment ago, live leases."""

    active: int
    warm: int
    leases: int


@dataclass(frozen=True)
class Observed:
    """What Salad says of a group. A stopped group keeps the number of replicas that it would have."""

    state: State
    replicas: int

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
    """`replicas` is what the group has once the action is carried out."""

    action: Action
    replicas: int


def decide(demand: Demand, observed: Observed, rule: Limits) -> Decision:
    """Recently finished jobs slow the way down, they never scale up; no group with a live lease is stopped.

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
