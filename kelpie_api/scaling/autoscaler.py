"""One run of the autoscaler: for each rule observe, decide, act, record (docs/design/protocol.md, Scaling).

No transaction is open during a request to Salad: the demand is read in one statement, and the result recorded in a
short transaction. A run that was killed half-way is completed by the next one, which starts from what it observes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import groupby
from uuid import UUID, uuid4

from kelpie_api import logs
from kelpie_api.db import SQL, Database, Row, Transaction
from kelpie_api.errors import KelpieError, NoAnswer
from kelpie_api.salad.client import SaladRefused, what_to_do
from kelpie_api.scaling import rules as scaling_rules
from kelpie_api.scaling.decision import Action, Decision, Demand, Limits, Observed, decide
from kelpie_api.scaling.groups import (
    ContainerGroups,
    GroupNotFound,
    GroupObserver,
    RunStopped,
    UnexpectedGroup,
    name_of,
    project_of,
)

RULES_AT_ONCE = 5
# After so many runs in a row in which Salad did not have the group its rule is removed. If Salad does not have the
# project either, the first of them must be a day ago, so that the operator has time to correct a wrong setting.
MISSING_RUNS, MISSING_WITH_PROJECT_FOR = 3, timedelta(days=1)
# How long the lock is held after its last renewal; the longest wait between two renewals is one for the request
# budget.
TURN = timedelta(minutes=2)
# How long a group that is being stopped is handed no job: longer than the call that stops it takes.
STOPPING = timedelta(seconds=15)

LIMITING = ("container_group_id", "tenant_id", "min_replicas", "max_replicas", "idle_threshold_seconds")


class RunInProgress(Exception):
    """Another run holds the lock, or took it over because this one did not renew it in time."""

    def __init__(self) -> None:
        super().__init__("Another run of the autoscaler is under way; this one leaves the rules to it.")


class DecisionOutdated(Exception):
    """The decision no longer fits; nothing more is done for this rule."""


class GroupNeeded(DecisionOutdated):
    def __init__(self) -> None:
        super().__init__("the group got something to do")


class RuleChanged(DecisionOutdated):
    def __init__(self) -> None:
        super().__init__("the rule was changed or removed")


class StopUnconfirmed(Exception):
    """The stop ended in a refusal or was no longer wanted, but Salad may have carried out an earlier try of it."""

    def __init__(self, ending: DecisionOutdated | SaladRefused) -> None:
        super().__init__(
            "an earlier try to stop the group had no answer, so it is not known whether it was carried out;"
            f" then {reason(ending)}"
        )
        self.ending = ending


RULE_ERRORS = (NoAnswer, SaladRefused, GroupNotFound, UnexpectedGroup, KelpieError, RunStopped)


@dataclass(frozen=True)
class RuleResult:
    """The result of one rule in one run."""

    rule: Row
    demand: Demand | None = None
    observed: Observed | None = None
    decision: Decision | None = None
    error: str | None = None
    vanished: GroupNotFound | None = None
    rule_moved: bool = False  # then nothing, or nothing more, was done

    @property
    def nothing_done(self) -> bool:
        """Whether there was nothing to do, which is not logged."""
        return not self.error and self.decision is not None and self.decision.action == Action.NONE

    def as_row(self) -> Row:
        """The columns that are recorded, printed and answered."""
        return {
            "container_group_id": self.rule["container_group_id"],
            "active": self.demand and self.demand.active,
            "warm": self.demand and self.demand.warm,
            "observed_state": self.observed and self.observed.state,
            "observed_replicas": self.observed and self.observed.replicas,
            "observed_running": self.observed and self.observed.running,
            "observed_allocating": self.observed and self.observed.allocating,
            "desired_replicas": self.decision and self.decision.replicas,
            "action": self.decision and self.decision.action,
            "outcome": "failed" if self.error else "ok",
            "error": self.error,
        }


class RunLock:
    """Only one run at a time on all hosts: a row with an owner and an end time, which the owner keeps moving.

    It needs no session and no long transaction, so it works through PgBouncer, and after a host has vanished the
    lock is free within `length`.
    """

    def __init__(self, db: Database, length: timedelta = TURN) -> None:
        self.db = db
        self.length = length
        self.owner = uuid4()

    def __enter__(self) -> RunLock:
        if not self.db.one_or_none(SQL.take_turn, owner=self.owner, length=self.length):
            raise RunInProgress
        return self

    def __exit__(self, *_: object) -> None:
        self.db.execute(SQL.end_turn, owner=self.owner)

    def renew(self) -> None:
        """Renew before each call to Salad, so that a run that was frozen changes nothing. Raises RunInProgress."""
        if not self.db.one_or_none(SQL.keep_turn, owner=self.owner, length=self.length):
            raise RunInProgress


class Autoscaler:
    def __init__(self, db: Database, fleet: ContainerGroups, stopped: threading.Event) -> None:
        self.db = db
        self.fleet = fleet
        self.stopped = stopped

    def run(self, only: UUID | None = None) -> list[RuleResult]:
        """Apply all rules, or only one; a result for each rule that was begun before `stopped` was set.

        Raises RunInProgress.
        """
        with RunLock(self.db) as lock:
            observer = GroupObserver(self.fleet, lock.renew)
            return self._each_rule(only, observer, lambda rule, observer: self._apply(rule, observer, lock))

    def dry_run(self, only: UUID | None = None) -> list[RuleResult]:
        """The results that a run would have; nothing is changed, here or at Salad."""
        return self._each_rule(only, GroupObserver(self.fleet, lambda: None), self._evaluate)

    def rule_exists(self, group_id: UUID) -> bool:
        return bool(self.db.all(SQL.list_rules_to_apply, only=group_id))

    def _each_rule(
        self, only: UUID | None, observer: GroupObserver, evaluate: Callable[[Row, GroupObserver], RuleResult]
    ) -> list[RuleResult]:
        """Judge the rules, RULES_AT_ONCE at a time; a project is fetched just before its rules are judged.

        So no rule waits for the project of another one, and no decision is made on an old observation.
        """
        rules = self.db.all(SQL.list_rules_to_apply, only=only)
        projects: list[Future[list[tuple[Row, Future[RuleResult | None]]]]] = []
        ahead = threading.Semaphore(RULES_AT_ONCE)
        with ThreadPoolExecutor(RULES_AT_ONCE, thread_name_prefix="rule") as pool:

            def begin(rules: list[Row]) -> list[tuple[Row, Future[RuleResult | None]]]:
                if not self.stopped.is_set():
                    observer.fetch_project(rules[0])
                ahead.release()
                return [(rule, pool.submit(self._unless_stopped, evaluate, rule, observer)) for rule in rules]

            for _, of_project in groupby(rules, project_of):
                ahead.acquire()
                projects.append(pool.submit(begin, list(of_project)))
            under_way = [rule for project in projects for rule in project.result()]
        results = [self._result_of(rule, future) for rule, future in under_way]
        return [result for result in results if result]

    def _unless_stopped(
        self, evaluate: Callable[[Row, GroupObserver], RuleResult], rule: Row, observer: GroupObserver
    ) -> RuleResult | None:
        return None if self.stopped.is_set() else evaluate(rule, observer)

    def _result_of(self, rule: Row, future: Future[RuleResult | None]) -> RuleResult | None:
        """The result of a future. A defect is logged and ends this rule only; RunInProgress ends the run."""
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, RunInProgress):
            raise error
        logs.error("rule_failed", error, container_group_id=rule["container_group_id"])
        return RuleResult(rule, error=f"this is a defect: {type(error).__name__}")

    def _evaluate(self, rule: Row, observer: GroupObserver) -> RuleResult:
        """Observe the group, read its demand, and decide."""
        result = RuleResult(rule)
        try:
            result = replace(result, observed=observer.observe(rule))
            result = replace(result, demand=scaling_rules.measure_demand(self.db, rule))
        except RULE_ERRORS as error:
            return failed(result, error)
        assert result.demand and result.observed
        limits = Limits(rule["min_replicas"], rule["max_replicas"])
        return replace(result, decision=decide(result.demand, result.observed, limits))

    def _apply(self, rule: Row, observer: GroupObserver, lock: RunLock) -> RuleResult:
        result = self._evaluate(rule, observer)
        if not result.error:
            result = self._carry_out(result, lock)
        return self._record(result)

    def _carry_out(self, result: RuleResult, lock: RunLock) -> RuleResult:
        assert result.decision and result.observed
        name, wanted = name_of(result.rule), result.decision.replicas
        done = Decision(Action.NONE, result.observed.present)

        def before() -> None:
            self._require_rule(result.rule, lock)

        try:
            match result.decision.action:
                case Action.STOP:
                    self._stop(result.rule, lock)
                case Action.START:
                    self._start(result.rule, before)
                case Action.SCALE:
                    self.fleet.set_replicas(name, wanted, before)
                case Action.START_AND_SCALE:
                    self._start(result.rule, before)
                    done = Decision(Action.START, result.observed.replicas)
                    self.fleet.set_replicas(name, wanted, before)
        except GroupNeeded:
            return replace(result, decision=hold(result))
        except RuleChanged:  # the next run applies the rule as it is then
            return replace(result, decision=done, rule_moved=True)
        except StopUnconfirmed as unheard:
            decision = hold(result) if isinstance(unheard.ending, DecisionOutdated) else result.decision
            return replace(result, decision=decision, error=str(unheard))
        except RULE_ERRORS as error:
            return failed(result, error)
        return result

    def _start(self, rule: Row, before: Callable[[], None]) -> None:
        before()
        self._unmark(rule)
        self.fleet.start(name_of(rule), before)

    def _require_rule(self, rule: Row, lock: RunLock) -> None:
        """Right before each call that changes a group: a run may last for minutes, in which the rule may have been
        changed or removed. Raises RuleChanged, RunInProgress."""
        lock.renew()
        if not self.db.one_or_none(SQL.rule_stands, **{name: rule[name] for name in LIMITING}):
            raise RuleChanged

    def _stop(self, rule: Row, lock: RunLock) -> None:
        """Stop a group that holds no lease (docs/design/guarantees.md, I17).

        From this check on its machines are handed no job, until STOPPING has passed after the last call: also
        where a call had no answer, since Salad may still carry it out. Raises DecisionOutdated, StopUnconfirmed,
        SaladRefused, NoAnswer.
        """
        tries = 0

        def about_to_ask() -> None:
            nonlocal tries
            self._require_idle(rule, lock)
            tries += 1

        try:
            self.fleet.stop(name_of(rule), before=about_to_ask)
        except (DecisionOutdated, SaladRefused) as ending:
            answered = 1 if isinstance(ending, SaladRefused) else 0  # a refusal answers the last try
            if tries > answered:
                raise StopUnconfirmed(ending) from ending
            self._unmark(rule)
            raise

    def _unmark(self, rule: Row) -> None:
        self.db.execute(SQL.unmark_stopping, **scaling_rules.group_of(rule))

    def _require_idle(self, rule: Row, lock: RunLock) -> None:
        """Right before each try to stop a group: it has no live lease, and no job unless the rule's maximum is 0.

        Raises GroupNeeded, RuleChanged, RunInProgress.
        """
        self._require_rule(rule, lock)
        marked = self.db.all(SQL.mark_stopping, **scaling_rules.group_of(rule), length=STOPPING)
        names = [mark["container_group"] for mark in marked]
        waited = self.db.one_or_none(SQL.wait_for_claims, marked=names)
        if not (waited and waited["ended"]):
            raise GroupNeeded
        demand = scaling_rules.measure_demand(self.db, rule)
        if demand.leases or (demand.active and rule["max_replicas"] > 0):
            raise GroupNeeded

    def _record(self, result: RuleResult) -> RuleResult:
        """Record and log a result."""
        try:
            with self.db.transaction() as tx:
                result = self._noted(tx, result)
                rule = result.rule
                tx.execute(
                    SQL.record_decision,
                    tenant_id=rule["tenant_id"],
                    rule_created=rule["created"],
                    **result.as_row(),
                )
        except KelpieError as error:
            result = failed(result, error)
        tell(result)
        return result

    def _noted(self, tx: Transaction, result: RuleResult) -> RuleResult:
        """Count the runs in which Salad did not have the group, and remove the rule when there were enough."""
        group_id, tenant_id = result.rule["container_group_id"], result.rule["tenant_id"]
        if result.vanished:
            long = MISSING_WITH_PROJECT_FOR if result.vanished.with_project else timedelta()
            missing = tx.one_or_none(
                SQL.note_group_missing, container_group_id=group_id, tenant_id=tenant_id, long=long
            )
            result = after_missing(result, missing)
        elif result.observed:
            tx.execute(SQL.note_group_found, container_group_id=group_id, tenant_id=tenant_id)
        if result.decision and result.decision.action == Action.REMOVE_RULE:
            tx.execute(SQL.delete_rule, scope=tenant_id, groups=None, container_group_id=group_id)
        return result


def hold(result: RuleResult) -> Decision:
    assert result.observed
    return Decision(Action.HOLD, result.observed.present)


def failed(result: RuleResult, error: Exception) -> RuleResult:
    if isinstance(error, SaladRefused) and error.status == 404:
        error = GroupNotFound()
    return replace(result, error=reason(error), vanished=error if isinstance(error, GroupNotFound) else None)


def reason(error: Exception) -> str:
    return what_to_do(error) if isinstance(error, SaladRefused) else str(error)


def after_missing(result: RuleResult, row: Row | None) -> RuleResult:
    """Decide to remove the rule at the third run in a row without its group, if the first is `long_ago`."""
    if row is None or row["missing_runs"] < MISSING_RUNS or not row["long_ago"]:
        return result
    return replace(result, decision=Decision(Action.REMOVE_RULE, 0), error=None)


def tell(result: RuleResult) -> None:
    if result.nothing_done:
        return
    removed = result.decision is not None and result.decision.action == Action.REMOVE_RULE
    say = logs.warning if removed else logs.info
    say("scaling_decided", container_group_name=result.rule["container_group_name"], **result.as_row())


def all_applied(results: Sequence[RuleResult]) -> bool:
    return not any(result.error for result in results)


def repeat(run: Callable[[], object], stopped: threading.Event, interval: timedelta) -> None:
    """Begin a run every `interval` until `stopped`. A run that fails is logged, and the next one tries again."""
    while not stopped.is_set():
        began = time.monotonic()
        try:
            run()
        except (RunInProgress, KelpieError) as error:
            logs.warning("autoscaler_run_lost", message=str(error))
        stopped.wait(max(0.0, interval.total_seconds() - (time.monotonic() - began)))
