"""What attempts cost, and prices (docs/design/protocol.md, Usage)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from marshmallow import ValidationError, fields, pre_load, validate

from kelpie_api.schemas.fields import QueryText, RequestSchema, ResponseSchema

LONGEST_KEY = 255  # characters of a label's key
BY = r"(group|machine|sweep|name|label:[\s\S]+)"
FIRST_DAY, LAST_DAY = date(1970, 1, 1), date(2999, 12, 31)


class Day(fields.Date):
    """A day as `2026-11-30`."""

    default_error_messages = {  # noqa: RUF012 - as declared
        "invalid": "Must be a day such as 2026-11-30.",
    }

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", str(value)):
            raise self.make_error("invalid")
        day = super()._deserialize(value, attr, data, **kwargs)
        if not FIRST_DAY <= day <= LAST_DAY:
            raise self.make_error("invalid")
        return day


class Price(fields.Float):
    """A number of a JSON body; neither `true` nor `"3"`."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValidationError("Must be a number, without quotes.")
        return super()._deserialize(value, attr, data, **kwargs)


class UsageQuery(RequestSchema):
    first = Day(data_key="from", load_default=None)
    last = Day(data_key="to", load_default=None)
    by = QueryText(
        load_default="group",
        validate=validate.And(
            validate.Length(max=len("label:") + LONGEST_KEY),
            validate.Regexp(
                f"^{BY}$", error="Must be group, machine, sweep, name, or label: and the key of a label."
            ),
        ),
        metadata={
            "pattern": f"^{BY}$",
            "maxLength": len("label:") + LONGEST_KEY,
        },  # which And hides from the document
    )

    @pre_load
    def without_empty(self, query: Mapping[str, str], **kwargs: Any) -> dict[str, str]:
        return {name: value for name, value in query.items() if value != ""}


class LostSeconds(ResponseSchema):
    """Seconds since the last checkpoints, by how the attempts ended."""

    interrupted = fields.Float()
    failed = fields.Float()
    released = fields.Float()
    canceled = fields.Float()


class UsageTotal(ResponseSchema):
    """Seconds and money; what is not known of any attempt is null."""

    held = fields.Float()
    useful = fields.Float(allow_none=True)
    lost = fields.Nested(LostSeconds, allow_none=True)
    attempts = fields.Integer()
    interruptions = fields.Integer()
    money = fields.Float(allow_none=True)


class UsageRow(UsageTotal):
    key = fields.String(allow_none=True)


class Usage(ResponseSchema):
    """The rows that were held longest first, and the sums of all."""

    _count = fields.Integer()
    by = fields.String()
    first = fields.Date(data_key="from", attribute="from")
    last = fields.Date(data_key="to", attribute="to")
    total = fields.Nested(UsageTotal)
    usage = fields.List(fields.Nested(UsageRow))
    left_out = fields.Integer()
