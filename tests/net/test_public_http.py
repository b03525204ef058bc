"""Where webhooks may go: public addresses, and the very address that was checked
(docs/design/protocol.md, Webhooks)."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kelpie_api.db import Database
from kelpie_api.encryption import Seal
from kelpie_api.errors import NoAnswer
from kelpie_api.net.public_addresses import is_public
from kelpie_api.net.public_http import PublicHttp, Target
from kelpie_api.webhooks.sender import Sender
from kelpie_version import VERSION
from tests.conftest import SECRET_KEY
from tests.doubles.receiver import Receiver, listening, outbox, send_round
from tests.helpers import Client

# Spellings of addresses that are not public, as the host of a URL; the resolver of this machine reads them.
PRIVATE = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "0",
    "0.0.0.0",
    "localhost",
    "LOCALHOST",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
    "[fe80::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "[fec0::1]",
    "[ff02::1]",
    "[100::1]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[5f00::1]",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "100.128.0.1",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]


def v4(address: str, port: int) -> Target:
    return socket.AF_INET, (address, port)


class Resolver:
    """Gives the answers set by the test, one for each look-up; the last one for all further ones."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[Target]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET6, (a, port, 0, 0)) if ":" in a else v4(a, port) for a in answer]


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Records every address that is connected to; every connection fails."""
    found: list[Any] = []

    def connect(self: socket.socket, address: Any) -> None:
        found.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket.socket, "connect", connect)
    return found


@pytest.mark.parametrize("host", PRIVATE)
def test_no_spelling_of_a_private_address_is_dialled(dialled: list[Any], host: str) -> None:
    with pytest.raises(NoAnswer, match="not public"):
        PublicHttp().post(f"http://{host}:8080/hook", {}, b"{}")
    assert dialled == []


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_dialled(dialled: list[Any], address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(NoAnswer, match="Connection refused"):
        PublicHttp().post(f"http://{host}:8080/hook", {}, b"{}")
    assert [where[:2] for where in dialled] == [(address, 8080)]


@pytest.mark.parametrize("address", [*PUBLIC, "2001:4860:4860::8888", "2002:808:808::1"])
def test_what_is_public_is_called_so(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("text", ["", "nonsense", "127.1", "fe80::1%eth0", "2606:4700::1111%eth0", "1.1.1.1.1"])
def test_what_is_no_plain_address_is_not_public(text: str) -> None:
    assert not is_public(text)


@pytest.mark.parametrize("host", ["receiver.example", "localhost.", "a.b.c."])
@pytest.mark.parametrize(
    "answer", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["fd00::1", "8.8.8.8"], ["::ffff:10.0.0.1"], ["0.0.0.0"]]
)
def test_a_name_is_refused_if_any_of_its_addresses_is_private(
    dialled: list[Any], host: str, answer: list[str]
) -> None:
    with pytest.raises(NoAnswer, match="not public"):
        PublicHttp(resolver=Resolver(answer)).post(f"http://{host}/", {}, b"{}")
    assert dialled == []


def test_a_public_address_with_a_scope_is_refused(dialled: list[Any]) -> None:
    scoped = [(socket.AF_INET6, ("2606:4700::1111", 80, 0, 2))]
    with pytest.raises(NoAnswer, match="not public"):
        PublicHttp(resolver=lambda host, port: scoped).post("http://receiver.example/", {}, b"{}")
    assert dialled == []


def test_a_name_that_turns_private_after_the_check_is_not_followed(dialled: list[Any]) -> None:
    resolver = Resolver(["8.8.8.8"], ["127.0.0.1"])
    with pytest.raises(NoAnswer):
        PublicHttp(resolver=resolver).post("http://rebinding.example/", {}, b"{}")
    assert dialled == [("8.8.8.8", 80)]
    assert resolver.asked == ["rebinding.example"]


def test_all_addresses_of_a_name_are_tried(receiver: Receiver) -> None:
    port = int(receiver.url.split(":")[2].strip("/"))
    closed = v4("127.0.0.1", 1)
    public_http = PublicHttp(True, resolver=lambda host, _: [closed, v4("127.0.0.1", port)])
    assert public_http.post("http://two-addresses.example/", {}, b"{}") == 200


def test_the_operator_may_allow_private_addresses(receiver: Receiver) -> None:
    assert PublicHttp(allow_private=True).post(receiver.url, {}, b"{}") == 200


def test_the_refusal_is_a_failed_try_that_says_what_to_do(api: Client, db: Database, receiver: Receiver) -> None:
    api.submit(webhook=receiver.url)
    api.claim()
    send_round(Sender(db, Seal(SECRET_KEY), PublicHttp()))
    [webhook] = outbox(db)
    assert receiver.got == []
    assert "KELPIE_WEBHOOK_ALLOW_PRIVATE" in webhook["last_error"] and webhook["next_try"]


def test_the_request_is_the_urls_and_a_proxy_is_not_asked(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    port = int(receiver.url.split(":")[2].strip("/"))
    public_http = PublicHttp(True, resolver=Resolver(["127.0.0.1"]))
    url = f"http://me:p%40ss@receiver.example:{port}/a%20b/ü?q=1&r=ä#fragment"
    assert public_http.post(url, {"User-Agent": f"kelpie/{VERSION}"}, b'{"a": 1}') == 200
    [got] = receiver.got
    assert got["headers"]["host"] == f"receiver.example:{port}"
    assert got["headers"][":path"] == "/a%20b/%C3%BC?q=1&r=%C3%A4"
    assert got["headers"]["authorization"] == "Basic bWU6cEBzcw=="
    assert got["bytes"] == b'{"a": 1}'


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.answers = [302]
    assert PublicHttp(True).post(receiver.url, {}, b"{}") == 302
    assert len(receiver.got) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"HTTP/1.0 200\n", 200),
        (b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 201 Created\r\n\r\n", 201),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000, 200),
        (b"", "closed the connection"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "closed the connection"),
        (b"HTTP/1.1 100 Continue\r\n" + b"X: y\r\n" * 20_000, "closed the connection"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP"),
        (b"HTTP/1.1 9 OK\r\n", "not HTTP"),
        (b"HTTP/2 200\r\n", "not HTTP"),
        (b"\r\n", "not HTTP"),
    ],
)
def test_of_an_answer_the_status_is_read(answer: bytes, said: int | str) -> None:
    def converse(line: socket.socket) -> None:
        line.recv(65536)
        line.sendall(answer)

    with listening(converse) as port:
        if isinstance(said, int):
            assert PublicHttp(True).post(f"http://127.0.0.1:{port}/", {}, b"{}") == said
        else:
            with pytest.raises(NoAnswer, match=said):
                PublicHttp(True).post(f"http://127.0.0.1:{port}/", {}, b"{}")


def drip(line: socket.socket, over: threading.Event, head: bytes) -> None:
    """One byte at a time, always in time for a time-out that counts from the last one."""
    line.recv(65536)
    line.sendall(head)
    try:
        while not over.wait(0.05):
            line.sendall(b"1")
    except OSError:
        pass


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 1", b"HTTP/1.1 100 Continue\r\nX: "])
def test_a_dripping_answer_ends_with_the_time_for_all(head: bytes) -> None:
    over = threading.Event()
    with listening(lambda line: drip(line, over, head)) as port:
        with pytest.raises(NoAnswer, match="in time"):
            PublicHttp(True, in_all=0.5).post(f"http://127.0.0.1:{port}/", {}, b"{}")
        over.set()


def test_a_body_without_end_does_not_hold_the_sender() -> None:
    over = threading.Event()
    with listening(lambda line: drip(line, over, b"HTTP/1.1 200 OK\r\n\r\n")) as port:
        assert PublicHttp(True).post(f"http://127.0.0.1:{port}/", {}, b"{}") == 200
        assert not over.is_set()
        over.set()


def test_a_receiver_that_accepts_and_says_nothing_is_given_up() -> None:
    over = threading.Event()
    with listening(lambda line: bool(over.wait(60))) as port:
        with pytest.raises(NoAnswer, match="in time"):
            PublicHttp(True, in_all=0.3).post(f"https://127.0.0.1:{port}/", {}, b"{}")
        over.set()


@pytest.mark.parametrize("header", ["a\r\nX-Evil: 1", "a\nb", "ÿ\u0100"])
def test_a_header_that_is_none_is_no_accident(receiver: Receiver, header: str) -> None:
    with pytest.raises(NoAnswer, match="cannot be called"):
        PublicHttp(True).post(receiver.url, {"X-Kelpie-Key": header}, b"{}")
    assert receiver.got == []


class TestTLS:
    """The connection goes to the address that was checked; the server there must prove its name."""

    @pytest.fixture
    def authority(self, tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """What a server of `receiver.example` and a client that trusts it have."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver.example")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.DNSName("receiver.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
                ),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        pem = tmp_path / "server.pem"
        pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(pem)
        return server, ssl.create_default_context(cadata=pem.read_text().split("-----END PRIVATE KEY-----\n")[1])

    def test_the_name_is_asked_for_and_its_certificate_checked(
        self, authority: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        server, client = authority
        asked: list[str | None] = []
        server.sni_callback = lambda sock, name, context: asked.append(name)
        heard: list[bytes] = []

        def converse(line: socket.socket) -> None:
            try:
                with server.wrap_socket(line, server_side=True) as secure:
                    heard.append(secure.recv(65536))
                    secure.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            except OSError:
                pass

        with listening(converse) as port:

            def post(host: str, **parts: Any) -> int:
                return PublicHttp(True, resolver=Resolver(["127.0.0.1"]), **parts).post(
                    f"https://{host}:{port}/", {}, b"{}"
                )

            assert post("receiver.example", tls=client) == 200
            assert asked == ["receiver.example"]
            assert f"Host: receiver.example:{port}\r\n".encode() in heard[0]
            for host, parts in (("other.example", {"tls": client}), ("receiver.example", {})):
                with pytest.raises(NoAnswer, match="not trusted"):
                    post(host, **parts)
            assert len(heard) == 1
