"""`kelpie doctor` in a process of its own, where all is well and where each thing is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kelpie_worker.state_file import StateFile
from local_stack.s3 import S3Server
from tests.doubles.coordinator import FakeCoordinator
from tests.doubles.double import page
from tests.doubles.faulty_proxy import FaultyProxy
from tests.doubles.plain_server import make_certificate
from tests.doubles.tokens import TokenDouble
from tests.real_worker import CHECKOUT

Ask = Callable[..., tuple[int, dict[str, tuple[bool, str]]]]


@pytest.fixture
def ask(
    tmp_path: Path, coordinator: FakeCoordinator, s3: S3Server, bucket: str, tokens: TokenDouble
) -> Iterator[Ask]:
    """The exit code, and of each subject whether it is well and what is said of it."""
    usual = {
        "PYTHONPATH": str(CHECKOUT),
        "TMPDIR": str(tmp_path),
        "KELPIE_API_URL": coordinator.url,
        "KELPIE_API_KEY": "canary",
        "SALAD_CONTAINER_GROUP_ID": "group",
        "SALAD_IMDS_URL": tokens.url,
        "KELPIE_DOCTOR_BUCKET": f"{bucket}/some/prefix",
        **s3.environment,
    }

    def run(*arguments: str, **environment: str) -> tuple[int, dict[str, tuple[bool, str]]]:
        ended = subprocess.run(
            [sys.executable, "-m", "kelpie_worker", "doctor", *arguments],
            cwd=tmp_path,
            env=usual | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.stderr == "" and "canary" not in ended.stdout
        lines = [line.partition(": ") for line in ended.stdout.splitlines()]
        return ended.returncode, {head[5:]: (head.startswith("ok"), words) for head, _, words in lines}

    coordinator.known = True
    yield run
    assert s3.keys(bucket) == []  # nothing is left behind


def test_where_all_is_well_every_line_says_ok(ask: Ask, bucket: str, tmp_path: Path) -> None:
    code, said = ask()
    assert code == 0, said
    assert all(well for well, _ in said.values())
    code, said = ask(AWS_PROFILE="", AWS_CA_BUNDLE="", AWS_RETRY_MODE="", AWS_METADATA_SERVICE_TIMEOUT="")
    assert code == 0, said  # empty counts as absent
    assert [subject for subject in said if not subject.startswith("disk")] == [
        "settings",
        "state file",
        "metadata service",
        "way to the API",
        "API",
        "clock",
        "storage settings",
        f"bucket {bucket}, writing",
        f"bucket {bucket}, reading",
        f"bucket {bucket}, conditional writes",
        f"bucket {bucket}, deleting",
        "file watching",
    ]
    assert f"disk at {tmp_path}" in said
    assert "attempt" in said["API"][1] and "claim-id" in said["API"][1]
    assert said[f"bucket {bucket}, conditional writes"][1].startswith("enforced")
    assert "without inotify" not in said["file watching"][1]


def test_it_says_what_each_setting_of_the_network_is_and_where_it_comes_from(
    ask: Ask, s3: S3Server, tmp_path: Path
) -> None:
    mine = f"endpoint_url = {s3.url}\nregion = eu-west-3\nresponse_checksum_validation = when_required\n"
    (tmp_path / "config").write_text(f"[profile mine]\n{mine}")
    files = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_SHARED_CREDENTIALS_FILE": "/none"}
    empty = {"AWS_ENDPOINT_URL": "", "AWS_REGION": "", "NO_PROXY": "127.0.0.0/8", "HTTP_PROXY": "http://p:1"}
    code, said = ask(AWS_PROFILE="mine", **files, **empty)
    assert code == 0, said
    profile = f"the profile mine in {tmp_path / 'config'}"
    assert said["storage settings"][1].split("; ") == [
        f"endpoint {s3.url} ({profile})",
        f"region eu-west-3 ({profile})",
        "the key's place is env",
        "request_checksum_calculation when_required (the default for an endpoint that is named)",
        f"response_checksum_validation when_required ({profile})",
        "reached directly",
        "AWS_SHARED_CREDENTIALS_FILE names /none, which does not exist",
    ]
    assert said["way to the API"] == (True, "reached directly")


@pytest.mark.parametrize("password", ["", "me:canary@"])
def test_a_proxy_and_authorities_are_named_without_a_password(ask: Ask, tmp_path: Path, password: str) -> None:
    authority = make_certificate(tmp_path)[1]
    code, said = ask(
        KELPIE_API_URL="https://127.0.0.1:9",
        HTTPS_PROXY=f"http://{password}127.0.0.1:9",
        SSL_CERT_FILE=str(authority),
        AWS_ENDPOINT_URL="https://127.0.0.1:9",
    )
    trusted = f"the certificates in {authority} (SSL_CERT_FILE)"
    way = f"reached through the proxy 127.0.0.1:9 (HTTPS_PROXY), its certificate checked against {trusted}"
    assert code == 1 and said["way to the API"] == (True, way) and said["storage settings"][1].endswith(way)
    assert "the proxy 127.0.0.1:9 (HTTPS_PROXY)" in said["API"][1]


def test_the_bucket_may_be_named_as_an_option_and_left_out(ask: Ask, bucket: str) -> None:
    assert ask("--bucket", bucket, KELPIE_DOCTOR_BUCKET="other")[1][f"bucket {bucket}, writing"][0]
    code, said = ask(KELPIE_DOCTOR_BUCKET="")
    assert code == 0 and "--bucket" in said["bucket"][1]
    assert said["storage"][1].endswith("answers")


def test_a_bucket_may_be_named_as_other_tools_do_and_nothing_else_passes_for_one(ask: Ask, bucket: str) -> None:
    assert ask("--bucket", f"s3://{bucket}/some/prefix")[1][f"bucket {bucket}, deleting"][0]
    for nonsense in ("s3://", "https://s3.example.com/bucket", "/prefix"):
        code, said = ask("--bucket", nonsense)
        assert code == 1 and "names no bucket" in said["bucket"][1]


@pytest.mark.parametrize(
    "change",
    [{"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, {"AWS_SECRET_ACCESS_KEY": ""}, {"AWS_PROFILE": "nosuch"}],
)
def test_storage_is_looked_at_without_a_bucket_too(ask: Ask, change: dict[str, str]) -> None:
    code, said = ask(KELPIE_DOCTOR_BUCKET="", **change)
    assert code == 1 and not said["storage"][0] and "AWS_*" in said["storage"][1]


def test_beside_a_running_worker_all_is_well_and_its_state_file_is_named(ask: Ask, tmp_path: Path) -> None:
    store = StateFile(str(tmp_path / "used.json"))
    code, said = ask(KELPIE_STATE_FILE=str(tmp_path / "used.json"))
    store.close()
    assert code == 0 and said["state file"][0] and "KELPIE_STATE_FILE" in said["state file"][1]
    assert "a worker runs" in said["state file"][1]


def test_elsewhere_than_on_salad_the_metadata_service_is_not_asked(ask: Ask, tokens: TokenDouble) -> None:
    code, said = ask(SALAD_IMDS_URL="")
    assert (code, said["metadata service"][0], tokens.asked) == (0, True, [])


def test_a_token_authorizes_where_there_is_no_key(ask: Ask) -> None:
    code, said = ask(KELPIE_API_KEY="", SALAD_PROJECT_NAME="default")
    assert code == 0 and "token" in said["metadata service"][1] and "token" in said["API"][1]


@pytest.mark.parametrize(
    ("change", "subject", "advice"),
    [
        ({"KELPIE_API_KEY": ""}, "settings", "KELPIE_API_KEY"),
        ({"KELPIE_API_URL": "http://127.0.0.1:9"}, "API", "KELPIE_API_URL"),
        ({"SALAD_IMDS_URL": "http://127.0.0.1:9"}, "metadata service", "SALAD_IMDS_URL"),
        ({"KELPIE_DOCTOR_BUCKET": "nobodys"}, "bucket nobodys, writing", "bucket's name"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "bucket {bucket}, writing", "check AWS_ENDPOINT_URL"),
        (
            {"KELPIE_API_URL": "https://127.0.0.1:9", "REQUESTS_CA_BUNDLE": "/nowhere"},
            "API",
            "/nowhere",
        ),
        ({"AWS_ENDPOINT_URL": "nonsense"}, "settings", "AWS_ENDPOINT_URL"),
        ({"AWS_PROFILE": "nosuch"}, "storage settings", "AWS_PROFILE names the profile nosuch"),
        (
            {"KELPIE_API_URL": "https://127.0.0.1:9", "SSL_CERT_FILE": "/nowhere"},
            "way to the API",
            "SSL_CERT_FILE names /nowhere",
        ),
        ({"HTTP_PROXY": "socks5://p:1"}, "way to the API", "HTTP_PROXY"),
        ({"KELPIE_STATE_FILE": "/proc/kelpie/state.json"}, "disk at /proc", "written"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(
    ask: Ask, bucket: str, change: dict[str, str], subject: str, advice: str
) -> None:
    code, said = ask(**change)
    well, words = said[subject.format(bucket=bucket)]
    assert (code, well) == (1, False) and advice in words


def test_a_key_that_the_api_refuses_is_named(ask: Ask, coordinator: FakeCoordinator) -> None:
    coordinator.admits = lambda call: False
    code, said = ask()
    assert (code, said["API"][0]) == (1, False) and "KELPIE_API_KEY" in said["API"][1]


def test_a_clock_that_is_wrong_is_named(ask: Ask, coordinator: FakeCoordinator) -> None:
    coordinator.date = "Sun, 06 Nov 1994 08:49:37 GMT"
    code, said = ask()
    assert (code, said["clock"][0]) == (1, False)


def test_a_metadata_service_of_another_program_is_named(ask: Ask, tokens: TokenDouble) -> None:
    tokens.instead = page(200)
    code, said = ask()
    assert (code, said["metadata service"][0]) == (1, False)


@pytest.mark.parametrize(
    ("method", "doing", "advice"),
    [("GET", "reading", "let the AWS key read"), ("DELETE", "deleting", "let the AWS key delete")],
)
def test_what_the_key_may_not_do_is_named(
    ask: Ask, s3: S3Server, bucket: str, faulty: FaultyProxy, method: str, doing: str, advice: str
) -> None:
    faulty.break_in_turn(["403"], method, bucket)
    code, said = ask(AWS_ENDPOINT_URL=faulty.url)
    well, words = said[f"bucket {bucket}, {doing}"]
    assert (code, well) == (1, False) and advice in words
    for key in s3.keys(bucket):
        s3.delete(bucket, key)


def test_a_bucket_that_loses_objects_is_named(ask: Ask, bucket: str, faulty: FaultyProxy) -> None:
    faulty.fault = lambda method, path: "truncate" if method == "GET" and "list-type" not in path else None
    code, said = ask(AWS_ENDPOINT_URL=faulty.url)
    assert (code, said[f"bucket {bucket}, reading"][0]) == (1, False)
    assert said[f"bucket {bucket}, deleting"][0]
