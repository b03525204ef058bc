"""What may be submitted, what is refused, and what is answered (docs/design/protocol.md, Submission)."""

from __future__ import annotations

from typing import Any

import pytest

from kelpie_api.db import Database
from kelpie_api.schemas import fields
from kelpie_api.schemas.submission import JobDefinition
from tests.helpers import Client, definition, refused, rows_of_jobs

LEGACY = {
    "input_bucket": "in",
    "input_prefix": "a/",
    "checkpoint_bucket": "check",
    "checkpoint_prefix": "b/",
    "output_bucket": "out",
    "output_prefix": "c/",
}


def block(direction: str = "download", **fields: Any) -> dict[str, Any]:
    return {"bucket": "b", "prefix": "p/", "local_path": "/data", "direction": direction} | fields


def test_a_whole_job_is_kept_as_it_was_sent(api: Client) -> None:
    whole = {
        "command": "python",
        "arguments": ["main.py", "", "--name", "Grüße 🚲"],
        "environment": {"A": "1", "EMPTY": "", "ÜBER": "a=b"},
        "container_group_id": "g1",
        "sync": {
            "before": [block(), block(pattern="^(?<ecmascript>.*)[^]\\.bin$")],
            "during": [block("upload")],
            "after": [block("upload", prefix="out/")],
        },
        "compression": True,
        "max_failures": 7,
        "heartbeat_interval": 60,
        "webhook": "https://example.com:8443/hooks?a=b",
    }
    submitted = api.submit(**whole)
    read = api.get(f"/jobs/{submitted['id']}").json or {}
    assert {name: submitted[name] for name in whole} == whole
    assert read == submitted


def test_a_submission_is_part_of_the_jobs_history(api: Client) -> None:
    job = api.submit()
    [event] = (api.get(f"/jobs/{job['id']}/events").json or {})["events"]
    assert (event["kind"], event["actor"], event["attempt"]) == ("submitted", "user:acme", 0)


# field, value, what is kept
ACCEPTED = [
    ("webhook", "http://127.0.0.1:1/", "http://127.0.0.1:1/"),
    ("webhook", "http://receiver:65535", "http://receiver:65535"),
    ("webhook", "HTTPS://[::1]:81/a", "HTTPS://[::1]:81/a"),
    ("sync", None, {}),
    ("sync", {}, {}),
    ("sync", {"before": []}, {"before": []}),
    ("sync", {"before": [block(prefix="p")]}, {"before": [block(prefix="p/")]}),
    ("sync", {"before": [block(prefix="")]}, {"before": [block(prefix="/")]}),
    ("sync", {"after": [block("upload", pattern=None)]}, {"after": [block("upload")]}),
]


@pytest.mark.parametrize(("field", "value", "kept"), ACCEPTED)
def test_a_value_at_the_edge_is_accepted(api: Client, field: str, value: object, kept: object) -> None:
    assert api.submit(**{field: value})[field] == kept


