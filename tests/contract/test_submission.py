"""Section 2: the job as it is submitted and shown."""

from __future__ import annotations

import json
import uuid
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.contract.client import TIME, Answer, Api, Json, expect, expect_error, expect_invalid
from tests.contract.stack import Stack

KIBI = 1024
LEGACY = (
    "input_bucket",
    "input_prefix",
    "checkpoint_bucket",
    "checkpoint_prefix",
    "output_bucket",
    "output_prefix",
)
LEGACY_JOB = {name: "a-bucket" if name.endswith("bucket") else "some/prefix/" for name in LEGACY}
BLOCK = {"bucket": "a-bucket", "prefix": "some/prefix/", "local_path": "a/place"}
DOWNLOAD = {**BLOCK, "direction": "download"}
UPLOAD = {**BLOCK, "direction": "upload"}
SYNC = {"before": [DOWNLOAD], "during": [UPLOAD], "after": [UPLOAD]}

REQUIRED = object()
LONGEST = "g" * 255

# One row per row of the contract's table: the default, what is accepted (and how it is shown, where that differs),
# what is refused. `sync` and the legacy fields have tables of their own below.
FIELDS: list[tuple[str, Any, list[Any], list[Any]]] = [
    (
        "command",
        REQUIRED,
        ["python", "/usr/bin/env", "a b", "größe"],
        ["", None, 5, ["python"], {}, True],
    ),
    (
        "arguments",
        [],
        [[], ["/path/to/main.py", "--arg", "value"], [""], ["ü 雪"]],
        ["--arg", {}, 5, [5], [None], [["nested"]]],
    ),
    (
        "environment",
        {},
        [{}, {"SOME_VAR": "string"}, {"EMPTY": ""}, {"has space": "=b=c"}],
        [[], "A=B", {"": "x"}, {"A=B": "x"}, {"A\0B": "x"}, {"A": 5}, {"A": None}, {"A": ["x"]}],
    ),
    (
        "container_group_id",
        REQUIRED,
        [None, "g", "97f504e8-6de6-4322-b5d5-1777a59a7ad3", "free text: ü/%?#", LONGEST],
        ["", "g" * 256, 5, [], {}],
    ),
    ("compression", False, [True, False], ["yes", "true", 5, [], {}]),
    ("max_failures", 3, [1, 3, 1000], [0, -1, 1001, 1.5, "many", [], 10**30]),
    ("heartbeat_interval", 30, [1, 30, 86400], [0, -1, 86401, 1.5, "often", [], 10**30]),
    (
        "webhook",
        None,
        [
            "https://myapi.example/kelpie-webhooks",
            "http://myapi.example",
            "http://127.0.0.1:9/x?y=z",
            "https://[::1]:65535/",
            (None, None),
            ("", None),
        ],
        [
            "ftp://myapi.example/",
            "myapi.example",
            "/path",
            "http://",
            "https://a.example:99999/",
            5,
            ["http://a.example"],
        ],
    ),
]
ACCEPTED = [(name, value) for name, _, values, _ in FIELDS for value in values]
REFUSED = [(name, value) for name, _, _, values in FIELDS for value in values]

SUBMITTED_KEYS = {
    "command",
    "arguments",
    "environment",
    "container_group_id",
    "compression",
    "max_failures",
    "heartbeat_interval",
    "webhook",
}
ADDED_KEYS = {
    "id",
    "user_id",
    "status",
    "created",
    "started",
    "completed",
    "canceled",
    "failed",
    "heartbeat",
    "num_failures",
    "num_heartbeats",
    "machine_id",
    "attempt",
}


def submitted_and_read(api: Api, definition: Json) -> list[Json]:
    """The job as the submission answers it, and as it is read afterwards."""
    job = expect(202, api.post("/jobs", definition)).json
    return [job, api.job(job)]


@pytest.mark.parametrize(("name", "value"), ACCEPTED)
def test_a_field_is_kept_as_it_was_given(api: Api, name: str, value: Any) -> None:
    given, shown = value if isinstance(value, tuple) else (value, value)
    for job in submitted_and_read(api, api.definition(**{name: given})):
        assert job[name] == shown


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_bad_value_is_refused_by_the_name_of_its_field(api: Api, name: str, value: Any) -> None:
    expect_invalid(name, api.post("/jobs", api.definition(**{name: value})))
    assert api.listed() == []


