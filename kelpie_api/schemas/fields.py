"""What the schemas of all resources share: the base classes of requests and responses, and fields.

The rules are in docs/design/protocol.md, Requests and answers. Each resource has a module, like the routes.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, NamedTuple

from marshmallow import EXCLUDE, Schema, ValidationError, fields, missing, pre_load, validate

from kelpie_api.errors import InvalidRequest
from kelpie_api.limits import LONGEST_NAME
from kelpie_api.schemas.compiled import LoadBody, loader_of
from kelpie_api.schemas.glossary import meaning
from kelpie_api.text import UNSTORABLE, yield_to_other_threads

NAME = validate.Length(min=1, max=LONGEST_NAME)
WHOLE_NUMBER = r"[0-9]+(\.0+)?"  # of a query string, also as `3.0`
_MOST_DIGITS = 20  # of such a number
AT_A_TIME = 50  # rows that are made into answers before other threads run
ONLY_STRINGS = frozenset({str})
WRITTEN_AS_THEY_ARE: dict[type, type] = {fields.String: str, fields.Integer: int, fields.Boolean: bool}


class Instant(fields.Field[datetime]):
    """RFC 3339 in UTC with milliseconds and Z."""

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return as_text(value)


def as_text(moment: datetime | None) -> str | None:
    """A moment in the form of all answers."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class StrictInteger(fields.Integer):
    """An integer, also as `3.0`; neither `true` nor `"3"` nor `3.5`."""

    default_error_messages = {"invalid": "Must be a whole number, without quotes."}  # noqa: RUF012 - as declared

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.make_error("invalid", input=value)
        return value


class Text(fields.String):
    """A string of a JSON body. A number or a boolean in its place is refused with the string that it would be."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        if isinstance(value, int | float):
            raise ValidationError(f'Must be a string: write "{json.dumps(value)[:100]}" in quotes.')
        return super()._deserialize(value, attr, data, **kwargs)


def with_final_slash(prefix: str) -> str:
    """The prefix of the keys in a folder; a prefix that lacks its slash means the same folder."""
    return prefix if prefix.endswith("/") else f"{prefix}/"


class LegacyPrefix(fields.String):
    """A prefix with its slash, also that of a job that was stored before submissions put it there.

    An empty one of such a job stays: it means the whole bucket, where that job's files are.
    """

    def _serialize(self, value: str | None, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return with_final_slash(value) if value else value


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
    """A whole number from a query string, also as `3.0`.

    `int` alone accepts more: `1_0`, blanks, the digits of any script.
    """

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        digits = value.partition(".")[0]
        if not re.fullmatch(f"-?{WHOLE_NUMBER}", value) or len(digits) > _MOST_DIGITS:
            raise self.make_error("invalid", input=value)
        return int(digits)


# Fields, and the type whose values they load unchanged; what else they take, their `_deserialize` says.
TAKEN_AS_THEY_ARE: dict[type, type] = {fields.String: str, Text: str, StrictInteger: int, StrictBoolean: bool}


class DescribedSchema(Schema):
    """Its fields are described in the OpenAPI document as in the glossary, unless their own metadata does it."""

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        if sentence := meaning(type(self).__name__, field_name):
            field_obj.metadata = {"description": sentence, **field_obj.metadata}


class RequestSchema(DescribedSchema):
    """Unknown fields are ignored, as by the original; `unknown_fields` lists them for warnings.

    `answered` are fields of an answer that may be sent back with the rest of it: they mean no other field.
    """

    answered: ClassVar[Collection[str]] = ()

    class Meta:
        unknown = EXCLUDE

    def load(
        self, data: Any, *, many: bool | None = None, partial: Any = None, unknown: Any = None, **options: Any
    ) -> Any:
        """As marshmallow's, which is asked only where something is wrong: it says what."""
        is_list = self.many if many is None else many
        if partial is None and unknown in (None, EXCLUDE) and is_list is isinstance(data, list):
            with suppress(ValidationError, InvalidRequest, TypeError, AttributeError):
                return self._load_by_plan(data, is_list)
        return super().load(data, many=many, partial=partial, unknown=unknown, **options)

    @functools.cached_property
    def _load_by_plan(self) -> LoadBody:
        return loader_of(self, TAKEN_AS_THEY_ARE)

    @functools.cached_property
    def nested(self) -> dict[str, tuple[RequestSchema, bool] | None]:
        """Of each field the schema of its objects, and whether it is a list of such; None for plain values."""
        return {name: _nested_in(field) for name, field in self.fields.items()}


def _nested_in(field: fields.Field[Any]) -> tuple[RequestSchema, bool] | None:
    is_list = isinstance(field, fields.List)
    inner = field.inner if isinstance(field, fields.List) else field
    if not isinstance(inner, fields.Nested):
        return None
    assert isinstance(inner.schema, RequestSchema)
    return inner.schema, is_list


class PageQuery(RequestSchema):
    """Which page of a list."""

    page_size = QueryNumber(load_default=100, validate=validate.Range(1, 10_000))
    page = QueryNumber(load_default=1, validate=validate.Range(1, 2**31 - 1))

    @pre_load
    def without_empty(self, query: Mapping[str, str], **kwargs: Any) -> dict[str, str]:
        """`?status=&page=2` asks for every status."""
        return {name: value for name, value in query.items() if value != ""}


