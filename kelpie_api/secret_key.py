"""The database remembers which KELPIE_SECRET_KEY it was first used with, and no program works on it with another.

What was sealed with one key is lost to every other, and a program that took that for "there is nothing" would
destroy it: send webhooks without their keys, and replace secrets that are good.
"""

from __future__ import annotations

import hmac

from kelpie_api.db import SQL, Database, Row, Transaction
from kelpie_api.errors import WrongSecretKey
from kelpie_api.sealing import Seal


def require(tx: Transaction, seal: Seal) -> None:
    """Raise WrongSecretKey if this database knows another key; whoever is the first says which it is."""
    known = tx.one_or_none(SQL.recall_secret_key)
    if known is None:
        tx.execute(SQL.remember_secret_key, fingerprint=seal.fingerprint)
        known = tx.one_or_none(SQL.recall_secret_key)
    if known is None or not hmac.compare_digest(known["fingerprint"], seal.fingerprint):
        raise WrongSecretKey


def change(db: Database, seal: Seal) -> Row | None:
    """Make this key the database's: how many `secrets` and `keys` of webhooks went with the one before.

    None, and nothing is touched, if it is the database's already.
    """
    with db.transaction() as tx:
        tx.execute(SQL.lock_secret_key)
        try:
            require(tx, seal)
        except WrongSecretKey:
            tx.execute(SQL.replace_secret_key, fingerprint=seal.fingerprint)
            secrets = tx.execute(SQL.delete_signing_secrets)
            return {"secrets": secrets, "keys": tx.execute(SQL.erase_sealed_keys)}
    return None
