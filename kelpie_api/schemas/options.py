"""What a submission may say of a job besides what it runs: names, limits, what failures and stalls do.

All of it is optional, and what is left out is null or absent (docs/design/protocol.md, Optional fields).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields, validate, validates_schema

from kelpie_api.limits import LONGEST_NAME
from kelpie_api.schemas.fields import RequestSchema, ResponseSchema, StrictInteger, Text
from kelpie_api.schemas.secrets import NAME_OF_A_SECRET

LONGEST_TIME = 10 * 365 * 86400  # seconds
MOST_LABELS = 32
EXIT_CODES = 256  # that a process can end with
MOST_DEPENDENCIES = 100
MOST_NAMED_SECRETS = 100
LARGEST_KEPT_OUTPUT = 2**20  # bytes
EVENTS = ("running", "failed", "completed", "canceled", "interrupted", "stalled", "held")
# The options that are kept as they were given, in one column.
OPTIONS = (
    "max_runtime",
    "max_attempt_runtime",
    "max_attempts",
    "max_fruitless_attempts",
    "stall_after",
    "on_stall",
    "retry",
    "secrets",
    "keep_output",
    "checkpoint_signal",
    "webhook_events",
)

ONE_OR_MORE = {"oneOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]}
label_key = validate.Regexp(
    r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}\Z",
    error="The key of a label is 1 to 63 of A-Z a-z 0-9 . _ / - and begins with a letter or a digit.",
)


secret_name = validate.Regexp(
    rf"{NAME_OF_A_SECRET}\Z", error="A secret is named like a variable: letters, digits and '_', no digit first."
)


def named_once(names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise ValidationError("A secret is named once.")


class ExitCodes(fields.Field[list[int]]):
    """One exit code, or a list of them: 0 to 255, a signal being 128 and its number."""

    INVALID = "Must be an exit code, 0 to 255, or a list of them; a signal is 128 and its number, such as 137."

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        codes = value if isinstance(value, list) else [value]
        if not codes or len(codes) > EXIT_CODES or not all(map(_is_exit_code, codes)):
            raise ValidationError(self.INVALID)
        return [int(code) for code in codes] if isinstance(value, list) else int(value)


def _is_exit_code(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < EXIT_CODES and value == int(value)  # also 3.0


class RetryRule(RequestSchema):
    """What a failure of this kind does; without exit_code and reason the rule is for every failure."""

    exit_code = ExitCodes(metadata=ONE_OR_MORE)
    reason = Text(validate=validate.Length(1, LONGEST_NAME))
    do = Text(required=True, validate=validate.OneOf(["retry", "free", "fail", "hold"]))
    backoff = StrictInteger(validate=validate.Range(0, LONGEST_TIME))

    @validates_schema
    def check_backoff(self, rule: dict[str, Any], **kwargs: Any) -> None:
        if "backoff" in rule and rule.get("do") in ("fail", "hold"):
            raise ValidationError(
                "A backoff goes with retry or free: after the others the job does not wait.", "backoff"
            )


def labels_of_a_job() -> fields.Dict:
    """Labels by their keys."""
    return fields.Dict(
        keys=Text(validate=label_key),
        values=Text(validate=validate.Length(max=LONGEST_NAME)),
        allow_none=True,
        validate=validate.Length(max=MOST_LABELS, error=f"A job has at most {MOST_LABELS} labels."),
        error_messages={"invalid": 'Must be an object of keys and values, such as {{"team": "vision"}}.'},
    )


def seconds(least: int = 1) -> StrictInteger:
    return StrictInteger(allow_none=True, validate=validate.Range(least, LONGEST_TIME))


class JobOptions(RequestSchema):
    """The optional fields of a job; null is the same as to leave one out."""

    name = Text(allow_none=True, validate=validate.Length(1, 100))
    labels = labels_of_a_job()
    priority = StrictInteger(allow_none=True, validate=validate.Range(-100, 100))
    sweep = fields.UUID(allow_none=True, attribute="sweep_id")
    depends_on = fields.List(
        Text(validate=validate.Length(1, 100)),
        allow_none=True,
        validate=validate.Length(max=MOST_DEPENDENCIES, error=f"At most {MOST_DEPENDENCIES} dependencies."),
        error_messages={"invalid": 'Must be a list of ids of jobs and sweeps, or of places in the batch: ["#0"].'},
    )
    depends_if = Text(allow_none=True, validate=validate.OneOf(["completed", "ended"]))
    max_runtime = seconds()
    max_attempt_runtime = seconds()
    max_attempts = StrictInteger(allow_none=True, validate=validate.Range(0, 1_000_000))
    max_fruitless_attempts = StrictInteger(allow_none=True, validate=validate.Range(0, 1_000_000))
    stall_after = seconds()
    on_stall = Text(allow_none=True, validate=validate.OneOf(["notify", "restart", "fail"]))
    retry = fields.List(
        fields.Nested(RetryRule),
        allow_none=True,
        validate=validate.Length(max=10, error="A job has at most 10 retry rules."),
        error_messages={"invalid": 'Must be a list of rules, such as [{{"exit_code": 3, "do": "fail"}}].'},
    )
    secrets = fields.List(
        Text(validate=secret_name, metadata={"pattern": f"^{NAME_OF_A_SECRET}$"}),
        allow_none=True,
        validate=[
            validate.Length(max=MOST_NAMED_SECRETS, error=f"A job names at most {MOST_NAMED_SECRETS} secrets."),
            named_once,
        ],
        error_messages={"invalid": 'Must be a list of names of secrets, such as ["HF_TOKEN"].'},
    )
    keep_output = StrictInteger(allow_none=True, validate=validate.Range(0, LARGEST_KEPT_OUTPUT))
    checkpoint_signal = Text(allow_none=True, validate=validate.OneOf(["USR1", "USR2"]))
    webhook_events = fields.List(
        Text(validate=validate.OneOf(EVENTS)),
        allow_none=True,
        validate=validate.Length(max=len(EVENTS)),
        error_messages={"invalid": 'Must be a list of events, such as ["failed", "held"].'},
    )


class ShownRetryRule(ResponseSchema):
    """A retry rule as it was submitted."""

    sometimes = ("exit_code", "reason", "backoff")

    exit_code = fields.Raw(metadata=ONE_OR_MORE)
    reason = fields.String()
    do = fields.String()
    backoff = fields.Integer()
