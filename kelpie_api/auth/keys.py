"""Keys with names, as operators make, list and remove them for their own tenant; and when each was last used."""

from __future__ import annotations

import threading
from uuid import UUID

import psycopg

from kelpie_api.auth.caller import Caller, Role
from kelpie_api.auth.users import new_key, stored_form
from kelpie_api.db import SQL, Database, Row
from kelpie_api.errors import Conflict, NotFound

MOST_KEYS = 1000  # of one tenant
FLUSH_PAUSE = 10.0  # seconds between two writings of what was used


def create(db: Database, caller: Caller, name: str, role: Role) -> Row:
    """Make a key for the caller's tenant; `token` of the answer is the key itself. Raises Conflict."""
    caller.require_tenant()
    key = new_key()
    values = {
        "tenant_id": caller.tenant_id,
        "org_name": caller.organization or caller.username,
        "name": name,
        "role": role,
        "actor": caller.actor,
        "most": MOST_KEYS,
        **stored_form(key),
    }
    try:
        made = db.unrepeatable(lambda tx: tx.one_or_none(SQL.create_named_key, **values))
    except psycopg.errors.UniqueViolation:
        raise Conflict(f"There is a key named {name} already; choose another name, or delete that one.") from None
    if made is None:
        raise Conflict(f"Your project has {MOST_KEYS} keys, as many as it may; delete some that are not used.")
    return made | {"token": key}


def list_page(db: Database, caller: Caller, after: UUID | None, page_size: int) -> tuple[list[Row], UUID | None]:
    """A page of the keys of the caller's tenant, of all for the administrator, oldest first; and the id to go on
    after; None: these are the last."""
    scope = caller.scope["scope"]
    found = db.all(SQL.list_keys_of_tenant, scope=scope, after=after, most=page_size + 1)
    return found[:page_size], found[page_size - 1]["id"] if len(found) > page_size else None


def delete(db: Database, caller: Caller, key_id: UUID, is_meant: bool) -> None:
    """Remove a key; the one in use only where that `is_meant`. Raises NotFound, Conflict."""
    if key_id == caller.key_id and not is_meant:
        raise Conflict(
            "This is the key that you call with; add ?self=true if it is to be removed all the same, or call with"
            " another key."
        )
    if not db.unrepeatable(lambda tx: tx.one_or_none(SQL.delete_key, key_id=key_id, scope=caller.scope["scope"])):
        raise NotFound(f"There is no key {key_id}; GET /keys lists those of your project.")


class KeyUses:
    """The keys that were used in this process. A thread stores when, so that a request writes nothing for it."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.lock = threading.Lock()
        self.unwritten: set[UUID] = set()  # not more than the keys that were proven since the last writing

    def note(self, key_id: UUID | None) -> None:
        if key_id is not None and key_id not in self.unwritten:
            with self.lock:
                self.unwritten.add(key_id)

    def record_uses_of_keys(self) -> float:
        """Store which keys were used since the last time; the seconds until the next time."""
        with self.lock:
            used, self.unwritten = self.unwritten, set()
        if used:
            try:
                self.db.execute(SQL.note_uses_of_keys, key_ids=list(used))
            except Exception:
                with self.lock:
                    self.unwritten |= used
                raise
        return FLUSH_PAUSE
