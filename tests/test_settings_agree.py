"""Settings of both programs: one spelling for one kind of value, and one number for one limit."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest

import kelpie_api.config
import kelpie_api.errors
import kelpie_api.limits
import kelpie_api.logs
import kelpie_worker.config
import kelpie_worker.limits
from kelpie_api.queue import bans
from kelpie_api.queue.long_poll import LONGEST_WAIT
from kelpie_worker.coordinator.client import WAIT_FOR_WORK
from kelpie_worker.salad import instance_policy
from local_stack.processes import CHECKOUT

COORDINATOR = {"DATABASE_URL": "postgresql://kelpie@localhost/kelpie", "KELPIE_SECRET_KEY": "x" * 32}
WORKER = {"KELPIE_API_KEY": "key", "SALAD_CONTAINER_GROUP_ID": "group"}


def coordinator(**changes: str) -> kelpie_api.config.Config:
    return kelpie_api.config.Config.from_env(COORDINATOR | changes)


def worker(**changes: str) -> kelpie_worker.config.Config:
    return kelpie_worker.config.load(WORKER | changes)


def truths(word: str) -> list[bool]:
    return [
        coordinator(KELPIE_JWT_CAN_SUBMIT=word).jwt_can_submit,
        coordinator(KELPIE_WEBHOOK_ALLOW_PRIVATE=word).webhook_allow_private,
        worker(KELPIE_RECREATE_BETWEEN_JOBS=word).stay.one_job,
    ]


def both_refuse(coordinators: dict[str, str], workers: dict[str, str]) -> None:
    """Each by a sentence that names the variable."""
    with pytest.raises(kelpie_api.errors.ConfigError, match="|".join(coordinators)):
        coordinator(**coordinators)
    with pytest.raises(kelpie_worker.config.ConfigError, match="|".join(workers)):
        worker(**workers)


@pytest.mark.parametrize("word", ["true", "yes", "1", "on", "True", "YES", "On", " true\n"])
def test_what_is_true(word: str) -> None:
    assert truths(word) == [True] * 3


@pytest.mark.parametrize("word", ["false", "no", "0", "off", "False", "NO", "Off", " no ", "", " "])
def test_what_is_false(word: str) -> None:
    assert truths(word) == [False] * 3


@pytest.mark.parametrize("word", ["maybe", "2", "-1", "y", "t", "enabled", "tru e"])
def test_what_is_neither_is_refused(word: str) -> None:
    both_refuse({"KELPIE_JWT_STRICT": word}, {"KELPIE_RECREATE_BETWEEN_JOBS": word})


@pytest.mark.parametrize(
    ("word", "level"),
    [
        *((level, level) for level in ("trace", "debug", "info", "warn", "error", "fatal", "silent")),
        ("warning", "warn"),
        ("WARNING", "warn"),
        ("Info", "info"),
        (" debug\n", "debug"),
        ("", "info"),
    ],
)
def test_what_a_log_level_may_be_called(word: str, level: str) -> None:
    assert coordinator(KELPIE_LOG_LEVEL=word).log_level == worker(KELPIE_LOG_LEVEL=word).log_level == level


@pytest.mark.parametrize("word", ["loud", "3", "warnings", "info debug"])
def test_what_is_no_log_level_is_refused(word: str) -> None:
    both_refuse({"KELPIE_LOG_LEVEL": word}, {"KELPIE_LOG_LEVEL": word})


def test_log_levels_are_in_one_order() -> None:
    assert tuple(kelpie_api.logs.LEVELS) == kelpie_worker.config.LOG_LEVELS
    assert sorted(kelpie_api.logs.LEVELS.values()) == list(kelpie_api.logs.LEVELS.values())


@pytest.mark.parametrize(
    ("word", "number"), [("0", 0), ("7", 7), ("007", 7), (" 7\n", 7), ("999999999", 999_999_999)]
)
def test_what_is_a_whole_number(word: str, number: int) -> None:
    assert coordinator(KELPIE_MAX_WAITERS=word).max_waiters == worker(MAX_RETRIES=word).max_retries == number


@pytest.mark.parametrize("word", ["-2", "+1", "1.5", "1_000", "1e3", "0x10", "\u0663", "1000000000", "few", "1 2"])
def test_what_is_no_whole_number_is_refused(word: str) -> None:
    both_refuse({"KELPIE_MAX_WAITERS": word}, {"MAX_RETRIES": word})


@pytest.mark.parametrize(("word", "seconds"), [("0", 0.0), ("90", 90.0), ("1.5", 1.5), (" 2.25\n", 2.25)])
def test_what_is_a_number_of_seconds(word: str, seconds: float) -> None:
    assert coordinator(KELPIE_SALAD_KEY_TTL_S=word).proven_for == timedelta(seconds=seconds)
    assert worker(KELPIE_SHUTDOWN_GRACE_S=word).shutdown_grace == seconds


@pytest.mark.parametrize("word", ["-1", "5m", "1_0", "1e3", "nan", "inf", ".", "1,5", "soon", "1000000000"])
def test_what_is_no_number_of_seconds_is_refused(word: str) -> None:
    both_refuse({"KELPIE_SALAD_KEY_TTL_S": word}, {"KELPIE_SHUTDOWN_GRACE_S": word})


@pytest.mark.parametrize("word", ["-1", "0", " -1\n"])
def test_never_is_written_as_users_of_the_original_do(word: str) -> None:
    names = ("MAX_TIME_WITH_NO_WORK_S", "MAX_JOB_FAILURES", "FILE_WATCHER_MAX_WAIT_MS")
    config = worker(**dict.fromkeys(names, word))
    assert (config.stay.max_idle, config.stay.max_failures, config.watch.max_wait) == (None, None, None)


@pytest.mark.parametrize("word", ["-2", "-1.5", "-0", "--1"])
@pytest.mark.parametrize("name", ["MAX_TIME_WITH_NO_WORK_S", "MAX_JOB_FAILURES", "FILE_WATCHER_MAX_WAIT_MS"])
def test_nothing_else_below_0_is_never(name: str, word: str) -> None:
    with pytest.raises(
        kelpie_worker.config.ConfigError, match=rf"^{name} must be a .*, or -1 for never, not '{word}'"
    ):
        worker(**{name: word})


NUMBERS = {
    "MAX_TIME_WITH_NO_WORK_S": "number of seconds from 0 to 999999999, or -1 for never",
    "MAX_JOB_FAILURES": "whole number from 0 to 999999999, or -1 for never",
    "FILE_WATCHER_MAX_WAIT_MS": "number of milliseconds from 0 to 999999999, or -1 for never",
    "FILE_WATCHER_DEBOUNCE_MS": "number of milliseconds from 0 to 999999999",
    "FILE_WATCHER_STABILITY_CHECK_MS": "number of milliseconds from 0 to 999999999",
    "MAX_RETRIES": "whole number from 0 to 999999999",
    "HEARTBEAT_INTERVAL_S": "number of seconds from 0 to 999999999",
    "KELPIE_SHUTDOWN_GRACE_S": "number of seconds from 0 to 999999999",
    "KELPIE_REPORT_OUTPUT": "whole number from 0 to 65536",
}
COORDINATORS_NUMBERS = {
    "KELPIE_MAX_WAITERS": "whole number from 0 to 999999999",
    "WEB_CONCURRENCY": "whole number from 1 to 999999999",
    "KELPIE_SALAD_KEY_TTL_S": "number of seconds from 0 to 999999999",
}


@pytest.mark.parametrize("word", ["1000000000", "1e3", "-2", "many"])
def test_the_bounds_of_a_number_are_said_where_it_is_refused(word: str) -> None:
    with pytest.raises(kelpie_worker.config.ConfigError) as refused:
        worker(**dict.fromkeys(NUMBERS, word))
    assert set(refused.value.sentences) == {
        f"{name} must be a {what}, not '{word}'." for name, what in NUMBERS.items()
    }
    with pytest.raises(kelpie_api.errors.ConfigError) as refusal:
        coordinator(**dict.fromkeys(COORDINATORS_NUMBERS, word))
    assert set(refusal.value.sentences) == {
        f"{name} must be a {what}, not '{word}'." for name, what in COORDINATORS_NUMBERS.items()
    }


def test_every_number_of_the_worker_is_among_these() -> None:
    for name, variable in kelpie_worker.config.VARIABLES.items():
        assert variable.default.isdigit() == (name in NUMBERS), name


def test_the_coordinator_names_all_that_is_missing_or_wrong_at_once() -> None:
    with pytest.raises(kelpie_api.errors.ConfigError) as refusal:
        kelpie_api.config.Config.from_env(
            {
                "KELPIE_JWT_STRICT": "maybe",
                "KELPIE_LOG_LEVEL": "loud",
                "KELPIE_MAX_WAITERS": "few",
                "WEB_CONCURRENCY": "0",
                "SALAD_API_KEY": "canary\nkey",
            }
        )
    assert [sentence.split()[0] for sentence in refusal.value.sentences] == [
        "DATABASE_URL",
        "KELPIE_SECRET_KEY",
        "KELPIE_LOG_LEVEL",
        "WEB_CONCURRENCY",
        "KELPIE_MAX_WAITERS",
        "SALAD_API_KEY",
        "KELPIE_JWT_STRICT",
    ]
    assert all(sentence.endswith(".") for sentence in refusal.value.sentences)
    assert "canary" not in str(refusal.value)


def test_the_worker_names_all_that_is_missing_or_wrong_at_once() -> None:
    with pytest.raises(kelpie_worker.config.ConfigError) as refusal:
        kelpie_worker.config.load(
            {
                "SALAD_API_KEY": "key",
                "AWS_ENDPOINT_URL": "s3.example.com",
                "KELPIE_API_URL": "ftp://host",
                "KELPIE_STATE_FILE": "/dev/null",
                "KELPIE_LOG_LEVEL": "loud",
                "KELPIE_REPORT_OUTPUT": "65537",
                "MAX_RETRIES": "few",
            }
        )
    assert [sentence.split()[0] for sentence in refusal.value.sentences] == [
        "SALAD_PROJECT",
        "SALAD_ORGANIZATION",
        "AWS_ENDPOINT_URL",
        "KELPIE_API_URL",
        "SALAD_CONTAINER_GROUP_ID",
        "KELPIE_STATE_FILE",
        "KELPIE_LOG_LEVEL",
        "MAX_RETRIES",
        "KELPIE_REPORT_OUTPUT",
    ]
    assert all(sentence.endswith(".") for sentence in refusal.value.sentences)


def numbers_of(limits: ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(limits).items() if name.isupper()}


def test_a_limit_that_both_programs_know_is_one_number() -> None:
    assert numbers_of(kelpie_api.limits) == numbers_of(kelpie_worker.limits)
    assert len(numbers_of(kelpie_api.limits)) >= 7


def numbers_beside_limits(tree: ast.AST) -> Iterator[int]:
    """The numbers that a comparison, the end of a slice, or a `max=` has as a literal."""
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Slice):
            parts = [node.upper]
        elif isinstance(node, ast.keyword) and node.arg == "max":
            parts = [node.value]
        yield from (part.value for part in parts if isinstance(part, ast.Constant) and type(part.value) is int)


@pytest.mark.parametrize("limits", [kelpie_api.limits, kelpie_worker.limits], ids=["coordinator", "worker"])
def test_a_limit_is_written_as_a_number_in_one_place(limits: ModuleType) -> None:
    named = set(numbers_of(limits).values()) - {kelpie_api.limits.DEFAULT_HEARTBEAT_INTERVAL}
    for path in sorted((CHECKOUT / limits.__name__.partition(".")[0]).rglob("*.py")):
        again = named & set(numbers_beside_limits(ast.parse(path.read_text())))
        assert not again, f"{path} has {again} beside limits.py"


def test_a_worker_waits_for_work_no_longer_than_the_coordinator_lets_it() -> None:
    assert 0 < WAIT_FOR_WORK <= LONGEST_WAIT


def test_both_programs_hold_the_same_failures_for_the_jobs_own_and_the_guide_lists_them() -> None:
    assert bans.IS_JOBS_OWN_FAULT == instance_policy.IS_JOBS_OWN_FAULT
    guide = (CHECKOUT / "docs" / "worker.md").read_text()
    assert re.findall(r"^\| `failed` \| `(\w+)` \|", guide, re.MULTILINE) == list(bans.IS_JOBS_OWN_FAULT)


def test_the_database_takes_the_heartbeat_intervals_that_the_programs_take() -> None:
    limit = f"heartbeat_interval <= {kelpie_api.limits.LONGEST_HEARTBEAT_INTERVAL})"
    assert limit in (CHECKOUT / "sql" / "schema.sql").read_text()


class TestWhatTheCoordinatorLogs:
    def test_calls_levels_as_the_setting_and_the_worker_do(self, capsys: pytest.CaptureFixture[str]) -> None:
        kelpie_api.logs.configure("trace")
        library = logging.getLogger("a.library")
        library.setLevel(1)
        for level in (1, 5, logging.DEBUG, logging.INFO, 25, logging.WARNING, logging.ERROR, logging.CRITICAL, 60):
            library.log(level, "an_event")
        library.setLevel(logging.NOTSET)
        written = [json.loads(line)["level"] for line in capsys.readouterr().err.splitlines()]
        assert written == ["trace", "debug", "info", "info", "warn", "error", "fatal", "fatal"]
        assert set(written) < set(kelpie_worker.config.LOG_LEVELS)

    @pytest.mark.parametrize(
        ("level", "logged"),
        [
            ("trace", ["an_info", "a_warning", "a_librarys_warning", "an_error"]),
            ("info", ["an_info", "a_warning", "a_librarys_warning", "an_error"]),
            ("warn", ["a_warning", "a_librarys_warning", "an_error"]),
            ("error", ["an_error"]),
            ("fatal", []),
            ("silent", []),
        ],
    )
    def test_is_nothing_below_its_level(
        self, level: str, logged: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        kelpie_api.logs.configure(level)
        kelpie_api.logs.info("an_info")
        kelpie_api.logs.warning("a_warning")
        logging.getLogger("a.library").warning("a_librarys_warning")
        kelpie_api.logs.error("an_error", LookupError())
        assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == logged
