"""Who is calling: a key or a token becomes a Caller, which every statement is scoped by (contract section 5)."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from uuid import UUID

from kelpie_api.config import Config
from kelpie_api.db import SQL, Database
from kelpie_api.errors import Forbidden, InvalidRequest, MissingCredentials, NotFound, OwnerVanished
from kelpie_api.salad import is_name
from kelpie_api.sealing import Seal
from kelpie_api.tokens import Machine, Tokens
from kelpie_api.vouching import Vouching

REMEMBERED_FOR = 30.0  # seconds; a revoked key is refused by every process after this long at the latest
REMEMBERED_KEYS = 10_000
NO_TENANT = 0  # owns no rows and never will
SALAD_KEY = re.compile("[!-~]([ -~]{0,998}[!-~])?")  # what can stand in a header, and be a key


@dataclass(frozen=True)
class Caller:
    """The user behind a request and the tenant (user, project) that owns what it creates.

    `sealed_key` is its API key, encrypted, for the webhooks that its report causes. `groups` are the container
    groups whose jobs it may touch, '' being the null group; None: all of the tenant's. `machine` is whose token it
    is, None for a key. `speaks_for_others`: it may name other machines and groups than its own.
    """

    user_id: UUID
    username: str
    tenant_id: int
    is_admin: bool = False
    sealed_key: bytes | None = field(default=None, repr=False)
    groups: list[str] | None = None
    machine: Machine | None = None
    has_null_line: bool = True
    speaks_for_others: bool = False
    organization: str = ""  # at Salad; the administrator has none
    project: str = ""

    @property
    def scope(self) -> dict[str, Any]:
        """The rows it may touch, as every statement on them asks: of one tenant, of some groups. None is all."""
        return {"scope": None if self.is_admin else self.tenant_id, "groups": self.groups}

    def lines(self, container_group_id: str) -> list[str]:
        """The lines of the queue that a machine of this group is served from; '' is that of the null group."""
        lines = [container_group_id, ""] if self.has_null_line else [container_group_id]
        return [line for line in lines if self.groups is None or line in self.groups]

    @property
    def actor(self) -> str:
        return f"machine:{self.machine.machine_id}" if self.machine else f"user:{self.username}"

    def require_own(self, machine_id: str, container_group_id: str) -> None:
        """Raise Forbidden if a token works or reports for another machine or group than its own."""
        if self.machine is None or self.speaks_for_others:
            return
        if (machine_id, container_group_id) != (self.machine.machine_id, self.machine.workload_id):
            raise Forbidden(
                "A token is good for its own machine only: machine_id must be its salad_machine_id and"
                " container_group_id its salad_workload_id."
            )

    def require_own_group(self, container_group_id: str | None) -> None:
        """Raise Forbidden if a token submits for, cancels in, or scales another group than its own."""
        if self.machine and container_group_id != self.machine.workload_id:
            raise Forbidden(
                "A token may submit and cancel jobs of its own container group only, and scale no other."
            )

    def require_tenant(self) -> None:
        """Raise Forbidden if there is nothing that could own what this caller makes."""
        if self.tenant_id == NO_TENANT:
            raise Forbidden(
                f"Nobody has used the project {self.project} of {self.organization} yet, and Salad did not say"
                " that the container group of this token is in it; check Salad-Project, or begin with a key."
            )


def digest(key: str) -> bytes:
    """What is kept of a key. It has 256 random bits, so there is nothing that a slow hash would protect."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Headers(Protocol):
    """A request's headers, whatever their case."""

    def get(self, name: str, /) -> str | None: ...