# field, value, the path that the answer names
REFUSED = [
    ("command", "", "command"),
    ("command", None, "command"),
    ("command", 1, "command"),
    ("command", ["work"], "command"),
    ("arguments", "work", "arguments"),
    ("arguments", [1], "arguments.0"),
    ("arguments", ["a", None], "arguments.1"),
    ("arguments", None, "arguments"),
    ("environment", [], "environment"),
    ("environment", {"A": 1}, "environment.A.value"),
    ("environment", {"": "x"}, "environment..key"),
    ("environment", {"A=B": "x"}, "environment.A=B.key"),
    ("container_group_id", "", "container_group_id"),
    ("container_group_id", "x" * 256, "container_group_id"),
    ("container_group_id", 1, "container_group_id"),
    ("compression", "yes", "compression"),
    ("compression", 1, "compression"),
    ("compression", None, "compression"),
    ("max_failures", 0, "max_failures"),
    ("max_failures", 1001, "max_failures"),
    ("max_failures", "3", "max_failures"),
    ("max_failures", 3.5, "max_failures"),
    ("max_failures", True, "max_failures"),
    ("heartbeat_interval", 0, "heartbeat_interval"),
    ("heartbeat_interval", 86401, "heartbeat_interval"),
    ("webhook", "ftp://example.com/", "webhook"),
    ("webhook", "example.com", "webhook"),
    ("webhook", "http://", "webhook"),
    ("webhook", "http:///path", "webhook"),
    ("webhook", "http://example.com:99999/", "webhook"),
    ("webhook", "http://example.com:0/", "webhook"),
    ("webhook", "http://exa mple.com/", "webhook"),
    ("webhook", "http://example.com/\r\nX: y", "webhook"),
    ("webhook", 1, "webhook"),
    ("sync", [], "sync"),
    ("sync", {"before": {}}, "sync.before"),
    ("sync", {"before": [1]}, "sync.before.0"),
    ("sync", {"before": [block("upload")]}, "sync.before.0.direction"),
    ("sync", {"before": [block(), block("upload")]}, "sync.before.1.direction"),
    ("sync", {"during": [block("download")]}, "sync.during.0.direction"),
    ("sync", {"after": [block("download")]}, "sync.after.0.direction"),
    ("sync", {"after": [block("sideways")]}, "sync.after.0.direction"),
    ("sync", {"after": [block("upload", pattern="(")]}, "sync.after.0.pattern"),
    ("sync", {"after": [block("upload", pattern="(?P<python>x)")]}, "sync.after.0.pattern"),
    ("sync", {"after": [block("upload", pattern="|" * 120_000)]}, "sync.after.0.pattern"),  # a stack overflow
    ("sync", {"before": [block(bucket="")]}, "sync.before.0.bucket"),
    ("sync", {"before": [block(local_path="")]}, "sync.before.0.local_path"),
    ("sync", {"before": [{"direction": "download"}]}, "sync.before.0.bucket"),
    ("sync", {"before": [block(pattern=1)]}, "sync.before.0.pattern"),
]


@pytest.mark.parametrize(("field", "value", "path"), REFUSED)
def test_a_bad_value_is_a_400_that_names_its_place(
    api: Client, db: Database, field: str, value: object, path: str
) -> None:
    body = refused(api.post("/jobs", definition(**{field: value})), 400)
    assert path in body["errors"], body
    assert all(isinstance(sentence, str) for sentences in body["errors"].values() for sentence in sentences)
    assert rows_of_jobs(db)["jobs"] == []


@pytest.mark.parametrize("field", ["command", "container_group_id"])
def test_a_required_field_must_be_there(api: Client, field: str) -> None:
    job = definition()
    del job[field]
    assert field in refused(api.post("/jobs", job), 400)["errors"]


def test_all_mistakes_are_named_at_once(api: Client) -> None:
    body = refused(api.post("/jobs", definition(command="", max_failures=0)), 400)
    assert body["errors"].keys() == {"command", "max_failures"}


class TestLegacyFields:
    """The oldest generation's buckets and prefixes."""

    def test_all_six_are_kept_and_shown_without_sync(self, api: Client) -> None:
        job = api.submit(**LEGACY)
        assert {name: job[name] for name in LEGACY} == LEGACY
        assert "sync" not in job
        assert "sync" not in (api.claim() or {"sync": "nothing was handed out"})

    @pytest.mark.parametrize("missing", LEGACY)
    def test_five_are_refused_and_the_missing_one_named(self, api: Client, missing: str) -> None:
        job = definition(**LEGACY)
        del job[missing]
        assert refused(api.post("/jobs", job), 400)["errors"].keys() == {missing}

    def test_one_is_refused_and_the_other_five_named(self, api: Client) -> None:
        body = refused(api.post("/jobs", definition(output_bucket="out")), 400)
        assert body["errors"].keys() == LEGACY.keys() - {"output_bucket"}

    def test_six_nulls_are_none_of_them(self, api: Client) -> None:
        assert api.submit(**dict.fromkeys(LEGACY))["sync"] == {}

    @pytest.mark.parametrize("sync", [{}, {"before": [block()]}])
    def test_together_with_sync_they_are_refused(self, api: Client, sync: dict[str, Any]) -> None:
        assert "sync" in refused(api.post("/jobs", definition(**LEGACY, sync=sync)), 400)["errors"]

    def test_one_of_them_together_with_sync_is_refused(self, api: Client) -> None:
        body = refused(api.post("/jobs", definition(sync={}, input_bucket="in")), 400)
        assert "sync" in body["errors"]


