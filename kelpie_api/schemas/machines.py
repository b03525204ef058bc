"""Machines and their reallocations (docs/design/protocol.md, Bad machines)."""

from __future__ import annotations

from marshmallow import fields, validate

from kelpie_api.limits import LONGEST_NAME
from kelpie_api.schemas.fields import Instant, PageQuery, QueryText, ResponseSchema


class MachineQuery(PageQuery):
    container_group_id = QueryText(validate=validate.Length(max=LONGEST_NAME))


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
    """`bans` is the number of jobs that it is banned from, `counted_bans` those that count for a reallocation."""

    container_group_id = fields.String()
    machine_id = fields.String()
    last_seen = Instant()
    job_ids = fields.List(fields.UUID())
    bans = fields.Integer()
    counted_bans = fields.Integer()
    reallocations = fields.List(fields.Nested(Reallocation))


class MachineList(ResponseSchema):
    _count = fields.Integer()
    machines = fields.List(fields.Nested(Machine))