class Gatekeeper:
    """Proves callers, by the first credential that they bring of: Kelpie's key, Salad's key, a machine's token.

    Remembers proven keys for a few seconds, so that a heartbeat costs one statement.
    """

    def __init__(self, db: Database, config: Config) -> None:
        self.db = db
        self.seal = Seal(config.secret_key)
        self.admin_digest = digest(config.admin_key) if config.admin_key else None
        self.strict = config.jwt_strict
        self.vouching = Vouching(db, config)
        self.tokens = Tokens(db, config)
        self.remembered: dict[bytes, tuple[float, Caller]] = {}
        self.owners: dict[tuple[str, str], tuple[float, Caller]] = {}

    def caller(self, headers: Headers) -> Caller:
        """Raises MissingCredentials, InvalidRequest, Forbidden, and Unavailable while nobody can vouch for it."""
        if key := headers.get("X-Kelpie-Key"):
            return self.of_kelpie_key(key)
        if key := headers.get("Salad-Api-Key"):
            return self.of_salad_key(key, *named(headers, "Salad-Organization", "Salad-Project"))
        scheme, _, token = (headers.get("Authorization") or "").strip().partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return self.of_token(token.strip(), *named(headers, "Salad-Project"))
        raise MissingCredentials(
            "Send a key in the header X-Kelpie-Key or Salad-Api-Key, or a machine's token as a bearer."
        )

    def of_kelpie_key(self, key: str) -> Caller:
        known = self.remembered.get(digest(key))
        if known and known[0] > time.monotonic():
            return known[1]
        caller = self._look_up(key)
        if len(self.remembered) >= REMEMBERED_KEYS:
            self.remembered.clear()
        self.remembered[digest(key)] = (time.monotonic() + REMEMBERED_FOR, caller)
        return caller

    def of_salad_key(self, key: str, organization: str, project: str) -> Caller:
        """All jobs of the organization's project are this caller's."""
        for header, name in (("Salad-Organization", organization), ("Salad-Project", project)):
            if not is_name(name):
                raise invalid_header(header, "is no name at Salad: 2 to 63 lower-case letters, digits and hyphens")
        if not (SALAD_KEY.fullmatch(key) and self.vouching.key_is_good(key, organization, project)):
            raise Forbidden(
                f"Salad does not let this Salad-Api-Key see the project {project} of {organization};"
                " check the key, Salad-Organization and Salad-Project."
            )
        return self._owner(organization, project, proven=True)

    def of_token(self, token: str, project: str) -> Caller:
        """The jobs of the machine's own container group are this caller's. Those of the null group, of all groups
        (if the operator is not strict), and a project that is new, are only if Salad has the group in the project,
        for the header is the word of whoever calls."""
        if not (len(project) <= 255 and project.isprintable()):
            raise invalid_header("Salad-Project", "is no name of a project")
        machine = self.tokens.machine(token)
        in_project = self.vouching.has_workload(machine.workload_id, machine.organization, project)
        owner = self._owner(machine.organization, project, proven=in_project)
        groups = [machine.workload_id, ""] if in_project else [machine.workload_id]
        return replace(
            owner,
            machine=machine,
            groups=None if in_project and not self.strict else groups,
            has_null_line=in_project,
            speaks_for_others=not self.strict,
        )

    def forget(self) -> None:
        """Look every key and owner up anew, after this process removed some."""
        self.remembered.clear()
        self.owners.clear()

    def end(self) -> None:
        self.vouching.end()
        self.tokens.keys.flights.end()

    def _owner(self, organization: str, project: str, *, proven: bool) -> Caller:
        """The user and tenant of an organization, made on first sight; no tenant of a project that is not proven,
        for the names that can be made up have no end."""
        known = self.owners.get((organization, project))
        if known and known[0] > time.monotonic():
            return known[1]
        names = {"organization": organization, "project": project}
        found = self.db.one_or_none(SQL.find_owner, **names)
        if found is None or (proven and found["tenant_id"] == NO_TENANT):
            found = self.db.one_or_none(SQL.make_owner if proven else SQL.make_organization, **names)
        if found is None:
            raise self._name_is_taken(organization)
        if found["tenant_id"] == NO_TENANT:
            return Caller(**found)
        if len(self.owners) >= REMEMBERED_KEYS:
            self.owners.clear()
        self.owners[organization, project] = (time.monotonic() + REMEMBERED_FOR, Caller(**found))
        return Caller(**found)

    def _name_is_taken(self, organization: str) -> Forbidden:
        admin = self.db.one_or_none(SQL.find_admin)
        if admin and admin["username"] == organization:
            return Forbidden(f"The organization {organization} has the administrator's name and cannot be served.")
        return Forbidden(
            f"There is a user {organization} whom the administrator made without this organization; it is served"
            f" once the administrator makes a key of that user with the org_name {organization}."
        )

    def _look_up(self, key: str) -> Caller:
        wanted = digest(key)
        if self.admin_digest and hmac.compare_digest(wanted, self.admin_digest):
            admin = self.db.one_or_none(SQL.find_admin)
            if admin:
                return Caller(**admin, is_admin=True)  # without a sealed key: no receiver may ever get this one
        found = self.db.one_or_none(SQL.find_api_key, digest=wanted)
        if found is None or not hmac.compare_digest(wanted, found.pop("digest")):
            raise Forbidden(
                "This API key is not known here; check X-Kelpie-Key, or ask the administrator for a new key."
            )
        return Caller(**found, sealed_key=None if found["is_admin"] else self.seal.seal(key))


def named(headers: Headers, *required: str) -> list[str]:
    """The headers that a credential needs beside it. Raises InvalidRequest."""
    for header in required:
        if not headers.get(header):
            raise invalid_header(header, "is missing; this kind of credential needs it")
    return [headers.get(header) or "" for header in required]


def invalid_header(name: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"The header {name} {problem}.", {name: [f"The header {problem}."]})


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
