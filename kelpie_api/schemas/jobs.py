"""Jobs and their history: queries and answers (docs/design/protocol.md, Routes)."""

from __future__ import annotations

import base64
import functools
import re
import struct
from collections.abc import Mapping
from typing import Any

from marshmallow import INCLUDE, ValidationError, fields, pre_load, validate

from kelpie_api.queue.listing import Cursor
from kelpie_api.queue.long_poll import LONGEST_WAIT
from kelpie_api.queue.states import LEGACY_FIELDS, Phase, Status
from kelpie_api.queue.waiting_for_changes import Mark
from kelpie_api.schemas.fields import (
    WHOLE_NUMBER,
    Instant,
    LegacyPrefix,
    PageQuery,
    QueryNumber,
    QueryText,
    RequestSchema,
    ResponseSchema,
    Rows,
    Written,
    as_text,
    written,
)
from kelpie_api.schemas.filters import INSTANT, EmptyIsAbsent, JobFilters, as_instant
from kelpie_api.schemas.options import OPTIONS, ShownRetryRule
from kelpie_api.schemas.work import Seconds


class CursorText(fields.String):
    """A place between two jobs of a list, as opaque text that callers send back unchanged."""

    # Exactly what `as_cursor` writes: a mark for the order, and a non-negative number of eight bytes.
    PATTERN = "P[A-Hg-n][A-Za-z0-9_-]{10}"

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if not re.fullmatch(self.PATTERN, value):
            raise ValidationError("This is no cursor; take it from the Link header of the page before.")
        mark, seq = struct.unpack(">cq", base64.urlsafe_b64decode(value))
        return Cursor(seq, mark == b">")


def as_cursor(cursor: Cursor) -> str:
    return base64.urlsafe_b64encode(struct.pack(">cq", b">" if cursor.oldest_first else b"<", cursor.seq)).decode()


class MarkText(QueryText):
    """How jobs were, from the answer before, or a time."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        at, mark, digest = super()._deserialize(value, attr, data, **kwargs).partition("~")
        if mark and not re.fullmatch("[0-9a-f]{32}", digest):
            raise ValidationError("This is no mark; take it from changed_since of the answer before.")
        return Mark(as_instant(at), digest or None)


class JobQuery(JobFilters, EmptyIsAbsent, PageQuery):
    cursor = CursorText(
        load_default=None,
        metadata={
            "description": "From the Link header of the page before; it wins over page and asc.",
            "pattern": f"^({CursorText.PATTERN})?$",
        },
    )
    asc = fields.Boolean(load_default=False)
    wait = Seconds(
        LONGEST_WAIT,
        load_default=None,
        metadata={
            "description": "Seconds for which the answer is held back until one of the jobs changes, 30 at most.",
            "pattern": f"^{WHOLE_NUMBER}$",
            "example": "20",
        },
    )
    changed_since = MarkText(
        load_default=None,
        metadata={
            "description": "From changed_since of the answer before, or a time: only jobs that changed after it.",
            "pattern": f"^{INSTANT}(~[0-9a-f]{{32}})?$",
            "example": "2026-01-31T12:00:00Z",
        },
    )


class HistoryQuery(RequestSchema):
    """Which page of what happened to a job. The first one is so large that few jobs have another."""

    page_size = QueryNumber(load_default=10_000, validate=validate.Range(1, 10_000))
    after = QueryNumber(
        data_key="cursor",
        load_default=0,
        validate=validate.Range(0, 2**63 - 1),
        metadata={"description": "From the Link header of the page before."},
    )

    @pre_load
    def without_empty(self, query: Mapping[str, str], **kwargs: Any) -> dict[str, str]:
        return {name: value for name, value in query.items() if value != ""}


class CheckpointFile(ResponseSchema):
    """An object of a checkpoint, as the bucket described it when it was committed."""

    bucket = fields.String(allow_none=True)
    key = fields.String()
    size = fields.Integer()
    etag = fields.String(allow_none=True)
    version_id = fields.String(allow_none=True)


class Checkpoint(ResponseSchema):
    """The manifest of a generation: the objects that were in the bucket when it was committed."""

    attempt = fields.Integer()
    generation = fields.Integer()
    reported = Instant()
    files = fields.List(fields.Nested(CheckpointFile))


class ShownBlock(ResponseSchema):
    """A sync block as it was submitted."""

    sometimes = ("pattern",)

    bucket = fields.String()
    prefix = fields.String()
    local_path = fields.String()
    direction = fields.String(validate=validate.OneOf(["download", "upload"]))
    pattern = fields.String()


class ShownSync(ResponseSchema):
    """The sync blocks of a job; a part that was not submitted is absent."""

    sometimes = ("before", "during", "after")

    before = fields.List(fields.Nested(ShownBlock))
    during = fields.List(fields.Nested(ShownBlock))
    after = fields.List(fields.Nested(ShownBlock))


class AsStored(fields.Nested):
    """Answers a JSON value of the database as it is, which is the schema's; building it anew would take time."""

    # Nested and Field name the first argument differently, so that no name fits both.
    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return value