@dataclass(frozen=True)
class UnknownField:
    """A field that a schema does not have: its path in the body, and the field that it resembles, if any."""

    path: str
    meant: Callable[[], str | None]


def unknown_fields(schema: RequestSchema, data: Any, path: str = "") -> Iterator[UnknownField]:
    """The fields of `data` that a schema does not have, nested ones included."""
    if not isinstance(data, dict):
        return
    for name, value in data.items():
        if name not in schema.nested:
            yield UnknownField(f"{path}{name}", functools.partial(similar_field, type(schema), name))
        elif found := schema.nested[name]:
            inner, is_list = found
            if not is_list:
                yield from unknown_fields(inner, value, f"{path}{name}.")
            for place, item in enumerate(value if is_list and isinstance(value, list) else ()):
                yield from unknown_fields(inner, item, f"{path}{name}.{place}.")


# What other systems call the fields of a job, where the spelling does not tell.
ELSEWHERE = {"cmd": "command", "entrypoint": "command", "queue": "container_group_id", "callback_url": "webhook"}


def similar_field(schema: type[Schema], name: str) -> str | None:
    """The field of a schema that was probably meant: an abbreviation, another spelling, another system's name."""
    return None if len(name) > LONGEST_NAME else _similar_field(schema, name)


@functools.lru_cache(1024)  # of short names: callers choose them, and what is kept is kept for good
def _similar_field(schema: type[Schema], name: str) -> str | None:
    known = list(schema._declared_fields)
    if name in known or name in getattr(schema, "answered", ()):
        return None  # it cannot be given here, or an answer that is submitted again brings it
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace("-", "_").lower()
    if ELSEWHERE.get(plain) in known:
        return ELSEWHERE[plain]
    beginning = [field for field in known if len(plain) > 2 and field.startswith(plain)]
    return next(iter(beginning or difflib.get_close_matches(plain, known, n=1)), None)


class ResponseSchema(DescribedSchema):
    """Every key is in the answer, with null where there is no value; `sometimes` lists the exceptions."""

    sometimes: ClassVar[Collection[str]] = ()

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        super().on_bind_field(field_name, field_obj)
        # For the OpenAPI document; serialization does not look at it.
        field_obj.required = field_name not in self.sometimes

    def dump(self, obj: Any, *, many: bool | None = None) -> Any:
        """As marshmallow's, from rows; other threads run between the pieces of a long list."""
        if not (self.many if many is None else many):
            return self.of_row(obj)
        answers: list[dict[str, Any]] = []
        for begin in range(0, len(obj), AT_A_TIME):
            answers += map(self.of_row, obj[begin : begin + AT_A_TIME])
            if len(obj) > AT_A_TIME:
                yield_to_other_threads()
        return answers

    def of_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The answer that is made of one row. A column that the row does not have is not in it."""
        return written(row, self.plan)

    @functools.cached_property
    def plan(self) -> list[Written]:
        """How the fields are written, in their order."""
        return [
            Written(
                field.data_key or name,
                field.attribute or name,
                WRITTEN_AS_THEY_ARE.get(type(field)),
                serializer_of(field),
            )
            for name, field in self.dump_fields.items()
        ]


def serializer_of(field: fields.Field[Any]) -> Callable[[Any, str, Mapping[str, Any]], Any]:
    """The field's `_serialize`; for ids, lists of strings and objects of strings one that asks each nothing."""
    if type(field) is fields.UUID:
        return lambda value, column, row: str(value)
    if type(field) is fields.List and type(field.inner) is fields.String:
        return lambda value, column, row: value if are_strings(value) else [as_string(item) for item in value]
    if type(field) is fields.Dict and type(field.key_field) is type(field.value_field) is fields.String:
        return lambda value, column, row: strings_in(value)
    return field._serialize


def strings_in(value: Mapping[Any, Any]) -> Mapping[str, str | None]:
    """An object whose names and values are strings, mostly the one that is given."""
    if are_strings(value) and are_strings(value.values()):
        return value
    return {str(name): as_string(item) for name, item in value.items()}


def are_strings(values: Iterable[Any]) -> bool:
    """Whether each is a string, and none of a subclass."""
    return ONLY_STRINGS.issuperset(map(type, values))


def as_string(value: Any) -> str | None:
    return None if value is None else str(value)


class Written(NamedTuple):
    """How a field is written: its name, its column, the type whose values need no change, what changes others."""

    name: str
    column: str
    as_it_is: type | None
    serialize: Callable[..., Any]


def written(row: Mapping[str, Any], plan: Iterable[Written]) -> dict[str, Any]:
    """The answer that is made of one row by a plan."""
    answered = {}
    for name, column, as_it_is, serialize in plan:
        value = row.get(column, missing)
        if value is None or value.__class__ is as_it_is:
            answered[name] = value
        elif value is not missing:
            answered[name] = serialize(value, column, row)
    return answered


class Rows(fields.List[Any]):
    """A list of objects of one schema, which may be long."""

    def __init__(self, schema: type[ResponseSchema]) -> None:
        super().__init__(fields.Nested(schema))

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        assert isinstance(self.inner, fields.Nested)
        return self.inner.schema.dump(value, many=True)


class Message(ResponseSchema):
    message = fields.String()


class Failure(DescribedSchema):
    """Every error is answered in this shape."""

    error = fields.String(required=True)
    message = fields.String(required=True)
    errors = fields.Dict(keys=fields.String(), values=fields.List(fields.String()))
    index = fields.Integer()
