"""Usage: how long machines held jobs, how much of it was kept, and what it cost."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Response, request

from kelpie_api.dashboard.pages import blueprint, now, page, read
from kelpie_api.db import Row
from kelpie_api.errors import InvalidRequest
from kelpie_api.queue.usage import Days, usage
from kelpie_api.schemas.usage import UsageQuery
from kelpie_api.web.context import caller, db

QUERY = UsageQuery()
DAYS_BEFORE = timedelta(days=30)
MOST = 200  # rows
BY = ("group", "machine", "sweep", "name")


@blueprint.get("/ui/usage")
def get_usage() -> Response:
    """What attempts cost that ended on some days, by what the address says."""
    found: Row | None = None
    refusal = None
    try:
        query = read(QUERY)
        last = query["last"] or now().date()
        days = Days(query["first"] or last - DAYS_BEFORE, last)
        found = usage(db(), caller(), query["by"], days)
    except InvalidRequest as error:
        refusal = error.message
    return page(
        "usage.html",
        400 if refusal else 200,
        rows=[with_shares(row) for row in found["usage"][:MOST]] if found else [],
        total=found and with_shares(found["total"]),
        left_out=found["left_out"] + max(0, len(found["usage"]) - MOST) if found else 0,
        by=found["by"] if found else request.args.get("by", ""),
        choices=BY,
        first=found["from"] if found else request.args.get("from", ""),
        last=found["to"] if found else request.args.get("to", ""),
        refusal=refusal,
    )


def with_shares(row: Row) -> dict[str, Any]:
    """A row with all that was lost as one number; None where that is not known."""
    lost = None if row["lost"] is None else sum(row["lost"].values())
    return {**row, "lost": lost, "lost_share": None if lost is None or not row["held"] else lost / row["held"]}
