"""The short way through schemas and marshmallow's own have the same results, for what is right and what is not."""

import copy
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from marshmallow import Schema, ValidationError

from kelpie_api.errors import InvalidRequest
from kelpie_api.schemas.fields import RequestSchema, ResponseSchema
from kelpie_api.schemas.jobs import Attempt, Event, HistoryQuery, Job, JobQuery, with_options
from kelpie_api.schemas.machines import MachineQuery
from kelpie_api.schemas.scaling import DecisionQuery, NewRule, Rule, RuleChanges
from kelpie_api.schemas.secrets import NewSecret, Secret
from kelpie_api.schemas.submission import JobDefinition, SubmissionHeaders
from kelpie_api.schemas.users import NewToken, NewUser, User
from kelpie_api.schemas.webhooks import Webhook
from kelpie_api.schemas.work import (
    CheckpointReport,
    EndReport,
    HeartbeatReport,
    ReleaseReport,
    ResumeReport,
    WorkQuery,
)
from kelpie_api.web.openapi import EXAMPLES, JOB

PREFIXES = ("input_prefix", "checkpoint_prefix", "output_prefix")
BUCKETS = ("input_bucket", "checkpoint_bucket", "output_bucket")
LEGACY = dict.fromkeys(PREFIXES, "some/") | dict.fromkeys(BUCKETS, "bucket")
MACHINE = {"machine_id": "machine-1", "container_group_id": "group"}
ACCEPTED: list[tuple[type[RequestSchema], dict[str, Any]]] = [
    (JobDefinition, JOB | {"webhook": "https://example.com/hook", "compression": True}),
    (
        JobDefinition,
        {"command": "python", "container_group_id": None, "environment": {"A": "1", "B": "2"}, **LEGACY},
    ),
    (HeartbeatReport, EXAMPLES["heartbeat"]),
    (EndReport, EXAMPLES["failed"] | {"output": "the end"}),
    (ReleaseReport, EXAMPLES["released"]),
    (CheckpointReport, EXAMPLES["keep_checkpoint"]),
    (ResumeReport, EXAMPLES["resumed"]),
    (NewRule, EXAMPLES["create_rule"]),
    (RuleChanges, EXAMPLES["change_rule"]),
    (NewUser, EXAMPLES["create_user"]),
    (NewToken, EXAMPLES["create_token"]),
    (NewSecret, {"value": "hidden"}),
    (WorkQuery, MACHINE | {"claim_id": "97f504e8-6de6-4322-b5d5-1777a59a7ad3", "wait": "20"}),
    (JobQuery, {"status": "running", "page": "2", "page_size": "10", "asc": "true", "cursor": ""}),
    (HistoryQuery, {"page_size": "7", "cursor": "12"}),
    (MachineQuery, {"page": "2"}),
    (DecisionQuery, {}),
    (SubmissionHeaders, {"Idempotency-Key": "once"}),
]
ODD = [
    None,
    "",
    "x",
    "x" * 1100,
    "a\0b",
    " blank ",
    0,
    1,
    -1,
    2**70,
    3.0,
    3.5,
    True,
    [],
    ["a"],
    [1],
    {},
    {"a": 1},
    [{}],
]
NOT_THERE = object()


def variants(value: Any) -> Iterator[Any]:
    """Copies of a JSON value, each with something odd in one place, or with one thing missing or more."""
    for odd in ODD:
        yield copy.deepcopy(odd)
    if isinstance(value, dict):
        yield value | {"unknown": 1}
        for name, inner in value.items():
            yield {other: item for other, item in value.items() if other != name}
            for variant in variants(inner):
                yield value | {name: variant}
    if isinstance(value, list):
        for place, inner in enumerate(value):
            for variant in variants(inner):
                yield [*value[:place], variant, *value[place + 1 :]]


def outcome(schema: Schema, data: Any) -> Any:
    """What is loaded with its types, or what the error says."""
    try:
        return repr(schema.load(copy.deepcopy(data)))
    except ValidationError as error:
        return error.messages
    except InvalidRequest as error:
        return error.body()
    except (AttributeError, TypeError) as error:  # a query is never a number, so a hook may take it for granted
        return type(error)


@pytest.mark.parametrize(("kind", "accepted"), ACCEPTED)
def test_loading_by_the_short_way_is_loading(
    kind: type[RequestSchema], accepted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(kind().load(accepted), dict)
    bodies = [accepted, *variants(accepted)]
    many = [[accepted, body] for body in bodies[::5]]
    short = [outcome(kind(), body) for body in bodies]
    short_many = [outcome(kind(many=True), body) for body in many]
    monkeypatch.delattr(RequestSchema, "load")
    assert short == [outcome(kind(), body) for body in bodies]
    assert short_many == [outcome(kind(many=True), body) for body in many]


def test_what_is_right_never_reaches_marshmallow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Schema, "_do_load", None)
    for kind, accepted in ACCEPTED:
        assert kind().load(accepted)


AT = datetime(2026, 3, 4, 5, 6, 7, 891_234, tzinfo=UTC)
ID = UUID("97f504e8-6de6-4322-b5d5-1777a59a7ad3")
VALUES = ["text", "", 7, 0, True, False, ["a", "b"], {"a": "b"}, AT, ID, None]
FITTING: dict[str, list[Any]] = {
    "String": ["text", "", 7, ID, None],
    "Integer": [7, 0, 2**40, "8", 3.0, None],
    "Boolean": [True, False, None],
    "UUID": [ID, str(ID), None],
    "Instant": [AT, None],
    "List": [["a", "b"], [], None],
    "Dict": [{"a": "b"}, {}, None],
    "Raw": VALUES,
    "LegacyPrefix": ["a", "a/", "", None],
}


@pytest.mark.parametrize("kind", [Attempt, Event, Webhook, Secret, User, Rule])
def test_answering_by_the_short_way_is_dumping(
    kind: type[ResponseSchema], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(rows_of(kind))
    short = [repr(kind().dump(row)) for row in rows] + [repr(kind(many=True).dump(rows))]
    monkeypatch.delattr(ResponseSchema, "dump")
    assert short == [repr(kind().dump(row)) for row in rows] + [repr(kind(many=True).dump(rows))]


def rows_of(kind: type[ResponseSchema]) -> Iterator[dict[str, Any]]:
    """Rows with every value that fits, one after the other in each column, and without the column."""
    fitting = {
        field.attribute or name: FITTING[type(field).__name__]
        for name, field in kind().fields.items()
        if type(field).__name__ in FITTING and name != "attempts"
    }
    first = {name: values[0] for name, values in fitting.items()}
    for name, values in fitting.items():
        yield from (first | {name: value} for value in values)
        yield {other: value for other, value in first.items() if other != name}


@pytest.mark.parametrize("sync", [{"before": []}, None])
def test_a_job_is_answered_with_its_own_kind_of_files(
    sync: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"sync": sync, "phase": "running", "labels": None, "options": None}
    rows = [row | columns | dict.fromkeys(LEGACY, "some") for row in rows_of(Job)]
    short = [repr(job) for job in Job(many=True).dump(rows)]
    monkeypatch.delattr(ResponseSchema, "dump")
    left_out = {"sync"} if sync is None else LEGACY.keys()
    dumped = [Job().dump(with_options(row)) for row in rows]
    assert short == [repr({name: job[name] for name in job if name not in left_out}) for job in dumped]


def test_a_long_list_is_answered_in_its_order() -> None:
    assert [item["number"] for item in Attempt(many=True).dump([{"number": n} for n in range(130)])] == [
        *range(130)
    ]
