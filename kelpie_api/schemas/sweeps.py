"""Sweeps: what is sent and answered (docs/design/protocol.md, Sweeps)."""

from __future__ import annotations

from marshmallow import fields, validate

from kelpie_api.schemas.fields import (
    Instant,
    QueryNumber,
    RequestSchema,
    ResponseSchema,
    StrictBoolean,
    StrictInteger,
    Text,
)
from kelpie_api.schemas.options import labels_of_a_job
from kelpie_api.schemas.submission import webhook_url

MOST_PARALLEL = 1_000_000


class SweepFields(RequestSchema):
    name = Text(allow_none=True, validate=validate.Length(1, 100))
    labels = labels_of_a_job()
    max_parallel = StrictInteger(allow_none=True, validate=validate.Range(1, MOST_PARALLEL))


class NewSweep(SweepFields):
    """A sweep; its jobs are submitted with its id."""

    webhook = Text(allow_none=True, validate=webhook_url)


class SweepChanges(SweepFields):
    """What is given is changed; a closed sweep takes no more jobs."""

    closed = StrictBoolean()


class SweepQuery(RequestSchema):
    page_size = QueryNumber(load_default=100, validate=validate.Range(1, 1000))
    before = QueryNumber(data_key="cursor", load_default=None, validate=validate.Range(0, 2**63 - 1))


class Sweep(ResponseSchema):
    """A sweep, with its jobs by phase where it is asked for alone."""

    sometimes = ("phases", "attempts", "held")

    id = fields.UUID()
    name = fields.String(allow_none=True)
    labels = fields.Dict(keys=fields.String(), values=fields.String(), allow_none=True)
    max_parallel = fields.Integer(allow_none=True)
    webhook = fields.String(allow_none=True)
    created = Instant()
    closed = fields.Boolean()
    closed_at = Instant(allow_none=True)
    total = fields.Integer()
    done = fields.Integer()
    phases = fields.Dict(keys=fields.String(), values=fields.Integer())
    attempts = fields.Integer()
    held = fields.Float()


class SweepList(ResponseSchema):
    _count = fields.Integer()
    sweeps = fields.List(fields.Nested(Sweep))
