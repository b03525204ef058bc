"""The definition of a job in a submission (docs/design/protocol.md, Submission)."""

from __future__ import annotations

import functools
import json
import re
from typing import Any
from urllib.parse import urlsplit

from marshmallow import ValidationError, fields, post_load, pre_load, validate, validates_schema
from regress import Regex, RegressError

from kelpie_api.errors import InvalidRequest
from kelpie_api.limits import DEFAULT_HEARTBEAT_INTERVAL, LONGEST_HEARTBEAT_INTERVAL, LONGEST_KEY, LONGEST_PATTERN
from kelpie_api.queue.states import LEGACY_FIELDS
from kelpie_api.schemas.fields import NAME, RequestSchema, StrictBoolean, StrictInteger

LARGEST_DEFINITION = 256 * 1024
LARGEST_BATCH = 1000


def storable_name(name: str) -> None:
    if not name or "=" in name:
        raise ValidationError("The name of an environment variable is not empty and has no '='.")


def webhook_url(url: str) -> None:
    """ValidationError unless this is an http(s) URL with a host, on any port, or empty for none."""
    if not url:
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 80) > 0
    except ValueError:
        usable = False
    if not usable or re.search(r"[\s\x00-\x1f\x7f]", url):
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


class SyncBlock(RequestSchema):
    bucket = fields.String(required=True, validate=NAME)
    prefix = fields.String(required=True, validate=validate.Length(max=LONGEST_KEY))
    local_path = fields.String(required=True, validate=validate.Length(min=1, max=4096))
    pattern = fields.String(allow_none=True, validate=CompilablePattern(max=LONGEST_PATTERN))

    @post_load
    def end_prefix(self, block: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        if not block["prefix"].endswith("/"):
            block["prefix"] += "/"
        return {name: value for name, value in block.items() if value is not None}


class DownloadBlock(SyncBlock):
    direction = fields.String(required=True, validate=validate.Equal("download"))


class UploadBlock(SyncBlock):
    direction = fields.String(required=True, validate=validate.Equal("upload"))


class Sync(RequestSchema):
    before = fields.List(fields.Nested(DownloadBlock))
    during = fields.List(fields.Nested(UploadBlock))
    after = fields.List(fields.Nested(UploadBlock))


class JobDefinition(RequestSchema):
    """One job of a submission."""

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
    compression = StrictBoolean(load_default=False)
    max_failures = StrictInteger(load_default=3, validate=validate.Range(1, 1000))
    heartbeat_interval = StrictInteger(
        load_default=DEFAULT_HEARTBEAT_INTERVAL, validate=validate.Range(1, LONGEST_HEARTBEAT_INTERVAL)
    )
    webhook = fields.String(allow_none=True, load_default=None, validate=webhook_url)

    @pre_load(pass_collection=True)
    def check_size(self, data: Any, many: bool, **kwargs: Any) -> Any:
        """Refuse what is too large before anything else: validating it could take minutes."""
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
        """The columns of a row. A job without files has an empty `sync`, else workers would take it for legacy."""
        legacy = data.get("input_bucket") is not None
        data["container_group"] = data.pop("container_group_id")
        data["sync"] = None if legacy else data.get("sync") or {}
        data["webhook"] = data["webhook"] or None
        return data


class SubmissionHeaders(RequestSchema):
    idempotency_key = fields.String(
        data_key="Idempotency-Key",
        load_default=None,
        validate=validate.Regexp("^[!-~]{1,255}$", error="A key is 1 to 255 visible ASCII characters."),
        metadata={"description": "Within a day the same key and body are answered with the same jobs."},
    )