class TestWarnings:
    def test_nested_unknown_fields_are_named_by_their_path(self, api: Client) -> None:
        job = api.submit(sync={"later": [], "before": [block(), block(region="eu")]})
        named = " ".join(job["warnings"])
        assert len(job["warnings"]) == 2
        assert "sync.later" in named and "sync.before.1.region" in named
        assert "region" not in job["sync"]["before"][1]


class TestSize:
    LARGEST = 256 * 1024

    def sized(self, letter: str) -> dict[str, Any]:
        """A definition of almost the largest size, in bytes of UTF-8."""
        return definition(arguments=[letter * ((self.LARGEST - 1000) // len(letter.encode()))])

    @pytest.mark.parametrize("letter", ["x", "ü", "🚲"])
    def test_a_definition_of_almost_256_kib_is_accepted(self, api: Client, letter: str) -> None:
        assert api.post("/jobs", self.sized(letter)).status_code == 202

    def test_a_larger_one_is_refused(self, api: Client) -> None:
        refused(api.post("/jobs", definition(arguments=["x" * self.LARGEST])), 400)

    def test_also_in_a_batch(self, api: Client, db: Database) -> None:
        too_large = definition(arguments=["x" * self.LARGEST])
        assert refused(api.post("/jobs/batch", [definition(), too_large]), 400)["index"] == 1
        assert rows_of_jobs(db)["jobs"] == []


class TestTooMuch:
    """What is far too much is refused before it is looked at: to find all that is wrong would take minutes."""

    def test_a_definition_that_is_too_long_is_refused_for_that_alone(self, api: Client) -> None:
        body = refused(api.post("/jobs", definition(arguments=[1] * 200_000)), 400)
        assert body["errors"].keys() == {"_schema"}
        assert "262144" in body["message"]

    def test_its_place_in_a_batch_is_named(self, api: Client) -> None:
        body = refused(api.post("/jobs/batch", [definition(), definition(arguments=["x" * 300_000])]), 400)
        assert body["index"] == 1

    def test_a_batch_of_millions_is_refused_by_its_number(self, api: Client) -> None:
        assert "has 1000000" in refused(api.post("/jobs/batch", [0] * 1_000_000), 400)["message"]

    def test_of_very_many_mistakes_the_first_hundred_are_named(self, api: Client) -> None:
        assert len(refused(api.post("/jobs", definition(arguments=[1] * 1000)), 400)["errors"]) == 100

    def test_of_very_many_unknown_fields_the_first_hundred_are_named(self, api: Client) -> None:
        unknown = {f"colour_{number}": "blue" for number in range(150)}
        warned = api.submit(**unknown)["warnings"]
        assert len(warned) == 101
        assert "100" in warned[-1]


def test_a_legacy_job_of_an_earlier_release_is_answered_with_its_slashes(api: Client, db: Database) -> None:
    job = api.submit(**LEGACY)
    db.execute("update jobs set input_prefix = 'a', checkpoint_prefix = 'b', output_prefix = ''")
    prefixes = {"input_prefix": "a/", "checkpoint_prefix": "b/", "output_prefix": ""}
    listed = (api.get("/jobs").json or {})["jobs"][0]
    claimed = api.claim() or {}
    for answer in (api.get(f"/jobs/{job['id']}").json or {}, listed, claimed):
        assert {name: answer[name] for name in prefixes} == prefixes


def test_no_guess_is_kept_of_a_long_name_which_a_caller_made_up() -> None:
    kept = fields._similar_field.cache_info().currsize
    assert fields.similar_field(JobDefinition, "x" * 100_000) is None
    assert fields._similar_field.cache_info().currsize == kept
    assert fields.similar_field(JobDefinition, "commands") == "command"
