"""Webhooks and signing secrets (docs/design/protocol.md, Webhooks)."""

from __future__ import annotations

from marshmallow import fields, validate

from kelpie_api.schemas.fields import Instant, ResponseSchema


class Delivery(ResponseSchema):
    number = fields.Integer()
    at = Instant()
    answer = fields.Integer(allow_none=True)
    error = fields.String(allow_none=True)


class Webhook(ResponseSchema):
    id = fields.UUID()
    status = fields.String(validate=validate.OneOf(["running", "completed", "failed", "canceled"]))
    event = fields.String(allow_none=True)
    url = fields.String()
    machine_id = fields.String()
    container_group_id = fields.String()
    created = Instant()
    state = fields.String(validate=validate.OneOf(["pending", "delivered", "given_up"]))
    tries = fields.Integer()
    next_try = Instant(allow_none=True)
    delivered = Instant(allow_none=True)
    given_up = Instant(allow_none=True)
    attempts = fields.List(fields.Nested(Delivery))


class WebhookList(ResponseSchema):
    _count = fields.Integer()
    webhooks = fields.List(fields.Nested(Webhook))


class PreviousSecret(ResponseSchema):
    secret = fields.String()
    valid_until = Instant()


class SigningSecret(ResponseSchema):
    secret = fields.String()
    created = Instant()
    previous = fields.Nested(PreviousSecret, allow_none=True)
