"""The API and the bucket are reached in the same way: the same proxies, the same certificate authorities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kelpie_worker import config
from kelpie_worker.config import ConfigError
from kelpie_worker.coordinator.client import Api, Unreachable
from kelpie_worker.s3.client import connect
from kelpie_worker.s3.errors import Misconfigured, StorageUnreachable, translated
from kelpie_worker.system.authorities import UnusableAuthorities, authorities
from tests.doubles.plain_server import PlainServer, make_certificate

AUTHORITIES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*AUTHORITIES, *PROXIES, *map(str.lower, PROXIES)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture
def serve() -> Iterator[Callable[..., PlainServer]]:
    servers: list[PlainServer] = []

    def start(certificate: Path | None = None) -> PlainServer:
        servers.append(PlainServer(certificate))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def api(url: str) -> Api:
    settings = {"KELPIE_API_URL": url, "KELPIE_API_KEY": "key", "SALAD_CONTAINER_GROUP_ID": "group"}
    return Api(config.load(settings))


def list_buckets(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    connect("us-east-1").list_buckets()


@pytest.mark.parametrize("variable", AUTHORITIES[1:])
@pytest.mark.parametrize("as_directory", [False, True])
def test_a_private_authority_is_trusted_by_both(
    serve: Callable[..., PlainServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    as_directory: bool,
) -> None:
    own, authority = make_certificate(tmp_path)
    if as_directory or variable == "SSL_CERT_DIR":
        (tmp_path / "certificates").mkdir()
        authority = authority.rename(tmp_path / "certificates" / "authority.pem").parent
    monkeypatch.setenv(variable, str(authority))
    server = serve(own)

    assert api(server.url).greet().status == 200
    list_buckets(server.url, monkeypatch)
    assert len(server.asked) == 2


def test_without_a_setting_a_private_authority_is_trusted_by_neither(
    serve: Callable[..., PlainServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import SSLError

    own, _ = make_certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "")  # boto3 alone would check no certificate at all
    server = serve(own)
    with pytest.raises(Unreachable, match=r"SSLError \(self-signed certificate\); trusted are Mozilla's"):
        api(server.url).greet()
    with pytest.raises(SSLError):
        list_buckets(server.url, monkeypatch)
    with pytest.raises(StorageUnreachable, match=r"SSLError \(self-signed certificate\); .* AWS_CA_BUNDLE, or"):
        translated(lambda: list_buckets(server.url, monkeypatch), "listing")
    assert server.asked == []


def test_an_authority_for_aws_alone_is_the_buckets(
    serve: Callable[..., PlainServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, authority = make_certificate(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    server = serve(own)
    list_buckets(server.url, monkeypatch)
    with pytest.raises(Unreachable):
        api(server.url).greet()


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, "Mozilla's, which are a part of kelpie"),
        ({"SSL_CERT_FILE": "f"}, "the certificates in f (SSL_CERT_FILE)"),
        ({"SSL_CERT_FILE": "f", "CURL_CA_BUNDLE": "c"}, "the certificates in c (CURL_CA_BUNDLE)"),
        ({"CURL_CA_BUNDLE": "c", "REQUESTS_CA_BUNDLE": "r"}, "the certificates in r (REQUESTS_CA_BUNDLE)"),
        ({"CURL_CA_BUNDLE": "c", "REQUESTS_CA_BUNDLE": ""}, "the certificates in c (CURL_CA_BUNDLE)"),
        (
            {"SSL_CERT_FILE": "f", "SSL_CERT_DIR": "d:e"},
            "the certificates in f and d and e (SSL_CERT_FILE and SSL_CERT_DIR)",
        ),
    ],
)
def test_the_authorities_are_named_with_their_setting(environment: dict[str, str], named: str) -> None:
    assert str(authorities(environment)) == named


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nx"])
def test_authorities_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    file = tmp_path / "authorities.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UnusableAuthorities, match=f"SSL_CERT_FILE names {file}"):
        authorities({"SSL_CERT_FILE": str(file)}).check()
    monkeypatch.setenv("AWS_CA_BUNDLE", str(file))
    with pytest.raises(Misconfigured, match=f"AWS_CA_BUNDLE names {file}"):
        list_buckets("https://127.0.0.1:9", monkeypatch)


@pytest.mark.parametrize(
    ("variables", "through"),
    [
        ({"HTTP_PROXY": "{proxy}"}, True),
        ({"ALL_PROXY": "{proxy}"}, True),
        ({"all_proxy": "{proxy}", "NO_PROXY": "10.0.0.0/8"}, True),
        ({"HTTP_PROXY": "{proxy}", "NO_PROXY": "localhost,127.0.0.0/8"}, False),
        ({"HTTP_PROXY": "{proxy}", "no_proxy": "127.0.0.1"}, False),
        ({"HTTPS_PROXY": "{proxy}"}, False),
    ],
)
def test_both_go_through_the_proxy_or_neither_does(
    serve: Callable[..., PlainServer],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    through: bool,
) -> None:
    server, proxy = serve(), serve()
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(proxy=proxy.url))
    assert api(server.url).greet().status == 200
    list_buckets(server.url, monkeypatch)
    assert proxy.asked == ([f"{server.url}/users/me", f"{server.url}/"] if through else [])
    assert len(server.asked) == (0 if through else 2)


def test_a_proxy_that_cannot_be_used_is_refused_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy:1080")
    with pytest.raises(ConfigError, match="ALL_PROXY must name an http or https proxy"):
        api("http://127.0.0.1:9")
    with pytest.raises(Misconfigured, match="ALL_PROXY must name an http or https proxy"):
        list_buckets("http://127.0.0.1:9", monkeypatch)


def test_a_proxy_that_does_not_answer_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:9")
    with pytest.raises(Unreachable, match=r"^ProxyError at the proxy 127\.0\.0\.1:9 \(HTTP_PROXY\)$"):
        api("http://127.0.0.1:1").greet()
