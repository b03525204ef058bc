"""Secrets of a tenant: values that jobs name and get with the answer to their claim; shown nowhere else."""

from __future__ import annotations

from collections.abc import Collection
from uuid import uuid4

from kelpie_api import encryption
from kelpie_api.auth.caller import Caller
from kelpie_api.db import SQL, Database, Row, Transaction
from kelpie_api.encryption import Seal
from kelpie_api.errors import Conflict, NotFound, SecretNamed

MOST_SECRETS = 1000  # of one tenant


def put(db: Database, seal: Seal, caller: Caller, name: str, value: str) -> Row:
    """Give a secret a value, which claims from now on hand out; its name, the time, the actor. Raises Conflict."""
    caller.require_tenant()
    secret_id = uuid4()
    with db.transaction() as tx:
        sealed = encryption.require(tx, seal).seal_row(secret_id, value)
        values = {"tenant_id": caller.tenant_id, "name": name, "actor": caller.actor, "most": MOST_SECRETS}
        written = tx.one_or_none(SQL.put_secret, id=secret_id, sealed=sealed, **values)
    if written is None:
        raise Conflict(
            f"Your project has {MOST_SECRETS} secrets, as many as it may; delete some that no job names."
        )
    return written


def list_all(db: Database, caller: Caller) -> list[Row]:
    """The names of the tenant's secrets, when each was set, by which actor; never a value."""
    return db.all(SQL.list_secrets, tenant_id=caller.tenant_id)


def delete(db: Database, caller: Caller, name: str) -> None:
    """Remove a secret that no open job and no defaults of a group name. Raises NotFound, Conflict."""
    named = {"tenant_id": caller.tenant_id, "name": name}
    try:
        with db.transaction() as tx:
            if tx.one_or_none(SQL.lock_secret, **named) is None:
                raise NotFound(f"There is no secret {name[:100]}; GET /secrets lists those there are.")
            group = tx.one_or_none(SQL.group_that_names_secret, **named)
            if group is None:
                tx.one_or_none(SQL.delete_secret, **named)
    except SecretNamed:
        job = db.one_or_none(SQL.job_that_names_secret, **named)
        such = f", such as {job['job_id']}" if job else ""
        raise SecretNamed(
            f"Open jobs name the secret {name}{such}; remove it when they have ended, or cancel them."
        ) from None
    if group is not None:
        id_of_group = group["container_group"]
        raise SecretNamed(
            f"The defaults of container group {id_of_group} name the secret {name}; take it out of them with PATCH"
            f" /container-groups/{id_of_group} first."
        )


def keep(tx: Transaction, tenant_id: int, names: Collection[str]) -> set[str]:
    """Those of the names that the tenant has no secret of; the others stay until the transaction ends."""
    return set(names) - {row["name"] for row in tx.all(SQL.keep_secrets, tenant_id=tenant_id, names=list(names))}


def missing(db: Database, tenant_id: int, names: Collection[str]) -> set[str]:
    """Those of the names that the tenant has no secret of."""
    if not names:
        return set()
    found = db.all(SQL.list_names_of_secrets, tenant_id=tenant_id, names=list(names))
    return set(names) - {row["name"] for row in found}


def values_of(db: Database, seal: Seal, tenant_id: int, names: Collection[str]) -> dict[str, str] | None:
    """The values of secrets by their names; None where one is missing or cannot be opened."""
    if not names:
        return {}
    found = db.all(SQL.get_secrets, tenant_id=tenant_id, names=list(names))
    opened = {row["name"]: seal.open_row(row["id"], row["sealed"]) for row in found}
    values = {name: value for name, value in opened.items() if value is not None}
    return values if values.keys() == set(names) else None
