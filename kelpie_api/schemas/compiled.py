"""Loading of values by functions that are made once, from the fields of a marshmallow schema.

For each value of each request marshmallow looks at every option of its field, makes a closure and a validator, and
keeps errors. These functions have the same results for what is right, and raise ValidationError for everything
else; what is wrong with it is then said by marshmallow, to which it is given whole (RequestSchema). So a rule
still stands in one place, its field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, missing

# A value, the name of its field and the object that it stands in; the value that is loaded, or `missing`.
Load = Callable[[Any, str | None, Mapping[str, Any] | None], Any]
LoadAll = Callable[[Mapping[str, Any]], dict[str, Any]]


def loader_of(schema: Schema, taken_as_they_are: Mapping[type, type]) -> LoadAll:
    """What loads one object by the fields of a schema, without its hooks; unknown fields are left out.

    `taken_as_they_are`: classes of fields, and the type whose values their `_deserialize` returns unchanged.
    """
    plan = [
        (field.data_key or name, field.attribute or name, _load_by(field, taken_as_they_are))
        for name, field in schema.load_fields.items()
    ]

    def load(data: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(data, Mapping):
            raise ValidationError("not an object")
        loaded = {}
        for name, attribute, load_value in plan:
            value = load_value(data.get(name, missing), name, data)
            if value is not missing:
                loaded[attribute] = value
        return loaded

    return load


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


def _change_of(field: fields.Field[Any], taken_as_they_are: Mapping[type, type]) -> Load:
    """The field's `_deserialize`; for lists and objects of values, one that loads these by the short way, too."""
    if type(field) is fields.List:
        load_item = _load_by(field.inner, taken_as_they_are)

        def load_list(value: Any, name: str | None, data: Mapping[str, Any] | None) -> Any:
            if value.__class__ is not list:
                return field._deserialize(value, name, data)
            return [load_item(item, None, None) for item in value]

        return load_list
    if type(field) is fields.Dict and field.key_field and field.value_field:
        load_key = _load_by(field.key_field, taken_as_they_are)
        load_value = _load_by(field.value_field, taken_as_they_are)
        as_marshmallow: Load = field._deserialize

        def load_dict(value: Any, name: str | None, data: Mapping[str, Any] | None) -> Any:
            if value.__class__ is not dict:
                return as_marshmallow(value, name, data)
            return {load_key(key, None, None): load_value(item, None, None) for key, item in value.items()}

        return load_dict
    return field._deserialize