@pytest.mark.parametrize(("name", "default"), [(name, default) for name, default, _, _ in FIELDS])
def test_a_field_left_out_has_its_default(api: Api, name: str, default: Any) -> None:
    definition = api.definition()
    definition.pop(name, None)
    if default is REQUIRED:
        expect_invalid(name, api.post("/jobs", definition))
    else:
        for job in submitted_and_read(api, definition):
            assert job[name] == default


@pytest.mark.parametrize("body", [None, [], "job", 5, True])
def test_a_submission_that_is_no_object_is_refused(api: Api, body: Any) -> None:
    expect_error(400, api.post("/jobs", body))


# --- legacy fields


def test_a_job_with_all_six_legacy_fields_shows_them_and_no_sync(api: Api) -> None:
    for job in submitted_and_read(api, api.definition(**LEGACY_JOB)):
        assert set(job) == SUBMITTED_KEYS | ADDED_KEYS | set(LEGACY)
        assert {name: job[name] for name in LEGACY} == LEGACY_JOB


@pytest.mark.parametrize("missing", LEGACY)
def test_five_legacy_fields_are_refused(api: Api, missing: str) -> None:
    five = {name: value for name, value in LEGACY_JOB.items() if name != missing}
    error = expect_error(400, api.post("/jobs", api.definition(**five)))
    assert missing in str(error)


@pytest.mark.parametrize("name", LEGACY)
def test_one_legacy_field_alone_is_refused(api: Api, name: str) -> None:
    expect_error(400, api.post("/jobs", api.definition(**{name: LEGACY_JOB[name]})))


@pytest.mark.parametrize("name", LEGACY)
@pytest.mark.parametrize("value", [5, ["b"], {}])
def test_a_legacy_field_is_a_string(api: Api, name: str, value: Any) -> None:
    expect_invalid(name, api.post("/jobs", api.definition(**{**LEGACY_JOB, name: value})))


@pytest.mark.parametrize("sync", [SYNC, {}, {"before": [DOWNLOAD]}])
def test_legacy_fields_do_not_go_together_with_sync(api: Api, sync: Json) -> None:
    expect_error(400, api.post("/jobs", api.definition(**LEGACY_JOB, sync=sync)))


@pytest.mark.parametrize("name", LEGACY)
def test_one_legacy_field_beside_sync_is_refused(api: Api, name: str) -> None:
    expect_error(400, api.post("/jobs", api.definition(**{name: LEGACY_JOB[name]}, sync=SYNC)))


# --- sync

PARTS = {"before": "download", "during": "upload", "after": "upload"}
WRONG_WAYS = [
    (part, direction)
    for part, right in PARTS.items()
    for direction in ("download", "upload", "both", "", "DOWNLOAD", None, 5)
    if direction != right
]


@pytest.mark.parametrize(
    "sync",
    [
        {},
        SYNC,
        {"before": [DOWNLOAD]},
        {"during": [UPLOAD]},
        {"after": [UPLOAD]},
        {"before": [DOWNLOAD, {**DOWNLOAD, "local_path": "another"}], "after": [UPLOAD, UPLOAD]},
    ],
)
def test_sync_is_shown_as_it_was_given_and_no_legacy_field(api: Api, sync: Json) -> None:
    for job in submitted_and_read(api, api.definition(sync=sync)):
        assert set(job) == SUBMITTED_KEYS | ADDED_KEYS | {"sync"}
        assert {part: blocks for part, blocks in job["sync"].items() if blocks} == sync


def test_a_job_without_sync_and_legacy_fields_is_shown_with_an_empty_sync(api: Api) -> None:
    for job in submitted_and_read(api, api.definition()):
        assert job["sync"] == {}
        assert not set(LEGACY) & set(job)


@pytest.mark.parametrize(("part", "direction"), WRONG_WAYS)
def test_a_wrong_direction_is_refused_by_the_name_of_the_block(api: Api, part: str, direction: Any) -> None:
    right = {**BLOCK, "direction": PARTS[part]}
    wrong = {**BLOCK, "direction": direction}
    error = expect_invalid("direction", api.post("/jobs", api.definition(sync={part: [right, wrong]})))
    [path] = error["errors"]
    assert part in path
    assert "1" in path
    assert "0" not in path


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("missing", ["bucket", "prefix", "local_path", "direction"])
def test_a_block_without_one_of_its_fields_is_refused(api: Api, part: str, missing: str) -> None:
    block = {**BLOCK, "direction": PARTS[part]}
    del block[missing]
    error = expect_invalid(missing, api.post("/jobs", api.definition(sync={part: [block]})))
    assert all(part in path for path in error["errors"])


