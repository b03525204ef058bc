"""Sessions of people at the pages: a key is shown once, and a random token stands for it until it ends.

Stored is a digest of the token. A session is looked up by each request, so that it ends at once: with a logout,
with its key, and after LIFETIME. A key of Salad's can end there, so Salad is asked about it again and again: its
session has it, sealed, and both are erased together.

A local stack makes a token that begins one session without a key. It is kept as a session is, under a digest of
another kind, so that no cookie is good for it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import timedelta

from kelpie_api import encryption
from kelpie_api.auth.authenticator import Authenticator
from kelpie_api.auth.caller import Caller, Role
from kelpie_api.auth.users import digest
from kelpie_api.db import SQL, Database, Row
from kelpie_api.encryption import Seal
from kelpie_api.errors import Forbidden, NotSignedIn

LIFETIME = timedelta(hours=12)
MOST, MOST_OF_A_PROJECT = 50, 200  # sessions of one key, and with Salad's keys of one project; the oldest goes
FORGET_PAUSE = 60.0  # seconds between two looks for sessions that are over


def begin(db: Database, caller: Caller) -> str:
    """Begin a session for the key of a caller, and return its token. Raises Forbidden for a key that has none."""
    if caller.role == Role.WORKER:
        raise Forbidden("This is a worker's key, which reads no pages; sign in with an operator's or a viewer's.")
    if caller.key_id is None or caller.is_admin:
        raise Forbidden(
            "The administrator's own key opens no session; make a key for a user, and sign in with that one."
        )
    token = secrets.token_urlsafe(32)
    if not keep(db, digest(token), caller.key_id):
        raise Forbidden("This API key was removed a moment ago; ask for a new one.")
    return token


def begin_with_salad_key(db: Database, seal: Seal, caller: Caller, key: str) -> str:
    """Begin a session for a caller of a key that Salad confirmed, and return its token."""
    token = secrets.token_urlsafe(32)
    with db.transaction() as tx:
        tx.execute(
            SQL.begin_sealed_session,
            digest=digest(token),
            tenant_id=caller.tenant_id,
            sealed_key=encryption.require(tx, seal).seal(key),
            seconds=LIFETIME.total_seconds(),
            most=MOST_OF_A_PROJECT,
        )
    return token


def keep(db: Database, token_digest: bytes, key_id: object) -> bool:
    """Keep a session of a key; False: there is no such key."""
    values = {"digest": token_digest, "key_id": key_id, "seconds": LIFETIME.total_seconds(), "most": MOST}
    return db.unrepeatable(lambda tx: tx.one_or_none(SQL.begin_session, **values)) is not None


def invite(db: Database, key: str) -> str:
    """Make a token with which `begin_once` begins a session of this key, within LIFETIME. Raises Forbidden."""
    found = db.one_or_none(SQL.find_api_key, digest=digest(key))
    token = secrets.token_urlsafe(32)
    if found is None or not keep(db, once_digest(token), found["key_id"]):
        raise Forbidden("There is no such API key.")
    return token


def begin_once(db: Database, token: str) -> str:
    """Begin the session of a token that `invite` made, which is good for nothing then; return the session's.

    Raises NotSignedIn for one that was used, or is none.
    """
    wanted = once_digest(token)
    found = db.one_or_none(SQL.find_session, digest=wanted)
    if found is None or not db.unrepeatable(lambda tx: tx.execute(SQL.end_session, digest=wanted)):
        raise NotSignedIn
    return begin(db, as_caller(found))


def once_digest(token: str) -> bytes:
    return hmac.digest(b"a session that is not begun", token.encode(), hashlib.sha256)


def as_caller(found: Row) -> Caller:
    """The caller of a session that was begun with a key of ours."""
    kept = {name: value for name, value in found.items() if name not in ("digest", "sealed_key")}
    return Caller(**kept | {"role": Role(found["role"])})


def caller_of(db: Database, authenticator: Authenticator, token: str) -> Caller:
    """The caller of a session: its key's, without the key itself.

    Raises NotSignedIn, and Unavailable where Salad does not answer about a key that it has not confirmed for long.
    """
    wanted = digest(token)
    found = db.one_or_none(SQL.find_session, digest=wanted)
    if found is None or not hmac.compare_digest(wanted, found.pop("digest")):
        raise NotSignedIn
    if found["sealed_key"] is None:
        return as_caller(found)
    key = authenticator.seal.open(found["sealed_key"])
    try:
        caller = authenticator.of_salad_key(key, found["organization"], found["project"])
    except Forbidden:  # it is good for this project no more, or KELPIE_SECRET_KEY is another one
        end(db, token)
        raise NotSignedIn from None
    if caller.tenant_id != found["tenant_id"]:
        raise NotSignedIn
    return caller


def end(db: Database, token: str) -> None:
    db.execute(SQL.end_session, digest=digest(token))


class EndedSessions:
    """Erases the sessions that are over, with the keys that they have."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def forget_sessions(self) -> float:
        """Erase some; the seconds until the next time."""
        self.db.execute(SQL.forget_sessions)
        return FORGET_PAUSE
