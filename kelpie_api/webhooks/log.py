"""The log of a job's webhooks, and sending one again."""

from __future__ import annotations

import itertools
from collections import defaultdict
from uuid import UUID

from kelpie_api import history
from kelpie_api.db import SQL, Database, Row
from kelpie_api.errors import NotFound

MOST_TRIES = 100  # of one webhook, the newest
MOST_TRIES_OF_A_PAGE = 100_000


def page(db: Database, job_id: UUID, after: int, page_size: int) -> history.HistoryPage:
    """A page of a job's webhooks with their newest tries, in the order in which they were written.

    Shorter than `page_size` where they have many tries.
    """
    found, following = history.page_of(db, SQL.list_webhooks, "seq", job_id, after, page_size)
    webhooks = found[: number_that_fits([webhook["tries"] for webhook in found])]
    if len(webhooks) < len(found):
        following = webhooks[-1]["seq"]
    tries: dict[UUID, list[Row]] = defaultdict(list)
    for delivery in db.all(SQL.list_deliveries, webhook_ids=[w["id"] for w in webhooks], most=MOST_TRIES):
        tries[delivery["webhook_id"]].append(delivery)
    return [webhook | {"attempts": tries[webhook["id"]]} for webhook in webhooks], following


def number_that_fits(tries: list[int]) -> int:
    """How many webhooks with so many tries each fit on a page; one at least."""
    sums = itertools.accumulate(min(number, MOST_TRIES) for number in tries)
    return max(1, sum(total <= MOST_TRIES_OF_A_PAGE for total in sums))


def redeliver(db: Database, job_id: UUID, webhook_id: UUID, sealed_key: bytes | None) -> None:
    """Send a webhook again, with the same webhook-id and the caller's key. Raises NotFound."""
    if not db.one_or_none(SQL.redeliver_webhook, job_id=job_id, id=webhook_id, sealed_key=sealed_key):
        raise NotFound(
            f"Job {job_id} has no webhook {webhook_id}; GET /jobs/{job_id}/webhooks lists those it has."
        )
