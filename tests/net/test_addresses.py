"""One spelling for each host, and which addresses are the coordinator's own."""

from __future__ import annotations

import socket

import pytest

from kelpie_api.errors import NoAnswer
from kelpie_api.net.addresses import OwnAddresses, is_url, place_of, spelled
from kelpie_api.net.http import Target
from kelpie_api.net.public_http import PublicHttp

# Encoding it for a name server would take minutes.
LONG_AND_VARIED = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))
SPELLINGS = [
    ("Example.COM", "example.com"),
    ("example.com.", "example.com"),
    ("ｅxample。com", "example.com"),
    ("bücher.example", "xn--bcher-kva.example"),
    ("192.0.2.1", "192.0.2.1"),
    ("3221225985", "192.0.2.1"),
    ("0xC0000201", "192.0.2.1"),
    ("0300.0.2.1", "192.0.2.1"),
    ("192.0.513", "192.0.2.1"),
    ("::ffff:192.0.2.1", "192.0.2.1"),
    ("64:ff9b::c000:201", "192.0.2.1"),
    ("2001:DB8:0:0::1", "2001:db8::1"),
    ("localhost", "localhost"),
    ("api.localhost.", "localhost"),
    ("127.9.9.9", "localhost"),
    ("0", "localhost"),
    ("::1", "localhost"),
    ("::", "localhost"),
    ("1.2.3.4.5", "1.2.3.4.5"),
    ("0x", "0x"),
    ("4294967296", "4294967296"),
    ("x" * 64 + ".example", "x" * 64 + ".example"),
    (LONG_AND_VARIED, LONG_AND_VARIED),
]


@pytest.mark.parametrize(("host", "plain"), SPELLINGS, ids=range(len(SPELLINGS)))
def test_a_host_has_one_spelling(host: str, plain: str) -> None:
    assert spelled(host) == plain


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://example.com", ("example.com", 443)),
        ("http://example.com/a?b#c", ("example.com", 80)),
        ("https://user:word@EXAMPLE.com.:0443/", ("example.com", 443)),
        ("https://example.com:/", ("example.com", 443)),
        ("http://[::FFFF:192.0.2.1]:8080/", ("192.0.2.1", 8080)),
    ],
)
def test_a_url_leads_to_a_host_and_a_port(url: str, place: tuple[str, int]) -> None:
    assert place_of(url) == place


@pytest.mark.parametrize(
    "text", ["", "http://", "http:///x", "ftp://a", "http://a:0", "http://a:b", "http://[a", "http://" + "a" * 254]
)
def test_what_no_client_could_open_is_no_url(text: str) -> None:
    assert not is_url(text)


OWN = OwnAddresses(["https://kelpie.example.com", "http://203.0.113.5:8080"])


@pytest.mark.parametrize(
    "url",
    [
        "https://kelpie.example.com/jobs/1/failed",
        "https://KELPIE.example.com.:443/",
        "https://someone@kelpie.example.com/",
        "http://kelpie.example.com/",
        "http://kelpie.example.com:443",
        "http://203.0.113.5:8080/",
        "http://0xcb007105:8080/",
        "https://[::ffff:203.0.113.5]:8080/",
    ],
)
def test_a_url_that_names_an_own_address_is_known(url: str) -> None:
    assert OWN.named_by(url)


@pytest.mark.parametrize(
    "url",
    ["https://example.com/", "https://x.kelpie.example.com/", "https://kelpie.example.com:8443/",
     "http://203.0.113.5/", "http://203.0.113.5:8081/"],
)  # fmt: skip
def test_another_host_or_port_is_no_own_address(url: str) -> None:
    assert not OWN.named_by(url)


class Names:
    """A name server."""

    def __init__(self, **addresses: str) -> None:
        self.addresses = {name.replace("_", "."): address for name, address in addresses.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[Target]:
        self.asked.append(host)
        if host not in self.addresses:
            raise socket.gaierror("not known")
        return [(socket.AF_INET, (self.addresses[host], port))]


def test_another_name_of_an_own_address_is_refused_at_the_delivery() -> None:
    names = Names(kelpie_example="8.8.8.8", alias_example="8.8.8.8")
    public_http = PublicHttp(resolver=names, own=OwnAddresses(["https://kelpie.example"], names))
    for url in ("https://alias.example/jobs", "http://alias.example/", "https://kelpie.example./"):
        with pytest.raises(NoAnswer, match="coordinator's own"):
            public_http.post(url, {}, b"{}")
    assert names.asked.count("kelpie.example") == 2, "for each of its two ports, once for all deliveries"


def test_another_port_of_an_own_address_and_another_address_are_not() -> None:
    names = Names(kelpie_example="8.8.8.8")
    own = OwnAddresses(["https://kelpie.example"], names)
    assert not own.reached_at([(socket.AF_INET, ("8.8.8.8", 8443))])
    assert not own.reached_at([(socket.AF_INET, ("8.8.4.4", 443))])
    assert own.reached_at([(socket.AF_INET, ("8.8.4.4", 443)), (socket.AF_INET6, ("::ffff:8.8.8.8", 443, 0, 0))])


def test_where_the_own_name_is_unknown_to_the_name_server_deliveries_go_on() -> None:
    own = OwnAddresses(["https://kelpie.example"], Names())
    assert not own.reached_at([(socket.AF_INET, ("8.8.8.8", 443))])
