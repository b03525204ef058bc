"""Users and their keys (docs/design/protocol.md, Callers)."""

from __future__ import annotations

from marshmallow import fields, validate

from kelpie_api.auth.caller import Role
from kelpie_api.schemas.fields import NAME, Instant, RequestSchema, ResponseSchema
from kelpie_api.schemas.keys import ROLES, KeyQuery
from kelpie_api.text import NAME_TEXT

ONE_LINE = validate.Regexp(NAME_TEXT, error="A name has no line ends or control characters.")


class NewUser(RequestSchema):
    username = fields.String(required=True, validate=[NAME, ONE_LINE])


class User(ResponseSchema):
    id = fields.UUID()
    username = fields.String()
    created = Instant()


class UserQuery(KeyQuery):
    """Which page of the users."""


class UserList(ResponseSchema):
    _count = fields.Integer()
    users = fields.List(fields.Nested(User))


class NewToken(RequestSchema):
    org_name = fields.String(required=True, validate=[NAME, ONE_LINE])
    project_name = fields.String(required=True, validate=[NAME, ONE_LINE])
    role = fields.Enum(
        Role,
        by_value=fields.String,
        load_default=Role.OPERATOR,
        metadata={"description": ROLES},
    )


class Token(ResponseSchema):
    token = fields.String()
