"""What the proxy itself says has the shape of the API's errors."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import requests

from local_stack.processes import wait_for
from tests.containers.caller import Caller
from tests.containers.compose import Compose

HEAD = b"GET /healthz HTTP/1.1\r\nHost: kelpie\r\n"
REFUSED = {
    "no HTTP": (b"KELP\r\n\r\n", 400),
    "another HTTP": (b"GET /healthz HTTP/2.0\r\nHost: kelpie\r\n\r\n", 400),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "a bad length": (HEAD + b"Content-Length: many\r\n\r\n", 400),
    "a long line": (HEAD + b"X-Long: " + b"a" * 9000 + b"\r\n\r\n", 400),
    "a long address": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: kelpie\r\n\r\n", 414),
    "a raw byte": (b"GET /\xff HTTP/1.1\r\nHost: kelpie\r\n\r\n", 400),
    "a tunnel": (b"CONNECT kelpie:443 HTTP/1.1\r\nHost: kelpie\r\n\r\n", 400),
    "TRACE": (b"TRACE /healthz HTTP/1.1\r\nHost: kelpie\r\n\r\n", 405),
    "an unknown encoding": (b"POST /jobs HTTP/1.1\r\nHost: kelpie\r\nTransfer-Encoding: x\r\n\r\n", 405),
    "too long a body": (b"POST /jobs HTTP/1.1\r\nHost: kelpie\r\nContent-Length: 99000000\r\n\r\n", 413),
}


def told(stack: Compose, request: bytes) -> tuple[int, Any]:
    """The status and the JSON that a raw request is answered with."""
    with socket.create_connection(("127.0.0.1", stack.port), timeout=30) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as answer:
            status = int(answer.readline().split()[1])
            headers = dict(
                line.decode().rstrip().lower().split(": ", 1) for line in iter(answer.readline, b"\r\n")
            )
            assert headers["content-type"] == "application/json"
            return status, json.loads(answer.read(int(headers["content-length"])))


@pytest.mark.parametrize("what", REFUSED)
def test_the_proxy_refuses_in_the_shape_of_the_api(stack: Compose, what: str) -> None:
    request, expected = REFUSED[what]
    status, body = told(stack, request)
    assert status == expected
    assert body.keys() - {"errors"} == {"error", "message"} and ("errors" in body) is (status == 400)


def test_the_longest_body_reaches_the_api(stack: Compose) -> None:
    with Caller(stack, "long-winded") as caller:
        longest = b" " * (16 * 1024 * 1024)
        answer = caller.session.post(stack.url + "/jobs", data=longest, timeout=30)
        assert answer.status_code == 400 and answer.headers["Kelpie-Extensions"]
        answer = caller.session.post(stack.url + "/jobs", data=longest + b" ", timeout=30)
        assert (answer.status_code, answer.json()["error"]) == (413, "Payload Too Large")


def test_answers_name_the_request_and_not_the_version_of_the_server(stack: Compose) -> None:
    def headers(request_id: str) -> Any:
        return requests.get(stack.url + "/healthz", headers={"X-Request-Id": request_id}, timeout=30).headers

    assert headers("mine-1")["X-Request-Id"] == "mine-1"
    assert headers('"}{"')["X-Request-Id"] != '"}{"'
    assert headers("mine-1")["Server"] == "nginx"


def test_the_proxy_finds_an_api_that_is_elsewhere(stack: Compose) -> None:
    first = stack.containers()["api"]
    stack.run("up -d --no-recreate --scale api=2")
    first.kill()
    wait_for(lambda: stack.answers("/healthz"), "an answer of the second one", timeout=60)
    # The address of the one that ended is dropped a moment later.
    wait_for(lambda: all(stack.answers("/healthz") for _ in range(20)), "it to be the only one", timeout=60)
    stack.run("up -d --scale api=1")
