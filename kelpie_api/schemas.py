"""The wire, on one page: what may be sent and what is answered (contract sections 1 to 3)."""

from __future__ import annotations

import base64
import functools
import json
import re
import struct
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import urlsplit
from uuid import UUID

from marshmallow import (
    EXCLUDE,
    Schema,
    ValidationError,
    fields,
    post_dump,
    post_load,
    pre_load,
    validate,
    validates_schema,
)
from regress import Regex, RegressError

from kelpie_api.errors import InvalidRequest
from kelpie_api.jobs import LEGACY_FIELDS, Place, Status
from kelpie_api.waiting import LONGEST
from kelpie_api.wire import UNSTORABLE, give_way, parse_uuid

LARGEST_DEFINITION = 256 * 1024
LARGEST_BATCH = 1000
NAME = validate.Length(min=1, max=255)
NAME_OF_OBJECT = validate.Length(min=1, max=1024)
LARGEST_OUTPUT = 65_536  # characters
MOST_CHECKPOINT_FILES = 20_000
# A name that people read in lists and logs forges no line there.
ONE_LINE = validate.Regexp(
    r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$(?!\n)", error="A name has no line ends or control characters."
)


class Instant(fields.Field[datetime]):
    """RFC 3339 in UTC with milliseconds and Z."""

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        if value is None:
            return None
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class WholeNumber(fields.Integer):
    """An integer that is neither `true` nor `"3"` nor `3.5`."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.make_error("invalid", input=value)
        return value


class TrueOrFalse(fields.Boolean):
    """A boolean that is neither `1` nor `"true"`."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class QueryText(fields.String):
    """Text from a query string, which may hold an encoded NUL."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        if UNSTORABLE.search(text):
            raise ValidationError("A NUL is not allowed here.")
        return text


class QueryNumber(fields.Integer):
    """A number from a query string. Python alone takes more for one: `1_0`, blanks, the digits of any script."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        if not re.fullmatch("-?[0-9]{1,20}", value):
            raise self.make_error("invalid", input=value)
        return int(value)


