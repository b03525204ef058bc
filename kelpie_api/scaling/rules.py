"""Scaling rules: which container groups follow their queue, their limits, and the demand that the queue has
(docs/design/protocol.md, Scaling)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg

from kelpie_api.auth.caller import Caller
from kelpie_api.cache import Cache
from kelpie_api.db import SQL, Database, Row
from kelpie_api.errors import InvalidRequest, NoAnswer, RuleExists, RuleNotFound, TooManyRequests, Unavailable
from kelpie_api.net.single_flight import Budget
from kelpie_api.salad.client import Salad, SaladRefused, is_name, name_of_group
from kelpie_api.salad.request_budget import PERSON, RequestBudget
from kelpie_api.scaling.decision import Demand, Limits

PRUNE_BATCH = 5000
# Lookups of groups that a tenant may cause in each process: a number at once, then one in some seconds. They go
# before the autoscaler's requests and must not use up the budget that all share.
LOOKUPS_AT_ONCE, LOOKUP_PAUSE = 20, 2.0
REMEMBERED_TENANTS = 10_000


class GroupLookups:
    """Looks groups up with the coordinator's own key, at a limited rate for each tenant."""

    def __init__(self, db: Database, salad: Salad, own_key: str | None) -> None:
        self.salad = salad
        self.own_key = own_key
        self.request_budget = RequestBudget(db, PERSON)
        self.budgets: Cache[int, Budget] = Cache(REMEMBERED_TENANTS)

    def groups(self, caller: Caller) -> list[dict[str, Any]]:
        """The container groups of the caller's project.

        Raises SaladRefused, NoAnswer, TooManyRequests, Unavailable.
        """
        key = self.own_key
        if key is None:
            raise Unavailable(
                "Scaling needs the coordinator's own key at Salad; its operator must set SALAD_API_KEY."
            )
        if not self._budget(caller.tenant_id).spare():
            raise TooManyRequests(
                "You asked for many groups in a short time; send the request again in a moment.", LOOKUP_PAUSE
            )
        return self.request_budget.ask(
            lambda: self.salad.container_groups(key, caller.organization, caller.project)
        )

    def _budget(self, tenant_id: int) -> Budget:
        return self.budgets.get_or_put(tenant_id, Budget(1 / LOOKUP_PAUSE, LOOKUPS_AT_ONCE))


def create_rule(db: Database, lookups: GroupLookups, caller: Caller, wanted: Mapping[str, Any]) -> Row:
    """Create a rule for a group that the coordinator's key finds in the caller's project.

    Raises InvalidRequest for an unknown group, RuleExists, and Unavailable while Salad gives no answer.
    """
    caller.require_own_group(str(wanted["container_group_id"]))
    caller.require_tenant()
    require_order(wanted["min_replicas"], wanted["max_replicas"])
    name = group_name(lookups, caller, wanted["container_group_id"])
    made = db.unrepeatable(
        lambda tx: tx.one_or_none(
            SQL.create_rule,
            **wanted,
            tenant_id=caller.tenant_id,
            user_id=caller.user_id,
            org_name=caller.organization,
            project_name=caller.project,
            container_group_name=name,
        )
    )
    if made is None:
        group_id = wanted["container_group_id"]
        own = db.one_or_none(SQL.get_rule, **caller.scope, container_group_id=group_id)
        raise RuleExists(group_id, is_own=own is not None)
    return made


def group_name(lookups: GroupLookups, caller: Caller, group_id: UUID) -> str:
    """The name of a group in the caller's project. Raises InvalidRequest, Unavailable."""
    if not (is_name(caller.organization) and is_name(caller.project)):
        raise unknown_group("This key belongs to no organization and project of Salad's; call with one that does.")
    try:
        groups = lookups.groups(caller)
    except SaladRefused as refusal:
        raise refused_lookup(refusal, caller) from refusal
    except NoAnswer as silence:
        raise Unavailable(
            f"Salad's API cannot be asked now: {silence}; send the request again in a moment.", silence.retry_after
        ) from silence
    name = name_of_group(groups, group_id)
    if name is None:
        raise unknown_group(
            f"Salad has no container group {group_id} in the project {caller.project} of {caller.organization}."
        )
    return name


def refused_lookup(refusal: SaladRefused, caller: Caller) -> InvalidRequest | Unavailable:
    if refusal.status == 401:
        return Unavailable("Salad does not know the coordinator's SALAD_API_KEY; its operator must renew it.")
    return unknown_group(
        f"Salad does not show this coordinator the project {caller.project} of {caller.organization};"
        " add the coordinator's user to the organization at Salad."
    )


def unknown_group(sentence: str) -> InvalidRequest:
    return InvalidRequest(sentence, {"container_group_id": [sentence]})


def require_order(min_replicas: int, max_replicas: int) -> None:
    if min_replicas > max_replicas:
        sentence = "min_replicas must not be above max_replicas."
        raise InvalidRequest(sentence, {"min_replicas": [sentence]})


