"""Encryption of what is stored and read again: the keys that webhooks carry, those that sign them, and what jobs
are given: secrets and environments.

The latter are sealed each with a key of their row, derived from its id, so that what is sealed for one row opens
for no other; a mark in front says which KELPIE_SECRET_KEY it was, so that a change finds what is still to be done
without opening all.

While KELPIE_SECRET_KEY is being changed it holds two keys, `NEW,OLD`. Both open what is sealed. New secrets are
sealed with the one that the database knows, which is OLD until `change` adopts NEW: so a process that was started
with OLD alone reads all that one with both writes, and processes can be restarted one by one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from copy import copy
from typing import LiteralString, NamedTuple
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kelpie_api.config import SHORTEST_KEY
from kelpie_api.db import SQL, Database, Row, Transaction
from kelpie_api.errors import SecretsWouldBeLost, WrongSecretKey

BATCH = 500  # rows that are sealed anew by one statement
VERSION = b"\x01"  # of the form in which rows are sealed: mark, nonce, AES-GCM's text and tag
MARK_LENGTH = 8  # bytes, of a key's fingerprint
NONCE_LENGTH = 12  # bytes
HEAD = len(VERSION) + MARK_LENGTH


def keys_in(secret_key: str) -> list[str]:
    """The keys that a KELPIE_SECRET_KEY may mean, the newest first.

    It is two keys where enough characters stand before and after its first comma, blanks around them left out. As
    one whole it is accepted too, for a database that was used with a key that has a comma in it.
    """
    new, _, old = (part.strip() for part in secret_key.partition(","))
    return [new, old, secret_key] if min(len(new), len(old)) >= SHORTEST_KEY else [secret_key]


def hint(secret_key: str) -> str:
    """Which part of a KELPIE_SECRET_KEY with a comma in it is too short to be a key, in a sentence to append."""
    parts = [part.strip() for part in secret_key.split(",", 1)]
    short = [name for name, part in zip(("first", "second"), parts, strict=False) if len(part) < SHORTEST_KEY]
    if len(parts) < 2 or not short:
        return ""
    return (
        f" It was taken for one key with a comma in it, for its {' and its '.join(short)} part has fewer than"
        f" {SHORTEST_KEY} characters."
    )


class Key:
    """Derived from a secret, which may be any string of 32 characters or more."""

    def __init__(self, secret: str) -> None:
        derived = hashlib.sha256(b"kelpie webhook key\0" + secret.encode()).digest()
        self.fingerprint = hmac.digest(derived, b"kelpie fingerprint", "sha256")  # names the key, reveals nothing
        self.fernet = Fernet(base64.urlsafe_b64encode(derived))
        self.mark = VERSION + self.fingerprint[:MARK_LENGTH]
        self.of_rows = hmac.digest(derived, b"kelpie rows", "sha256")

    def of_row(self, row_id: UUID) -> AESGCM:
        return AESGCM(hmac.digest(self.of_rows, row_id.bytes, "sha256"))


class Seal:
    """Encrypts with the first of its keys and decrypts with any."""

    def __init__(self, secret_key: str) -> None:
        self.keys = [Key(secret) for secret in keys_in(secret_key)]
        self.hint = hint(secret_key)

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
        raise WrongSecretKey(self.hint)

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

    def seal_row(self, row_id: UUID, secret: str) -> bytes:
        """The secret, encrypted for the row with this id and no other."""
        nonce = os.urandom(NONCE_LENGTH)
        return self.keys[0].mark + nonce + self.keys[0].of_row(row_id).encrypt(nonce, secret.encode(), None)

    def open_row(self, row_id: UUID, sealed: bytes) -> str | None:
        """What `seal_row` encrypted for this row; None if none of the keys opens it."""
        mark, nonce, text = sealed[:HEAD], sealed[HEAD : HEAD + NONCE_LENGTH], sealed[HEAD + NONCE_LENGTH :]
        for key in self.keys:
            if key.mark == mark:
                try:
                    return key.of_row(row_id).decrypt(nonce, text, None).decode()
                except (InvalidTag, ValueError):
                    return None
        return None

    def row_sealed_anew(self, row_id: UUID, sealed: bytes) -> bytes | None:
        """As `sealed_anew`, for a row."""
        if sealed.startswith(self.keys[0].mark):
            return None
        secret = self.open_row(row_id, sealed)
        return None if secret is None else self.seal_row(row_id, secret)

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


class Unreadable(NamedTuple):
    """What none of the given keys opens: ids of signing secrets, and of webhooks that wait; how many secrets
    and environments of jobs."""

    secrets: list[int]
    keys: list[UUID]
    job_secrets: int
    environments: int


def unreadable(db: Database | Transaction, seal: Seal) -> Unreadable:
    marks = [key.mark for key in seal.keys]
    counted = db.one_or_none(SQL.count_unreadable_rows, marks=marks) or {}
    return Unreadable(
        [row["id"] for row in db.all(SQL.list_sealed_secrets) if not seal.open(row["sealed"])],
        [row["id"] for row in db.all(SQL.list_sealed_keys) if not seal.open(row["sealed"])],
        **counted,
    )


def require_readable(db: Database, seal: Seal) -> None:
    """Raise SecretsWouldBeLost, which counts them, if there are secrets that none of the keys opens."""
    _require_nothing_lost(unreadable(db, seal), seal.hint)


def change(db: Database, seal: Seal, drop: bool = False) -> Row | None:
    """Make the first key the database's, and seal with it what another of the keys opens: `resealed_secrets`,
    `resealed_keys` of webhooks, and of what jobs are given, where there was some, `resealed_job_secrets` and
    `resealed_environments`. None: there was nothing to do. Another run seals what a process wrote with the key
    before while the first was at work, or was cut short.

    What none of the keys opens is removed with `drop`: `secrets` and `keys`. Without it that stays where one of
    them is the database's; where none is, nothing is changed and SecretsWouldBeLost raised, or WrongSecretKey for
    a key that was probably meant as two. What jobs are given always stays: their jobs wait for the key.
    """
    with db.transaction() as tx:
        tx.execute(SQL.lock_secret_key)
        is_known, lost = _is_known(tx, seal), unreadable(tx, seal)
        if not (is_known or drop):
            _require_nothing_lost(lost, seal.hint)
            if seal.hint:
                raise WrongSecretKey(seal.hint)
        dropped = _drop(tx, lost) if drop or not is_known else {}
        adopted = tx.execute(SQL.replace_secret_key, fingerprint=seal.fingerprint)
        if adopted:
            tx.execute(
                SQL.end_sealed_sessions
            )  # they last half a day; to begin another one is less than to reseal it
    if not is_known:
        return dropped
    resealed = {
        "resealed_secrets": _seal_anew(db, seal, SQL.list_sealed_secrets, SQL.reseal_secrets),
        "resealed_keys": _seal_anew(db, seal, SQL.list_sealed_keys, SQL.reseal_keys),
    }
    of_jobs = {
        "resealed_job_secrets": _seal_rows_anew(db, seal, SQL.list_secrets_of_other_keys, SQL.reseal_job_secrets),
        "resealed_environments": _seal_rows_anew(
            db, seal, SQL.list_environments_of_other_keys, SQL.reseal_environments
        ),
    }
    done = dropped | resealed | {name: number for name, number in of_jobs.items() if number}
    return done if adopted or any(done.values()) else None


def _is_known(tx: Transaction, seal: Seal) -> bool:
    try:
        require(tx, seal)
    except WrongSecretKey:
        return False
    return True


def _require_nothing_lost(lost: Unreadable, hint: str) -> None:
    if any(lost):
        raise SecretsWouldBeLost(len(lost.secrets), len(lost.keys), lost.job_secrets, lost.environments, hint)


def _drop(tx: Transaction, lost: Unreadable) -> dict[str, int]:
    return {
        "secrets": tx.execute(SQL.delete_signing_secrets, ids=lost.secrets),
        "keys": tx.execute(SQL.erase_sealed_keys, ids=lost.keys),
    }


def _seal_anew(db: Database, seal: Seal, listed: LiteralString, reseal: LiteralString) -> int:
    """Reseal in short statements, since the sender works on the same rows; return their number."""
    found = [(row["id"], row["sealed"], seal.sealed_anew(row["sealed"])) for row in db.all(listed)]
    old = [(id_, before, after) for id_, before, after in found if after]
    resealed = 0
    for start in range(0, len(old), BATCH):
        ids, before, after = zip(*old[start : start + BATCH], strict=True)
        resealed += db.execute(reseal, ids=list(ids), before=list(before), after=list(after))
    return resealed


def _seal_rows_anew(db: Database, seal: Seal, listed: LiteralString, reseal: LiteralString) -> int:
    """The same for what is sealed for rows, of which there may be millions: a batch is listed at a time."""
    resealed, after = 0, None
    while found := db.all(listed, mark=seal.keys[0].mark, after=after, most=BATCH):
        after = found[-1]["place"]
        old = [(row["id"], row["sealed"], seal.row_sealed_anew(row["id"], row["sealed"])) for row in found]
        if rows := [row for row in old if row[2]]:
            ids, before, after_change = zip(*rows, strict=True)
            resealed += db.execute(reseal, ids=list(ids), before=list(before), after=list(after_change))
    return resealed