@pytest.mark.parametrize(
    "sync", ["x", 5, [], {"before": {}}, {"before": "x"}, {"during": [5]}, {"after": DOWNLOAD}]
)
def test_sync_that_is_no_object_of_lists_of_blocks_is_refused(api: Api, sync: Any) -> None:
    expect_invalid("sync", api.post("/jobs", api.definition(sync=sync)))


@pytest.mark.parametrize("part", PARTS)
def test_a_prefix_of_a_block_gets_its_slash(api: Api, part: str) -> None:
    block = {**BLOCK, "direction": PARTS[part], "prefix": "checkpoints/job1"}
    for job in submitted_and_read(api, api.definition(sync={part: [block]})):
        assert job["sync"][part][0]["prefix"] == "checkpoints/job1/"


# ECMAScript's dialect, where it differs from Python's.
PATTERNS = [
    r"^.*\.pt$",
    r"step-\d+",
    r"(?<step>\d+)-\k<step>",
    r"[^]",
    r"(?<!tmp)\.ckpt",
    r"a|b",
    r"\/",
    r"[]",
    "",
]
NO_PATTERNS = ["(", "[", "*a", "a{2,1}", "(?P<step>a)", "a**", "(?<n>a)(?<n>b)", "\\"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("part", PARTS)
def test_a_pattern_of_ecmascript_is_kept(api: Api, part: str, pattern: str) -> None:
    block = {**BLOCK, "direction": PARTS[part], "pattern": pattern}
    for job in submitted_and_read(api, api.definition(sync={part: [block]})):
        assert job["sync"][part] == [block]


@pytest.mark.parametrize("pattern", [*NO_PATTERNS, 5, ["x"]])
@pytest.mark.parametrize("part", PARTS)
def test_a_pattern_that_does_not_compile_is_refused(api: Api, part: str, pattern: Any) -> None:
    block = {**BLOCK, "direction": PARTS[part], "pattern": pattern}
    error = expect_invalid("pattern", api.post("/jobs", api.definition(sync={part: [block]})))
    assert part in str(error["errors"])


# --- the job as it is shown


def test_a_new_job_has_every_key_and_what_is_absent_is_null(api: Api) -> None:
    user = expect(200, api.get("/users/me")).json
    for job in submitted_and_read(api, api.definition()):
        assert set(job) == SUBMITTED_KEYS | ADDED_KEYS | {"sync"}
        assert str(uuid.UUID(job["id"])) == job["id"]
        assert TIME.fullmatch(job["created"])
        assert job["user_id"] == user["id"]
        assert job["status"] == "pending"
        for name in ("started", "completed", "canceled", "failed", "heartbeat", "machine_id", "webhook"):
            assert job[name] is None, name
        for name in ("num_failures", "num_heartbeats", "attempt"):
            assert job[name] == 0, name


def end_as_completed(api: Api, job: Json) -> None:
    expect(200, api.report("completed", job, "m"))


def end_as_failed(api: Api, job: Json) -> None:
    expect(202, api.report("failed", job, "m"))


def end_as_canceled(api: Api, job: Json) -> None:
    expect(202, api.delete(f"/jobs/{job['id']}"))


@pytest.mark.parametrize("end", [end_as_completed, end_as_failed, end_as_canceled])
def test_each_time_is_there_when_it_has_come(api: Api, end: Any) -> None:
    state = end.__name__.removeprefix("end_as_")
    claimed = api.claimed("m", max_failures=1)
    assert claimed["status"] == "running"
    assert claimed["attempt"] == 1
    for name in ("created", "started", "heartbeat"):
        assert TIME.fullmatch(claimed[name]), name
    end(api, claimed)
    job = api.job(claimed)
    assert job["status"] == state
    assert TIME.fullmatch(job[state])
    for name in {"completed", "failed", "canceled"} - {state}:
        assert job[name] is None, name


def test_started_is_the_first_handout_and_attempt_counts_them(api: Api) -> None:
    first = api.claimed("m1")
    expect(200, api.report("released", first, "m1"))
    [second] = api.claim("m2")
    assert second["started"] == first["started"]
    assert [first["attempt"], second["attempt"]] == [1, 2]


# --- the whole documents of the three generations

NEWEST = {
    "command": "python",
    "arguments": ["/path/to/main.py", "--arg", "value"],
    "environment": {"SOME_VAR": "string"},
    "sync": {
        "before": [
            {
                "bucket": "my-bucket",
                "prefix": "inputs/job1/",
                "local_path": "inputs/",
                "direction": "download",
            },
            {
                "bucket": "my-bucket",
                "prefix": "checkpoints/job1/",
                "local_path": "checkpoints/",
                "direction": "download",
            },
        ],
        "during": [
            {
                "bucket": "my-bucket",
                "prefix": "checkpoints/job1/",
                "local_path": "checkpoints/",
                "direction": "upload",
            }
        ],
        "after": [
            {
                "bucket": "my-bucket",
                "prefix": "outputs/job1/",
                "local_path": "outputs/",
                "direction": "upload",
            }
        ],
    },
    "webhook": "https://myapi.com/kelpie-webhooks",
    "container_group_id": "97f504e8-6de6-4322-b5d5-1777a59a7ad3",
}
OLDER = {
    "command": "python",
    "arguments": ["/path/to/main.py", "--arg", "value"],
    "environment": {"SOME_VAR": "string"},
    "input_bucket": "my-bucket",
    "input_prefix": "inputs/job1/",
    "checkpoint_bucket": "my-bucket",
    "checkpoint_prefix": "checkpoints/job1/",
    "output_bucket": "my-bucket",
    "output_prefix": "outputs/job1/",
    "webhook": "https://myapi.com/kelpie-webhooks",
    "container_group_id": "97f504e8-6de6-4322-b5d5-1777a59a7ad3",
}
OLDEST = {name: value for name, value in OLDER.items() if name != "environment"}


@pytest.mark.parametrize("definition", [NEWEST, OLDER, OLDEST], ids=["newest", "older", "oldest"])
@pytest.mark.parametrize("path", ["/jobs", "/job"])
def test_the_example_of_each_generation_is_accepted_by_both_paths(api: Api, path: str, definition: Json) -> None:
    job = expect(202, api.post(path, definition)).json
    assert {name: job[name] for name in definition} == definition
    assert "warnings" not in job
    assert api.job(job) == job


# --- unknown fields


def test_an_unknown_field_is_ignored_but_named_in_a_warning(api: Api) -> None:
    job = expect(202, api.post("/jobs", api.definition(colour="red", max_failurs=5))).json
    warnings = job.pop("warnings")
    assert len(warnings) == 2
    assert "colour" in " ".join(warnings)
    assert "max_failurs" in " ".join(warnings)
    assert set(job) == SUBMITTED_KEYS | ADDED_KEYS | {"sync"}
    assert api.job(job) == job


def test_an_unknown_field_of_a_block_is_named_too(api: Api) -> None:
    job = expect(202, api.post("/jobs", api.definition(sync={"before": [{**DOWNLOAD, "colour": "red"}]}))).json
    assert "colour" in " ".join(job["warnings"])
    assert job["sync"] == {"before": [DOWNLOAD]}


def test_the_jobs_of_a_batch_carry_their_own_warnings(api: Api) -> None:
    fine, odd = expect(202, api.post("/jobs/batch", [api.definition(), api.definition(colour=1)])).json
    assert "warnings" not in fine
    assert "colour" in " ".join(odd["warnings"])


def test_the_fields_of_an_answer_can_be_submitted_again(api: Api) -> None:
    """Users' scripts read a job and submit it anew: what the server added is ignored."""
    job = api.submit(arguments=["x"])
    again = expect(202, api.post("/jobs", job)).json
    assert again["id"] != job["id"]
    assert again["arguments"] == ["x"]


# --- what is accepted, and what the answer says first


def test_legacy_prefixes_get_their_slash(api: Api) -> None:
    without = {name: value.rstrip("/") for name, value in OLDER.items() if name.endswith("prefix")}
    job = api.submit(**{**OLDER, **without, "container_group_id": api.group})
    assert {name: job[name] for name in OLDER if name in without} == {name: OLDER[name] for name in without}
    assert api.job(job) == job
    [claimed] = api.claim("m")
    assert {name: claimed[name] for name in without} == {name: OLDER[name] for name in without}


@pytest.mark.parametrize("empty", LEGACY)
def test_an_empty_legacy_field_is_refused(api: Api, empty: str) -> None:
    expect_invalid(empty, api.post("/jobs", {**OLDER, empty: ""}))


def test_six_empty_legacy_fields_are_refused(api: Api) -> None:
    error = expect_error(400, api.post("/jobs", api.definition(**dict.fromkeys(LEGACY, ""))))
    assert set(error["errors"]) == set(LEGACY)


@pytest.mark.parametrize("names", [LEGACY, LEGACY[:2]])
def test_sync_beside_empty_legacy_fields_is_sync(api: Api, names: tuple[str, ...]) -> None:
    job = api.submit(sync={"before": [DOWNLOAD]}, **dict.fromkeys(names, ""))
    assert job["sync"] == {"before": [DOWNLOAD]}
    assert not job.keys() & set(LEGACY)
    assert "warnings" not in job


@pytest.mark.parametrize("number", ["30.0", "3e1"])
def test_a_whole_number_may_have_a_fraction_of_zero(api: Api, number: str) -> None:
    body = json.dumps(api.definition(heartbeat_interval=-1)).replace("-1", number).encode()
    answer = expect(202, api.call("POST", "/jobs", raw=body))
    assert answer.json["heartbeat_interval"] == 30
    assert b'"heartbeat_interval":30,' in answer.body


@pytest.mark.parametrize(
    ("field", "value", "path", "said"),
    [
        ("arguments", "a b", "arguments", '["--steps", "100"]'),
        ("arguments", ["--steps", 100], "arguments.1", '"100"'),
        ("arguments", [True], "arguments.0", '"true"'),
        ("environment", {"STEPS": 100}, "environment.STEPS", '"100"'),
        ("environment", "STEPS=100", "environment", '{"STEPS": "100"}'),
        ("sync", [DOWNLOAD], "sync", '"before"'),
        ("sync", {"before": DOWNLOAD}, "sync.before", '"direction": "download"'),
        ("sync", {"before": [{**DOWNLOAD, "bucket": "s3://b"}]}, "sync.before.0.bucket", "s3://"),
        ("sync", {"before": [{**DOWNLOAD, "bucket": "b/inputs"}]}, "sync.before.0.bucket", "prefix inputs"),
        ("sync", {"before": [{**DOWNLOAD, "bucket": "b "}]}, "sync.before.0.bucket", "no blanks"),
        ("sync", {"before": [{**DOWNLOAD, "bucket": "arn:aws:s3:::b/in"}]}, "sync.before.0.bucket", "its ARN: b."),
        ("sync", {"before": [{**DOWNLOAD, "prefix": "s3://b/p/"}]}, "sync.before.0.prefix", "s3://"),
    ],
)
def test_a_common_mistake_is_answered_with_what_is_right(
    api: Api, field: str, value: Any, path: str, said: str
) -> None:
    error = expect_invalid(path, api.post("/jobs", api.definition(**{field: value})))
    assert said in error["message"]


def test_a_batch_and_a_job_are_told_each_others_route(api: Api) -> None:
    assert "/jobs/batch" in expect_error(400, api.post("/jobs", [api.definition()]))["message"]
    assert "POST /jobs," in expect_error(400, api.post("/jobs/batch", api.definition()))["message"]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("args", "arguments"),
        ("env", "environment"),
        ("cmd", "command"),
        ("maxFailures", "max_failures"),
        ("heartbeat-interval", "heartbeat_interval"),
        ("containerGroupId", "container_group_id"),
        ("web_hook", "webhook"),
    ],
)
def test_the_field_that_was_meant_is_named(api: Api, wrong: str, meant: str) -> None:
    [warning] = api.submit(**{wrong: None})["warnings"]
    assert f"did you mean {meant}?" in warning