# What tells a job that uses the optional fields from one of the original, and what is answered of such a job only.
STEERED = ("name", "labels", "priority", "options", "rerun_of", "reason", "sweep_id")
ALL_STEERED = {*STEERED, "phase", "parked", "backoff_until"}


class CheckpointSummary(ResponseSchema):
    """The newest checkpoint of a job."""

    generation = fields.Integer()
    at = Instant()
    bytes = fields.Integer(allow_none=True)


class Progress(ResponseSchema):
    """What the command told of its progress, whatever else it says besides these fields."""

    class Meta:
        unknown = INCLUDE

    sometimes = ("step", "total", "message")

    fraction = fields.Float(allow_none=True)
    step = fields.Raw(metadata={"type": "number", "nullable": True})
    total = fields.Raw(metadata={"type": "number", "nullable": True})
    message = fields.Raw(metadata={"type": "string", "nullable": True})
    at = Instant()
    eta = Instant(allow_none=True)


class AsTold(AsStored):
    """What a command told, with the moments that the coordinator added in the form of all others."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return value and {**value, "at": as_text(value["at"]), "eta": as_text(value["eta"])}


class Job(ResponseSchema):
    """A job in an answer: with `sync`, or with the legacy fields if it was submitted with those.

    Of the optional fields of a submission those are there that were given. `name` to `reason` are absent of a job
    that uses none of them and waits for its first handout: it is as the original answers it.
    """

    sometimes = (
        *LEGACY_FIELDS,
        *OPTIONS,
        "sync",
        "warnings",
        "checkpoint",
        "checkpoint_lag",
        "blocked_on_machines",
        *sorted(ALL_STEERED - {"options", "sweep_id"}),
        "sweep",
        "progress",
    )

    warnings = fields.List(fields.String())  # first, so that a long answer does not hide them
    id = fields.UUID()
    user_id = fields.UUID()
    status = fields.String(validate=validate.OneOf(list(Status)))
    created = Instant()
    started = Instant(allow_none=True)
    completed = Instant(allow_none=True)
    canceled = Instant(allow_none=True)
    failed = Instant(allow_none=True)
    command = fields.String()
    arguments = fields.List(fields.String())
    environment = fields.Dict(
        keys=fields.String(),
        values=fields.String(allow_none=True),
        allow_none=True,
        metadata={
            "description": "Environment variables of the command. A viewer reads null for each value. Null as a"
            " whole: it is sealed, and the coordinator has not the key."
        },
    )
    sync = AsStored(ShownSync)
    input_bucket = fields.String()
    input_prefix = LegacyPrefix()
    checkpoint_bucket = fields.String()
    checkpoint_prefix = LegacyPrefix()
    output_bucket = fields.String()
    output_prefix = LegacyPrefix()
    compression = fields.Boolean()
    max_failures = fields.Integer()
    heartbeat_interval = fields.Integer()
    webhook = fields.String(allow_none=True)
    heartbeat = Instant(allow_none=True)
    num_failures = fields.Integer()
    num_heartbeats = fields.Integer()
    container_group_id = fields.String(allow_none=True)
    machine_id = fields.String(allow_none=True)
    attempt = fields.Integer()
    checkpoint_lag = fields.Integer(
        metadata={
            "description": "Only of a single job whose worker reports it, as of the last heartbeat: seconds"
            " since the oldest change in the directories of `sync.during` that is not whole in the bucket."
        },
    )
    progress = AsTold(Progress)
    blocked_on_machines = fields.List(
        fields.String(),
        metadata={"description": "Only where a job waits for machines that are all banned from it: these."},
    )
    name = fields.String(allow_none=True)
    labels = fields.Dict(keys=fields.String(), values=fields.String())
    priority = fields.Integer()
    phase = fields.String(validate=validate.OneOf(list(Phase)))
    parked = fields.List(fields.String(), allow_none=True)
    backoff_until = Instant()
    reason = fields.String(allow_none=True)
    rerun_of = fields.UUID()
    sweep = fields.UUID(attribute="sweep_id")
    max_runtime = fields.Integer()
    max_attempt_runtime = fields.Integer()
    max_attempts = fields.Integer()
    max_fruitless_attempts = fields.Integer()
    stall_after = fields.Integer()
    on_stall = fields.String()
    retry = AsStored(ShownRetryRule(many=True))
    secrets = fields.List(fields.String())
    keep_output = fields.Integer()
    checkpoint_signal = fields.String()
    webhook_events = fields.List(fields.String())
    checkpoint = fields.Nested(CheckpointSummary)

    def of_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        of_sync = row["sync"] is not None
        if self.is_as_before(row):
            return written(row, self.plans[of_sync, True])
        return written(with_options(row), self.plans[of_sync, False])

    @functools.cached_property
    def plans(self) -> dict[tuple[bool, bool], list[Written]]:
        """How a job is written: with `sync` or with the legacy fields, as the original's answers are or not."""
        return {
            (of_sync, is_as_before): [
                field
                for field in self.plan
                if field.name not in (LEGACY_FIELDS if of_sync else ("sync",))
                and not (is_as_before and field.column in ALL_STEERED)
            ]
            for of_sync in (True, False)
            for is_as_before in (True, False)
        }

    def is_as_before(self, row: Mapping[str, Any]) -> bool:
        """Whether the job uses none of the optional fields and waits for its first handout."""
        return row["phase"] == Phase.PENDING and not any(map(row.get, STEERED))