class QueryId(fields.UUID):
    """An id from a query string."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> UUID:
        try:
            return parse_uuid(value)
        except ValueError:
            raise self.make_error("invalid_uuid") from None


class Cursor(fields.String):
    """A place in a list, between one job and the next. Callers hand it back as they got it."""

    # Exactly what `as_cursor` writes: a mark, and eight bytes that are no negative number.
    PATTERN = "P[A-Hg-n][A-Za-z0-9_-]{10}"

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if not re.fullmatch(self.PATTERN, value):
            raise ValidationError("This is no cursor; take it from the Link header of the page before.")
        mark, seq = struct.unpack(">cq", base64.urlsafe_b64decode(value))
        return Place(seq, mark == b">")


def as_cursor(place: Place) -> str:
    return base64.urlsafe_b64encode(struct.pack(">cq", b">" if place.oldest_first else b"<", place.seq)).decode()


class Seconds(QueryText):
    """Whole seconds from a query string, cut at a longest time."""

    def __init__(self, longest: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.longest = longest

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        if not (text.isascii() and text.isdigit()):
            raise ValidationError("A whole number of seconds, 0 or more.")
        return self.longest if len(text) > 9 else min(int(text), self.longest)


class Wire(Schema):
    """Unknown fields are ignored, as the original does; `unknown_fields` names them for a warning."""

    class Meta:
        unknown = EXCLUDE


class Answer(Schema):
    """What is answered. Every key is there, and null where there is no value; `sometimes` names the exceptions."""

    sometimes: ClassVar[Collection[str]] = ()

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        # Says so in the document; serialization asks nothing of it.
        field_obj.required = field_name not in self.sometimes


def storable_name(name: str) -> None:
    if not name or "=" in name:
        raise ValidationError("The name of an environment variable is not empty and has no '='.")


def webhook_url(url: str) -> None:
    """Any http(s) URL with a host; also hosts without a dot, and any port. Empty means none."""
    if not url:
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 80) > 0
    except ValueError:
        usable = False
    if not usable or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValidationError("A webhook is a URL that begins with http:// or https://.")


def compilable_pattern(pattern: str) -> None:
    """Patterns are ECMAScript's, which Python's `re` reads differently (contract section 2)."""
    if problem := problem_of(pattern):
        raise ValidationError(f"The pattern is no ECMAScript regular expression: {problem}.")


@functools.lru_cache(1024)
def problem_of(pattern: str) -> str | None:
    """Why it does not compile. The jobs of a batch have the same few patterns, and each takes milliseconds."""
    try:
        Regex(pattern)
    except RegressError as error:
        return str(error)
    return None


class SyncBlock(Wire):
    bucket = fields.String(required=True, validate=NAME)
    prefix = fields.String(required=True, validate=validate.Length(max=1024))
    local_path = fields.String(required=True, validate=validate.Length(min=1, max=4096))
    pattern = fields.String(allow_none=True, validate=[validate.Length(max=4096), compilable_pattern])

    @post_load
    def end_prefix(self, block: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        if not block["prefix"].endswith("/"):
            block["prefix"] += "/"
        return {name: value for name, value in block.items() if value is not None}


class DownloadBlock(SyncBlock):
    direction = fields.String(required=True, validate=validate.Equal("download"))


class UploadBlock(SyncBlock):
    direction = fields.String(required=True, validate=validate.Equal("upload"))


class Sync(Wire):
    before = fields.List(fields.Nested(DownloadBlock))
    during = fields.List(fields.Nested(UploadBlock))
    after = fields.List(fields.Nested(UploadBlock))


class JobDefinition(Wire):
    """What a user submits."""

    command = fields.String(required=True, validate=validate.Length(min=1))
    arguments = fields.List(fields.String(), load_default=list)
    environment = fields.Dict(
        keys=fields.String(validate=storable_name), values=fields.String(), load_default=dict
    )
    container_group_id = fields.String(required=True, allow_none=True, validate=NAME)
    sync = fields.Nested(Sync, allow_none=True)
    input_bucket = fields.String(allow_none=True, validate=NAME)
    input_prefix = fields.String(allow_none=True)
    checkpoint_bucket = fields.String(allow_none=True, validate=NAME)
    checkpoint_prefix = fields.String(allow_none=True)
    output_bucket = fields.String(allow_none=True, validate=NAME)
    output_prefix = fields.String(allow_none=True)
    compression = TrueOrFalse(load_default=False)
    max_failures = WholeNumber(load_default=3, validate=validate.Range(1, 1000))
    heartbeat_interval = WholeNumber(load_default=30, validate=validate.Range(1, 86400))
    webhook = fields.String(allow_none=True, load_default=None, validate=webhook_url)

    @pre_load(pass_collection=True)
    def check_size(self, data: Any, many: bool, **kwargs: Any) -> Any:
        """Before everything else: to find all that is wrong with what is too long would take minutes."""
        if many and isinstance(data, list) and not 1 <= len(data) <= LARGEST_BATCH:
            raise InvalidRequest(f"A batch has 1 to {LARGEST_BATCH} jobs, this one has {len(data)}.")
        for index, definition in enumerate(data if many and isinstance(data, list) else [data]):
            if len(json.dumps(definition, ensure_ascii=False).encode()) > LARGEST_DEFINITION:
                problem = {"_schema": [f"One job definition may have at most {LARGEST_DEFINITION} bytes."]}
                raise ValidationError({index: problem} if many else problem)
        return data

    @validates_schema
    def check_files(self, data: dict[str, Any], **kwargs: Any) -> None:
        legacy = [name for name in LEGACY_FIELDS if data.get(name) is not None]
        if legacy and data.get("sync") is not None:
            raise ValidationError(
                "A job has either sync or the legacy bucket and prefix fields, not both.", "sync"
            )
        if legacy and len(legacy) < len(LEGACY_FIELDS):
            missing = [name for name in LEGACY_FIELDS if name not in legacy]
            raise ValidationError(
                {name: ["The six legacy fields come together or not at all."] for name in missing}
            )

    @post_load
    def as_columns(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """A row of jobs. A job that moves no files keeps an empty sync: no worker takes it for legacy."""
        legacy = data.get("input_bucket") is not None
        data["container_group"] = data.pop("container_group_id")
        data["sync"] = None if legacy else data.get("sync") or {}
        data["webhook"] = data["webhook"] or None
        return data


def unknown_fields(schema: Schema, data: Any, path: str = "") -> Iterator[str]:
    """The paths of the fields that a schema does not know, nested ones included."""
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


class SubmissionHeaders(Wire):
    idempotency_key = fields.String(
        data_key="Idempotency-Key",
        load_default=None,
        validate=validate.Regexp("^[!-~]{1,255}$", error="A key is 1 to 255 visible ASCII characters."),
        metadata={"description": "Within a day the same key and body are answered with the same jobs."},
    )


class CheckpointFile(Answer):
    """An object as the answer to its commit described it."""

    bucket = fields.String(allow_none=True)
    key = fields.String()
    size = fields.Integer()
    etag = fields.String(allow_none=True)
    version_id = fields.String(allow_none=True)


class Checkpoint(Answer):
    """The manifest of a generation that was whole in the bucket."""

    attempt = fields.Integer()
    generation = fields.Integer()
    reported = Instant()
    files = fields.List(fields.Nested(CheckpointFile))


class Job(Answer):
    """A job as it is answered: with `sync`, or with the legacy fields of the user who submitted those."""

    sometimes = (*LEGACY_FIELDS, "sync", "warnings", "checkpoint", "checkpoint_lag", "blocked_on_machines")

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
    environment = fields.Dict(keys=fields.String(), values=fields.String())
    sync = fields.Raw(metadata={"type": "object"})
    input_bucket = fields.String()
    input_prefix = fields.String()
    checkpoint_bucket = fields.String()
    checkpoint_prefix = fields.String()
    output_bucket = fields.String()
    output_prefix = fields.String()
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
            "description": "Only of a single job, and where its worker tells it, as of the last heartbeat: seconds"
            " since the oldest change in the directories of `sync.during` that is not whole in the bucket."
        },
    )
    blocked_on_machines = fields.List(
        fields.String(),
        metadata={"description": "Only where a job waits for machines that are all banned from it: these."},
    )
    warnings = fields.List(fields.String())
    checkpoint = fields.Nested(
        Checkpoint,
        metadata={"description": "In the answer to a claim: the newest manifest of the job, if there is one."},
    )

    @post_dump
    def one_generation(self, job: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        give_way()  # a page may have ten thousand of them
        for name in LEGACY_FIELDS if job["sync"] is not None else ("sync",):
            job.pop(name)
        return job


class JobPage(Answer):
    _count = fields.Integer()
    jobs = fields.List(fields.Nested(Job))


class JobQuery(Wire):
    status = QueryText(
        validate=validate.OneOf([*Status, ""], error=f"Must be one of: {', '.join(Status)}; or empty, for all.")
    )
    container_group_id = QueryText(validate=validate.Length(max=255))
    page_size = QueryNumber(load_default=100, validate=validate.Range(1, 10_000))
    page = QueryNumber(load_default=1, validate=validate.Range(1, 2**31 - 1))
    cursor = Cursor(
        load_default=None,
        metadata={
            "description": "From the Link header of the page before; it wins over page and asc.",
            "pattern": f"^({Cursor.PATTERN})?$",
        },
    )
    asc = fields.Boolean(load_default=False)

    @pre_load
    def without_empty(self, query: Mapping[str, str], **kwargs: Any) -> dict[str, str]:
        """`?status=&page=2` asks for every status."""
        return {name: value for name, value in query.items() if value != ""}


class WorkQuery(Wire):
    machine_id = QueryText(required=True, validate=NAME)
    container_group_id = QueryText(required=True, validate=NAME)
    claim_id = QueryId(load_default=None)
    wait = Seconds(LONGEST, load_default=0, metadata={"pattern": "^[0-9]+$", "example": "20"})


class WorkerReport(Wire):
    """Required of every worker; `attempt`, `exit_code` and `reason` are not sent by the original's."""

    machine_id = fields.String(required=True, validate=NAME)
    container_group_id = fields.String(required=True, validate=NAME)
    attempt = WholeNumber(load_default=None, allow_none=True, validate=validate.Range(1, 2**31 - 1))
    exit_code = WholeNumber(load_default=None, allow_none=True, validate=validate.Range(-(2**31), 2**31 - 1))
    reason = fields.String(load_default=None, allow_none=True, validate=validate.Length(max=1000))


