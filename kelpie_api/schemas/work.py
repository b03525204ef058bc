"""Claims and reports of workers (docs/design/protocol.md, Reports)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from marshmallow import ValidationError, fields, validate

from kelpie_api.limits import LARGEST_OUTPUT, LARGEST_PROGRESS, LONGEST_DETAIL, LONGEST_KEY, MOST_CHECKPOINT_FILES
from kelpie_api.queue.long_poll import LONGEST_WAIT
from kelpie_api.queue.progress import is_number
from kelpie_api.queue.states import SPOKEN, Status
from kelpie_api.schemas.fields import (
    NAME,
    WHOLE_NUMBER,
    QueryNumber,
    QueryText,
    RequestSchema,
    ResponseSchema,
    StrictBoolean,
    StrictInteger,
    Text,
)
from kelpie_api.text import parse_uuid

NAME_OF_OBJECT = validate.Length(min=1, max=LONGEST_KEY)


class QueryId(fields.UUID):
    """An id from a query string."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> UUID:
        try:
            return parse_uuid(value)
        except ValueError:
            raise self.make_error("invalid_uuid") from None


class Seconds(QueryText):
    """Whole seconds from a query string; more than `longest` count as `longest`."""

    def __init__(self, longest: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.longest = longest

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        if not re.fullmatch(WHOLE_NUMBER, text):
            raise ValidationError("A whole number of seconds, 0 or more.")
        digits = text.partition(".")[0]
        return self.longest if len(digits) > 9 else min(int(digits), self.longest)


class Words(QueryText):
    """Words between commas, of which only the known ones count."""

    def __init__(self, known: Collection[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.known = known

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        words = {word.strip() for word in super()._deserialize(value, attr, data, **kwargs).split(",")}
        return sorted(words.intersection(self.known))


class WorkQuery(RequestSchema):
    machine_id = QueryText(required=True, validate=NAME)
    container_group_id = QueryText(required=True, validate=NAME)
    claim_id = QueryId(load_default=None)
    wait = Seconds(LONGEST_WAIT, load_default=0, metadata={"pattern": f"^{WHOLE_NUMBER}$", "example": "20"})
    speaks = Words(SPOKEN, load_default=[], metadata={"example": "phase,progress"})


class WorkerReport(RequestSchema):
    """What every report may carry; the original's worker sends the two required fields only."""

    machine_id = fields.String(required=True, validate=NAME)
    container_group_id = fields.String(required=True, validate=NAME)
    attempt = StrictInteger(load_default=None, allow_none=True, validate=validate.Range(1, 2**31 - 1))
    exit_code = StrictInteger(load_default=None, allow_none=True, validate=validate.Range(-(2**31), 2**31 - 1))
    reason = fields.String(load_default=None, allow_none=True, validate=validate.Length(max=LONGEST_DETAIL))


class Progress(fields.Field[dict[str, Any]]):
    """What a command tells of its progress: an object of 2 KiB, whose `fraction` is a number from 0 to 1.

    Numbers that no answer could carry (1e999) become null.
    """

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if not isinstance(value, dict):
            raise ValidationError('Must be an object, such as {"fraction": 0.42, "message": "warming up"}.')
        told: dict[str, Any] = finite(value)
        if len(json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()) > LARGEST_PROGRESS:
            raise ValidationError(
                f"Must be an object of {LARGEST_PROGRESS} bytes at most, as JSON without blanks."
            )
        fraction = told.get("fraction")
        if fraction is not None and not (is_number(fraction) and 0 <= fraction <= 1):
            raise ValidationError("fraction: must be a number from 0 to 1.")
        return told


def finite(value: Any) -> Any:
    """The JSON value with null in place of each number that is not finite."""
    match value:
        case dict():
            return {name: finite(inner) for name, inner in value.items()}
        case list():
            return [finite(inner) for inner in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


class HeartbeatReport(WorkerReport):
    """`checkpoint_lag`: seconds since the oldest change that is not whole in the bucket."""

    checkpoint_lag = StrictInteger(load_default=None, allow_none=True, validate=validate.Range(0, 2**31 - 1))
    phase = Text(
        load_default=None, allow_none=True, validate=validate.OneOf(["downloading", "running", "uploading"])
    )
    progress = Progress(load_default=None, allow_none=True, metadata={"type": "object"})
    output_bytes = StrictInteger(load_default=None, allow_none=True, validate=validate.Range(0, 2**63 - 1))
    stalled = StrictBoolean(load_default=None, allow_none=True)


class Stop(RequestSchema):
    why = fields.String(required=True, validate=validate.Length(1, 50))


class ReleaseReport(WorkerReport):
    """`reason` is one of a few classes, `detail` a sentence about this case; `stop` is what it was ended for.

    `progress` is what the command told last, `output_bytes` what it printed in all.
    """

    progress = Progress(load_default=None, allow_none=True, metadata={"type": "object"})
    output_bytes = StrictInteger(load_default=None, allow_none=True, validate=validate.Range(0, 2**63 - 1))
    detail = fields.String(load_default=None, allow_none=True, validate=validate.Length(max=LONGEST_DETAIL))
    stop = fields.Nested(Stop, load_default=None, allow_none=True)


class EndReport(ReleaseReport):
    """The end of a command; `output` is the last of what it printed, if the worker is configured to send it."""

    output = fields.String(load_default=None, allow_none=True, validate=validate.Length(max=LARGEST_OUTPUT))


class FencedReport(RequestSchema):
    """A report that needs the attempt, so that the original's worker cannot send it."""

    machine_id = fields.String(required=True, validate=NAME)
    container_group_id = fields.String(required=True, validate=NAME)
    attempt = StrictInteger(required=True, validate=validate.Range(1, 2**31 - 1))


class ReportedFile(RequestSchema):
    bucket = fields.String(load_default=None, allow_none=True, validate=NAME)
    key = fields.String(required=True, validate=NAME_OF_OBJECT)
    size = StrictInteger(required=True, validate=validate.Range(0, 2**63 - 1))
    etag = fields.String(load_default=None, allow_none=True, validate=NAME_OF_OBJECT)
    version_id = fields.String(load_default=None, allow_none=True, validate=NAME_OF_OBJECT)


class CheckpointReport(FencedReport):
    generation = StrictInteger(required=True, validate=validate.Range(1, 2**63 - 1))
    files = fields.List(
        fields.Nested(ReportedFile), required=True, validate=validate.Length(max=MOST_CHECKPOINT_FILES)
    )


class ResumeReport(FencedReport):
    checkpoint = fields.String(required=True, validate=validate.OneOf(["clean", "torn"]))
    detail = fields.String(load_default=None, allow_none=True, validate=validate.Length(max=LONGEST_DETAIL))


class PieceQuery(RequestSchema):
    """Which attempt printed the piece in the body, and at which offset of its output it begins."""

    machine_id = QueryText(required=True, validate=NAME)
    container_group_id = QueryText(required=True, validate=NAME)
    attempt = QueryNumber(required=True, validate=validate.Range(1, 2**31 - 1))
    start = QueryNumber(required=True, data_key="from", validate=validate.Range(0, 2**62))


class PieceKept(ResponseSchema):
    next = fields.Integer()
    watched = fields.Boolean()


class OutputQuery(RequestSchema):
    """Which output to read: of which attempt (the newest), from which offset on."""

    attempt = QueryNumber(load_default=None, validate=validate.Range(1, 2**31 - 1))
    start = QueryNumber(load_default=0, data_key="from", validate=validate.Range(0, 2**62))
    wait = Seconds(LONGEST_WAIT, load_default=0, metadata={"pattern": f"^{WHOLE_NUMBER}$", "example": "20"})
    download = fields.Boolean(load_default=False)


class Wish(ResponseSchema):
    why = fields.String(validate=validate.OneOf(["interrupt", "hold", "cancel", "time_limit", "stalled"]))


class HeartbeatAnswer(ResponseSchema):
    """`stop` and `deadline` are for workers that speak `steer`, where there is something to say."""

    sometimes = ("stop", "deadline", "watched")

    status = fields.String(validate=validate.OneOf(list(Status)))
    stop = fields.Nested(Wish)
    deadline = fields.Float()
    watched = fields.Boolean()


class FailureKept(ResponseSchema):
    sometimes = ("counted",)

    message = fields.String()
    counted = fields.Boolean()


class CheckpointKept(ResponseSchema):
    generation = fields.Integer()
