"""The first page: how many jobs are in which phase, and what needs a person."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flask import Response

from kelpie_api.dashboard.pages import blueprint, page
from kelpie_api.dashboard.states import PHASES
from kelpie_api.db import SQL
from kelpie_api.queue import bulk
from kelpie_api.queue.filters import Filters
from kelpie_api.queue.states import Phase
from kelpie_api.web.context import caller, db

RECENT = timedelta(days=1)
REFRESHED = 10  # seconds between two looks at the page


@blueprint.get("/ui")
def get_overview() -> Response:
    """Open jobs by phase, and how many failed within a day."""
    found = {row["phase"]: row["jobs"] for row in db().all(SQL.count_phases, **caller().scope)}
    since = (datetime.now(UTC) - RECENT).replace(second=0, microsecond=0)
    failed = bulk.count(db(), caller(), Filters(phases=(Phase.FAILED,), ended_since=since))
    phases = [(phase, found.get(phase, 0)) for phase in PHASES if phase in found or phase in SHOWN_ALWAYS]
    begin = since.isoformat().replace("+00:00", "Z")
    return page("overview.html", refreshed=REFRESHED, phases=phases, failed=failed, since=begin)


SHOWN_ALWAYS = (Phase.PENDING, Phase.RUNNING, Phase.WAITING)
