"""What jobs wait for: other jobs and sweeps (docs/design/steering.md, Dependencies)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from kelpie_api.auth.caller import Caller
from kelpie_api.db import SQL, Database, Row, Transaction
from kelpie_api.errors import InvalidRequest
from kelpie_api.text import parse_uuid

SETTLED_AT_ONCE = 100  # dependents that one round moves: some ten milliseconds, for which others may wait
# Seconds from the begin of a round to that of the next: two thousand dependents are told within a second, and
# meanwhile claims and heartbeats find the machine idle most of the time. Where a round takes long the rest is as
# long as the round, up to the longest one.
PERIOD, LONGEST_REST = 0.05, 0.03
SETTLE_PAUSE = 1.0  # seconds; dependents are told within two
LOOKED_AT_FOR_CIRCLES = 10_000  # jobs and sweeps, of one sweep: a tenth of a second
COMPLETED = "completed"


@dataclass
class Dependencies:
    """Of one submission: what each job waits for, and by job what of it has ended in a way that does not do."""

    waits_for: list[int]
    rows: list[dict[str, Any]] = field(default_factory=list)
    unmet: dict[str, str] = field(default_factory=dict)


def resolve(
    tx: Transaction, caller: Caller, definitions: Sequence[Mapping[str, Any]], job_ids: Sequence[UUID]
) -> Dependencies:
    """Find out what each job has to wait for, and keep that from ending until the transaction has ended.

    Raises InvalidRequest for what is unknown, a job's own sweep, or a place in the batch that does not come
    before.
    """
    named = [references(one.get("depends_on") or [], index) for index, one in enumerate(definitions)]
    outside = sorted({reference for each in named for reference in each if isinstance(reference, UUID)})
    tx.all(SQL.keep_sweeps_from_ending, ids=outside)
    tx.all(SQL.keep_from_ending, ids=outside)
    known = {row["id"]: row for row in tx.all(SQL.named_dependencies, ids=outside, tenant_id=caller.tenant_id)}
    found = Dependencies(waits_for=[])
    for index, (each, one) in enumerate(zip(named, definitions, strict=True)):
        needs = one.get("depends_if") or COMPLETED
        if one.get("sweep_id") and UUID(str(one["sweep_id"])) in each:
            raise _refusal(index, f"The job belongs to sweep {one['sweep_id']}, which does not end before it.")
        rows = [_row(reference, index, needs, known, job_ids, found) for reference in dict.fromkeys(each)]
        waiting = [row for row in rows if row is not None]
        found.waits_for.append(len(waiting))
        found.rows += waiting
    return found


def references(texts: Sequence[str], index: int) -> list[UUID | int]:
    """Ids, and places in the batch, of what one job depends on. Raises InvalidRequest."""
    found: list[UUID | int] = []
    for text in texts:
        if text.startswith("#") and text.isascii() and text[1:].isdigit() and len(text) < 8:
            if int(text[1:]) >= index:
                raise _refusal(
                    index, f"{text} must come before this job in the batch; places are counted from #0."
                )
            found.append(int(text[1:]))
            continue
        try:
            found.append(parse_uuid(text))
        except ValueError:
            raise _refusal(index, f"{text[:100]} is no id of a job or sweep, and no place such as #0.") from None
    return found


def _row(
    reference: UUID | int,
    index: int,
    needs: str,
    known: Mapping[UUID, Row],
    job_ids: Sequence[UUID],
    found: Dependencies,
) -> dict[str, Any] | None:
    """The row of one dependency; None where it is met already."""
    row = {"job_id": str(job_ids[index]), "needs": needs}
    if isinstance(reference, int):
        return row | {"on_job": str(job_ids[reference])}
    target = known.get(reference)
    if target is None:
        raise _refusal(index, f"There is no job and no sweep {reference}.")
    if target["is_completed"] is not None:
        if target["is_completed"] or needs != COMPLETED:
            return None
        found.unmet[row["job_id"]] = str(reference)
    return row | {"on_sweep" if target["is_sweep"] else "on_job": str(reference)}


def _refusal(index: int, sentence: str) -> InvalidRequest:
    return InvalidRequest(f"depends_on: {sentence}", {"depends_on": [sentence]}, index)


def add(tx: Transaction, found: Dependencies) -> None:
    """Write down what the jobs of a submission wait for, and cancel those that wait in vain."""
    if found.rows:
        tx.execute(SQL.add_dependencies, dependencies=json.dumps(found.rows))
    _cancel(tx, found.unmet)


def take_turn(tx: Transaction, caller: Caller, definitions: Sequence[Mapping[str, Any]]) -> None:
    """Have no other submission of the tenant close a circle with this one: what its transaction begins with."""
    if _may_close_circles(definitions):
        tx.all(SQL.take_turn_of_circles, tenant_id=caller.tenant_id)


def refuse_circles(tx: Transaction, definitions: Sequence[Mapping[str, Any]], job_ids: Sequence[UUID]) -> None:
    """Raise InvalidRequest where a sweep would wait for its own end, by jobs of it and what they wait for.

    The jobs are there already, with what they wait for. Only jobs that belong to sweeps can close a circle: all
    others are waited for by none yet but later ones of their batch.
    """
    for sweep_id, index in _may_close_circles(definitions).items():
        found = tx.one_or_none(SQL.find_circle, sweep_id=sweep_id, most=LOOKED_AT_FOR_CIRCLES)
        if found:
            waiting = found["job_id"]
            name = f"#{job_ids.index(waiting)}" if waiting in job_ids else str(waiting)
            raise _refusal(
                index,
                f"Job {name} waits for the end of sweep {sweep_id}, and has to end before this job of the sweep"
                " can begin; neither ever would.",
            )


def _may_close_circles(definitions: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The sweeps of which jobs are submitted that wait, each with the place of the first of these."""
    places = [(one.get("sweep_id"), place) for place, one in enumerate(definitions) if one.get("depends_on")]
    return {str(sweep_id): place for sweep_id, place in reversed(places) if sweep_id}


