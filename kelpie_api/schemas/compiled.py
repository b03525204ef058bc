"""Loading of values by functions that are made once, from a marshmallow schema, its fields and its hooks.

For each value of each request marshmallow looks at every option of its field, makes a closure and a validator, and
keeps errors; for each object it asks which hooks there are. These functions have the same results for what is
right, and raise an error for everything else; what is wrong with it is then said by marshmallow, to which it is
given whole (RequestSchema). So a rule still stands in one place, its field or its hook.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, missing
from marshmallow.decorators import POST_LOAD, PRE_LOAD, VALIDATES, VALIDATES_SCHEMA

# A value, the name of its field and the object that it stands in; the value that is loaded, or `missing`.
Load = Callable[[Any, str | None, Mapping[str, Any] | None], Any]
LoadFields = Callable[[Mapping[str, Any]], dict[str, Any]]
LoadOne = Callable[[Any], Any]
LoadAll = Callable[[Collection[Any]], list[Any]]
LoadBody = Callable[[Any, bool], Any]  # a body, and whether it is a list of objects
Hook = Callable[..., Any]

HOW: dict[str, Any] = {"partial": None, "unknown": EXCLUDE}  # what hooks are told besides


def loader_of(schema: Schema, taken_as_they_are: Mapping[type, type]) -> LoadBody:
    """What loads as the schema does, if unknown fields are left out.

    `taken_as_they_are`: classes of fields, and the type whose values their `_deserialize` returns unchanged.
    Raises TypeError for kinds of hooks that are not known here.
    """
    of_the_body = _hooks_of(schema, PRE_LOAD, of_the_body=True)
    load_one = _load_one_by(schema, taken_as_they_are)

    def load(body: Any, many: bool) -> Any:
        for prepare in of_the_body:
            body = prepare(body, many=many, **HOW)
        return [load_one(item) for item in body] if many else load_one(body)

    return load


def _load_one_by(schema: Schema, taken_as_they_are: Mapping[type, type]) -> LoadOne:
    """What loads one object, with the hooks that are for one."""
    load_fields = _load_fields_by(schema, taken_as_they_are)
    before, checks, after = (_hooks_of(schema, kind) for kind in (PRE_LOAD, VALIDATES_SCHEMA, POST_LOAD))

    def load(data: Any) -> Any:
        for prepare in before:
            data = prepare(data, many=False, **HOW)
        loaded: Any = load_fields(data)
        for check in checks:
            check(loaded, many=False, **HOW)
        for finish in after:
            loaded = finish(loaded, many=False, **HOW)
        return loaded

    return load


def _hooks_of(schema: Schema, kind: str, of_the_body: bool = False) -> list[Hook]:
    """The schema's hooks of one kind: for each object, or `of_the_body` as a whole."""
    if schema._hooks[VALIDATES]:
        raise TypeError("validators of single fields stand in their fields; those beside them are not known here")
    found = [(getattr(schema, name), whole, options) for name, whole, options in schema._hooks[kind]]
    if any(options.get("pass_original") or (whole and kind != PRE_LOAD) for _, whole, options in found):
        raise TypeError("hooks with the original, and hooks of a list that was loaded, are not known here")
    return [hook for hook, whole, _ in found if whole is of_the_body]


def _load_fields_by(schema: Schema, taken_as_they_are: Mapping[type, type]) -> LoadFields:
    """What loads one object without its hooks."""
    plan = [
        (field.data_key or name, field.attribute or name, _is_optional(field), _load_by(field, taken_as_they_are))
        for name, field in schema.load_fields.items()
    ]

    def load(data: Mapping[str, Any]) -> dict[str, Any]:
        if data.__class__ is not dict and not isinstance(data, Mapping):
            raise ValidationError("not an object")
        loaded = {}
        for name, attribute, is_optional, load_value in plan:
            value = data.get(name, missing)
            if value is missing and is_optional:
                continue
            value = load_value(value, name, data)
            if value is not missing:
                loaded[attribute] = value
        return loaded

    return load


def _is_optional(field: fields.Field[Any]) -> bool:
    """Whether nothing is loaded where the field is left out."""
    return not (field.required or field.pre_load or field.post_load or field.load_default is not missing)


def _load_by(field: fields.Field[Any], taken_as_they_are: Mapping[type, type]) -> Load:
    """What loads a value as the field does, its default, its null and its validators included."""
    if field.pre_load or field.post_load:
        return field.deserialize
    change: Load = _change_of(field, taken_as_they_are)
    unchanged = taken_as_they_are.get(type(field))
    validators: tuple[Callable[[Any], Any], ...] = tuple(field.validators)
    default, is_required, allows_none = field.load_default, field.required, field.allow_none

    def load(value: Any, name: str | None, data: Mapping[str, Any] | None) -> Any:
        if value is missing:
            if is_required:
                raise ValidationError("required")
            return default() if callable(default) else default
        if value is None:
            if not allows_none:
                raise ValidationError("null")
            return None
        if value.__class__ is not unchanged:
            value = change(value, name, data)
        for validate in validators:
            validate(value)
        return value

    return load


def _load_all_by(field: fields.Field[Any], taken_as_they_are: Mapping[type, type]) -> LoadAll:
    """What loads many values as the field loads each; those that it takes as they are, without a look at each."""
    load_one = _load_by(field, taken_as_they_are)
    unchanged, validators = taken_as_they_are.get(type(field)), tuple(field.validators)
    if unchanged is None or field.pre_load or field.post_load:
        return lambda values: [load_one(value, None, None) for value in values]
    only = frozenset({unchanged})

    def load(values: Collection[Any]) -> list[Any]:
        if not only.issuperset(map(type, values)):
            return [load_one(value, None, None) for value in values]
        for validate in validators:
            for value in values:
                validate(value)
        return [*values]

    return load


def _change_of(field: fields.Field[Any], taken_as_they_are: Mapping[type, type]) -> Load:
    """The field's `_deserialize`; for lists and objects, one that loads what is in them by the short way, too."""
    if type(field) is fields.Nested and not field.schema.many and field.schema.unknown == EXCLUDE:
        load_one = _load_one_by(field.schema, taken_as_they_are)
        return lambda value, name, data: load_one(value)
    if type(field) is fields.List:
        load_items = _load_all_by(field.inner, taken_as_they_are)

        def load_list(value: Any, name: str | None, data: Mapping[str, Any] | None) -> Any:
            if value.__class__ is not list:
                return field._deserialize(value, name, data)
            return load_items(value)

        return load_list
    if type(field) is fields.Dict and field.key_field and field.value_field:
        load_keys = _load_all_by(field.key_field, taken_as_they_are)
        load_values = _load_all_by(field.value_field, taken_as_they_are)
        as_marshmallow: Load = field._deserialize

        def load_dict(value: Any, name: str | None, data: Mapping[str, Any] | None) -> Any:
            if value.__class__ is not dict:
                return as_marshmallow(value, name, data)
            return dict(zip(load_keys(value), load_values(value.values()), strict=True))

        return load_dict
    return field._deserialize
