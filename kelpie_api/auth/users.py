"""Users and their keys, as the administrator makes, lists and removes them."""

from __future__ import annotations

import hashlib
import re
import secrets
from uuid import UUID

from kelpie_api.auth.caller import Caller, Role
from kelpie_api.db import SQL, Database, Row
from kelpie_api.errors import Conflict, InvalidRequest, NotFound, UserRemoved
from kelpie_api.limits import LONGEST_NAME
from kelpie_api.text import NAME_TEXT, UNSTORABLE

KEY_BEGINS = "kelpie_"
LONGEST_PREFIX = len(KEY_BEGINS) + 6  # characters of a key that lists show; some 220 random bits stay hidden


def storable(name: str, what: str) -> str:
    """The name, if it may be stored; the API has the same rule. Raises InvalidRequest."""
    if not 1 <= len(name) <= LONGEST_NAME:
        raise InvalidRequest(f"The {what} must have 1 to {LONGEST_NAME} characters.")
    if not re.match(NAME_TEXT, name) or UNSTORABLE.search(name):
        raise InvalidRequest(f"The {what} has line ends, control characters, or is not UTF-8 text.")
    return name


def find_user(db: Database, wanted: str) -> Row:
    """The user with this name or id. Raises NotFound, InvalidRequest."""
    user = db.one_or_none(SQL.find_user, wanted=storable(wanted, "user's name"))
    if user is None:
        raise NotFound(f"There is no user {wanted}; list-users shows those there are.")
    return user


def create_key(db: Database, wanted: str, org: str, project: str, role: Role = Role.OPERATOR) -> str:
    user_id = find_user(db, wanted)["id"]
    return create_token(db, user_id, storable(org, "organization"), storable(project, "project"), role)


def list_users(db: Database) -> list[Row]:
    return db.all(SQL.list_users)


def list_page(db: Database, after: UUID | None, page_size: int) -> tuple[list[Row], UUID | None]:
    """A page of all users, oldest first, and the id to go on after; None: these are the last."""
    found = db.all(SQL.list_page_of_users, after=after, most=page_size + 1)
    return found[:page_size], found[page_size - 1]["id"] if len(found) > page_size else None


def list_keys(db: Database, wanted: str | None) -> list[Row]:
    """The keys of one user, or of all; without the keys themselves, which are not stored."""
    return db.all(SQL.list_api_keys, user_id=find_user(db, wanted)["id"] if wanted else None)


def revoke_key(db: Database, key_id: UUID) -> Row:
    """Remove a key and return its owner. Raises NotFound."""
    revoked = db.unrepeatable(lambda tx: tx.one_or_none(SQL.revoke_api_key, key_id=key_id))
    if revoked is None:
        raise NotFound(f"There is no key with the id {key_id}; list-keys shows those there are.")
    return revoked


def digest(key: str) -> bytes:
    """The stored form of a key. A slow hash would add nothing: a key has 256 random bits."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def new_key() -> str:
    return f"{KEY_BEGINS}{secrets.token_urlsafe(32)}"


def stored_form(key: str) -> Row:
    """What is stored of a key: its digest, and how it begins, by which its owner recognizes it."""
    return {"digest": digest(key), "prefix": key[:LONGEST_PREFIX]}


def create_user(db: Database, username: str) -> Row:
    """Make a user. Raises InvalidRequest if the name cannot be stored or is taken."""
    storable(username, "user's name")
    user = db.unrepeatable(lambda tx: tx.one_or_none(SQL.create_user, username=username))
    if user is None:
        raise InvalidRequest(
            f"There is a user {username} already; choose another name.",
            {"username": ["A user of this name exists."]},
        )
    return user


def create_token(db: Database, user_id: UUID, org_name: str, project_name: str, role: Role = Role.OPERATOR) -> str:
    """Make an API key and return it; only its digest is stored. Raises NotFound for an unknown user."""
    token = new_key()
    names = {"org_name": org_name, "project": project_name}
    made = db.unrepeatable(
        lambda tx: tx.one_or_none(SQL.create_api_key, user_id=user_id, **names, role=role, **stored_form(token))
    )
    if made is None:
        raise NotFound(f"There is no user {user_id}.")
    return token


def get_user(db: Database, caller: Caller) -> Row:
    user = db.one_or_none(SQL.get_user, user_id=caller.user_id)
    if user is None:
        raise UserRemoved
    return user


def delete_users(db: Database) -> None:
    """Remove all users but the administrator, with their keys and jobs."""
    with db.transaction() as tx:
        tx.execute(SQL.empty_queue_of_users)
        tx.execute(SQL.delete_users)


def delete_user(db: Database, user_id: UUID) -> Row:
    """Remove a user with its keys and jobs, and return it. Raises NotFound; Conflict for the administrator."""
    with db.transaction() as tx:
        tx.execute(SQL.empty_queue_of_user, user_id=user_id)
        removed = tx.one_or_none(SQL.delete_user, user_id=user_id)
    if removed is None:
        if db.one_or_none(SQL.get_user, user_id=user_id):
            raise Conflict("The administrator cannot be removed.")
        raise NotFound(f"There is no user {user_id}.")
    return removed
