"""Keys with names and roles (docs/design/protocol.md, Callers)."""

from __future__ import annotations

from marshmallow import fields, validate

from kelpie_api.auth.caller import Role
from kelpie_api.schemas.fields import Instant, QueryNumber, RequestSchema, ResponseSchema
from kelpie_api.schemas.work import QueryId

NAME_OF_A_KEY = r"^[A-Za-z0-9._@-]{1,64}$(?!\n)"
ROLES = (
    "`operator`: all that its user may do; `viewer`: reads; `worker`: claims, reports, reads what was handed out."
)


class NewKey(RequestSchema):
    name = fields.String(
        required=True,
        validate=validate.Regexp(
            NAME_OF_A_KEY, error="A name is 1 to 64 of the characters A-Z, a-z, 0-9, '.', '_', '@' and '-'."
        ),
    )
    role = fields.Enum(Role, by_value=fields.String, required=True, metadata={"description": ROLES})


class Key(ResponseSchema):
    """A key as lists show it. Those that the administrator made have no name, old ones no prefix."""

    id = fields.UUID()
    name = fields.String(allow_none=True)
    prefix = fields.String(allow_none=True)
    role = fields.String(validate=validate.OneOf([*Role]), metadata={"description": ROLES})
    created = Instant()
    created_by = fields.String(allow_none=True)
    last_used = Instant(allow_none=True)


class MadeKey(Key):
    token = fields.String()


class ListedKey(Key):
    username = fields.String()
    project_name = fields.String()


class KeyList(ResponseSchema):
    _count = fields.Integer()
    keys = fields.List(fields.Nested(ListedKey))


class KeyQuery(RequestSchema):
    page_size = QueryNumber(load_default=1000, validate=validate.Range(1, 10_000))
    after = QueryId(
        data_key="cursor",
        load_default=None,
        metadata={"description": "From the Link header of the page before."},
    )


class KeyRemoval(RequestSchema):
    is_meant = fields.Boolean(
        data_key="self",
        load_default=False,
        metadata={"description": "true: the key of this call is meant, and removed."},
    )