def with_options(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with its options beside its other columns."""
    job = {**row, "labels": row["labels"] or {}, **(row["options"] or {})}
    for name in ("rerun_of", "backoff_until", "sweep_id"):
        if job.get(name) is None:
            job.pop(name, None)
    if row.get("checkpoint_generation") is not None:
        job["checkpoint"] = {name: row[f"checkpoint_{name}"] for name in ("generation", "at", "bytes")}
    return job


class ClaimedJob(Job):
    """A job in the answer to a claim, with the newest manifest of its checkpoints, if there is one."""

    checkpoint = fields.Nested(Checkpoint)


class JobPage(ResponseSchema):
    """Jobs; with filters that need a search also how they were, and whether the search ended before its time."""

    sometimes = ("warnings", "is_partial", "changed_since")

    warnings = fields.List(fields.String())
    _count = fields.Integer()
    jobs = Rows(Job)
    is_partial = fields.Boolean(
        data_key="partial",
        attribute="partial",
        metadata={"description": "true: 10,000 jobs were looked at before the page was full; Link goes on."},
    )
    changed_since = fields.String(
        metadata={"description": "How these jobs were: for the parameter of the same name of the next request."}
    )


class Count(ResponseSchema):
    count = fields.Integer()


class Attempt(ResponseSchema):
    number = fields.Integer()
    machine_id = fields.String()
    container_group_id = fields.String()
    claimed = Instant()
    last_heartbeat = Instant(allow_none=True)
    ended = Instant(allow_none=True)
    outcome = fields.String(allow_none=True)
    exit_code = fields.Integer(allow_none=True)
    reason = fields.String(allow_none=True)
    detail = fields.String(allow_none=True)
    output = fields.String(allow_none=True)
    held = fields.Float(allow_none=True)
    useful = fields.Float(allow_none=True)
    lost = fields.Float(allow_none=True)
    price = fields.Float(allow_none=True)


class AttemptList(ResponseSchema):
    _count = fields.Integer()
    attempts = Rows(Attempt)


class Event(ResponseSchema):
    id = fields.Integer()
    at = Instant()
    kind = fields.String()
    actor = fields.String()
    attempt = fields.Integer()
    detail = fields.Raw(metadata={"type": "object"})


class EventList(ResponseSchema):
    _count = fields.Integer()
    events = Rows(Event)
