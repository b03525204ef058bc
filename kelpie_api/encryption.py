"""Secrets that must be kept for a while and read again: the key that a webhook carries (contract section 4)."""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.fernet import Fernet, InvalidToken

from kelpie_api.db import SQL, Database, Row, Transaction
from kelpie_api.errors import WrongSecretKey


class Seal:
    """Encrypts with a key derived from KELPIE_SECRET_KEY, which may be any string of 32 characters or more."""

    def __init__(self, secret_key: str) -> None:
        derived = hashlib.sha256(b"kelpie webhook key\0" + secret_key.encode()).digest()
        self.fingerprint = hmac.digest(derived, b"kelpie fingerprint", "sha256")  # tells keys apart, and no more
        self.fernet = Fernet(base64.urlsafe_b64encode(derived))

    def seal(self, secret: str) -> bytes:
        return self.fernet.encrypt(secret.encode())

    def open(self, sealed: bytes | None) -> str:
        """The secret, or an empty string where there is none or it was sealed with another key."""
        if sealed is None:
            return ""
        try:
            return self.fernet.decrypt(sealed).decode()
        except InvalidToken:
            return ""


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
