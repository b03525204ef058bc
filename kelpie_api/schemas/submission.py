"""The definition of a job in a submission (docs/design/protocol.md, Submission)."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any

from marshmallow import ValidationError, fields, post_load, pre_load, validate, validates_schema
from regress import Regex, RegressError

from kelpie_api.errors import InvalidRequest
from kelpie_api.json_text import json_bytes
from kelpie_api.limits import DEFAULT_HEARTBEAT_INTERVAL, LONGEST_HEARTBEAT_INTERVAL, LONGEST_KEY, LONGEST_PATTERN
from kelpie_api.net.addresses import is_url
from kelpie_api.queue.states import LEGACY_FIELDS
from kelpie_api.schemas.fields import NAME, RequestSchema, StrictBoolean, StrictInteger, Text, with_final_slash
from kelpie_api.schemas.jobs import Job
from kelpie_api.schemas.options import OPTIONS, JobOptions

LARGEST_DEFINITION = 256 * 1024
LARGEST_BATCH = 1000
LONGEST_PATH = 4096  # characters; Linux takes no longer one


def is_too_large(definition: Any) -> bool:
    """Whether one definition has more than LARGEST_DEFINITION bytes as JSON without blanks."""
    return len(json_bytes(definition)) > LARGEST_DEFINITION


def storable_name(name: str) -> None:
    if not name or "=" in name:
        raise ValidationError("The name of an environment variable is not empty and has no '='.")


def webhook_url(url: str) -> None:
    """ValidationError unless this is an http(s) URL with a host, on any port, or empty for none."""
    if not url:
        return
    if not is_url(url) or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValidationError("A webhook is a URL that begins with http:// or https://.")


class CompilablePattern(validate.Length):
    """ValidationError unless this is a short ECMAScript regular expression (docs/design/protocol.md, Sync blocks).

    One validator, not two in a list: marshmallow runs all of a list, and a long pattern must not be compiled.
    """

    def __call__(self, value: Any) -> Any:
        super().__call__(value)
        if problem := problem_of(value):
            raise ValidationError(f"The pattern is no ECMAScript regular expression: {problem}.")
        return value


@functools.lru_cache(1024)
def problem_of(pattern: str) -> str | None:
    """Why a pattern does not compile, or None. Cached, since it takes milliseconds and batches repeat patterns."""
    try:
        Regex(pattern)
    except RegressError as error:
        return str(error)
    return None


def bucket_name(bucket: str) -> None:
    """ValidationError for a URL or a path in place of a bucket's name, or blanks; only access points are ARNs."""
    if bucket != bucket.strip():
        raise ValidationError("The name of a bucket has no blanks at its ends.")
    if bucket.startswith("arn:") and ":accesspoint" not in bucket:
        name = bucket.rpartition(":")[2].partition("/")[0]
        raise ValidationError(f"A bucket is named without its ARN: {name or 'my-bucket'}.")
    if "/" in bucket and not bucket.startswith("arn:"):
        name, _, path = bucket.partition("://")[2].partition("/") if "://" in bucket else bucket.partition("/")
        raise ValidationError(
            f"A bucket is a name alone, without s3:// and without a path: {name or 'my-bucket'!s}"
            f"{f', with the prefix {path}' if path else ''}."
        )


def key_prefix(prefix: str) -> None:
    """ValidationError for a URL in place of a prefix."""
    if prefix.lower().startswith("s3://"):
        raise ValidationError("A prefix is a folder in the bucket, such as my-job/: without s3:// and the bucket.")


BUCKET: list[Callable[[str], Any]] = [NAME, bucket_name]


