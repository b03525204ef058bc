"""The log of a job's webhooks, and sending one again."""

from __future__ import annotations

from collections import defaultdict
from uuid import UUID

from kelpie_api import history
from kelpie_api.db import SQL, Database, Row
from kelpie_api.errors import NotFound


def page(db: Database, job_id: UUID, after: int, page_size: int) -> history.HistoryPage:
    """A page of a job's webhooks with their tries, in the order in which they were written."""
    webhooks, following = history.page_of(db, SQL.list_webhooks, "seq", job_id, after, page_size)
    tries: dict[UUID, list[Row]] = defaultdict(list)
    for delivery in db.all(SQL.list_deliveries, webhook_ids=[webhook["id"] for webhook in webhooks]):
        tries[delivery["webhook_id"]].append(delivery)
    return [webhook | {"attempts": tries[webhook["id"]]} for webhook in webhooks], following


def redeliver(db: Database, job_id: UUID, webhook_id: UUID, sealed_key: bytes | None) -> None:
    """Send a webhook again, with the same webhook-id and the caller's key. Raises NotFound."""
    if not db.one_or_none(SQL.redeliver_webhook, job_id=job_id, id=webhook_id, sealed_key=sealed_key):
        raise NotFound(
            f"Job {job_id} has no webhook {webhook_id}; GET /jobs/{job_id}/webhooks lists those it has."
        )
