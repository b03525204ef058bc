"""Secrets of a project (docs/design/protocol.md, Secrets)."""

from __future__ import annotations

from marshmallow import ValidationError, fields, validate

from kelpie_api.schemas.fields import Instant, RequestSchema, ResponseSchema

LARGEST_SECRET = 64 * 1024  # bytes; with its name Linux takes twice as much
NAME_OF_A_SECRET = "[A-Za-z_][A-Za-z0-9_]{0,127}"
ODD_NAME = "A secret is named like a variable: letters, digits and '_', no digit first, 128 at most."


def secret_value(value: str) -> None:
    if not value:
        raise ValidationError("A secret is not empty; is a variable of your script empty?")
    if len(value.encode()) > LARGEST_SECRET:
        raise ValidationError(f"A secret has at most {LARGEST_SECRET} bytes.")


class NewSecret(RequestSchema):
    """Its refusals never repeat the value."""

    value = fields.String(required=True, validate=secret_value)


class NamedSecret(RequestSchema):
    """The name alone, where it comes in a form."""

    name = fields.String(required=True, validate=validate.Regexp(rf"{NAME_OF_A_SECRET}\Z", error=ODD_NAME))


class Secret(ResponseSchema):
    name = fields.String()
    set = Instant(attribute="set_at")
    by = fields.String(attribute="set_by")


class SecretList(ResponseSchema):
    _count = fields.Integer()
    secrets = fields.List(fields.Nested(Secret))
