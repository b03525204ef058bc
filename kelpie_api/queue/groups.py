"""What is set of a container group: whether it is paused, the defaults of its jobs, and its price."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kelpie_api.auth.caller import Caller
from kelpie_api.db import SQL, Database, Row
from kelpie_api.errors import InvalidRequest, Unavailable
from kelpie_api.queue import usage
from kelpie_api.sealed import secrets


def change(db: Database, caller: Caller, container_group: str, changes: Mapping[str, Any]) -> Row:
    """Change what is set of a group, and return all of it. Fields that are not given stay.

    Once `paused` is answered, machines of the group are handed no job. Raises InvalidRequest where the
    defaults name a secret that is not there, Unavailable where a claim that began before does not end.
    """
    caller.require_tenant()
    group = {"tenant_id": caller.tenant_id, "container_group": container_group}
    if changes.get("defaults") is not None:
        _set_defaults(db, caller, group, changes["defaults"])
    if "price_per_hour" in changes:
        usage.set_price(db, caller, container_group, changes["price_per_hour"])
    if changes.get("paused") is True:
        db.execute(SQL.pause_group, **group, actor=caller.actor)
        ended = db.one_or_none(SQL.have_claims_ended, **group)
        if not (ended and ended["ended"]):
            raise Unavailable("The group is paused, but a claim that began before has not ended; ask again.")
    elif changes.get("paused") is False:
        db.all(SQL.unpause_group, **group)
    found = db.one_or_none(SQL.get_group, **group)
    assert found is not None, "it begins with a row of its own"
    return {"container_group_id": container_group} | found


def _set_defaults(db: Database, caller: Caller, group: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    given = {name: value for name, value in defaults.items() if value is not None}
    with db.transaction() as tx:
        if missing := sorted(secrets.keep(tx, caller.tenant_id, given.get("secrets", ()))):
            sentence = f"There is no secret {missing[0]}; set it with PUT /secrets/{missing[0]}."
            raise InvalidRequest(f"defaults.secrets: {sentence}", {"defaults.secrets": [sentence]})
        tx.execute(SQL.set_defaults, **group, defaults=json.dumps(given), actor=caller.actor)
