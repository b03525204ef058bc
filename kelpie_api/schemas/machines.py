"""Machines and their reallocations (docs/design/protocol.md, Bad machines)."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields, validate

from kelpie_api.limits import LONGEST_NAME
from kelpie_api.machines.sightings import Machine as Place
from kelpie_api.schemas.fields import Instant, PageQuery, QueryText, ResponseSchema


class CursorText(fields.String):
    """A place in the list of machines, just after one of them, as opaque text that callers send back unchanged."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        try:
            return place_of(value)
        except ValueError:
            raise ValidationError("This is no cursor; take it from the Link header of the page before.") from None


def place_of(cursor: str) -> Place:
    """The place that `as_cursor` wrote. Raises ValueError."""
    if not re.fullmatch("[A-Za-z0-9_-]{12,}={0,2}", cursor):
        raise ValueError(cursor)
    packed = base64.urlsafe_b64decode(cursor)
    group, machine = packed[8:].decode().split("\0")
    return struct.unpack(">q", packed[:8])[0], group, machine


def as_cursor(place: Place) -> str:
    tenant, group, machine = place
    return base64.urlsafe_b64encode(struct.pack(">q", tenant) + f"{group}\0{machine}".encode()).decode()


class MachineQuery(PageQuery):
    container_group_id = QueryText(validate=validate.Length(max=LONGEST_NAME))
    cursor = CursorText(
        load_default=None,
        metadata={"description": "From the Link header of the page before; it wins over page."},
    )


class Reallocation(ResponseSchema):
    """`gone`: when Salad was asked, the machine no longer belonged to the group."""

    id = fields.Integer()
    created = Instant()
    state = fields.String(validate=validate.OneOf(["pending", "reallocated", "gone", "given_up"]))
    tries = fields.Integer()
    next_try = Instant(allow_none=True)
    ended = Instant(allow_none=True)
    error = fields.String(allow_none=True)


class Machine(ResponseSchema):
    """`bans` is the number of jobs that it is banned from, `counted_bans` those that count for a reallocation.

    What is counted of its attempts is of the last 30 days.
    """

    container_group_id = fields.String()
    machine_id = fields.String()
    last_seen = Instant()
    job_ids = fields.List(fields.UUID())
    bans = fields.Integer()
    counted_bans = fields.Integer()
    interruptions = fields.Integer()
    failures = fields.Integer()
    useful_share = fields.Float(allow_none=True)
    reallocations = fields.List(fields.Nested(Reallocation))


class MachineList(ResponseSchema):
    _count = fields.Integer()
    machines = fields.List(fields.Nested(Machine))
