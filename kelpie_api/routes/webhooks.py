"""Webhooks of a job: their log and redelivery; and the secret that signs them
(docs/design/protocol.md, Webhooks)."""

from __future__ import annotations

from typing import Any

from kelpie_api.auth.caller import Role
from kelpie_api.db import Row
from kelpie_api.queue import listing
from kelpie_api.schemas.fields import Failure, Message
from kelpie_api.schemas.jobs import HistoryQuery
from kelpie_api.schemas.webhooks import SigningSecret, WebhookList
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.context import TEXT, caller, coordinator, db, identifier
from kelpie_api.web.pages import link_after
from kelpie_api.webhooks import log, signing

blueprint = Blueprint("webhooks", __name__, description="Webhooks, their tries, and the secret that signs them.")
NO_STORE = {"Cache-Control": {"schema": {"type": "string"}}}


@blueprint.get("/jobs/<job_id>/webhooks")
@blueprint.arguments(HistoryQuery, location="query")
@blueprint.response(200, WebhookList, headers={"Link": TEXT})
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
def list_webhooks(query: dict[str, Any], job_id: str) -> tuple[Row, int, dict[str, str]]:
    """Webhooks of a job and every try to deliver them; `Link` leads to the next page, if there is one."""
    job = listing.get(db(), caller(), identifier(job_id, "job"))
    found, following = log.page(db(), job["id"], **query)
    if caller().role == Role.VIEWER:
        found = [webhook | {"url": listing.without_user_part(webhook["url"])} for webhook in found]
    return {"_count": len(found), "webhooks": found}, 200, link_after(following)


@blueprint.post("/jobs/<job_id>/webhooks/<webhook_id>/redeliver")
@blueprint.response(202, Message)
@blueprint.alt_response(404, schema=Failure)
def redeliver_webhook(job_id: str, webhook_id: str) -> Row:
    """Send a webhook again under its id, with the key of this call; a pending one goes at once with its own."""
    job = listing.get(db(), caller(), identifier(job_id, "job"))
    log.redeliver(db(), job["id"], identifier(webhook_id, "webhook"), caller().sealed_key)
    return {"message": "The webhook will be delivered again"}


@blueprint.get("/users/me/signing-secret")
@blueprint.response(200, SigningSecret, headers=NO_STORE)
def get_signing_secret() -> tuple[dict[str, Any], int, dict[str, str]]:
    """The secret that signs your webhooks; made when it is first read."""
    return confidential(signing.signing_secret(db(), coordinator().authenticator.seal, caller().user_id))


@blueprint.post("/users/me/signing-secret")
@blueprint.response(200, SigningSecret, headers=NO_STORE)
def rotate_signing_secret() -> tuple[dict[str, Any], int, dict[str, str]]:
    """Make a new secret; the previous one stays valid for 24 hours, an older one ends now."""
    return confidential(signing.rotate_signing_secret(db(), coordinator().authenticator.seal, caller().user_id))


def confidential(secret: dict[str, Any]) -> tuple[dict[str, Any], int, dict[str, str]]:
    return secret, 200, {"Cache-Control": "no-store"}
