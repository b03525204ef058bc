"""Who is calling: an API key becomes a Caller, which every statement is scoped by (contract section 5)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from kelpie_api.config import Config
from kelpie_api.db import SQL, Database
from kelpie_api.errors import Forbidden, InvalidRequest, MissingCredentials, NotFound, OwnerVanished
from kelpie_api.sealing import Seal

REMEMBERED_FOR = 30.0  # seconds; a revoked key is refused by every process after this long at the latest
REMEMBERED_KEYS = 10_000


@dataclass(frozen=True)
class Caller:
    """The user behind a request and the tenant (user, project) that owns what it creates.

    `sealed_key` is its API key, encrypted, for the webhooks that its report causes. `groups` are the container
    groups whose jobs it may touch; None: all of the tenant's.
    """

    user_id: UUID
    username: str
    tenant_id: int
    is_admin: bool = False
    sealed_key: bytes | None = field(default=None, repr=False)
    groups: list[str] | None = None

    @property
    def scope(self) -> dict[str, Any]:
        """The rows it may touch, as every statement on them asks: of one tenant, of some groups. None is all."""
        return {"scope": None if self.is_admin else self.tenant_id, "groups": self.groups}

    def lines(self, container_group_id: str) -> list[str]:
        """The lines of the queue that a machine of this group is served from; '' is that of the null group."""
        return [container_group_id, ""]

    @property
    def actor(self) -> str:
        return f"user:{self.username}"


def digest(key: str) -> bytes:
    """What is kept of a key. It has 256 random bits, so there is nothing that a slow hash would protect."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Gatekeeper:
    """Proves callers. Remembers proven keys for a few seconds, so that a heartbeat costs one statement."""

    def __init__(self, db: Database, config: Config) -> None:
        self.db = db
        self.seal = Seal(config.secret_key)
        self.admin_digest = digest(config.admin_key) if config.admin_key else None
        self.remembered: dict[bytes, tuple[float, Caller]] = {}

    def caller(self, key: str | None) -> Caller:
        """Raises MissingCredentials, Forbidden."""
        if not key:
            raise MissingCredentials("Send your API key in the header X-Kelpie-Key.")
        known = self.remembered.get(digest(key))
        if known and known[0] > time.monotonic():
            return known[1]
        caller = self._look_up(key)
        if len(self.remembered) >= REMEMBERED_KEYS:
            self.remembered.clear()
        self.remembered[digest(key)] = (time.monotonic() + REMEMBERED_FOR, caller)
        return caller

    def forget(self) -> None:
        """Look every key up anew, after this process removed some."""
        self.remembered.clear()

    def _look_up(self, key: str) -> Caller:
        wanted = digest(key)
        if self.admin_digest and hmac.compare_digest(wanted, self.admin_digest):
            admin = self.db.one_or_none(SQL.find_admin)
            if admin:
                return Caller(**admin, is_admin=True, sealed_key=self.seal.seal(key))
        found = self.db.one_or_none(SQL.find_api_key, digest=wanted)
        if found is None or not hmac.compare_digest(wanted, found.pop("digest")):
            raise Forbidden(
                "This API key is not known here; check X-Kelpie-Key, or ask the administrator for a new key."
            )
        return Caller(**found, sealed_key=self.seal.seal(key))


def create_user(db: Database, username: str) -> dict[str, object]:
    user = db.unrepeatable(lambda tx: tx.one_or_none(SQL.create_user, username=username))
    if user is None:
        raise InvalidRequest(
            f"There is a user {username} already; choose another name.",
            {"username": ["A user of this name exists."]},
        )
    return user


def create_token(db: Database, user_id: UUID, org_name: str, project_name: str) -> str:
    """A new API key; only its digest is kept. Raises NotFound for an unknown user."""
    token = f"kelpie_{secrets.token_urlsafe(32)}"
    made = db.unrepeatable(
        lambda tx: tx.one_or_none(
            SQL.create_api_key, user_id=user_id, org_name=org_name, project=project_name, digest=digest(token)
        )
    )
    if made is None:
        raise NotFound(f"There is no user {user_id}.")
    return token


def get_user(db: Database, caller: Caller) -> dict[str, object]:
    user = db.one_or_none(SQL.get_user, user_id=caller.user_id)
    if user is None:
        raise OwnerVanished
    return user


def delete_users(db: Database) -> None:
    """All users but the administrator, with their keys and jobs."""
    with db.transaction() as tx:
        tx.execute(SQL.empty_queue_of_users)
        tx.execute(SQL.delete_users)
