"""Swagger UI at /docs comes from this server alone."""

from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from kelpie_api.routes.docs import SWAGGER_UI
from kelpie_version import VERSION
from tests.helpers import Client, refused

ASSETS = ["swagger-ui.css", "swagger-ui-bundle.js", "favicon-16x16.png", "favicon-32x32.png", "start.js"]


class Page(HTMLParser):
    """What a page loads, and the scripts that stand in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.document = ""
        self.inline: list[str] = []
        self.in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.loads += [found[name] for name in ("src", "href") if name in found]
        self.document = found.get("data-document", self.document)
        self.in_script = tag == "script"
        assert not [name for name in found if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self.in_script and data.strip():
            self.inline.append(data)


class Browser(Client):
    """Needs no key, and closes the files that it got."""

    def get(self, path: str, **headers: str) -> TestResponse:
        answer = super().get(path, **headers)
        answer.get_data()
        answer.close()
        return answer


@pytest.fixture
def anybody(app: Flask) -> Browser:
    return Browser(app.test_client(), None)


def test_the_page_loads_only_what_this_server_has_and_runs_no_script_of_its_own(anybody: Browser) -> None:
    answer = anybody.get("/docs")
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    page = Page(answer.text)
    assert page.inline == []
    assert len(page.loads) == 10  # with the links to the pages
    for url in [*page.loads, page.document]:
        assert not urlsplit(url).netloc
        assert anybody.get(url).status_code == 200 or url == "/ui"


def test_the_page_is_also_where_the_originals_was(anybody: Browser) -> None:
    assert anybody.get("/redocs").data == anybody.get("/docs").data


def test_the_page_shows_the_document(anybody: Browser) -> None:
    assert Page(anybody.get("/docs").text).document == "/openapi.json"
    assert "dataset.document" in anybody.get("/docs/start.js").text


def test_the_document_begins_with_what_the_release_is_and_how_it_is_called(anybody: Browser) -> None:
    document = anybody.get("/openapi.json").json or {}
    assert document["info"]["version"] == VERSION
    assert "X-Kelpie-Key" in document["info"]["description"]
    assert next(iter(document["components"]["securitySchemes"])) == "X-Kelpie-Key"


def test_the_policy_lets_no_foreign_or_evaluated_script_run(anybody: Browser) -> None:
    for path in ["/docs", *(f"/docs/{name}" for name in ASSETS)]:
        answer = anybody.get(path)
        policy = dict(
            directive.strip().split(" ", 1) for directive in answer.headers["Content-Security-Policy"].split(";")
        )
        assert policy["default-src"] == policy["script-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert "unsafe-eval" not in str(policy)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("name", ASSETS)
def test_an_asset_has_its_type(anybody: Browser, name: str) -> None:
    types = {"css": "text/css", "js": "text/javascript", "png": "image/png"}
    answer = anybody.get(f"/docs/{name}")
    assert answer.mimetype == types[name.rpartition(".")[2]]
    assert answer.data


def test_what_was_loaded_once_is_not_sent_again(anybody: Browser) -> None:
    first = anybody.get("/docs/swagger-ui-bundle.js")
    assert re.search(r"max-age=[1-9]", first.headers["Cache-Control"])
    again = anybody.get("/docs/swagger-ui-bundle.js", **{"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


@pytest.mark.parametrize(
    "name", ["index.html", "swagger-ui.js.map", "__init__.py", "..", "%2e%2e%2f__init__.py", "/etc/passwd", "%00"]
)
def test_no_other_file_is_served(anybody: Browser, name: str) -> None:
    refused(anybody.get(f"/docs/{name}"), 404)


def test_its_files_are_those_of_the_release_that_was_recorded() -> None:
    """scripts/update-swagger-ui writes both; its licence goes with it."""
    recorded = dict(reversed(line.split("  ./")) for line in (SWAGGER_UI / "SHA256SUMS").read_text().splitlines())
    found = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in SWAGGER_UI.iterdir()
        if file.name != "SHA256SUMS"
    }
    assert found == recorded
    assert set(ASSETS) - {"start.js"} | {"LICENSE", "NOTICE", "VERSION"} <= recorded.keys()
    assert "Apache License" in (SWAGGER_UI / "LICENSE").read_text()
    version = (SWAGGER_UI / "VERSION").read_text().strip()
    assert f'"{version}"' in (SWAGGER_UI / "swagger-ui-bundle.js").read_text()
