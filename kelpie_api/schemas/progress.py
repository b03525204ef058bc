"""The progress of a job and its course (docs/design/protocol.md, Progress)."""

from __future__ import annotations

from marshmallow import fields

from kelpie_api.schemas.fields import Instant, ResponseSchema
from kelpie_api.schemas.jobs import AsStored, AsTold, Progress


class Resumed(ResponseSchema):
    """From where to where the progress went when an attempt began with a checkpoint."""

    attempt = fields.Integer()
    from_ = fields.Float(data_key="from", attribute="from")
    to = fields.Float()


class Metrics(ResponseSchema):
    """The numbers of a point, by the names that the command gives them."""


class ProgressPoint(ResponseSchema):
    at = Instant()
    attempt = fields.Integer()
    fraction = fields.Float(allow_none=True)
    step = fields.Float(allow_none=True)
    metrics = AsStored(Metrics, allow_none=True)


class ProgressCourse(ResponseSchema):
    """Where a job is, and how it came there; without what its command did not tell."""

    sometimes = ("attempt", "progress", "resumed", "output_bytes", "point_seconds")

    attempt = fields.Integer()
    progress = AsTold(Progress, allow_none=True)
    resumed = fields.Nested(Resumed, allow_none=True)
    output_bytes = fields.Integer(allow_none=True)
    point_seconds = fields.Integer()
    points = fields.List(fields.Nested(ProgressPoint))
