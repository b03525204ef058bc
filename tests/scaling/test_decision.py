"""What the autoscaler decides: every rule as a row of one table
(docs/design/protocol.md, Scaling)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kelpie_api.scaling.decision import Action, Decision, Demand, Limits, Observed, State, decide

UP = (State.PENDING, State.DEPLOYING, State.RUNNING)

# active, warm, leases; state, replicas; min, max; what is decided.
TABLE = [
    # nothing to do
    ("zero, stopped", (0, 0, 0), ("stopped", 0), (0, 10), ("none", 0)),
    ("zero, stopped with replicas left over", (0, 0, 0), ("stopped", 7), (0, 10), ("none", 0)),
    ("zero, running", (0, 0, 0), ("running", 3), (0, 10), ("stop", 0)),
    ("zero, running without replicas", (0, 0, 0), ("running", 0), (0, 10), ("stop", 0)),
    ("zero, pending", (0, 0, 0), ("pending", 3), (0, 10), ("stop", 0)),
    ("zero, deploying", (0, 0, 0), ("deploying", 3), (0, 10), ("stop", 0)),
    ("zero, failed", (0, 0, 0), ("failed", 3), (0, 10), ("stop", 0)),
    ("zero, succeeded", (0, 0, 0), ("succeeded", 3), (0, 10), ("stop", 0)),
    # something to do
    ("up from stopped", (4, 4, 0), ("stopped", 0), (0, 10), ("start_and_scale", 4)),
    ("up from stopped, as many as it had", (4, 4, 0), ("stopped", 4), (0, 10), ("start", 4)),
    ("up from failed", (4, 4, 0), ("failed", 1), (0, 10), ("start_and_scale", 4)),
    ("up from succeeded", (4, 4, 0), ("succeeded", 4), (0, 10), ("start", 4)),
    ("up from running", (4, 4, 1), ("running", 1), (0, 10), ("scale", 4)),
    ("up from pending", (4, 4, 0), ("pending", 1), (0, 10), ("scale", 4)),
    ("up from deploying", (4, 4, 0), ("deploying", 1), (0, 10), ("scale", 4)),
    ("started, but killed before the replicas were set", (4, 4, 0), ("deploying", 0), (0, 10), ("scale", 4)),
    ("as many as there are", (4, 4, 4), ("running", 4), (0, 10), ("none", 4)),
    ("down", (2, 2, 2), ("running", 8), (0, 10), ("scale", 2)),
    # limits
    ("max", (99, 99, 0), ("stopped", 0), (0, 10), ("start_and_scale", 10)),
    ("max reached", (99, 99, 10), ("running", 10), (0, 10), ("none", 10)),
    ("min without jobs", (0, 0, 0), ("running", 5), (2, 10), ("scale", 2)),
    ("min from stopped", (0, 0, 0), ("stopped", 0), (2, 10), ("start_and_scale", 2)),
    ("min is kept", (1, 1, 1), ("running", 2), (2, 10), ("none", 2)),
    ("min and max alike", (50, 50, 0), ("running", 1), (3, 3), ("scale", 3)),
    ("max of zero", (5, 5, 0), ("running", 3), (0, 0), ("stop", 0)),
    ("max of zero, stopped", (5, 5, 0), ("stopped", 3), (0, 0), ("none", 0)),
    # recently finished jobs: they slow the way down and never lead up
    ("warm keeps all", (0, 9, 0), ("running", 8), (0, 10), ("none", 8)),
    ("warm keeps some", (1, 4, 1), ("running", 8), (0, 10), ("scale", 4)),
    ("warm never leads up", (2, 50, 2), ("running", 3), (0, 10), ("none", 3)),
    ("warm starts nothing", (0, 50, 0), ("stopped", 5), (0, 10), ("none", 0)),
    ("warm starts nothing that failed", (0, 50, 0), ("failed", 5), (0, 10), ("stop", 0)),
    ("warm of a group that deploys", (0, 2, 0), ("deploying", 5), (0, 10), ("scale", 2)),
    ("active leads up beside warm", (6, 50, 0), ("running", 3), (0, 10), ("scale", 6)),
    ("max cuts warm", (0, 50, 0), ("running", 20), (0, 10), ("scale", 10)),
    # live leases: never stopped
    ("a job runs, max of zero", (1, 1, 1), ("running", 1), (0, 0), ("hold", 1)),
    ("jobs run beside idle machines, max of zero", (2, 2, 2), ("running", 3), (0, 0), ("scale", 2)),
    ("a job runs while the group deploys, max of zero", (1, 1, 1), ("deploying", 3), (0, 0), ("scale", 1)),
    ("another tenant's job runs", (0, 0, 1), ("running", 1), (0, 10), ("hold", 1)),
    ("another tenant's job runs beside idle machines", (0, 0, 1), ("running", 3), (0, 10), ("scale", 1)),
    ("more jobs than machines, max of zero", (9, 9, 9), ("running", 3), (0, 0), ("hold", 3)),
    ("a job runs in a group that failed", (0, 0, 1), ("failed", 3), (0, 10), ("hold", 0)),
    ("a job seems to run in a stopped group", (0, 0, 1), ("stopped", 3), (0, 10), ("none", 0)),
]


@pytest.mark.parametrize(
    ("demand", "observed", "limits", "decision"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_the_decision_is_that_of_the_table(
    demand: tuple[int, int, int], observed: tuple[str, int], limits: tuple[int, int], decision: tuple[str, int]
) -> None:
    found = decide(Demand(*demand), Observed(State(observed[0]), observed[1]), Limits(*limits))
    assert found == Decision(Action(decision[0]), decision[1])


def test_the_table_has_every_state_of_a_group_with_and_without_demand() -> None:
    seen = {(row[2][0], row[4][1] > 0) for row in TABLE}
    assert seen == {(state.value, wanted) for state in State for wanted in (True, False)} | {("stopped", False)}


LIMITS = st.tuples(st.integers(0, 500), st.integers(0, 500)).map(lambda pair: Limits(min(pair), max(pair)))
OBSERVED = st.builds(Observed, st.sampled_from(list(State)), st.integers(0, 500))
DEMANDS = st.builds(
    lambda active, finished, leases: Demand(active, active + finished, leases),
    st.integers(0, 2000),
    st.integers(0, 2000),
    st.integers(0, 2000),
)


@given(DEMANDS, OBSERVED, LIMITS)
def test_a_group_with_a_live_lease_is_never_stopped_nor_scaled_to_zero(
    demand: Demand, observed: Observed, limits: Limits
) -> None:
    decision = decide(demand, observed, limits)
    if demand.leases:
        assert decision.action != Action.STOP
    assert not (decision.action in {Action.SCALE, Action.START_AND_SCALE} and decision.replicas == 0)


@given(DEMANDS, OBSERVED, LIMITS)
def test_deciding_again_after_the_decision_was_carried_out_changes_nothing(
    demand: Demand, observed: Observed, limits: Limits
) -> None:
    first = decide(demand, observed, limits)
    match first.action:
        case Action.STOP:
            after = Observed(State.STOPPED, observed.replicas)
        case Action.START | Action.START_AND_SCALE | Action.SCALE:
            after = Observed(State.DEPLOYING, first.replicas)
        case _:
            after = observed
    assert decide(demand, after, limits).action in {Action.NONE, Action.HOLD}