class HeartbeatReport(WorkerReport):
    """With the seconds since the oldest change that is not whole in the bucket, from a worker that knows them."""

    checkpoint_lag = WholeNumber(load_default=None, allow_none=True, validate=validate.Range(0, 2**31 - 1))


class ReleaseReport(WorkerReport):
    """`reason` is a class of ends, `detail` the sentence that tells of this one."""

    detail = fields.String(load_default=None, allow_none=True, validate=validate.Length(max=1000))


class EndReport(ReleaseReport):
    """How a command ended, by itself: with its last output, if its worker was asked to report it."""

    output = fields.String(load_default=None, allow_none=True, validate=validate.Length(max=LARGEST_OUTPUT))


class FencedReport(Wire):
    """What only a worker that knows its attempt can say."""

    machine_id = fields.String(required=True, validate=NAME)
    container_group_id = fields.String(required=True, validate=NAME)
    attempt = WholeNumber(required=True, validate=validate.Range(1, 2**31 - 1))


class ReportedFile(Wire):
    bucket = fields.String(load_default=None, allow_none=True, validate=NAME)
    key = fields.String(required=True, validate=NAME_OF_OBJECT)
    size = WholeNumber(required=True, validate=validate.Range(0, 2**63 - 1))
    etag = fields.String(load_default=None, allow_none=True, validate=NAME_OF_OBJECT)
    version_id = fields.String(load_default=None, allow_none=True, validate=NAME_OF_OBJECT)