def list_rules(db: Database, caller: Caller) -> list[Row]:
    return db.all(SQL.list_rules, **caller.scope)


def get_rule(db: Database, caller: Caller, group_id: UUID) -> Row:
    rule = db.one_or_none(SQL.get_rule, **caller.scope, container_group_id=group_id)
    if rule is None:
        raise RuleNotFound(group_id)
    return rule


def change_rule(db: Database, caller: Caller, group_id: UUID, changes: Mapping[str, int]) -> Row:
    """Change the given fields; minimum and maximum are compared as they are after the change."""
    require_own_rule(db, caller, group_id)
    unchanged = {"min_replicas": None, "max_replicas": None, "idle_threshold_seconds": None}
    try:
        rule = db.one_or_none(
            SQL.change_rule, **caller.scope, container_group_id=group_id, **(unchanged | dict(changes))
        )
    except psycopg.errors.CheckViolation:
        sentence = "Together with what the rule has, min_replicas would be above max_replicas."
        raise InvalidRequest(sentence, {name: [sentence] for name in changes}) from None
    if rule is None:
        raise RuleNotFound(group_id)
    return rule


def require_own_rule(db: Database, caller: Caller, group_id: UUID) -> None:
    """Raise RuleNotFound, or Forbidden: a token scales its own group only, also where it may read all rules of its
    project."""
    if caller.machine:
        get_rule(db, caller, group_id)  # a rule that it may not see is unknown, not forbidden
        caller.require_own_group(str(group_id))


def delete_rule(db: Database, caller: Caller, group_id: UUID) -> None:
    require_own_rule(db, caller, group_id)
    deleted = db.unrepeatable(lambda tx: tx.execute(SQL.delete_rule, **caller.scope, container_group_id=group_id))
    if not deleted:
        raise RuleNotFound(group_id)


def delete_rules(db: Database) -> None:
    """Remove the rules of all tenants."""
    db.execute(SQL.delete_rules)


def decisions(
    db: Database, caller: Caller, group_id: UUID, *, page: int, page_size: int, before: int | None = None
) -> tuple[dict[str, Any], int | None]:
    """One page of the decisions for a group, newest first, also after its rule was removed; with the replica-hours
    since the oldest decision that is kept. And the id to go on before, if there are more.

    `before` takes precedence over `page`.
    """
    rows_of = caller.scope | {"container_group_id": group_id}
    skipped = (page - 1) * page_size if before is None else 0
    found = db.all(SQL.list_decisions, **rows_of, before=before, most=page_size + 1, skipped=skipped)
    hours = db.one_or_none(SQL.replica_hours, **rows_of)
    if not (found or hours):
        get_rule(db, caller, group_id)
    rows = found[:page_size]
    answer = {"_count": len(rows), "decisions": rows, **(hours or {"replica_hours": 0.0, "since": None})}
    return answer, rows[-1]["id"] if len(found) > page_size else None


def metrics(db: Database, caller: Caller, container_group: str) -> dict[str, Any]:
    """The numbers of a group that another autoscaler needs; without a rule one replica for each job is desired."""
    caller.require_own_group(container_group)
    counted = db.one_or_none(SQL.count_group_jobs, **caller.scope, spellings=spellings(container_group)) or {}
    return {**counted, "desired_replicas": limits(db, caller, container_group).clamp(counted["active"])}


def spellings(container_group: str) -> list[str]:
    """The spellings of a group in jobs: Salad's ids mean the same in capitals, any other name has one spelling."""
    try:
        group_id = str(UUID(container_group))
    except ValueError:
        return [container_group]
    return sorted({container_group, group_id, group_id.upper()})


def limits(db: Database, caller: Caller, container_group: str) -> Limits:
    boundless = Limits(0, 2**31)
    try:
        group_id = UUID(container_group)
    except ValueError:
        return boundless
    rule = db.one_or_none(SQL.get_rule, **caller.scope, container_group_id=group_id)
    return Limits(rule["min_replicas"], rule["max_replicas"]) if rule else boundless


def group_of(rule: Row) -> dict[str, Any]:
    """The parameters that name a rule's group, and the project at Salad whose tenants may have machines in it."""
    names = {name: rule[name] for name in ("tenant_id", "org_name", "project_name")}
    return names | {"container_group": str(rule["container_group_id"])}


def measure_demand(db: Database, rule: Row) -> Demand:
    """The demand for a rule's group now."""
    found = db.one_or_none(
        SQL.weigh_rule,
        **group_of(rule),
        spellings=spellings(str(rule["container_group_id"])),
        idle=timedelta(seconds=rule["idle_threshold_seconds"]),
    )
    assert found is not None  # it counts, so it always answers
    return Demand(found["active"], found["active"] + found["finished"], found["leases"])


def prune_decisions(db: Database, older_than: timedelta) -> int:
    """Remove decisions older than that, in short statements; return their number."""
    pruned = 0
    while batch := db.execute(SQL.prune_decisions, older_than=older_than, batch=PRUNE_BATCH):
        pruned += batch
    return pruned
