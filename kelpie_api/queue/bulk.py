"""Changes of all jobs that match, in rounds: each is one statement, and claims go on in between."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import LiteralString
from uuid import UUID

from kelpie_api.auth.caller import Caller
from kelpie_api.db import SQL, Database
from kelpie_api.errors import Conflict, IdempotencyKeyReused, InvalidRequest
from kelpie_api.queue import sweeps
from kelpie_api.queue.filters import Filters
from kelpie_api.queue.identity import IdempotencyKey
from kelpie_api.queue.listing import Place, search
from kelpie_api.queue.states import Status

AT_ONCE = 50  # jobs of one round: some ten milliseconds, for which claims may wait
LONGEST_RESTS = 5.0  # seconds of a change, in all, that are left to claims between its rounds
MOST_COUNTED = 10_000  # final jobs
LOOKED_AT_TO_COUNT = 100_000  # final jobs that are looked at for a count, within a second or two
FEW = 2000  # jobs by which one condition is read whole, as matching_jobs does
MOST_REFUSED = 100  # jobs that an answer names
COUNTED_IN_THE_QUEUE = {"status", "container_group_id", "user_id", "sweep", "phases", "is_open"}


@dataclass(frozen=True)
class Count:
    """The number of jobs that match; `more`: not all were counted or looked at."""

    count: int
    more: bool = False


@dataclass(frozen=True)
class Refusal:
    """A job that matches and was not changed, and why."""

    id: UUID
    message: str


@dataclass(frozen=True)
class Changed:
    count: int
    refused: list[Refusal]
    is_replayed: bool = False  # it is the answer of an earlier request with the same key


# Submits a job once more, with a key of its own where there is one.
Again = Callable[[UUID, IdempotencyKey | None], object]


def count(db: Database, caller: Caller, filters: Filters, to_look_at: int = LOOKED_AT_TO_COUNT) -> Count:
    """How many jobs match: exact for those that are open, of the final ones up to ten thousand, found by a look at
    `to_look_at` at most.

    Raises InvalidRequest where a reference means several.
    """
    filters = filters.resolved(db, caller)
    number, more = _count_open(db, caller, filters), False
    if final := filters.only(is_open=False):
        found = search(db, caller, final, Place(MOST_COUNTED), to_look_at, in_any_order=True)
        more = found.is_partial or len(found.numbers) > MOST_COUNTED
        number += min(len(found.numbers), MOST_COUNTED)
    return Count(number, more)


def count_some(db: Database, caller: Caller, filters: Filters) -> Count:
    """How many jobs match, for a page that is made again every few seconds: by a look at ten thousand at most,
    besides what the queue alone tells.

    Raises InvalidRequest where a reference means several.
    """
    filters = filters.resolved(db, caller)
    told = _queue_tells(filters)
    number = _count_open(db, caller, filters) if told else 0
    others = filters.only(is_open=False) if told else filters
    if others is None:
        return Count(number)
    found = search(db, caller, others, Place(MOST_COUNTED), MOST_COUNTED + 1, in_any_order=True)
    more = found.is_partial or len(found.numbers) > MOST_COUNTED
    return Count(number + min(len(found.numbers), MOST_COUNTED), more)


def _queue_tells(filters: Filters) -> bool:
    """Whether the rows of the queue alone tell which open jobs match."""
    given = {name for name, value in vars(filters).items() if value != getattr(Filters(), name)}
    return given <= COUNTED_IN_THE_QUEUE


def _count_open(db: Database, caller: Caller, filters: Filters) -> int:
    """How many open jobs match: by a search where few jobs can, else in one pass over the queue."""
    wanted = filters.only(is_open=True)
    if wanted is None:
        return 0
    if not _queue_tells(wanted):
        few = search(db, caller, wanted, Place(FEW), FEW, in_any_order=True)
        if not few.is_partial:
            return len(few.numbers)
    found = db.one_or_none(SQL.count_open, **caller.scope, wanted=json.dumps(wanted.wanted()))
    return int(found["count"]) if found else 0


def cancel(
    db: Database, caller: Caller, filters: Filters, expect: int | None = None, once: IdempotencyKey | None = None
) -> Changed:
    """Cancel the open jobs that match.

    Raises InvalidRequest; Conflict where not as many match as expected; IdempotencyKeyReused.
    """
    may_not = {Status.COMPLETED, Status.FAILED}
    return _once(db, caller, filters, expect, once, partial(_change, db, caller, SQL.cancel_many, may_not))


def hold(
    db: Database, caller: Caller, filters: Filters, expect: int | None = None, once: IdempotencyKey | None = None
) -> Changed:
    """Hold the open jobs that match; holders are told to save.

    Raises InvalidRequest, Conflict, IdempotencyKeyReused.
    """
    return _once(db, caller, filters, expect, once, partial(_change, db, caller, SQL.hold_many, None))


def resume(
    db: Database, caller: Caller, filters: Filters, expect: int | None = None, once: IdempotencyKey | None = None
) -> Changed:
    """Let the held jobs that match be handed out again; `count` counts them.

    Raises InvalidRequest, Conflict, IdempotencyKeyReused.
    """
    return _once(db, caller, filters, expect, once, partial(_change, db, caller, SQL.resume_many, None))


def rerun(
    db: Database,
    caller: Caller,
    filters: Filters,
    expect: int | None,
    again: Again,
    once: IdempotencyKey | None = None,
) -> Changed:
    """Submit the final jobs that match once more, by `again`; one that it refuses by Conflict is refused.

    `again` takes a job and, where there is a key, one of its own, so that a repetition submits no job twice.
    Raises InvalidRequest, Conflict, IdempotencyKeyReused, and what else `again` raises: then the jobs before it
    were submitted, and with a key a repetition submits the others.
    """

    def submit(filters: Filters, below: int | None) -> Changed:
        why = "only a job that has ended can be run again"
        done, refused = 0, _refused(db, caller, filters.only(is_open=True), below, why)
        final = filters.only(is_open=False)
        for numbers in _rounds(db, caller, final, AT_ONCE, below) if final else ():
            for row in db.all(SQL.ids_of_jobs, numbers=numbers):
                try:
                    again(row["id"], once and once.of(row["id"]))
                    done += 1
                except Conflict as error:
                    refused.append(Refusal(row["id"], str(error)))
        return Changed(done, refused[:MOST_REFUSED])

    return _once(db, caller, filters, expect, once, submit)


def _once(
    db: Database,
    caller: Caller,
    filters: Filters,
    expect: int | None,
    once: IdempotencyKey | None,
    change: Callable[[Filters, int | None], Changed],
) -> Changed:
    """Make a change of jobs, by `change`, which takes the filters and the number below which jobs are meant.

    A request whose key was sent within a day is answered as the first one was. If that broke off this one goes
    on, with the jobs that were there then, however many match by now.
    """
    _require_narrow(caller, filters)
    tenant_id = _tenant_of_keys(db, caller, filters) if once else None
    if once is None or tenant_id is None:
        return change(_as_expected(db, caller, filters, expect), None)
    of_key = {"tenant_id": tenant_id, "key": once.key}
    begun = db.one_or_none(SQL.find_bulk_change, **of_key)
    if begun is None:
        filters = _as_expected(db, caller, filters, expect)
        begun = db.one_or_none(SQL.begin_bulk_change, **of_key, digest=once.digest)
        begun = begun or db.one_or_none(SQL.find_bulk_change, **of_key)
    if begun is None or bytes(begun["digest"]) != once.digest:
        raise IdempotencyKeyReused
    if answer := begun["answer"]:
        refused = [Refusal(UUID(one["id"]), one["message"]) for one in answer["refused"]]
        return Changed(answer["count"], refused, is_replayed=True)
    done = change(filters.resolved(db, caller), begun["below"])
    refusals = [{"id": str(one.id), "message": one.message} for one in done.refused]
    answer = json.dumps({"count": done.count, "refused": refusals})
    db.execute(SQL.end_bulk_change, **of_key, below=begun["below"], answer=answer)
    return done


def _tenant_of_keys(db: Database, caller: Caller, filters: Filters) -> int | None:
    """The tenant whose keys a request shares; None where the administrator names a user that is not there."""
    if not caller.is_admin:
        return caller.tenant_id
    found = db.one_or_none(SQL.first_tenant_of, user_id=filters.user_id)
    return int(found["id"]) if found else None


def _change(
    db: Database,
    caller: Caller,
    statement: LiteralString,
    refused: set[Status] | None,
    filters: Filters,
    below: int | None,
) -> Changed:
    """Change the open jobs that match, round by round; final ones of these statuses (None: all) are refused."""
    final = filters.only(is_open=False)
    if final and refused is not None:
        final = replace(final, phases=[phase for phase in refused if phase in (final.phases or refused)])
        final = final if final.phases else None
    named = _refused(db, caller, final, below, "it has ended already")
    done, with_slots = 0, set[UUID]()
    wanted = filters.only(is_open=True)
    values = {**caller.scope, "actor": caller.actor, "sealed_key": caller.sealed_key}
    rest, rests = 0.0, LONGEST_RESTS
    for numbers in _rounds(db, caller, wanted, AT_ONCE, below) if wanted else ():
        time.sleep(rest)
        rests -= rest
        began = time.monotonic()
        if found := db.one_or_none(statement, numbers=sorted(numbers), **values):
            done += found["count"]
            with_slots.update(found["sweeps"])
        rest = min(time.monotonic() - began, rests)
    sweeps.fill_freed(db, with_slots)
    return Changed(done, named)


def _require_narrow(caller: Caller, filters: Filters) -> None:
    """Raise InvalidRequest where all jobs would be meant, or those of all users."""
    if replace(filters, user_id=None) == Filters():
        sentence = "Name at least one filter besides user_id, such as label or phase: this would be all jobs."
        raise InvalidRequest(sentence, {"_schema": [sentence]})
    if caller.is_admin and filters.user_id is None:
        sentence = "The administrator must name the user whose jobs are meant."
        raise InvalidRequest(f"user_id: {sentence}", {"user_id": [sentence]})


def _as_expected(db: Database, caller: Caller, filters: Filters, expect: int | None) -> Filters:
    """The filters without a reference, once it is clear that they match as many jobs as expected."""
    filters = filters.resolved(db, caller)
    if expect is not None:
        _require(count(db, caller, filters), expect)
    return filters


def _require(found: Count, expect: int) -> None:
    if found.more:
        sentence = (
            f"Of final jobs {MOST_COUNTED} are counted at most, by a look at {LOOKED_AT_TO_COUNT}, and more may"
            " match; narrow the filters."
        )
        raise InvalidRequest(f"expect: {sentence}", {"expect": [sentence]})
    if found.count != expect:
        raise Conflict(f"{found.count} jobs match, not {expect}; nothing was changed.")


def _rounds(
    db: Database, caller: Caller, filters: Filters, size: int, below: int | None = None
) -> Iterator[list[int]]:
    """The numbers of the jobs that match, newest first, so that none is met that was submitted meanwhile."""
    beyond = below
    while True:
        found = search(db, caller, filters, Place(size - 1, beyond))
        if found.numbers:
            yield found.numbers
        if len(found.numbers) == size:
            beyond = found.numbers[-1]
        elif found.is_partial:
            beyond = found.reached
        else:
            return


def _refused(db: Database, caller: Caller, filters: Filters | None, below: int | None, why: str) -> list[Refusal]:
    """Some of the jobs that match and cannot be changed."""
    if filters is None:
        return []
    found = search(db, caller, filters, Place(MOST_REFUSED, below))
    rows = db.all(SQL.ids_of_jobs, numbers=found.numbers[:MOST_REFUSED])
    return [Refusal(row["id"], f"Job {row['id']} is {row['status']}: {why}.") for row in rows]
