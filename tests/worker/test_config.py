"""The worker's settings as tables: what each means, what is refused, and what the help says of them."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path

import pytest

from kelpie_version import VERSION
from kelpie_worker import cli, config, doctor
from kelpie_worker.config import (
    VARIABLES,
    Authorization,
    ConfigError,
    InstanceLimits,
    LegacyDirectories,
    TokenUse,
    load,
)
from kelpie_worker.system import authorities

ROOT = Path(__file__).parents[2]
LEGACY = ("INPUT_DIR", "CHECKPOINT_DIR", "OUTPUT_DIR")
KEY = {"KELPIE_API_KEY": "key"}
SETTINGS = KEY | {"SALAD_CONTAINER_GROUP_ID": "group"}
SALADS = {"SALAD_ORGANIZATION_NAME": "acme", "SALAD_PROJECT_NAME": "default"}
NAMED = {"Salad-Organization": "acme", "Salad-Project": "default"}


@pytest.mark.parametrize(
    ("environment", "on_salad", "expected"),
    [
        (KEY | SALADS | {"SALAD_API_KEY": "s"}, True, Authorization({"X-Kelpie-Key": "key"})),
        (SALADS | {"SALAD_API_KEY": "s"}, False, Authorization({"Salad-Api-Key": "s", **NAMED})),
        (
            {"SALAD_API_KEY": "s", "SALAD_ORGANIZATION": "o", "SALAD_PROJECT": "p", **SALADS},
            False,
            Authorization({"Salad-Api-Key": "s", "Salad-Organization": "o", "Salad-Project": "p"}),
        ),
        (
            {"SALAD_API_KEY": "s", "SALAD_PROJECT": "p"},
            True,
            Authorization({"Salad-Api-Key": "s", "Salad-Project": "p"}, TokenUse.ORGANIZATION),
        ),
        (SALADS, True, Authorization(NAMED, TokenUse.BEARER)),
        ({"SALAD_PROJECT": "p"}, True, Authorization({"Salad-Project": "p"}, TokenUse.BEARER)),
    ],
)
def test_the_first_way_to_authenticate_that_is_set_up_is_used(
    environment: dict[str, str], on_salad: bool, expected: Authorization
) -> None:
    assert config.authorization(environment, on_salad) == expected


@pytest.mark.parametrize(
    ("environment", "on_salad", "named"),
    [
        ({}, True, "KELPIE_API_KEY"),
        (SALADS, False, "KELPIE_API_KEY"),
        ({"SALAD_API_KEY": "s", "SALAD_ORGANIZATION": "o"}, True, "SALAD_PROJECT"),
        ({"SALAD_API_KEY": "s", "SALAD_PROJECT": "p"}, False, "SALAD_ORGANIZATION"),
    ],
)
def test_without_a_whole_way_to_authenticate_the_worker_refuses(
    environment: dict[str, str], on_salad: bool, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        config.authorization(environment, on_salad)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"KELPIE_API_KEY": ""}, "KELPIE_API_KEY"),
        ({"KELPIE_API_KEY": "canary\n"}, "KELPIE_API_KEY"),
        ({"KELPIE_API_KEY": "", "SALAD_API_KEY": "canary key"}, "SALAD_API_KEY"),
        ({"KELPIE_API_KEY": "", "SALAD_API_KEY": "s"}, "SALAD_PROJECT"),
        ({"KELPIE_API_KEY": "", "SALAD_API_KEY": "s", "SALAD_PROJECT_NAME": "ü"}, "SALAD_PROJECT_NAME"),
        ({"SALAD_CONTAINER_GROUP_ID": ""}, "SALAD_CONTAINER_GROUP_ID"),
        ({"SALAD_CONTAINER_GROUP_ID": "g" * 256}, "SALAD_CONTAINER_GROUP_ID"),
        ({"SALAD_MACHINE_ID": "m" * 256}, "SALAD_MACHINE_ID"),
        ({"KELPIE_API_URL": "http://"}, "KELPIE_API_URL"),
        ({"KELPIE_API_URL": "http://host:port"}, "KELPIE_API_URL"),
        ({"KELPIE_API_URL": "ftp://host"}, "KELPIE_API_URL"),
        ({"KELPIE_API_URL": "http://host/a path"}, "KELPIE_API_URL"),
        ({"KELPIE_API_URL": "http://host?key=canary"}, "KELPIE_API_URL"),
        ({"SALAD_IMDS_URL": "file:///etc"}, "SALAD_IMDS_URL"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9000"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "http://"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL_S3": "s3.example.com"}, "AWS_ENDPOINT_URL_S3"),
        ({"KELPIE_LOG_LEVEL": "loud"}, "KELPIE_LOG_LEVEL"),
        ({"KELPIE_RECREATE_BETWEEN_JOBS": "maybe"}, "KELPIE_RECREATE_BETWEEN_JOBS"),
        ({"MAX_RETRIES": "2.5"}, "MAX_RETRIES"),
        ({"MAX_JOB_FAILURES": "-2"}, "MAX_JOB_FAILURES"),
        ({"MAX_TIME_WITH_NO_WORK_S": "soon"}, "MAX_TIME_WITH_NO_WORK_S"),
        ({"HEARTBEAT_INTERVAL_S": "nan"}, "HEARTBEAT_INTERVAL_S"),
        ({"KELPIE_SHUTDOWN_GRACE_S": "-1"}, "KELPIE_SHUTDOWN_GRACE_S"),
        ({"FILE_WATCHER_DEBOUNCE_MS": "1s"}, "FILE_WATCHER_DEBOUNCE_MS"),
        ({"FILE_WATCHER_STABILITY_CHECK_MS": "x"}, "FILE_WATCHER_STABILITY_CHECK_MS"),
        ({"FILE_WATCHER_MAX_WAIT_MS": "inf"}, "FILE_WATCHER_MAX_WAIT_MS"),
        ({"KELPIE_REPORT_OUTPUT": "65537"}, "KELPIE_REPORT_OUTPUT"),
        ({"KELPIE_STATE_FILE": "a\nb"}, "KELPIE_STATE_FILE"),
        ({"KELPIE_STATE_FILE": "/"}, "KELPIE_STATE_FILE"),
        ({"KELPIE_STATE_FILE": "/dev/null"}, "KELPIE_STATE_FILE"),
        ({"KELPIE_STATE_FILE": "a\udcff"}, "KELPIE_STATE_FILE"),
        ({"SALAD_CONTAINER_GROUP_ID": "\udcff"}, "SALAD_CONTAINER_GROUP_ID"),
        ({"KELPIE_RUNTIME_DIR": "a\0b"}, "KELPIE_RUNTIME_DIR"),
    ],
)
def test_a_bad_setting_is_refused_by_name_in_one_sentence(change: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as refusal:
        config.load(SETTINGS | change)
    assert "\n" not in str(refusal.value) and "canary" not in str(refusal.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can become another user for a while")
def test_a_folder_that_may_not_be_looked_into_is_refused_only_when_the_file_is_opened(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    settings = SETTINGS | {"KELPIE_STATE_FILE": f"{closed}/state/file.json", "INPUT_DIR": f"{closed}/in/data"}
    os.seteuid(65534)
    try:
        loaded = config.load(settings)
        places = doctor._directories(loaded)
    finally:
        os.seteuid(0)
    assert loaded.state_file == f"{closed}/state/file.json"
    assert places and not any(place.startswith(str(closed)) for place in places)


def test_settings_have_the_defaults_of_the_original() -> None:
    loaded = config.load(SETTINGS)
    assert loaded.api_url == "https://kelpie.saladexamples.com"
    assert (loaded.max_retries, loaded.poll_interval, loaded.shutdown_grace) == (3, 10, 25)
    assert (loaded.watch.debounce, loaded.watch.stability, loaded.watch.max_wait) == (0, 0.05, 5)
    assert loaded.directories == LegacyDirectories("/input", "/checkpoint", "/output")
    assert loaded.stay == InstanceLimits(max_failures=3, max_idle=None, one_job=False)
    assert loaded.state_file.endswith("/kelpie-state.json") and loaded.log_level == "info"


@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        ({"KELPIE_API_URL": "host"}, "api_url", "https://host"),
        ({"KELPIE_API_URL": "http://host/"}, "api_url", "http://host"),
        ({"SALAD_IMDS_URL": "host:1"}, "imds_url", "http://host:1"),
        ({"SALAD_MACHINE_ID": "m"}, "imds_url", "http://169.254.169.254"),
        ({}, "imds_url", None),
        ({"MAX_JOB_FAILURES": "0", "MAX_TIME_WITH_NO_WORK_S": "1.5"}, "stay", InstanceLimits(None, 1.5)),
        ({"KELPIE_RECREATE_BETWEEN_JOBS": "True"}, "stay", InstanceLimits(3, one_job=True)),
        ({"AWS_REGION": "a", "AWS_DEFAULT_REGION": "b"}, "aws_region", "a"),
        ({"AWS_DEFAULT_REGION": "b"}, "aws_region", "b"),
        ({"MAX_RETRIES": ""}, "max_retries", 3),
        ({"KELPIE_RUNTIME_DIR": "/r/"}, "runtime_directory", "/r"),
    ],
)
def test_what_a_setting_means(change: dict[str, str], name: str, value: object) -> None:
    assert getattr(config.load(SETTINGS | change), name) == value


def test_no_longest_wait_for_quiet_files_is_as_long_as_it_takes() -> None:
    assert config.load(SETTINGS | {"FILE_WATCHER_MAX_WAIT_MS": "0"}).watch.max_wait is None


def test_the_help_names_every_variable_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.parse(["--help"])
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert end.value.code == 0
    for name, variable in VARIABLES.items():
        assert f"{name} {variable.meaning} Default: {variable.default}" in shown


def test_the_document_names_every_variable_with_its_default() -> None:
    rows = [line for line in (ROOT / "docs" / "worker.md").read_text().splitlines() if line.startswith("| `")]
    for name, variable in VARIABLES.items():
        shown = [row for row in rows if f"`{name}`" in row.split("|")[1]]
        default = variable.default or variable.shown
        assert len(shown) == 1 or name in ("KELPIE_STATE_FILE", *LEGACY), name
        assert any(default.removeprefix("from the ") in row for row in shown), name


def test_every_variable_that_is_read_is_in_the_help() -> None:
    sources = inspect.getsource(config) + inspect.getsource(doctor)
    read = set(re.findall(r'"((?:KELPIE|SALAD|AWS|MAX|FILE)_[A-Z_]+|[A-Z]+_DIR)"', sources))
    elsewhere = {
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    }  # named in a meaning
    assert read - elsewhere <= VARIABLES.keys()


def test_every_variable_that_names_authorities_is_in_the_help() -> None:
    help_text = " ".join((*VARIABLES, *(variable.meaning for variable in VARIABLES.values())))
    named = re.findall(r'"([A-Z]+_(?:CA_BUNDLE|CERT_[A-Z]+))"', inspect.getsource(authorities))
    assert len(set(named)) == 4
    assert not [name for name in named if name not in help_text]


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.parse(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"kelpie {VERSION}\n")


@pytest.mark.parametrize("arguments", [["doctr"], ["--verbose"], ["doctor", "--bucket"]])
def test_arguments_that_mean_nothing_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.parse(arguments)
    assert end.value.code == 2


@pytest.mark.parametrize("value", ["65537", "-1", "much"])
def test_so_much_output_is_not_kept(value: str) -> None:
    with pytest.raises(ConfigError, match="KELPIE_REPORT_OUTPUT"):
        load({"KELPIE_API_KEY": "k", "SALAD_CONTAINER_GROUP_ID": "g", "KELPIE_REPORT_OUTPUT": value})


@pytest.mark.parametrize("command", ["submit", "logs", "ls"])
def test_a_command_of_the_client_is_told_where_that_is(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.parse([command, "x"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1 and f"{command} is a command of the client" in said and "pip install kelpie" in said
    )