class CheckpointReport(FencedReport):
    generation = WholeNumber(required=True, validate=validate.Range(1, 2**63 - 1))
    files = fields.List(
        fields.Nested(ReportedFile), required=True, validate=validate.Length(max=MOST_CHECKPOINT_FILES)
    )


class CheckpointKept(Answer):
    generation = fields.Integer()


class ResumeReport(FencedReport):
    checkpoint = fields.String(required=True, validate=validate.OneOf(["clean", "torn"]))
    detail = fields.String(load_default=None, allow_none=True, validate=validate.Length(max=1000))


class Message(Answer):
    message = fields.String()


class Count(Answer):
    count = fields.Integer()


class HeartbeatAnswer(Answer):
    status = fields.String(validate=validate.OneOf(list(Status)))


class Attempt(Answer):
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


class AttemptList(Answer):
    _count = fields.Integer()
    attempts = fields.List(fields.Nested(Attempt))


class Event(Answer):
    id = fields.Integer()
    at = Instant()
    kind = fields.String()
    actor = fields.String()
    attempt = fields.Integer()
    detail = fields.Raw(metadata={"type": "object"})


class EventList(Answer):
    _count = fields.Integer()
    events = fields.List(fields.Nested(Event))


class Delivery(Answer):
    number = fields.Integer()
    at = Instant()
    answer = fields.Integer(allow_none=True)
    error = fields.String(allow_none=True)


class Webhook(Answer):
    id = fields.UUID()
    status = fields.String(validate=validate.OneOf(["running", "completed", "failed"]))
    url = fields.String()
    machine_id = fields.String()
    container_group_id = fields.String()
    created = Instant()
    state = fields.String(validate=validate.OneOf(["pending", "delivered", "given_up"]))
    tries = fields.Integer()
    next_try = Instant(allow_none=True)
    delivered = Instant(allow_none=True)
    given_up = Instant(allow_none=True)
    attempts = fields.List(fields.Nested(Delivery))


class WebhookList(Answer):
    _count = fields.Integer()
    webhooks = fields.List(fields.Nested(Webhook))


class PreviousSecret(Answer):
    secret = fields.String()
    valid_until = Instant()


class SigningSecret(Answer):
    secret = fields.String()
    created = Instant()
    previous = fields.Nested(PreviousSecret, allow_none=True)


class MachineQuery(Wire):
    container_group_id = QueryText(validate=validate.Length(max=255))
    page_size = QueryNumber(load_default=100, validate=validate.Range(1, 10_000))
    page = QueryNumber(load_default=1, validate=validate.Range(1, 2**31 - 1))

    @pre_load
    def without_empty(self, query: Mapping[str, str], **kwargs: Any) -> dict[str, str]:
        return {name: value for name, value in query.items() if value != ""}


