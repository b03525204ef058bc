"""Sweeps.

Jobs that belong together, of which so many may run at a time (docs/design/steering.md, Slots of a sweep).
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from kelpie_api.auth.caller import Caller
from kelpie_api.db import SQL, Database, Row, Transaction
from kelpie_api.errors import Conflict, IdempotencyKeyReused, InvalidRequest, NotFound
from kelpie_api.queue.identity import IdempotencyKey, new_id

FILLED_AT_ONCE = 2000  # jobs that one statement parks or unparks: a fraction of a second
CANCELED_AT_ONCE = 1000  # jobs of one round: a fraction of a second, so claims step over few locked rows meanwhile
FILL_PAUSE = 2.0  # seconds
SURPLUS_PAUSE = 0.02  # seconds; other transactions lock a row for a few milliseconds
LONGEST_SURPLUS = 5.0  # seconds
MOST_FILLED = 100  # sweeps whose slots a change of many jobs gives on by itself, a few milliseconds each
CHANGEABLE = ("name", "labels", "max_parallel", "closed")


def create(
    db: Database, caller: Caller, fields: Mapping[str, Any], once: IdempotencyKey | None
) -> tuple[Row, bool]:
    """Make a sweep, once for each key; return it and whether it existed. Raises IdempotencyKeyReused."""
    caller.require_tenant()
    values = {
        "id": new_id(),
        "tenant_id": caller.tenant_id,
        "name": fields.get("name"),
        "labels": as_json(fields.get("labels")),
        "max_parallel": fields.get("max_parallel"),
        "webhook": fields.get("webhook") or None,
        "actor": caller.actor,
        "key": once and once.key,
        "digest": once and once.digest,
    }
    made = db.one_or_none(SQL.create_sweep, **values)
    if made:
        return get(db, caller, made["id"]), False
    assert once is not None, "without a key nothing can be in the way"
    earlier = db.one_or_none(SQL.find_sweep_by_key, tenant_id=caller.tenant_id, key=once.key)
    if earlier is None or bytes(earlier["digest"]) != once.digest:
        raise IdempotencyKeyReused
    return get(db, caller, earlier["id"]), earlier["id"] != values["id"]


def as_json(labels: Mapping[str, str] | None) -> str | None:
    return None if labels is None else json.dumps(labels)


def get(db: Database, caller: Caller, sweep_id: UUID) -> Row:
    """A sweep with its jobs by phase. Raises NotFound."""
    found = db.one_or_none(SQL.get_sweep, id=sweep_id, scope=caller.scope["scope"])
    if found is None:
        raise NotFound(f"There is no sweep {sweep_id}; GET /sweeps lists those there are.")
    final = ("completed", "failed", "canceled")
    total = sum(found["phases"].values())
    return {**found, "total": total, "done": sum(found["phases"].get(phase, 0) for phase in final)}


def list_page(db: Database, caller: Caller, page_size: int, before: int | None) -> tuple[list[Row], int | None]:
    """A page of sweeps, newest first, and the number to go on before; None: these are the last."""
    values = {"scope": caller.scope["scope"], "before": before or 2**63 - 1, "most": page_size + 1}
    found = db.all(SQL.list_sweeps, **values)
    shown = found[:page_size]
    return shown, shown[-1]["seq"] if len(found) > page_size else None


def change(db: Database, caller: Caller, sweep_id: UUID, changes: Mapping[str, Any]) -> Row:
    """Change what is given of name, labels, max_parallel, closed. A lowered limit stops no job.

    It is in force when this returns: no claim makes more jobs of the sweep run than it allows. A closed sweep can
    be opened again until it has ended. Raises NotFound, Conflict.
    """
    values: dict[str, Any] = {f"sets_{name}": name in changes for name in CHANGEABLE}
    values |= {name: changes.get(name) for name in CHANGEABLE}
    values["labels"] = as_json(changes.get("labels"))
    if not db.one_or_none(SQL.change_sweep, id=sweep_id, scope=caller.scope["scope"], **values):
        get(db, caller, sweep_id)
        raise Conflict(
            f"Sweep {sweep_id} has ended, and what waited for that was told; POST /sweeps makes one for more jobs."
        )
    fill(db, sweep_id)
    _park_surplus(db, sweep_id)
    return get(db, caller, sweep_id)


def _park_surplus(db: Database, sweep_id: UUID) -> None:
    """Park what other transactions had locked when a limit was lowered; beyond some seconds maintenance does."""
    until = time.monotonic() + LONGEST_SURPLUS
    while (row := db.one_or_none(SQL.exceeds_limit, id=sweep_id)) and row["exceeds"] and time.monotonic() < until:
        time.sleep(SURPLUS_PAUSE)
        fill(db, sweep_id)


def cancel(db: Database, caller: Caller, sweep_id: UUID) -> int:
    """Close a sweep and end its open jobs, in rounds beside which claims go on; their number. Raises NotFound."""
    change(db, caller, sweep_id, {"closed": True})
    ended = 0
    while numbers := _open_jobs(db, sweep_id):
        values = {**caller.scope, "actor": caller.actor, "sealed_key": caller.sealed_key}
        found = db.one_or_none(SQL.cancel_many, numbers=numbers, **values)
        ended += int(found["count"]) if found else 0
    return ended


def _open_jobs(db: Database, sweep_id: UUID) -> list[int]:
    found = db.one_or_none(SQL.open_jobs_of_sweep, id=sweep_id, most=CANCELED_AT_ONCE)
    return list(found["numbers"]) if found else []


def require_open(tx: Transaction, caller: Caller, sweep_ids: Collection[UUID]) -> None:
    """Keep sweeps from being closed until the transaction ends.

    Raises InvalidRequest for one that takes no jobs.
    """
    found = {row["id"] for row in tx.all(SQL.open_sweeps_of, ids=list(sweep_ids), tenant_id=caller.tenant_id)}
    if missing := sorted(set(sweep_ids) - found):
        sentence = (
            f"There is no sweep {missing[0]} that takes jobs: it is unknown or closed; POST /sweeps makes one."
        )
        raise InvalidRequest(f"sweep: {sentence}", {"sweep": [sentence]})


def fill(db: Database, sweep_id: UUID) -> None:
    """Give the free slots of a sweep to its next jobs, in rounds."""
    while (row := db.one_or_none(SQL.fill_sweep, id=sweep_id, most=FILLED_AT_ONCE)) and row[
        "changed"
    ] == FILLED_AT_ONCE:
        pass


def fill_freed(db: Database, sweep_ids: Collection[UUID]) -> None:
    """Give on the slots that a change of many jobs freed, after its last round.

    A slot that is given on before might go to a job of the next round. What is left out here, or missed because
    this process ends, maintenance fills.
    """
    for sweep_id in sorted(sweep_ids)[:MOST_FILLED]:
        fill(db, sweep_id)


def fill_all(db: Database) -> float:
    """Fill every sweep that has a free slot and a job for it; return the seconds until the next time.

    After an end this is done at once, too; here come those that were missed, since rows that were locked are
    stepped over.
    """
    for row in db.all(SQL.sweeps_to_fill):
        fill(db, row["id"])
    return FILL_PAUSE


def ids_of(definitions: Sequence[Mapping[str, Any]]) -> set[UUID]:
    """The sweeps that a submission names."""
    return {UUID(str(one["sweep_id"])) for one in definitions if one.get("sweep_id")}


def prune(db: Database, kept_for: timedelta) -> int:
    """Remove sweeps that ended longer ago than `kept_for` and whose jobs are removed; return their number."""
    return db.execute(SQL.prune_sweeps, kept_for=kept_for)
