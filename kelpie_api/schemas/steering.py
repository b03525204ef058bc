"""Calls that steer a job: what may be asked, and what is answered (docs/design/steering.md, Wishes)."""

from __future__ import annotations

from collections.abc import Mapping

from marshmallow import fields, pre_load, validate

from kelpie_api.schemas.fields import Instant, RequestSchema, ResponseSchema, StrictBoolean, StrictInteger
from kelpie_api.schemas.options import JobOptions
from kelpie_api.schemas.usage import Price


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


CHANGEABLE = (
    "name",
    "labels",
    "priority",
    "max_runtime",
    "max_attempt_runtime",
    "max_attempts",
    "max_fruitless_attempts",
)


class JobChanges(JobOptions):
    """Fields that are not given stay; null removes what is said of one."""

    class Meta(RequestSchema.Meta):
        fields = (*CHANGEABLE, "max_failures")

    max_failures = StrictInteger(validate=validate.Range(1, 1000))


class Rerun(RequestSchema):
    may_be_left_out = True

    fresh = StrictBoolean(load_default=False)
    sweep = StrictBoolean(load_default=False)


class Lifted(ResponseSchema):
    count = fields.Integer()


class JobDefaults(JobOptions):
    """What submissions may leave out; a job's sweep and what it waits for are its own."""

    class Meta(RequestSchema.Meta):
        exclude = tuple({"sweep", "depends_on", "depends_if"} & JobOptions._declared_fields.keys())


class GroupChanges(RequestSchema):
    """Fields that are not given stay."""

    paused = StrictBoolean()
    defaults = fields.Nested(JobDefaults)
    price_per_hour = Price(allow_none=True, validate=validate.Range(0, 1_000_000))


class Group(ResponseSchema):
    sometimes = ("warnings",)

    warnings = fields.List(fields.String())
    container_group_id = fields.String()
    paused = fields.Boolean()
    paused_since = Instant(allow_none=True)
    paused_by = fields.String(allow_none=True)
    price_per_hour = fields.Float(allow_none=True)
    defaults = fields.Raw(metadata={"type": "object"})
