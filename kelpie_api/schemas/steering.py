"""Calls that steer a job: what may be asked, and what is answered (docs/design/steering.md, Wishes)."""

from __future__ import annotations

from collections.abc import Mapping

from marshmallow import fields, pre_load

from kelpie_api.schemas.fields import Instant, RequestSchema, ResponseSchema, StrictBoolean


class Interrupt(RequestSchema):
    may_be_left_out = True

    ban = StrictBoolean(load_default=False)


class CancelQuery(RequestSchema):
    graceful = fields.Boolean(load_default=False)

    @pre_load
    def without_empty(self, query: Mapping[str, str], **kwargs: object) -> dict[str, str]:
        return {name: value for name, value in query.items() if value != ""}


class Wished(ResponseSchema):
    """What comes of it; `heard_by` is there where a worker is told."""

    sometimes = ("heard_by",)

    message = fields.String()
    heard_by = Instant()