def _cancel(tx: Transaction, unmet: Mapping[str, str]) -> None:
    """Cancel jobs that depend on what has ended in a way that does not do: by job, what that is."""
    if unmet:
        tx.one_or_none(SQL.cancel_dependents, job_ids=[UUID(one) for one in unmet], on=json.dumps(unmet))


def _with_dependents(tx: Transaction, unmet: Mapping[str, str]) -> dict[str, str]:
    """The same with the jobs that depend on those, and so on: else a chain would take a round for each job.

    What depends on a job that ended meanwhile is left out: that job's end says what becomes of it.
    """
    if not unmet:
        return {}
    found = tx.all(SQL.doomed_dependents, unmet=json.dumps(unmet), most=SETTLED_AT_ONCE)
    ids = list({row["job_id"] for row in found})
    waiting = {row["job_id"] for row in tx.all(SQL.lock_waiting, job_ids=ids)}
    doomed = dict(unmet)
    for row in found:  # each behind the one that it depends on; one that is not is left to the next round
        on_id = str(row["on_id"])
        if row["job_id"] in waiting and row["on_id"] in waiting and on_id in doomed:
            doomed.setdefault(str(row["job_id"]), on_id)
    return doomed


def settle_all(db: Database) -> float:
    """Tell dependents what has ended, in rounds; return the seconds until the next time."""
    with db.transaction() as tx:
        if ids := [row["id"] for row in tx.all(SQL.lock_sweeps_to_end)]:
            tx.one_or_none(SQL.end_sweeps, ids=ids)
    began = time.monotonic()
    while settle_round(db):
        took = time.monotonic() - began
        time.sleep(max(PERIOD - took, min(took, LONGEST_REST)))
        began = time.monotonic()
    return SETTLE_PAUSE


def settle_round(db: Database) -> bool:
    """Move the next dependents: those whose dependencies are met come free, the others are canceled.

    Returns whether more may be left.
    """
    with db.transaction() as tx:
        turn = tx.one_or_none(SQL.take_settling)
        if turn is None or not turn["ours"]:
            return False
        due = tx.all(SQL.due_dependencies, most=SETTLED_AT_ONCE)
        met = [row["place"] for row in due if row["is_met"]]
        if met:
            tx.execute(SQL.meet_dependencies, places=met)
        unmet = {str(row["job_id"]): str(row["on_id"]) for row in due if not row["is_met"]}
        _cancel(tx, _with_dependents(tx, unmet))
        if due:
            tx.execute(SQL.forget_settled_endings)
        return bool(due)
