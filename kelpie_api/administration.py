"""What an operator does to users and keys from the command line, straight on the database."""

from __future__ import annotations

import re
from uuid import UUID

from kelpie_api import auth
from kelpie_api.db import SQL, Database, Row
from kelpie_api.errors import InvalidRequest, NotFound
from kelpie_api.wire import LONGEST_NAME, NAME_TEXT, UNSTORABLE


def storable(name: str, what: str) -> str:
    """The rule that the API has for names. Raises InvalidRequest."""
    if not 1 <= len(name) <= LONGEST_NAME:
        raise InvalidRequest(f"The {what} must have 1 to {LONGEST_NAME} characters.")
    if not re.match(NAME_TEXT, name) or UNSTORABLE.search(name):
        raise InvalidRequest(f"The {what} has line ends, control characters, or is not UTF-8 text.")
    return name


def create_user(db: Database, username: str) -> Row:
    return dict(auth.create_user(db, storable(username, "user's name")))


def find_user(db: Database, wanted: str) -> Row:
    """By name or id. Raises NotFound."""
    user = db.one_or_none(SQL.find_user, wanted=storable(wanted, "user's name"))
    if user is None:
        raise NotFound(f"There is no user {wanted}; list-users shows those there are.")
    return user


def create_key(db: Database, wanted: str, org: str, project: str) -> str:
    user_id = find_user(db, wanted)["id"]
    return auth.create_token(db, user_id, storable(org, "organization"), storable(project, "project"))


def list_users(db: Database) -> list[Row]:
    return db.all(SQL.list_users)


def list_keys(db: Database, wanted: str | None) -> list[Row]:
    """Of one user, or of all."""
    return db.all(SQL.list_api_keys, user_id=find_user(db, wanted)["id"] if wanted else None)


def revoke_key(db: Database, key_id: UUID) -> Row:
    """Its owner. Raises NotFound."""
    revoked = db.unrepeatable(lambda tx: tx.one_or_none(SQL.revoke_api_key, key_id=key_id))
    if revoked is None:
        raise NotFound(f"There is no key with the id {key_id}; list-keys shows those there are.")
    return revoked
