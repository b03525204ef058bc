"""What a request's address is taken for, from memory as by Flask."""

from __future__ import annotations

from typing import Any

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.test import create_environ

from kelpie_api.web.application import MOST_HOSTS, Application

ADDRESSES: list[dict[str, Any]] = [
    {},
    {"HTTP_HOST": "kelpie.example:8000", "QUERY_STRING": "status=running&page=2"},
    {"HTTP_HOST": "kelpie.example", "PATH_INFO": "/jobs/a%b/", "REQUEST_METHOD": "DELETE"},
    {"HTTP_HOST": "kelpie.example", "PATH_INFO": "/caf\xc3\xa9/\xff", "QUERY_STRING": "\xff"},
    {"HTTP_HOST": "kelpie.example", "PATH_INFO": "", "wsgi.url_scheme": "https"},
    {"HTTP_HOST": "kelpie.example", "SCRIPT_NAME": "/below"},
    {"HTTP_HOST": "KELPIE.example:80", "SERVER_NAME": "::1", "SERVER_PORT": "8000"},
    {"HTTP_HOST": "kelpie.example", "HTTP_CONNECTION": "upgrade", "HTTP_UPGRADE": "websocket"},
    {"HTTP_HOST": "b\xfccher.example"},
    {"HTTP_HOST": "no host/at all"},
    {"HTTP_HOST": f"{'a' * 70}.example"},
    {"HTTP_HOST": ""},
]


def seen_by(app: Flask, environ: dict[str, Any]) -> Any:
    request = app.request_class(dict(environ))
    try:
        adapter = app.create_url_adapter(request)
    except HTTPException as error:
        return type(error)
    return request.host, {name: value for name, value in vars(adapter).items() if name != "map"}


def test_an_address_is_understood_as_flask_does_at_first_and_from_memory() -> None:
    plain, app = Flask("plain"), Application("ours")
    for _ in range(3):
        for address in ADDRESSES:
            environ = create_environ("/jobs") | address
            assert seen_by(app, environ) == seen_by(plain, environ), address


def test_only_so_many_hosts_are_remembered() -> None:
    app = Application("ours")
    for number in range(MOST_HOSTS + 10):
        host, _ = seen_by(app, create_environ("/jobs") | {"HTTP_HOST": f"host-{number}"})
        assert host == f"host-{number}"
    assert len(app._of_hosts) == MOST_HOSTS
