"""The filters by which jobs are listed, counted and changed (docs/design/protocol.md, Filters)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from marshmallow import ValidationError, fields, pre_load, validate

from kelpie_api.limits import LONGEST_NAME
from kelpie_api.queue.filters import NO_SWEEP, Filters
from kelpie_api.queue.states import Phase, Status
from kelpie_api.schemas.fields import QueryText, RequestSchema, ResponseSchema, StrictBoolean, StrictInteger
from kelpie_api.text import parse_uuid

MOST_IDS = 500
MOST_LABELS = 32
INSTANT = r"\d{4}-\d{2}-\d{2}([Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?([Zz]|[+-]\d{2}:\d{2})?)?"
LABEL = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}:"
UUID_TEXT = "[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}"


def as_instant(text: str) -> datetime:
    """A time in RFC 3339; without a zone it is UTC, a day alone its beginning. Raises ValidationError."""
    try:
        if not re.fullmatch(INSTANT, text):
            raise ValueError
        found = datetime.fromisoformat(text.upper())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValidationError("Must be a time such as 2026-01-31T12:00:00Z.") from None


class InstantText(QueryText):
    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        return as_instant(super()._deserialize(value, attr, data, **kwargs))


class IdText(QueryText):
    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        try:
            return parse_uuid(text)
        except ValueError:
            raise ValidationError("Must be a whole id, a UUID; `ref` takes the end of one.") from None


class LabelText(QueryText):
    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        if not re.match(LABEL, text):
            raise ValidationError("Must be key:value, such as experiment:7.")
        key, _, label = text.partition(":")
        return key, label


class SweepText(QueryText):
    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        if text == NO_SWEEP:
            return text
        try:
            return str(parse_uuid(text))
        except ValueError:
            raise ValidationError(f"Must be the id of a sweep, or {NO_SWEEP}.") from None


class OneOrMore(fields.List[Any]):
    """A list; one value alone is a list of one."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        return super()._deserialize([value] if isinstance(value, str) else value, attr, data, **kwargs)


def described(sentence: str, **more: Any) -> dict[str, Any]:
    return {"description": sentence} | more


class JobFilters(RequestSchema):
    """What a job must be; all that are given must hold."""

    status = QueryText(
        validate=validate.OneOf([*Status, ""], error=f"Must be one of: {', '.join(Status)}; or empty, for all."),
        metadata=described("Only jobs of this status."),
    )
    container_group_id = QueryText(
        validate=validate.Length(max=LONGEST_NAME), metadata=described("Only jobs of this container group.")
    )
    user_id = IdText(metadata=described("Only jobs of this user.", format="uuid"))
    name = QueryText(
        validate=validate.Length(min=1, max=101),
        metadata=described("Only jobs of this name; with a star at its end, of names that begin so."),
    )
    label = OneOrMore(
        LabelText(metadata={"pattern": f"^{LABEL}"}),
        validate=validate.Length(max=MOST_LABELS),
        metadata=described("Only jobs with this label, as key:value; may be repeated."),
    )
    sweep = SweepText(
        metadata=described(
            "Only jobs of this sweep; `none`: of no sweep.",
            pattern=f"^({UUID_TEXT}|{NO_SWEEP})$",
            example=NO_SWEEP,
        )
    )
    phase = OneOrMore(
        QueryText(validate=validate.OneOf(list(Phase), error=f"Must be one of: {', '.join(Phase)}.")),
        validate=validate.Length(1, len(Phase)),
        metadata=described("Only jobs in this phase; may be repeated."),
    )
    since = InstantText(metadata=described("Only jobs created at this time or later.", format="date-time"))
    ended_since = InstantText(
        metadata=described("Only jobs that ended at this time or later.", format="date-time")
    )
    open = fields.Boolean(metadata=described("true: only jobs that are not final; false: only final ones."))
    id = OneOrMore(
        IdText(metadata={"format": "uuid"}),
        validate=validate.Length(1, MOST_IDS, error=f"At most {MOST_IDS} ids, and one at least."),
        metadata=described(f"Only the jobs of these ids, up to {MOST_IDS}."),
    )
    ref = QueryText(
        validate=validate.Length(min=1, max=100),
        metadata=described(
            "A job's id, jobs of exactly this name, or the job whose id alone ends so (six digits)."
        ),
    )


FILTER_NAMES = tuple(JobFilters._declared_fields)
# Filters that have a clearer name in the program than on the wire.
CALLED = {"label": "labels", "phase": "phases", "open": "is_open", "id": "ids", "ref": "reference"}


class EmptyIsAbsent(RequestSchema):
    """A query in which an empty value is none."""

    @pre_load
    def without_empty(self, query: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        kept = {
            name: [one for one in value if one != ""] if isinstance(value, list) else value
            for name, value in query.items()
        }
        return {name: value for name, value in kept.items() if value not in ("", [])}


class JobCountQuery(JobFilters, EmptyIsAbsent):
    """Which jobs to count."""


class JobSelection(JobFilters):
    """The jobs that are to be changed; `label`, `phase` and `id` are a value or a list.

    What is empty is refused: it comes of a variable of a script that is empty, and must mean neither all jobs nor
    those of the null group.
    """

    status = QueryText(
        validate=validate.OneOf(list(Status), error=f"Must be one of: {', '.join(Status)}."),
        metadata=described("Only jobs of this status."),
    )
    container_group_id = QueryText(
        validate=validate.Length(1, LONGEST_NAME, error="Must be the id of a container group, and not empty."),
        metadata=described("Only jobs of this container group."),
    )
    open = StrictBoolean(metadata=described("true: only jobs that are not final; false: only final ones."))
    expect = StrictInteger(
        load_default=None,
        allow_none=True,
        validate=validate.Range(0, 2**31 - 1),
        metadata=described("Change them only if so many match, as GET /jobs/counts says."),
    )


class JobCount(ResponseSchema):
    """How many jobs match."""

    sometimes = ("warnings", "more")

    warnings = fields.List(fields.String())
    count = fields.Integer(metadata=described("The number of jobs that match."))
    more = fields.Boolean(
        metadata=described(
            "true: more final jobs may match; of these 10,000 are counted at most, by a look at 100,000."
        )
    )


class RefusedJob(ResponseSchema):
    id = fields.UUID()
    message = fields.String(metadata=described("Why it was not changed."))


class ChangedJobs(ResponseSchema):
    """What a change of many jobs did."""

    count = fields.Integer(metadata=described("The number of jobs that were changed."))
    refused = fields.List(
        fields.Nested(RefusedJob), metadata=described("Jobs that match and were not changed, up to 100.")
    )


def filters_of(loaded: Mapping[str, Any]) -> Filters:
    """The filters among what was read by a schema."""
    known: dict[str, Any] = {CALLED.get(name, name): loaded[name] for name in FILTER_NAMES if name in loaded}
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in known.items()
    }
    return Filters(**given)
