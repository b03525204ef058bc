"""What the schemas of all resources share: the base classes of requests and responses, and fields.

The rules are in docs/design/protocol.md, Requests and answers. Each resource has a module, like the routes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from marshmallow import EXCLUDE, Schema, ValidationError, fields, pre_load, validate

from kelpie_api.limits import LONGEST_NAME
from kelpie_api.text import UNSTORABLE

NAME = validate.Length(min=1, max=LONGEST_NAME)


class Instant(fields.Field[datetime]):
    """RFC 3339 in UTC with milliseconds and Z."""

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        if value is None:
            return None
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class StrictInteger(fields.Integer):
    """An integer that is neither `true` nor `"3"` nor `3.5`."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.make_error("invalid", input=value)
        return value


class StrictBoolean(fields.Boolean):
    """A boolean that is neither `1` nor `"true"`."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class QueryText(fields.String):
    """Text from a query string. ValidationError for a NUL, which can be there in percent signs."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        if UNSTORABLE.search(text):
            raise ValidationError("A NUL is not allowed here.")
        return text


class QueryNumber(fields.Integer):
    """A whole number from a query string. `int` alone accepts more: `1_0`, blanks, the digits of any script."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        if not re.fullmatch("-?[0-9]{1,20}", value):
            raise self.make_error("invalid", input=value)
        return int(value)


class RequestSchema(Schema):
    """Unknown fields are ignored, as by the original; `unknown_fields` lists them for warnings."""

    class Meta:
        unknown = EXCLUDE


class PageQuery(RequestSchema):
    """Which page of a list."""

    page_size = QueryNumber(load_default=100, validate=validate.Range(1, 10_000))
    page = QueryNumber(load_default=1, validate=validate.Range(1, 2**31 - 1))

    @pre_load
    def without_empty(self, query: Mapping[str, str], **kwargs: Any) -> dict[str, str]:
        """`?status=&page=2` asks for every status."""
        return {name: value for name, value in query.items() if value != ""}


def unknown_fields(schema: Schema, data: Any, path: str = "") -> Iterator[str]:
    """The paths of the fields of `data` that a schema does not have, nested ones included."""
    if not isinstance(data, dict):
        return
    for name, value in data.items():
        field = schema.fields.get(name)
        if field is None:
            yield f"{path}{name}"
        elif isinstance(field, fields.Nested):
            yield from unknown_fields(field.schema, value, f"{path}{name}.")
        elif isinstance(field, fields.List) and isinstance(field.inner, fields.Nested):
            for place, item in enumerate(value if isinstance(value, list) else []):
                yield from unknown_fields(field.inner.schema, item, f"{path}{name}.{place}.")


class ResponseSchema(Schema):
    """Every key is in the answer, with null where there is no value; `sometimes` lists the exceptions."""

    sometimes: ClassVar[Collection[str]] = ()

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        # For the OpenAPI document; serialization does not look at it.
        field_obj.required = field_name not in self.sometimes


class Message(ResponseSchema):
    message = fields.String()


class Failure(Schema):
    """Every error is answered in this shape."""

    error = fields.String(required=True)
    message = fields.String(required=True)
    errors = fields.Dict(keys=fields.String(), values=fields.List(fields.String()))
    index = fields.Integer()