class Reallocation(Answer):
    """`gone`: when Salad was asked, the machine worked for the group no more."""

    id = fields.Integer()
    created = Instant()
    state = fields.String(validate=validate.OneOf(["pending", "reallocated", "gone", "given_up"]))
    tries = fields.Integer()
    next_try = Instant(allow_none=True)
    ended = Instant(allow_none=True)
    error = fields.String(allow_none=True)


class Machine(Answer):
    """`bans` counts the jobs that it failed, `counted_bans` those that speak for its next reallocation."""

    container_group_id = fields.String()
    machine_id = fields.String()
    last_seen = Instant()
    job_ids = fields.List(fields.UUID())
    bans = fields.Integer()
    counted_bans = fields.Integer()
    reallocations = fields.List(fields.Nested(Reallocation))


class MachineList(Answer):
    _count = fields.Integer()
    machines = fields.List(fields.Nested(Machine))


class NewUser(Wire):
    username = fields.String(required=True, validate=[NAME, ONE_LINE])


class User(Answer):
    id = fields.UUID()
    username = fields.String()
    created = Instant()


class NewToken(Wire):
    org_name = fields.String(required=True, validate=[NAME, ONE_LINE])
    project_name = fields.String(required=True, validate=[NAME, ONE_LINE])


class Token(Answer):
    token = fields.String()


class RuleChanges(Wire):
    """What can be changed of a scaling rule."""

    min_replicas = WholeNumber(validate=validate.Range(0, 500))
    max_replicas = WholeNumber(validate=validate.Range(0, 500))
    idle_threshold_seconds = WholeNumber(validate=validate.Range(0, 3600))


class NewRule(Wire):
    container_group_id = fields.UUID(required=True, metadata={"example": "97f504e8-6de6-4322-b5d5-1777a59a7ad3"})
    min_replicas = WholeNumber(required=True, validate=validate.Range(0, 500))
    max_replicas = WholeNumber(required=True, validate=validate.Range(0, 500))
    idle_threshold_seconds = WholeNumber(load_default=0, validate=validate.Range(0, 3600))


class Rule(Schema):
    container_group_id = fields.UUID()
    user_id = fields.UUID()
    org_name = fields.String()
    project_name = fields.String()
    container_group_name = fields.String()
    min_replicas = fields.Integer()
    max_replicas = fields.Integer()
    idle_threshold_seconds = fields.Integer()
    created = Instant()
    updated = Instant()
    warnings = fields.List(fields.String())


class RuleList(Schema):
    _count = fields.Integer()
    rules = fields.List(fields.Nested(Rule))


class DecisionQuery(Wire):
    page_size = QueryNumber(load_default=100, validate=validate.Range(1, 10_000))
    page = QueryNumber(load_default=1, validate=validate.Range(1, 2**31 - 1))

    @pre_load
    def without_empty(self, query: Mapping[str, str], **kwargs: Any) -> dict[str, str]:
        return {name: value for name, value in query.items() if value != ""}


class ScalingDecision(Schema):
    """What one run of the autoscaler saw, wanted and did; null where it did not come so far."""

    id = fields.Integer()
    at = Instant()
    container_group_id = fields.UUID()
    active = fields.Integer(allow_none=True)
    warm = fields.Integer(allow_none=True)
    observed_state = fields.String(allow_none=True)
    observed_replicas = fields.Integer(allow_none=True)
    desired_replicas = fields.Integer(allow_none=True)
    action = fields.String(allow_none=True)
    outcome = fields.String(validate=validate.OneOf(["ok", "failed"]))
    error = fields.String(allow_none=True)


class DecisionPage(Schema):
    """`replica_hours` are those since `since`, the time of the oldest decision that is kept."""

    _count = fields.Integer()
    decisions = fields.List(fields.Nested(ScalingDecision))
    replica_hours = fields.Float()
    since = Instant(allow_none=True)


class GroupMetrics(Schema):
    pending = fields.Integer()
    running = fields.Integer()
    active = fields.Integer()
    desired_replicas = fields.Integer()
    oldest_pending_seconds = fields.Float()


class Failure(Schema):
    """Every error is answered in this shape."""

    error = fields.String(required=True)
    message = fields.String(required=True)
    errors = fields.Dict(keys=fields.String(), values=fields.List(fields.String()))
    index = fields.Integer()