def test_the_fields_of_an_answer_mean_no_other_field(api: Api) -> None:
    again = expect(202, api.post("/jobs", api.submit())).json
    assert again["warnings"]
    assert "did you mean" not in " ".join(again["warnings"])


def test_warnings_come_first_in_the_answer(api: Api) -> None:
    answer = expect(202, api.post("/jobs", api.definition(colour="red")))
    assert next(iter(answer.json)) == "warnings"
    assert answer.body.startswith(b'{"warnings":')


@pytest.mark.parametrize("prefix", ["", "/", "/inputs/"])
def test_a_prefix_that_begins_with_a_slash_is_warned_of(api: Api, prefix: str) -> None:
    [warning] = api.submit(sync={"before": [{**DOWNLOAD, "prefix": prefix}]})["warnings"]
    assert "sync.before.0.prefix" in warning


def test_an_access_point_of_several_regions_is_warned_of(api: Api) -> None:
    names = [f"arn:aws:s3:{region}:123456789012:accesspoint/name" for region in ("", "eu-west-1")]
    [warning] = api.submit(sync={"before": [{**DOWNLOAD, "bucket": name} for name in names]})["warnings"]
    assert warning.startswith("sync.before.0.bucket is a multi-region access point")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:80", "hooks.localhost"])
def test_a_webhook_to_ones_own_machine_is_warned_of(other_stack: Stack, host: str) -> None:
    [warning] = other_stack.new_api().submit(webhook=f"http://{host}/hook")["warnings"]
    assert "webhook" in warning


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("command", "python train.py --steps 100", '"command": "python"'),
        ("command", "work ", "command begins or ends with a blank"),
        ("container_group_id", "\tg", "container_group_id begins or ends with a blank"),
    ],
)
def test_a_blank_that_is_probably_not_meant_is_warned_of(api: Api, field: str, value: str, said: str) -> None:
    [warning] = api.submit(**{field: value})["warnings"]
    assert said in warning


