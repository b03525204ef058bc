"""Signatures of webhooks, by which a receiver knows that they are genuine, and the secrets that make them.

The form is that of Standard Webhooks (https://www.standardwebhooks.com). A secret belongs to a user, is encrypted
in the database, and is made when first needed. After a rotation two are valid for a day
(docs/design/protocol.md, Webhooks).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

from kelpie_api import encryption, logs
from kelpie_api.db import SQL, Database, Row, Transaction
from kelpie_api.encryption import Seal
from kelpie_api.errors import UserRemoved

PREFIX = "whsec_"
OVERLAP = timedelta(hours=24)  # how long a rotated secret still signs beside the new one


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def sign(secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    """One signature; `timestamp` in seconds since 1970, `body` the very bytes that are sent."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def headers(valid: Iterable[str], webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of Standard Webhooks, with a signature for each valid secret."""
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(secret, webhook_id, timestamp, body) for secret in valid),
    }


def valid_secrets(db: Database, seal: Seal, user_id: UUID) -> list[Row]:
    """One or two rows of `secret`, `created`, `valid_until`; the current one first. Makes one if there is none.

    Raises WrongSecretKey rather than replace what another key than this would open.
    """
    found = _open(seal, db.all(SQL.list_signing_secrets, user_id=user_id))
    if found and found[0]["valid_until"] is None and all(row["secret"] for row in found):
        return found
    with db.transaction() as tx:
        seal = encryption.require(tx, seal)
        _lock(tx, user_id)
        _drop_unreadable(tx, seal, user_id)
        tx.execute(SQL.create_signing_secret, user_id=user_id, sealed=seal.seal(new_secret()))
        return _open(seal, tx.all(SQL.list_signing_secrets, user_id=user_id))


def signing_secret(db: Database, seal: Seal, user_id: UUID) -> dict[str, Any]:
    """The user's secret: `secret`, `created`, `previous` (`secret`, `valid_until`, or None)."""
    return _shown(valid_secrets(db, seal, user_id))


def rotate_signing_secret(db: Database, seal: Seal, user_id: UUID) -> dict[str, Any]:
    """A new secret, shown as by `signing_secret`. The one before stays valid for a day, older ones end."""
    with db.transaction() as tx:
        seal = encryption.require(tx, seal)
        _lock(tx, user_id)
        _drop_unreadable(tx, seal, user_id)
        tx.execute(SQL.end_previous_signing_secret, user_id=user_id)
        tx.execute(SQL.retire_signing_secret, user_id=user_id, overlap=OVERLAP)
        tx.execute(SQL.create_signing_secret, user_id=user_id, sealed=seal.seal(new_secret()))
        return _shown(_open(seal, tx.all(SQL.list_signing_secrets, user_id=user_id)))


def _lock(tx: Transaction, user_id: UUID) -> None:
    """One change of a user's secrets at a time."""
    if tx.one_or_none(SQL.lock_user, user_id=user_id) is None:
        raise UserRemoved


def _drop_unreadable(tx: Transaction, seal: Seal, user_id: UUID) -> None:
    """What the database's own key does not open, nothing will: it was written before the key was remembered."""
    for row in _open(seal, tx.all(SQL.list_signing_secrets, user_id=user_id)):
        if not row["secret"]:
            logs.warning("signing_secret_unreadable", user_id=user_id, created=row["created"])
            tx.execute(SQL.delete_signing_secret, id=row["id"])


def _open(seal: Seal, rows: list[Row]) -> list[Row]:
    return [row | {"secret": seal.open(row["sealed"])} for row in rows]


def _shown(rows: list[Row]) -> dict[str, Any]:
    current, *before = rows
    return {
        "secret": current["secret"],
        "created": current["created"],
        "previous": before[0] if before else None,
    }
