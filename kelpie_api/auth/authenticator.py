"""Authentication: a key or a token becomes a Caller, which restricts every statement
(docs/design/protocol.md, Callers)."""

from __future__ import annotations

import hmac
import re
from dataclasses import replace
from typing import LiteralString, Protocol

import psycopg

from kelpie_api.auth.admin_key import AdminKey
from kelpie_api.auth.caller import NO_TENANT, Caller, Role
from kelpie_api.auth.keys import KeyUses
from kelpie_api.auth.machine_tokens import MachineTokens
from kelpie_api.auth.salad_keys import SaladKeys
from kelpie_api.auth.users import KEY_BEGINS, digest
from kelpie_api.cache import Cache
from kelpie_api.config import Config
from kelpie_api.db import SQL, Database, Row
from kelpie_api.encryption import Seal
from kelpie_api.errors import Forbidden, InvalidRequest, MissingCredentials
from kelpie_api.limits import LONGEST_NAME
from kelpie_api.salad.client import is_name

REMEMBERED_FOR = 30.0  # seconds; a revoked key is refused by every process after this long at the latest
REMEMBERED_KEYS = 10_000
SALAD_KEY = re.compile("[!-~]([ -~]{0,998}[!-~])?")  # what can stand in a header, and be a key


class Headers(Protocol):
    """A request's headers, whatever their case."""

    def get(self, name: str, /) -> str | None: ...