def test_a_command_with_a_blank_in_its_path_is_not(api: Api) -> None:
    assert "warnings" not in api.submit(command="/opt/my tools/run")


@pytest.mark.parametrize("around", ['"%s"', "{%s}", "<%s>", "%s ", "id=%s", "https:%s"])
def test_an_id_with_something_around_it_is_answered_with_the_id_alone(api: Api, around: str) -> None:
    job = api.submit()
    answer = api.get(f"/jobs/{quote(around % job['id'])}")
    assert f"write {job['id']} alone" in expect_error(404, answer)["message"]


@pytest.mark.parametrize("url", ["http://hooks.example.com/", "HTTP://192.0.2.1:8000/hook"])
def test_a_webhook_that_is_not_encrypted_is_warned_of_for_it_carries_a_key(api: Api, url: str) -> None:
    [warning] = api.submit(webhook=url)["warnings"]
    assert "webhook" in warning and "https" in warning and "X-Kelpie-Key" in warning


@pytest.mark.parametrize("url", ["https://hooks.example.com/", "https://hooks.example.com:8443/", "", None])
def test_any_other_webhook_is_not(api: Api, url: str | None) -> None:
    assert "warnings" not in api.submit(webhook=url)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST.", "127.1", "0x7f000001", "[::ffff:127.0.0.1]"]
)
def test_a_webhook_back_to_the_coordinator_is_refused(api: Api, host: str) -> None:
    port = urlsplit(api.url).port
    job = api.definition(webhook=f"http://{host}:{port}/jobs")
    assert "coordinator" in expect_invalid("webhook", api.post("/jobs", job))["message"]
    batch = expect_error(400, api.post("/jobs/batch", [api.definition(), job]))
    assert batch["index"] == 1 and batch["message"].startswith("Job 1 of the batch: webhook:")
    assert api.listed() == []


def test_a_webhook_to_another_port_of_its_host_is_not(api: Api) -> None:
    other = (urlsplit(api.url).port or 0) - 1
    expect(202, api.post("/jobs", api.definition(webhook=f"http://127.0.0.1:{other}/jobs")))


# --- limits


def sized(api: Api, size: int) -> Json:
    """A definition of that many bytes, as compact JSON has them."""
    empty = len(json.dumps(api.definition(arguments=[""]), separators=(",", ":")))
    return api.definition(arguments=["x" * (size - empty)])


def post_sized(api: Api, path: str, size: int) -> Answer:
    definition = sized(api, size)
    return api.post(path, [definition] if path.endswith("batch") else definition)


@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch"])
def test_a_definition_just_under_its_limit_is_accepted(api: Api, path: str) -> None:
    expect(202, post_sized(api, path, 255 * KIBI))


@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch"])
def test_a_definition_over_its_limit_is_refused(api: Api, path: str) -> None:
    answer = post_sized(api, path, 257 * KIBI)
    assert answer.status in (400, 413)
    expect_error(answer.status, answer)
    assert api.listed() == []
