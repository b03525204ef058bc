"""Where settings of the storage come from: variables, profiles and a program of the user's."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from kelpie_worker.s3 import credential_process
from kelpie_worker.s3.client import connect
from kelpie_worker.s3.errors import Misconfigured, StorageUnreachable, translated
from kelpie_worker.s3.probe import settings as described
from kelpie_worker.s3.settings import StorageSettings

KEY = "aws_access_key_id = a\naws_secret_access_key = b\n"
R2 = "endpoint_url = https://r2.example\n"
DEFAULT = "the default for an endpoint that is named"
Files = Callable[..., tuple[Path, Path]]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_CA_BUNDLE", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Writes the two files of the AWS programs, at their usual place."""

    def write(config: str = "", credentials: str = "") -> tuple[Path, Path]:
        folder = tmp_path / ".aws"
        folder.mkdir(exist_ok=True)
        places = folder / "config", folder / "credentials"
        for place, content in zip(places, (config, credentials), strict=True):
            place.write_text(content)
        return places

    return write


@pytest.mark.parametrize(
    ("config", "credentials", "environment", "endpoint", "checksums"),
    [
        ("", "", {}, None, ("when_supported", "the default for AWS")),
        ("", "", {"AWS_ENDPOINT_URL": "http://x"}, ("http://x", "AWS_ENDPOINT_URL"), ("when_required", DEFAULT)),
        (
            R2,
            "",
            {"AWS_ENDPOINT_URL_S3": "http://y", "AWS_ENDPOINT_URL": "http://x"},
            ("http://y", "AWS_ENDPOINT_URL_S3"),
            ("when_required", DEFAULT),
        ),
        (R2, "", {}, ("https://r2.example", "the profile default in {config}"), ("when_required", DEFAULT)),
        ("", R2, {}, ("https://r2.example", "the profile default in {credentials}"), ("when_required", DEFAULT)),
        (
            f"services = s\n{R2}[services s]\ns3 =\n  endpoint_url = http://z\n",
            "",
            {},
            ("http://z", "the profile default in {config}"),
            ("when_required", DEFAULT),
        ),
        (f"ignore_configured_endpoint_urls = true\n{R2}", "", {}, None, ("when_supported", "the default for AWS")),
        (R2, "", {"AWS_ENDPOINT_URL": "", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, None, None),
        (
            f"request_checksum_calculation = when_supported\n{R2}",
            "",
            {},
            ("https://r2.example", "the profile default in {config}"),
            ("when_supported", "the profile default in {config}"),
        ),
        (
            "request_checksum_calculation = when_supported\n",
            "",
            {"AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED"},
            None,
            ("when_required", "AWS_REQUEST_CHECKSUM_CALCULATION"),
        ),
    ],
)
def test_what_the_user_set_anywhere_holds_and_its_place_is_known(
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    config: str,
    credentials: str,
    environment: dict[str, str],
    endpoint: tuple[str, str] | None,
    checksums: tuple[str, str] | None,
) -> None:
    places = files(f"[default]\n{config}", f"[default]\n{KEY}{credentials}")
    named = dict(zip(("config", "credentials"), map(str, places), strict=True))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = StorageSettings("eu-west-3")
    where = found.endpoint and (found.endpoint.value, found.endpoint.source)
    assert where == (endpoint and (endpoint[0], endpoint[1].format(**named)))
    if checksums:
        calculation = found.checksums["request_checksum_calculation"]
        assert (calculation.value, calculation.source) == (checksums[0], checksums[1].format(**named))
    client = connect("eu-west-3")
    assert client.meta.endpoint_url == (endpoint[0] if endpoint else "https://s3.eu-west-3.amazonaws.com")
    used = client.meta.config
    assert used.request_checksum_calculation == found.checksums["request_checksum_calculation"].value  # type: ignore[attr-defined]
    assert used.response_checksum_validation == found.checksums["response_checksum_validation"].value  # type: ignore[attr-defined]


def test_region_and_addressing_come_from_the_profile(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = files(f"[profile r2]\nregion = auto\n{KEY}{R2}s3 =\n  addressing_style = virtual\n")
    monkeypatch.setenv("AWS_PROFILE", "r2")
    client = connect(None)
    assert client.meta.region_name == "auto"
    assert client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"}).startswith(
        "https://bucket.r2.example/k?"
    )
    assert f"region auto (the profile r2 in {config})" in described(None)


def test_the_region_of_the_worker_holds_for_the_services_that_credentials_are_asked_of(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(f"[default]\n{KEY}")
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    found = StorageSettings("eu-west-3")
    assert found.session.create_client("sts").meta.region_name == "eu-west-3"
    assert str(found.region) == "eu-west-3 (AWS_REGION)"


def test_an_attempt_is_one_request_whatever_the_retry_settings_say(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(f"[default]\nretry_mode = adaptive\nmax_attempts = 7\n{KEY}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "9")
    assert connect("us-east-1").meta.config.retries["total_max_attempts"] == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("config", "environment", "sentence"),
    [
        (KEY, {"AWS_PROFILE": "r3"}, "AWS_PROFILE names the profile r3, which is neither in {config} nor in"),
        (KEY, {"AWS_DEFAULT_PROFILE": "r3"}, "AWS_DEFAULT_PROFILE names the profile r3, which is neither in"),
        ("nonsense", {}, "Unable to parse config file: {config}"),
        (
            f"{KEY}endpoint_url = r2.example\n",
            {},
            "the endpoint of the profile default in {config} must begin",
        ),
        (f"{KEY}services = s\n", {}, '"s" services configuration does not exist'),
        (f"{KEY}request_checksum_calculation = never\n", {}, "request_checksum_calculation"),
        (f"{KEY}retry_mode = never\n", {}, 'Invalid value provided to "mode": "never"'),
        ("", {}, "there is no key: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("", {"AWS_SHARED_CREDENTIALS_FILE": "/none"}, "AWS_SHARED_CREDENTIALS_FILE names /none, which does not"),
        ("", {"AWS_CONFIG_FILE": "/"}, "/ cannot be read; let this user read it, or set AWS_CONFIG_FILE"),
        (
            f"{KEY}ca_bundle = /none.pem\n",
            {},
            "ca_bundle of the profile default in {config} names /none.pem",
        ),
        ("credential_process = /none/creds --now\n", {}, "/none/creds cannot be started: No such file"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_place(
    files: Files, monkeypatch: pytest.MonkeyPatch, config: str, environment: dict[str, str], sentence: str
) -> None:
    place, _ = files(f"[default]\n{config}" if config != "nonsense" else config)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured) as refused:
        connect("us-east-1")
    assert str(refused.value).startswith("the AWS_* variables cannot be used: ")
    assert sentence.format(config=place) in str(refused.value)


def test_a_file_that_may_not_be_read_is_not_taken_for_an_empty_one(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = files(R2, f"[default]\n{KEY}")
    monkeypatch.setattr("os.access", lambda place, mode: Path(place) != config)
    with pytest.raises(Misconfigured, match=f"{config} cannot be read"):
        connect("us-east-1")


def credential_program(folder: Path, script: str) -> str:
    program = folder / "creds"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(stat.S_IRWXU)
    return f"[default]\ncredential_process = {program}\n"


def test_a_credential_process_gives_the_key(files: Files, tmp_path: Path) -> None:
    said = '{"Version": 1, "AccessKeyId": "key", "SecretAccessKey": "secret"}'
    files(credential_program(tmp_path, f"cat; echo '{said}'"))  # its input is at its end at once
    assert "the key's place is custom-process" in described("us-east-1")


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("exec sleep 1000", "creds did not end within 0.2 s"),
        ("sleep 1000 & wait", "creds did not end within 0.2 s"),
        ("echo hello", "creds printed no JSON object"),
        ("echo '[1]'", "creds printed no JSON object"),
        ("printf '\\377\\n' >&2; echo denied >&2; exit 3", "denied"),
        ("echo '{\"Version\": 1}'", "AccessKeyId"),
    ],
)
def test_a_credential_process_that_gives_none_is_the_machines_fault_and_ends(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, sentence: str
) -> None:
    if "sleep" in script:
        monkeypatch.setattr(credential_process, "LONGEST", 0.2)
    role = "[profile role]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = default\n"
    files(credential_program(tmp_path, script) + role)
    for profile in ("default", "role"):
        monkeypatch.setenv("AWS_PROFILE", profile)
        with pytest.raises(Misconfigured, match=sentence):
            connect("us-east-1")


def test_a_key_that_cannot_be_renewed_is_no_error_of_the_jobs_files(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3 reads the token's file while it signs the first request."""
    files()
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/none/token")
    client = connect("eu-west-3")
    with pytest.raises(Misconfigured, match=r"assume-role-with-web-identity.*/none/token"):
        translated(client.list_buckets, "listing")


STS_ERROR = "<ErrorResponse><Error><Type>Sender</Type><Code>{}</Code></Error></ErrorResponse>"


class Refusing(HTTPServer):
    """A service that gives keys, and refuses every request in the same words."""

    status, code = 403, "AccessDenied"


class Refusal(BaseHTTPRequestHandler):
    server: Refusing

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = STS_ERROR.format(self.server.code).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusing]:
    with Refusing(("127.0.0.1", 0), Refusal) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", Misconfigured),
        (400, "ExpiredTokenException", Misconfigured),
        (400, "IDPCommunicationError", StorageUnreachable),
        (429, "SomethingElse", StorageUnreachable),
        (503, "ServiceUnavailable", StorageUnreachable),
    ],
)
def test_what_sts_refuses_is_no_refusal_of_the_bucket(
    files: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sts: Refusing,
    status: int,
    code: str,
    kind: type[Exception],
) -> None:
    files()
    (tmp_path / "token").write_text("a token")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    sts.status, sts.code = status, code
    client = connect("eu-west-3")
    with pytest.raises(kind, match=f"assume-role-with-web-identity.*{code}"):
        translated(client.list_buckets, "listing")


def test_a_token_that_is_none_is_the_machines_fault(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3 refuses one of fewer than four characters itself."""
    files()
    (tmp_path / "token").write_text("x")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    client = connect("eu-west-3")
    with pytest.raises(Misconfigured, match="WebIdentityToken"):
        translated(client.list_buckets, "listing")


def test_a_key_that_had_expired_when_it_was_handed_out_is_the_machines_fault(files: Files, tmp_path: Path) -> None:
    said = '{"Version": 1, "AccessKeyId": "k", "SecretAccessKey": "s", "Expiration": "2020-01-01T00:00:00Z"}'
    files(credential_program(tmp_path, f"echo '{said}'"))
    client = connect("eu-west-3")
    with pytest.raises(Misconfigured, match=r"custom-process.*expired"):
        translated(client.list_buckets, "listing")
