"""Sessions of people at the pages: a key is shown once, and a random token stands for it until it ends.

Stored is a digest of the token. A session is looked up by each request, so that it ends at once: with a logout,
with its key, and after LIFETIME.
"""

from __future__ import annotations

import hmac
import secrets
from datetime import timedelta

from kelpie_api.auth.caller import Caller, Role
from kelpie_api.auth.users import digest
from kelpie_api.db import SQL, Database
from kelpie_api.errors import Forbidden, NotSignedIn

LIFETIME = timedelta(hours=12)
MOST = 50  # sessions of one key, of which the oldest goes


def begin(db: Database, caller: Caller) -> str:
    """Begin a session for the key of a caller, and return its token. Raises Forbidden for a key that has none."""
    if caller.role == Role.WORKER:
        raise Forbidden("This is a worker's key, which reads no pages; sign in with an operator's or a viewer's.")
    if caller.key_id is None:
        raise Forbidden(
            "The administrator's own key opens no session; make a key for a user, and sign in with that one."
        )
    token = secrets.token_urlsafe(32)
    values = {"digest": digest(token), "key_id": caller.key_id, "seconds": LIFETIME.total_seconds(), "most": MOST}
    if not db.unrepeatable(lambda tx: tx.one_or_none(SQL.begin_session, **values)):
        raise Forbidden("This API key was removed a moment ago; ask for a new one.")
    return token


def caller_of(db: Database, token: str) -> Caller:
    """The caller of a session: its key's, without the key itself. Raises NotSignedIn."""
    wanted = digest(token)
    found = db.one_or_none(SQL.find_session, digest=wanted)
    if found is None or not hmac.compare_digest(wanted, found.pop("digest")):
        raise NotSignedIn
    return Caller(**found | {"role": Role(found["role"])})


def end(db: Database, token: str) -> None:
    db.execute(SQL.end_session, digest=digest(token))