class Authenticator:
    """Authenticates callers by the first of these credentials: Kelpie's key, Salad's key, a machine's token.

    Remembers proven keys for REMEMBERED_FOR, so that a heartbeat costs one statement.
    """

    def __init__(self, db: Database, config: Config) -> None:
        self.db = db
        self.seal = Seal(config.secret_key)
        self.admin_key = AdminKey(digest(config.admin_key)) if config.admin_key else None
        self.strict = config.jwt_strict
        self.organizations = config.organizations
        self.salad_keys = SaladKeys(db, config)
        self.tokens = MachineTokens(db, config)
        self.key_uses = KeyUses(db)
        self.remembered: Cache[bytes, Caller] = Cache(REMEMBERED_KEYS, REMEMBERED_FOR)
        self.admin: Cache[None, Caller] = Cache(1, REMEMBERED_FOR)
        self.owners: Cache[tuple[str, str], Caller] = Cache(REMEMBERED_KEYS, REMEMBERED_FOR)

    def caller(self, headers: Headers, address: str = "") -> Caller:
        """The caller of a request that came from `address`. Raises MissingCredentials, InvalidRequest, Forbidden.

        Raises Unavailable while Salad does not answer and the credential needs its confirmation, TooManyRequests
        where many keys were tried.
        """
        if key := headers.get("X-Kelpie-Key"):
            return self.of_kelpie_key(key, address)
        refuse_misplaced(headers)
        if key := headers.get("Salad-Api-Key"):
            return self.of_salad_key(key, *named(headers, "Salad-Organization", "Salad-Project"))
        scheme, _, token = (headers.get("Authorization") or "").strip().partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return self.of_token(token.strip(), *named(headers, "Salad-Project"))
        raise MissingCredentials(
            "Send a key in the header X-Kelpie-Key or Salad-Api-Key, or a machine's token as a bearer."
        )

    def of_kelpie_key(self, key: str, address: str = "") -> Caller:
        wanted = digest(key)
        known = self.remembered.get(wanted)
        if known is None and (found := self._issued(key, wanted)):
            known = self.remembered.put(wanted, found)
        if known:
            self.key_uses.note(known.key_id)
            return known
        # Not among those that are remembered: there it would be found without the limits for guesses.
        if self.admin_key and self.admin_key.is_it(wanted, address) and (admin := self._administrator()):
            return admin
        raise Forbidden(
            "This API key is not known here; check X-Kelpie-Key, or ask the administrator for a new key."
        )

    def of_salad_key(self, key: str, organization: str, project: str) -> Caller:
        """A caller with all jobs of the organization's project."""
        for header, name in (("Salad-Organization", organization), ("Salad-Project", project)):
            if not is_name(name):
                raise invalid_header(header, "is no name at Salad: 2 to 63 lower-case letters, digits and hyphens")
        self._require_admitted(organization)
        if not (SALAD_KEY.fullmatch(key) and self.salad_keys.key_is_good(key, organization, project)):
            raise Forbidden(
                f"Salad does not let this Salad-Api-Key see the project {project} of {organization};"
                " check the key, Salad-Organization and Salad-Project."
            )
        return self._owner(organization, project, proven=True)

    def of_token(self, token: str, project: str) -> Caller:
        """A caller with the jobs of the machine's own container group.

        Jobs of the null group, jobs of all groups (where KELPIE_JWT_STRICT is false) and a project that is new to
        the coordinator need Salad's confirmation that the group is in the project: the header is only a claim.
        """
        if not (len(project) <= LONGEST_NAME and project.isprintable()):
            raise invalid_header("Salad-Project", "is no name of a project")
        machine = self.tokens.machine(token)
        self._require_admitted(machine.organization)
        in_project = self.salad_keys.has_workload(machine.workload_id, machine.organization, project)
        owner = self._owner(machine.organization, project, proven=in_project)
        groups = [machine.workload_id, ""] if in_project else [machine.workload_id]
        return replace(
            owner,
            machine=machine,
            groups=None if in_project and not self.strict else groups,
            serves_null_group=in_project,
            speaks_for_others=not self.strict,
        )

    def forget(self) -> None:
        """Forget all remembered keys and owners, after this process has removed users."""
        for cache in (self.remembered, self.owners, self.admin):
            cache.clear()

    def end(self) -> None:
        self.salad_keys.end()
        self.tokens.keys.flights.end()

    def _require_admitted(self, organization: str) -> None:
        """Raise Forbidden for an organization that KELPIE_ORGANIZATIONS leaves out; before Salad is asked."""
        if self.organizations and organization not in self.organizations:
            raise Forbidden(
                f"This coordinator does not serve the organization {organization}; its operator names those that"
                " it serves in KELPIE_ORGANIZATIONS."
            )

    def _owner(self, organization: str, project: str, *, proven: bool) -> Caller:
        """The user and tenant of an organization, created on its first request.

        No tenant is created for a project that is not proven: a caller could make up any number of names.
        """
        if known := self.owners.get((organization, project)):
            return known
        names = {"organization": organization, "project": project}
        found = self.db.one_or_none(SQL.find_owner, **names)
        if found is None or (proven and found["tenant_id"] == NO_TENANT):
            found = self._made_owner(SQL.make_owner if proven else SQL.make_organization, names)
        if found is None:
            raise self._name_is_taken(organization)
        if found["tenant_id"] == NO_TENANT:
            return Caller(**found)
        return self.owners.put((organization, project), Caller(**found))

    def _made_owner(self, statement: LiteralString, names: Row) -> Row | None:
        """Requests that come at the same moment make one user.

        `on conflict` looks at the name only. A user that another request inserts between this look and the
        insertion violates the uniqueness of the organization, too, which is an error. The second look finds it.
        """
        try:
            return self.db.one_or_none(statement, **names)
        except psycopg.errors.UniqueViolation:
            return self.db.one_or_none(statement, **names)

    def _name_is_taken(self, organization: str) -> Forbidden:
        admin = self.db.one_or_none(SQL.find_admin)
        if admin and admin["username"] == organization:
            return Forbidden(f"The organization {organization} has the administrator's name and cannot be served.")
        return Forbidden(
            f"There is a user {organization} that the administrator made without this organization; it is served"
            f" once the administrator makes a key of that user with the org_name {organization}."
        )

    def _administrator(self) -> Caller | None:
        """The administrator, without a sealed key: theirs is never sent to a receiver."""
        if known := self.admin.get(None):
            return known
        found = self.db.one_or_none(SQL.find_admin)
        return self.admin.put(None, Caller(**found, is_admin=True)) if found else None

    def _issued(self, key: str, wanted: bytes) -> Caller | None:
        """The caller of a key that the administrator made; None if there is no such key."""
        found = self.db.one_or_none(SQL.find_api_key, digest=wanted)
        if found is None or not hmac.compare_digest(wanted, found.pop("digest")):
            return None
        fingerprint = found.pop("fingerprint")
        sealed_key = None if found["is_admin"] else self.seal.known_as(fingerprint).seal(key)
        return Caller(**found | {"role": Role(found["role"])}, sealed_key=sealed_key)


def named(headers: Headers, *required: str) -> list[str]:
    """The headers that a credential needs beside it. Raises InvalidRequest."""
    for header in required:
        if not headers.get(header):
            raise invalid_header(header, "is missing; this kind of credential needs it")
    return [headers.get(header) or "" for header in required]


def invalid_header(name: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"The header {name} {problem}.", {name: [f"The header {problem}."]})


def refuse_misplaced(headers: Headers) -> None:
    """Raise Forbidden for an API key of Kelpie's in a header of another credential."""
    for header in ("Authorization", "Salad-Api-Key"):
        words = (headers.get(header) or "").split()
        if words and words[-1].startswith(KEY_BEGINS):
            raise Forbidden(f"The key in {header} is one of Kelpie's; send it in the header X-Kelpie-Key.")
