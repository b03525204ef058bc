"""What attempts cost: the price of a container group, and how long machines held jobs, to which use.

The end of an attempt writes its figures (sql/functions/close_attempt.sql). Totals of days are kept beside the
attempts: they cost the same however long the history is, and they stay when it is pruned.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from kelpie_api.auth.caller import Caller
from kelpie_api.db import SQL, Database, Row
from kelpie_api.errors import InvalidRequest

ADDED_AT_ONCE = 20_000  # ends of attempts that one statement adds to the totals: a fraction of a second
ADD_PAUSE = 2.0  # seconds
MOST_ROWS = 10_000  # of an answer
MOST_DAYS, MOST_ATTEMPTS = 31, 200_000  # where the attempts themselves are read
CAUSES = ("interrupted", "failed", "released", "canceled")
LABEL = "label:"


@dataclass(frozen=True)
class Days:
    """Days (UTC), both included."""

    first: date
    last: date

    @property
    def begin(self) -> datetime:
        return datetime.combine(self.first, time(), UTC)

    @property
    def end(self) -> datetime:
        return datetime.combine(self.last + timedelta(days=1), time(), UTC)

    @property
    def number(self) -> int:
        return (self.last - self.first).days + 1


def set_price(db: Database, caller: Caller, container_group: str, price_per_hour: float | None) -> None:
    """Set what an hour of a machine of a container group costs, from now on; None: no price."""
    group = {"tenant_id": caller.tenant_id, "container_group": container_group}
    if price_per_hour is None:
        db.execute(SQL.remove_price, **group)
    else:
        db.execute(SQL.set_price, **group, price_per_hour=price_per_hour, actor=caller.actor)


def usage(db: Database, caller: Caller, by: str, days: Days) -> Row:
    """What the attempts cost that ended on some days, by group, machine, sweep, name or a label of their jobs.

    Seconds and money; those that were held longest come first.

    Raises InvalidRequest for names and labels over more days or attempts than can be read.
    """
    if days.number < 1:
        raise _refused("from", "It must not be later than `to`.")
    if by == "name" or by.startswith(LABEL):
        found = _by_jobs(db, caller, by, days)
    else:
        values = {"first": days.first, "last": days.last, "most": MOST_ROWS}
        found = db.all(SQL.usage_by_totals, scope=caller.scope["scope"], by=by, **values)
    total, *rows = [_as_row(row) for row in found]
    return {
        "by": by,
        "from": days.first,
        "to": days.last,
        "total": total,
        "usage": rows,
        "left_out": found[0]["keys"] - len(rows),
    }


def _by_jobs(db: Database, caller: Caller, by: str, days: Days) -> list[Row]:
    if days.number > MOST_DAYS:
        raise _refused("by", f"By {by} {MOST_DAYS} days can be read at a time; ask for fewer, or by group.")
    label = by.removeprefix(LABEL) if by.startswith(LABEL) else None
    values = {"begin": days.begin, "end": days.end, "most": MOST_ROWS, "most_attempts": MOST_ATTEMPTS}
    found = db.all(SQL.usage_by_jobs, scope=caller.scope["scope"], label=label, **values)
    if found[0]["attempts"] > MOST_ATTEMPTS:
        raise _refused("by", f"More than {MOST_ATTEMPTS} attempts ended in these days; ask for fewer days.")
    return found


def _refused(field: str, sentence: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {sentence}", {field: [sentence]})


def _as_row(row: Row) -> Row:
    """With what was lost by its causes; null where no worker reported checkpoints."""
    lost = {cause: row[f"lost_{cause}"] or 0.0 for cause in CAUSES}
    return {**row, "lost": None if row["useful"] is None else lost}


def add_up(db: Database) -> float:
    """Add what ended to the totals of its day, in rounds; return the seconds until the next time."""
    while (row := db.one_or_none(SQL.add_up_usage, most=ADDED_AT_ONCE)) and row["moved"] == ADDED_AT_ONCE:
        pass
    return ADD_PAUSE
