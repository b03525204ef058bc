"""Which proxy a request goes through, by the variables that name one."""

from __future__ import annotations

import pytest

from kelpie_worker.system.proxies import Proxy, UnusableProxy, is_excepted, proxy_for, reached

BOTH = {"HTTP_PROXY": "http://plain:1", "HTTPS_PROXY": "http://tls:2"}


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("http://bucket/", {}, None),
        ("http://bucket/", BOTH, ("http://plain:1", "HTTP_PROXY")),
        ("https://bucket/", BOTH, ("http://tls:2", "HTTPS_PROXY")),
        ("https://bucket/", {"HTTP_PROXY": "http://plain:1"}, None),
        ("https://bucket/", {"ALL_PROXY": "http://all:3"}, ("http://all:3", "ALL_PROXY")),
        ("https://bucket/", {**BOTH, "all_proxy": "http://all:3"}, ("http://tls:2", "HTTPS_PROXY")),
        ("https://bucket/", {**BOTH, "https_proxy": "http://low:4"}, ("http://low:4", "https_proxy")),
        ("https://bucket/", {**BOTH, "https_proxy": ""}, None),
        ("http://bucket/", {"http_proxy": "plain:1"}, ("http://plain:1", "http_proxy")),
        ("http://bucket/", {"http_proxy": "//plain:1"}, ("http://plain:1", "http_proxy")),
        ("http://10.1.2.3:9000", {**BOTH, "NO_PROXY": "10.0.0.0/8"}, None),
        ("http://11.1.2.3:9000", {**BOTH, "NO_PROXY": "10.0.0.0/8"}, ("http://plain:1", "HTTP_PROXY")),
        ("http://10.1.2.3", {**BOTH, "NO_PROXY": "10.0.0.0/8", "no_proxy": "x"}, ("http://plain:1", "HTTP_PROXY")),
        ("http://bucket/", {"HTTP_PROXY": "socks5://x:1", "NO_PROXY": "bucket"}, None),
    ],
)
def test_a_request_goes_through_the_proxy_that_the_variables_name(
    url: str, environment: dict[str, str], proxy: tuple[str, str] | None
) -> None:
    assert proxy_for(url, environment) == (Proxy(*proxy) if proxy else None)


@pytest.mark.parametrize(
    ("host", "port", "exceptions", "excepted"),
    [
        ("minio", 9000, "", False),
        ("minio", 9000, "*", True),
        ("minio", 9000, "other, minio", True),
        ("minio", 9000, "other minio", True),
        ("MINIO", 9000, "minio", True),
        ("minio", 9000, "minio:9000", True),
        ("minio", 9000, "minio:9001", False),
        ("minio", None, "minio:9000", False),
        ("a.example.com", 443, "example.com", True),
        ("a.example.com", 443, ".example.com", True),
        ("a.example.com", 443, "*.example.com:443", True),
        ("aexample.com", 443, "example.com", False),
        ("10.1.2.3", 9000, "10.1.2.3", True),
        ("10.1.2.3", 9000, "10.1.2.3:9000", True),
        ("10.1.2.3", 9000, "2.3", False),
        ("10.1.2.3", 9000, "localhost,10.0.0.0/8,.svc", True),
        ("10.1.2.3", 9000, "10.1.2.0/255.255.255.0", True),
        ("10.1.2.3", 9000, "10.1.2.7/24", True),
        ("10.1.2.3", 9000, "192.168.0.0/16", False),
        ("10.1.2.3", 9000, "10.0.0.0/99, /", False),
        ("ten", 9000, "10.0.0.0/8", False),
        ("fd00::1", 9000, "fd00::/8", True),
        ("fd00::1", 9000, "[fd00::]/8", True),
        ("fd00::1", 9000, "fd00:0::1", True),
        ("fd00::1", 9000, "[fd00::1]:9000", True),
        ("fd00::1", 9000, "[fd00::1]:1", False),
        ("::ffff:10.1.2.3", 9000, "10.0.0.0/8", True),
        ("10.1.2.3", 9000, "fd00::/8", False),
        ("minio", 9000, "[, ], :, minio:port", False),
    ],
)
def test_no_proxy_excepts_names_domains_addresses_and_networks(
    host: str, port: int | None, exceptions: str, excepted: bool
) -> None:
    assert is_excepted(host, port, exceptions) is excepted


@pytest.mark.parametrize(
    "value", ["socks5://proxy:1080", "http://", "http://proxy:port", "http://[x", "http://p:0"]
)
def test_a_proxy_that_no_request_can_go_through_is_named_by_its_variable(value: str) -> None:
    with pytest.raises(UnusableProxy, match=r"^HTTPS_PROXY must name"):
        proxy_for("https://bucket/", {"HTTPS_PROXY": value})


def test_the_password_of_a_proxy_is_never_shown() -> None:
    proxy = proxy_for("https://bucket/", {"HTTPS_PROXY": "http://me:secret@proxy:3128"})
    assert "secret" not in f"{proxy} {proxy!r}"
    assert reached("https://bucket/", proxy, "Mozilla's") == (
        "reached through the proxy proxy:3128 (HTTPS_PROXY), its certificate checked against Mozilla's"
    )
    assert reached("http://bucket/", None, "Mozilla's") == "reached directly"
