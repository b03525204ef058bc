"""What is no proper HTTP, sent to the server as it is shipped: refused in JSON, by whichever part of it."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from kelpie_api.db import Database
from local_stack.client import ApiClient
from local_stack.processes import CHECKOUT, Child, free_port, scratch_folder, wait_until_ready
from tests.conftest import ADMIN_KEY, SECRET_KEY
from tests.helpers import definition, rows_of_jobs

BODY = json.dumps(definition()).encode()
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@dataclass
class Server:
    port: int

    def send(self, message: bytes) -> bytes:
        """The whole answer to these bytes, after which nothing more is sent."""
        with socket.create_connection(("127.0.0.1", self.port), 30) as line:
            line.sendall(message)
            line.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: line.recv(65536), b""))

    def request(self, start: bytes, headers: bytes = b"", body: bytes = b"") -> tuple[int, dict[str, Any]]:
        """Status and JSON of the answer to a request."""
        common = b"Host: kelpie\r\nConnection: close\r\nX-Kelpie-Key: " + ADMIN_KEY.encode() + b"\r\n"
        head, _, answer = self.send(start + b"\r\n" + common + headers + b"\r\n" + body).partition(b"\r\n\r\n")
        assert b"\r\ncontent-type: application/json\r\n" in head.lower() + b"\r\n", head
        return int(head.split()[1]), json.loads(answer)

    def submit(self, headers: bytes, body: bytes) -> tuple[int, dict[str, Any]]:
        return self.request(b"POST /jobs HTTP/1.1", headers, body)


@pytest.fixture(scope="module")
def server(migrated_url: str) -> Iterator[Server]:
    port = free_port()
    env = {
        "DATABASE_URL": migrated_url,
        "KELPIE_SECRET_KEY": SECRET_KEY,
        "KELPIE_ADMIN_KEY": ADMIN_KEY,
        "KELPIE_BIND": f"127.0.0.1:{port}",
        "WEB_CONCURRENCY": "1",
        "PYTHONPATH": str(CHECKOUT),
    }
    with scratch_folder() as folder:
        command = [sys.executable, "-m", "gunicorn", f"--config={CHECKOUT / 'gunicorn.conf.py'}", "wsgi:app"]
        child = Child("api", command, folder=folder, env=env)
        try:
            wait_until_ready(child, ApiClient(f"http://127.0.0.1:{port}", "").is_ready)
            yield Server(port)
        finally:
            child.kill()


def chunk(size: bytes, text: bytes = BODY, end: bytes = b"\r\n0\r\n\r\n") -> bytes:
    return size + b"\r\n" + text + end


SIZE = b"%x" % len(BODY)
UNREADABLE = {
    "a size that is none": (CHUNKED, chunk(b"zz")),
    "a negative size": (CHUNKED, chunk(b"-5")),
    "a size beyond everything": (CHUNKED, chunk(b"f" * 20)),
    "a size that is too small": (CHUNKED, chunk(b"5")),
    "a size that is too large": (CHUNKED, chunk(b"ff")),
    "no end of a chunk": (CHUNKED, chunk(SIZE, end=b"")),
    "no last chunk": (CHUNKED, chunk(SIZE, end=b"\r\n")),
    "less than its length": (b"Content-Length: 9999\r\n", BODY),
    "a negative length": (b"Content-Length: -1\r\n", BODY),
    "a length that is none": (b"Content-Length: x\r\n", BODY),
    "two lengths": (b"Content-Length: 5\r\nContent-Length: 6\r\n", BODY),
    "a length and chunks": (CHUNKED + LENGTH, chunk(SIZE)),
    "a header without a name": (LENGTH + b": x\r\n", BODY),
    "a key of odd bytes": (LENGTH + b"Idempotency-Key: \xff\xfe\r\n", BODY),
}


@pytest.mark.parametrize(("headers", "body"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_cannot_be_read_is_a_400_and_creates_nothing(
    server: Server, db: Database, headers: bytes, body: bytes
) -> None:
    status, said = server.submit(headers, body)
    assert status == 400, said
    assert said["error"] and said["message"] and "errors" in said
    assert rows_of_jobs(db)["jobs"] == []


def test_what_can_be_read_creates_a_job(server: Server, db: Database) -> None:
    assert server.submit(LENGTH, BODY)[0] == 202
    assert server.submit(CHUNKED, chunk(SIZE))[0] == 202
    assert len(rows_of_jobs(db)["jobs"]) == 2


@pytest.mark.parametrize(
    ("start", "headers", "status"),
    [
        (b"NONSENSE", b"", 400),
        (b"GET /jobs HTTP/9.9", b"", 400),
        (b"GET /jobs?a=\xff HTTP/1.1", b"", 400),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1", b"", 414),
        (b"GET /jobs HTTP/1.1", b"X: " + b"a" * 40_000 + b"\r\n", 431),
        (b"GET /jobs HTTP/1.1", b"".join(b"X%d: a\r\n" % number for number in range(200)), 431),
        (b"BREW /jobs HTTP/1.1", b"", 405),
        (b"TRACE /jobs HTTP/1.1", b"", 405),
        (b"OPTIONS * HTTP/1.1", b"", 404),
    ],
)
def test_a_request_that_is_none_is_refused_in_json(
    server: Server, start: bytes, headers: bytes, status: int
) -> None:
    answered, said = server.request(start, headers)
    assert answered == status
    assert said["error"] and said["message"]


@pytest.mark.parametrize("header", [b"SCRIPT_NAME: /users", b"PATH_INFO: /metrics"])
def test_no_client_decides_at_which_path_the_api_is(server: Server, header: bytes) -> None:
    """gunicorn trusts the headers of a proxy on this machine, and so of the clients that it lets through."""
    status, said = server.request(b"GET /users/me HTTP/1.1", header + b"\r\n")
    assert status in {200, 400}
    assert "username" in said or "error" in said
