"""Pages of other origins, and what every answer carries besides."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from flask import Flask

from kelpie_api.app import create_app
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.errors import ConfigError
from kelpie_api.web.sessions import is_page
from tests.conftest import ADMIN_KEY, SECRET_KEY
from tests.helpers import Client, definition, refused

ORIGIN = "https://app.example"
ASKED = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "x-kelpie-key",
}


@pytest.fixture
def picky(db: Database, migrated_url: str) -> Iterator[Flask]:
    """An application for the pages of two origins only."""
    origins = (ORIGIN, "http://localhost:3000")
    app = create_app(
        Config(database_url=migrated_url, secret_key=SECRET_KEY, admin_key=ADMIN_KEY, cors_origins=origins)
    )
    yield app
    app.extensions["kelpie"].end()


def names(header: str) -> set[str]:
    return {name.strip().lower() for name in header.split(",")}


def sample(path: str) -> str:
    return path.replace("<", "").replace(">", "").replace("text:", "")


def test_a_preflight_is_answered_on_every_route_without_a_key(app: Flask) -> None:
    for rule in app.url_map.iter_rules():
        answer = app.test_client().options(sample(rule.rule), headers=ASKED)
        assert (answer.status_code, answer.data) == (204, b""), rule.rule
        assert "Content-Type" not in answer.headers
        assert (rule.methods or set()) <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))
        assert answer.headers.get("Access-Control-Allow-Origin") == (None if is_page(rule.endpoint) else "*")
        assert int(answer.headers["Access-Control-Max-Age"]) > 0


def test_it_allows_every_header_that_a_caller_may_need(app: Flask) -> None:
    allowed = names(app.test_client().options("/jobs", headers=ASKED).headers["Access-Control-Allow-Headers"])
    assert allowed >= {
        "x-kelpie-key",
        "salad-api-key",
        "salad-organization",
        "salad-project",
        "authorization",
        "content-type",
        "idempotency-key",
        "if-none-match",
    }


def test_it_names_the_methods_of_its_own_route_only(app: Flask) -> None:
    answer = app.test_client().options("/work", headers=ASKED)
    assert names(answer.headers["Access-Control-Allow-Methods"]) == {"get", "options"}
    answer = app.test_client().options("/jobs/batch", headers=ASKED)
    assert names(answer.headers["Access-Control-Allow-Methods"]) == {"post", "options"}
    answer = app.test_client().options("/jobs/", headers=ASKED)
    assert names(answer.headers["Access-Control-Allow-Methods"]) == {"get", "head", "post", "delete", "options"}


def test_a_preflight_of_an_unknown_route_is_a_404(app: Flask) -> None:
    refused(app.test_client().options("/nothing", headers=ASKED), 404)


def test_a_preflight_needs_no_database(db: Database) -> None:
    app = create_app(Config(database_url="postgresql://127.0.0.1:1/none", secret_key=SECRET_KEY))
    assert app.test_client().options("/jobs", headers=ASKED).status_code == 204


def test_an_answer_says_which_headers_a_page_may_read(api: Client) -> None:
    exposed = names(api.get("/jobs", Origin=ORIGIN).headers["Access-Control-Expose-Headers"])
    assert exposed >= {
        "kelpie-extensions",
        "link",
        "etag",
        "retry-after",
        "x-request-id",
        "idempotent-replayed",
    }


def test_no_origin_is_offered_the_browsers_own_credentials(app: Flask, picky: Flask) -> None:
    for application in (app, picky):
        for method in ("GET", "OPTIONS"):
            answer = application.test_client().open("/jobs", method=method, headers=ASKED)
            assert "Access-Control-Allow-Credentials" not in answer.headers


class TestListedOrigins:
    @pytest.mark.parametrize("method", ["GET", "OPTIONS"])
    def test_a_listed_one_is_named(self, picky: Flask, method: str) -> None:
        answer = picky.test_client().open("/jobs", method=method, headers=ASKED)
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "origin" in names(answer.headers["Vary"])

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "*", ORIGIN + ".evil", ORIGIN + "/", ""])
    @pytest.mark.parametrize("method", ["GET", "OPTIONS"])
    def test_another_is_not(self, picky: Flask, method: str, origin: str) -> None:
        answer = picky.test_client().open("/jobs", method=method, headers={"Origin": origin})
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "origin" in names(answer.headers["Vary"])


def test_a_page_can_read_refusals_too(api: Client, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the inside")

    monkeypatch.setattr("kelpie_api.queue.listing.list_page", broken)
    answers = {
        401: app.test_client().get("/jobs", headers={"Origin": ORIGIN}),
        403: Client(app.test_client(), "wrong").get("/jobs", Origin=ORIGIN),
        404: api.get("/nothing", Origin=ORIGIN),
        405: api.call("PUT", "/jobs", headers={"Origin": ORIGIN}),
        400: api.post("/jobs", {}, Origin=ORIGIN),
        500: api.get("/jobs", Origin=ORIGIN),
    }
    for status, answer in answers.items():
        refused(answer, status)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", ("*",)),
        ("*", ("*",)),
        ("https://a.example, http://localhost:3000,", ("https://a.example", "http://localhost:3000")),
        ("http://[::1]:8080", ("http://[::1]:8080",)),
    ],
)
def test_origins_are_a_setting(text: str, origins: tuple[str, ...]) -> None:
    env = {"DATABASE_URL": "postgresql:///x", "KELPIE_SECRET_KEY": SECRET_KEY, "KELPIE_CORS_ORIGINS": text}
    assert Config.from_env(env).cors_origins == origins


@pytest.mark.parametrize("text", [",", "a.example", "https://a.example/", "https://A.example", "null", "https://"])
def test_what_no_browser_would_send_is_refused_at_the_start(text: str) -> None:
    env = {"DATABASE_URL": "postgresql:///x", "KELPIE_SECRET_KEY": SECRET_KEY, "KELPIE_CORS_ORIGINS": text}
    with pytest.raises(ConfigError, match="KELPIE_CORS_ORIGINS"):
        Config.from_env(env)


class TestRequestId:
    @pytest.mark.parametrize("given", ["x", "8e03978e-40d5-43dd-bc93-6894a57f9324", "a.B_c-9", "x" * 128])
    def test_a_sane_one_is_kept_and_logged(
        self, api: Client, caplog: pytest.LogCaptureFixture, given: str
    ) -> None:
        with caplog.at_level(logging.INFO, "kelpie"):
            answer = api.get("/jobs", **{"X-Request-Id": given})
        assert answer.headers["X-Request-Id"] == given
        assert [getattr(record, "facts", {}).get("request_id") for record in caplog.records] == [given]

    @pytest.mark.parametrize("given", ["", "a b", "x" * 129, "ä", '"x"', "a\x00", "１"])
    def test_any_other_is_replaced(self, api: Client, given: str) -> None:
        made = api.get("/jobs", **{"X-Request-Id": given.encode().decode("latin-1")}).headers["X-Request-Id"]
        assert made and made != given and made.isalnum()

    def test_two_requests_have_two(self, api: Client) -> None:
        assert len({api.get("/healthz").headers["X-Request-Id"] for _ in range(2)}) == 2

    def test_a_defect_is_reported_by_it(self, api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kelpie_api.queue.listing.list_page", None)
        answer = api.get("/jobs", **{"X-Request-Id": "my-id"})
        assert "my-id" in refused(answer, 500)["message"]
        assert answer.headers["X-Request-Id"] == "my-id"


@pytest.mark.parametrize("path", ["/jobs", "/nothing", "/healthz", "/openapi.json"])
def test_no_browser_may_guess_what_an_answer_is(api: Client, path: str) -> None:
    assert api.get(path).headers["X-Content-Type-Options"] == "nosniff"


def test_a_page_can_submit(api: Client) -> None:
    answer = api.call("POST", "/jobs", definition(), {"Origin": ORIGIN, "Content-Type": "text/plain"})
    assert answer.status_code == 202 and json.loads(answer.text)["status"] == "pending"
