"""Encryption of secrets that are stored and read again: the keys that webhooks carry, and those that sign them.

While KELPIE_SECRET_KEY is being changed it holds two keys, `NEW,OLD`. Both open what is sealed. New secrets are
sealed with the one that the database knows, which is OLD until `change` adopts NEW: so a process that was started
with OLD alone reads all that one with both writes, and processes can be restarted one by one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from copy import copy
from typing import LiteralString

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from kelpie_api.config import SHORTEST_KEY
from kelpie_api.db import SQL, Database, Row, Transaction
from kelpie_api.errors import WrongSecretKey

BATCH = 500  # webhooks that are sealed anew by one statement


def keys_in(secret_key: str) -> list[str]:
    """The keys that a KELPIE_SECRET_KEY may mean, the newest first.

    It is two keys where enough characters stand before and after its first comma, blanks around them left out. As
    one whole it is accepted too, for a database that was used with a key that has a comma in it.
    """
    new, _, old = (part.strip() for part in secret_key.partition(","))
    return [new, old, secret_key] if min(len(new), len(old)) >= SHORTEST_KEY else [secret_key]


class Key:
    """Derived from a secret, which may be any string of 32 characters or more."""

    def __init__(self, secret: str) -> None:
        derived = hashlib.sha256(b"kelpie webhook key\0" + secret.encode()).digest()
        self.fingerprint = hmac.digest(derived, b"kelpie fingerprint", "sha256")  # names the key, reveals nothing
        self.fernet = Fernet(base64.urlsafe_b64encode(derived))


class Seal:
    """Encrypts with the first of its keys and decrypts with any."""

    def __init__(self, secret_key: str) -> None:
        self.keys = [Key(secret) for secret in keys_in(secret_key)]

    @property
    def fingerprint(self) -> bytes:
        return self.keys[0].fingerprint

    def known_as(self, fingerprint: bytes | None) -> Seal:
        """The same keys, that of the database first. Raises WrongSecretKey if it is none of them. A database that
        knows no key yet (None) will know the first."""
        for key in self.keys:
            if fingerprint is None or hmac.compare_digest(key.fingerprint, fingerprint):
                known = copy(self)
                known.keys = [key, *(other for other in self.keys if other is not key)]
                return known
        raise WrongSecretKey

    def seal(self, secret: str) -> bytes:
        return self.keys[0].fernet.encrypt(secret.encode())

    def open(self, sealed: bytes | None) -> str:
        """The secret, or an empty string where there is none or it was sealed with another key."""
        if sealed is None:
            return ""
        try:
            return MultiFernet([key.fernet for key in self.keys]).decrypt(sealed).decode()
        except InvalidToken:
            return ""

    def sealed_anew(self, sealed: bytes) -> bytes | None:
        """With the first key what another has sealed; None for what it has sealed itself, or none can open."""
        try:
            self.keys[0].fernet.decrypt(sealed)
        except InvalidToken:
            return self.seal(secret) if (secret := self.open(sealed)) else None
        return None


def require(tx: Transaction, seal: Seal) -> Seal:
    """The keys with that of the database first: new secrets are to be sealed with it. Raises WrongSecretKey if it
    is none of them. A database that knows none yet takes the first."""
    known = tx.one_or_none(SQL.recall_secret_key)
    if known is None:
        tx.execute(SQL.remember_secret_key, fingerprint=seal.fingerprint)
        known = tx.one_or_none(SQL.recall_secret_key)
    return seal.known_as(known["fingerprint"] if known else None)


def is_readable(db: Database, seal: Seal) -> bool:
    """Whether one of the keys opens what is sealed in this database."""
    try:
        db.repeatable(lambda tx: require(tx, seal))
    except WrongSecretKey:
        return False
    return True


def change(db: Database, seal: Seal) -> Row | None:
    """Make the first key the database's, and seal with it what another of the keys opens: `resealed_secrets` and
    `resealed_keys` of webhooks. Where none is the database's, what was sealed can be read no more and is dropped:
    `secrets` and `keys`. None: there was nothing to do.

    Another run seals what a process wrote with the key before while the first was at work, or was cut short.
    """
    with db.transaction() as tx:
        tx.execute(SQL.lock_secret_key)
        try:
            require(tx, seal)
        except WrongSecretKey:
            tx.execute(SQL.replace_secret_key, fingerprint=seal.fingerprint)
            secrets = tx.execute(SQL.delete_signing_secrets)
            return {"secrets": secrets, "keys": tx.execute(SQL.erase_sealed_keys)}
        adopted = tx.execute(SQL.replace_secret_key, fingerprint=seal.fingerprint)
    resealed = {
        "resealed_secrets": _seal_anew(db, seal, SQL.list_sealed_secrets, SQL.reseal_secrets),
        "resealed_keys": _seal_anew(db, seal, SQL.list_sealed_keys, SQL.reseal_keys),
    }
    return resealed if adopted or any(resealed.values()) else None


def _seal_anew(db: Database, seal: Seal, listed: LiteralString, reseal: LiteralString) -> int:
    """Reseal in short statements, since the sender works on the same rows; return their number."""
    found = [(row["id"], row["sealed"], seal.sealed_anew(row["sealed"])) for row in db.all(listed)]
    old = [(id_, before, after) for id_, before, after in found if after]
    resealed = 0
    for start in range(0, len(old), BATCH):
        ids, before, after = zip(*old[start : start + BATCH], strict=True)
        resealed += db.execute(reseal, ids=list(ids), before=list(before), after=list(after))
    return resealed
