"""Why a job is not running (docs/design/protocol.md, Why)."""

from __future__ import annotations

from marshmallow import fields, validate

from kelpie_api.queue.why import Code
from kelpie_api.schemas.fields import ResponseSchema


class Reason(ResponseSchema):
    """One of the reasons."""

    code = fields.String(
        validate=validate.OneOf(list(Code)), metadata={"description": "What it is, one of a closed list."}
    )
    sentence = fields.String(metadata={"description": "What it is, in words, with names and numbers."})
    action = fields.String(
        allow_none=True, metadata={"description": "What can be done; null: nothing but to wait."}
    )
