"""The first page: jobs by phase, what needs a person, what the week's machine time became, and the fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from flask import Response

from kelpie_api.dashboard.live import live
from kelpie_api.dashboard.pages import blueprint, now, page
from kelpie_api.dashboard.states import PHASES
from kelpie_api.db import SQL, Row
from kelpie_api.queue.states import Phase
from kelpie_api.web.context import caller, db

RECENT = timedelta(days=1)
REFRESHED = 10  # seconds between two looks at the page
DAYS = 7
MOST, FEW = 10_000, 1_000  # jobs of one kind that are counted; the second where they have to be looked up
NAMED = 100  # jobs that a link names, where no filter is the same
SHOWN_ALWAYS = (Phase.PENDING, Phase.RUNNING, Phase.WAITING)


@dataclass(frozen=True)
class Need:
    """Some jobs that need a person: how many, what is the matter, and the list of them.

    `named` is the number of jobs in that list where it is not all of them.
    """

    count: int
    more: bool
    what: str
    look: tuple[str, str]
    place: str
    named: int | None = None


@dataclass(frozen=True)
class Day:
    """What was kept and lost on a day, in seconds, and in percent of the longest day."""

    day: date
    useful: float
    lost: float
    useful_share: float
    lost_share: float


@blueprint.get("/ui")
@live(REFRESHED)
def get_overview() -> Response:
    """Open jobs by phase, what needs a person, the week, and the fleet."""
    scope = caller().scope["scope"]
    open_jobs = {row["phase"]: row["jobs"] for row in db().all(SQL.count_phases, **caller().scope)}
    # To the minute, so that a page on which nothing changed is the same.
    since = (now() - RECENT).replace(second=0, microsecond=0)
    values = {"since": since, "user_id": caller().user_id, "most": MOST, "few": FEW, "named": NAMED}
    found = db().all(SQL.needs_a_person, scope=scope, **values)
    first = now().date() - timedelta(days=DAYS - 1)
    week = db().all(SQL.usage_of_week, scope=scope, first=first)
    fleet = db().one_or_none(SQL.count_fleet, scope=scope)
    assert fleet is not None, "sums have a row"
    shown = [phase for phase in PHASES if phase in open_jobs or phase in SHOWN_ALWAYS]
    return page(
        "overview.html",
        refreshed=REFRESHED,
        phases=[(phase, open_jobs.get(phase, 0)) for phase in shown],
        needs=needs(open_jobs.get(Phase.STALLED, 0), {row["kind"]: row for row in found}, since),
        days=days(week, first),
        week=sums(week),
        fleet=fleet,
    )


def needs(stalled: int, found: Mapping[str, Row], since: datetime) -> list[Need]:
    """What needs a person, the most urgent first; a kind of which there is no job is left out."""
    begin = since.astimezone(UTC).isoformat().replace("+00:00", "Z")
    listed = [
        Need(stalled, False, "stalled: they make no progress", ("bad", "alarm"), "/ui/jobs?phase=stalled"),
        Need(
            min(found["failed"]["jobs"], MOST),
            found["failed"]["jobs"] > MOST,
            "failed within a day",
            ("bad", "cross"),
            f"/ui/jobs?{urlencode({'phase': 'failed', 'ended_since': begin})}",
        ),
        named(found.get("blocked"), "banned from every machine of their group", ("bad", "stop")),
        named(found.get("held"), "held until they are resumed", ("off", "pause")),
        named(found.get("torn"), "resumed from a torn checkpoint within a day", ("warn", "bolt"), FEW),
        named(found.get("webhooks"), "with webhooks that do not arrive", ("warn", "back"), FEW),
    ]
    return [need for need in listed if need.count]


def named(row: Row | None, what: str, look: tuple[str, str], most: int | None = None) -> Need:
    """Jobs that no filter finds; their list names the newest of them."""
    if row is None:
        return Need(0, False, what, look, "")
    most = most or MOST
    newest, count = row["newest"], min(row["jobs"], most)
    place = f"/ui/jobs?{urlencode([('id', job_id) for job_id in newest])}"
    return Need(count, row["jobs"] > most, what, look, place, len(newest) if len(newest) < count else None)


def days(week: Sequence[Row], first: date) -> list[Day]:
    """Each of the last days, also one on which nothing ended."""
    by_day = {row["day"]: row for row in week}
    shown = [first + timedelta(days=number) for number in range(DAYS)]
    pairs = [(by_day.get(day, {}).get("useful") or 0.0, by_day.get(day, {}).get("lost") or 0.0) for day in shown]
    most = max(useful + lost for useful, lost in pairs) or 1.0
    return [
        Day(day, useful, lost, 100 * useful / most, 100 * lost / most)
        for day, (useful, lost) in zip(shown, pairs, strict=True)
    ]


def sums(week: Sequence[Row]) -> dict[str, Any]:
    """The days together; None where no worker reported checkpoints, or no group has a price."""
    return {
        name: sum(known) if (known := [row[name] for row in week if row[name] is not None]) else None
        for name in ("held", "useful", "lost", "money", "attempts")
    }