class SyncBlock(RequestSchema):
    bucket = Text(required=True, validate=BUCKET)
    prefix = Text(required=True, validate=[validate.Length(max=LONGEST_KEY), key_prefix])
    local_path = Text(required=True, validate=validate.Length(min=1, max=LONGEST_PATH))
    pattern = Text(allow_none=True, validate=CompilablePattern(max=LONGEST_PATTERN))

    @post_load
    def end_prefix(self, block: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        block["prefix"] = with_final_slash(block["prefix"])
        return {name: value for name, value in block.items() if value is not None}


class DownloadBlock(SyncBlock):
    direction = Text(required=True, validate=validate.Equal("download"))


class UploadBlock(SyncBlock):
    direction = Text(required=True, validate=validate.Equal("upload"))


def blocks(of: type[SyncBlock], direction: str) -> fields.List[Any]:
    """A field for the blocks of one part of `sync`."""
    example = {"bucket": "my-bucket", "prefix": "my-job/", "local_path": "/data", "direction": direction}
    invalid = f"Must be a list of blocks, such as [{json.dumps(example)}]."
    # Marshmallow fills in what stands in braces.
    escaped = invalid.replace("{", "{{").replace("}", "}}")
    return fields.List(fields.Nested(of), error_messages={"invalid": escaped})


class Sync(RequestSchema):
    # Not annotated: the base class declares it for instances.
    error_messages = {"type": 'Must be an object with lists of blocks, such as {"before": []}.'}  # noqa: RUF012

    before = blocks(DownloadBlock, "download")
    during = blocks(UploadBlock, "upload")
    after = blocks(UploadBlock, "upload")


def legacy_bucket() -> Text:
    return Text(allow_none=True, validate=BUCKET)


def legacy_prefix() -> Text:
    not_empty = validate.Length(1, LONGEST_KEY, error="A prefix is not empty: name a folder, such as my-job/.")
    return Text(allow_none=True, validate=[not_empty, key_prefix])


class JobDefinition(JobOptions):
    """One job of a submission."""

    answered = frozenset(Job._declared_fields)
    error_messages = {"type": "A job is a JSON object."}  # noqa: RUF012

    command = Text(required=True, validate=validate.Length(min=1))
    arguments = fields.List(
        Text(),
        load_default=list,
        error_messages={
            "invalid": 'Must be a list of strings, such as ["--steps", "100"].',
            "null": "Leave it out, or send [], where there are none.",
        },
    )
    environment = fields.Dict(
        keys=Text(validate=storable_name),
        values=Text(),
        load_default=dict,
        error_messages={"invalid": 'Must be an object of names and values, such as {{"STEPS": "100"}}.'},
    )
    container_group_id = Text(required=True, allow_none=True, validate=NAME)
    sync = fields.Nested(Sync, allow_none=True)
    input_bucket = legacy_bucket()
    input_prefix = legacy_prefix()
    checkpoint_bucket = legacy_bucket()
    checkpoint_prefix = legacy_prefix()
    output_bucket = legacy_bucket()
    output_prefix = legacy_prefix()
    compression = StrictBoolean(load_default=False)
    max_failures = StrictInteger(load_default=3, validate=validate.Range(1, 1000))
    heartbeat_interval = StrictInteger(
        load_default=DEFAULT_HEARTBEAT_INTERVAL, validate=validate.Range(1, LONGEST_HEARTBEAT_INTERVAL)
    )
    webhook = Text(allow_none=True, load_default=None, validate=webhook_url)

    @pre_load(pass_collection=True)
    def check_size(self, data: Any, many: bool, **kwargs: Any) -> Any:
        """Refuse what is too large before anything else: validating it could take minutes."""
        if many is not isinstance(data, list):
            raise wrong_route(many)
        if many and not 1 <= len(data) <= LARGEST_BATCH:
            raise InvalidRequest(f"A batch has 1 to {LARGEST_BATCH} jobs, this one has {len(data)}.")
        for index, definition in enumerate(data if many else [data]):
            if is_too_large(definition):
                problem = {"_schema": [f"One job definition may have at most {LARGEST_DEFINITION} bytes."]}
                raise ValidationError({index: problem} if many else problem)
        return data

    @pre_load
    def without_empty_legacy_fields(self, data: Any, **kwargs: Any) -> Any:
        """Beside `sync` empty legacy fields count as left out: forms and typed clients send all they know."""
        if not isinstance(data, dict) or data.get("sync") is None:
            return data
        return {name: value for name, value in data.items() if value != "" or name not in LEGACY_FIELDS}

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

    @validates_schema
    def check_secrets(self, data: dict[str, Any], **kwargs: Any) -> None:
        both = sorted(set(data.get("secrets") or ()) & data.get("environment", {}).keys())
        if both:
            raise ValidationError(
                f"{' and '.join(both[:3])} is in environment, too; a variable comes from one of the two.",
                "secrets",
            )

    @post_load
    def as_columns(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The columns of a row. A job without files has an empty `sync`, else workers would take it for legacy.

        Of the optional fields those are there that were given.
        """
        legacy = data.get("input_bucket") is not None
        data["container_group"] = data.pop("container_group_id")
        data["sync"] = None if legacy else data.get("sync") or {}
        data["webhook"] = data["webhook"] or None
        options = {name: given for name in OPTIONS if (given := data.pop(name, None)) is not None}
        data["options"] = options or None
        if data.get("sweep_id") is not None:
            data["sweep_id"] = str(data["sweep_id"])
        if legacy:
            data |= {name: with_final_slash(data[name]) for name in LEGACY_FIELDS if name.endswith("prefix")}
        return data


def wrong_route(many: bool) -> InvalidRequest:
    sentence = (
        "A batch is a list of jobs; send one job to POST /jobs, or put it into a list: [{...}]."
        if many
        else "A job is a JSON object; send a list of jobs to POST /jobs/batch."
    )
    return InvalidRequest(sentence, {"_schema": [sentence]})


class SubmissionHeaders(RequestSchema):
    idempotency_key = fields.String(
        data_key="Idempotency-Key",
        load_default=None,
        validate=validate.Regexp("^[!-~]{1,255}$", error="A key is 1 to 255 visible ASCII characters."),
        metadata={"description": "Within a day the same key and body are answered by what they did first."},
    )
