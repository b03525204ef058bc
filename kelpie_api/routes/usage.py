"""What attempts cost (docs/design/protocol.md, Usage)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from kelpie_api.db import Row
from kelpie_api.queue.usage import Days, usage
from kelpie_api.schemas.fields import Failure
from kelpie_api.schemas.usage import Usage, UsageQuery
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.context import caller, db

blueprint = Blueprint("usage", __name__, description="Usage: how long machines held jobs, to which use and price.")
DAYS_BEFORE = timedelta(days=30)  # that are read where `from` is left out


@blueprint.get("/usage")
@blueprint.arguments(UsageQuery, location="query")
@blueprint.response(200, Usage)
@blueprint.alt_response(400, schema=Failure)
def get_usage(query: dict[str, Any]) -> Row:
    """What the attempts cost that ended on the days (UTC) from `from` to `to`, both included.

    Without them the last 31. `by` is `group`, `machine` or `sweep`; `name` and `label:KEY` read 31 days
    and 200,000 attempts at most.
    """
    last = query["last"] or datetime.now(UTC).date()
    found = usage(db(), caller(), query["by"], Days(query["first"] or last - DAYS_BEFORE, last))
    return {"_count": len(found["usage"])} | found
