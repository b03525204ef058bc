"""Signing in at the pages and out: what a session is good for, and how it ends (docs/pages.md, Signing in)."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from kelpie_api import encryption
from kelpie_api.auth import keys, sessions, users
from kelpie_api.auth.caller import Role
from kelpie_api.auth.sessions import EndedSessions
from kelpie_api.db import Database
from kelpie_api.encryption import Seal
from tests.conftest import ADMIN_KEY, SECRET_KEY
from tests.dashboard.browser import Browser, Markup, signed_in
from tests.doubles.salad import SaladDouble
from tests.helpers import Client, Tenant, make_tenant, with_salad_key


def test_a_browser_is_led_to_the_pages_and_a_program_finds_no_route(browser: Browser) -> None:
    html = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    assert browser.get("/", 302, Accept=html).headers["Location"] == "/ui"
    for accept in ("application/json", "*/*", ""):
        answer = browser.get("/", 404, Accept=accept)
        assert (answer.json or {})["error"] == "Route Not Found"
        assert answer.headers["Vary"] == "Accept"


def test_without_a_session_a_page_leads_to_the_form_and_back(browser: Browser, tenant: Tenant) -> None:
    place = browser.get("/ui", 303).headers["Location"]
    assert place == "/ui/sign-in"
    answer = browser.sign_in(tenant.key, to="/ui/jobs%3Fphase=running%26name=a")
    assert answer.headers["Location"] == "/ui/jobs?phase=running&name=a"


@pytest.mark.parametrize(
    "place", ["https://evil.example", "//evil.example", "/ui//evil", "/jobs", "/ui\\evil", "/uix", "/ui/%0d%0ax:y"]
)
def test_signing_in_leads_to_pages_of_ours_only(browser: Browser, tenant: Tenant, place: str) -> None:
    assert browser.sign_in(tenant.key, to=place).headers["Location"] == "/ui"


def signing_in(app: Flask, key: str, url: str) -> TestResponse:
    """The answer to a key that comes by this address of the coordinator."""
    http = app.test_client()
    form, *_ = Markup(http.get("/ui/sign-in", base_url=url).text).forms
    return http.post("/ui/sign-in", data=form.fields | {"key": key}, base_url=url)


class TestTheCookie:
    def cookie(self, app: Flask, tenant: Tenant, url: str) -> str:
        answer = signing_in(app, tenant.key, url)
        assert answer.status_code == 303, answer.text
        return next(line for line in answer.headers.getlist("Set-Cookie") if "kelpie=" in line.partition(";")[0])

    def test_is_read_by_no_script_and_sent_by_no_other_site(self, app: Flask, tenant: Tenant) -> None:
        header = self.cookie(app, tenant, "http://localhost")
        assert header.startswith("kelpie=")
        assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in header.split(";")}
        assert "Domain" not in header

    def test_is_sent_by_https_only_and_to_this_host_alone_behind_it(self, app: Flask, tenant: Tenant) -> None:
        header = self.cookie(app, tenant, "https://kelpie.example")
        assert header.startswith("__Host-kelpie=")
        assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in header.split(";")}

    def test_is_a_secret_of_its_own_and_kept_as_a_digest(self, app: Flask, db: Database, tenant: Tenant) -> None:
        header = self.cookie(app, tenant, "http://localhost")
        token = header.partition("=")[2].partition(";")[0]
        [kept] = db.all("select digest from sessions")
        assert bytes(kept["digest"]) == users.digest(token)
        assert tenant.key not in header


class TestWithoutHttps:
    def test_no_key_is_taken_from_another_machine(self, app: Flask, tenant: Tenant) -> None:
        refused = signing_in(app, tenant.key, "http://kelpie.example")
        assert refused.status_code == 403 and "KELPIE_PAGES_OVER_HTTP" in refused.text

    @pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost:8080"])
    def test_one_of_this_machine_is(self, app: Flask, tenant: Tenant, url: str) -> None:
        assert signing_in(app, tenant.key, url).status_code == 303


class TestBehindAProxy:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"public_urls": ("https://kelpie.example",)}

    def test_the_public_address_says_that_browsers_come_by_https(self, app: Flask, tenant: Tenant) -> None:
        answer = signing_in(app, tenant.key, "http://kelpie.example")
        assert [line for line in answer.headers.getlist("Set-Cookie") if line.startswith("__Host-kelpie=")]


class TestWhereTheOperatorAllowsIt:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"pages_over_http": True}

    def test_a_key_is_taken_without_https(self, app: Flask, tenant: Tenant) -> None:
        assert signing_in(app, tenant.key, "http://kelpie.example").status_code == 303


@pytest.mark.parametrize("key", ["", "kelpie_wrong", "é", "k" * 10_000, ADMIN_KEY])
def test_a_key_that_opens_no_session_is_refused_with_a_sentence(browser: Browser, db: Database, key: str) -> None:
    answer = browser.sign_in(key, 403)
    assert 'role="alert"' in answer.text and (key == "" or key not in answer.text)
    assert db.all("select from sessions") == []


def test_a_workers_key_opens_none(browser: Browser, db: Database, tenant: Tenant) -> None:
    key = users.create_token(db, tenant.caller.user_id, "acme", "default", Role.WORKER)
    assert "worker" in browser.sign_in(key, 403).text


def test_no_key_of_the_administrators_user_opens_one(browser: Browser, app: Flask, db: Database) -> None:
    key = (
        Client(app.test_client(), ADMIN_KEY).post("/keys", {"name": "own", "role": "operator"}).get_json()["token"]
    )
    assert "administrator" in browser.sign_in(key, 403).text
    assert db.all("select from sessions") == []


SALAD_KEY = "salad-key"


class TestWithAKeyOfSalads:
    @pytest.fixture
    def settings(self, salad: SaladDouble) -> dict[str, Any]:
        salad.allow(SALAD_KEY, "acme", "default")
        return {"salad_api_url": salad.api_url, "proven_for": timedelta(0), "refused_for": timedelta(0)}

    def sign_in(self, browser: Browser, status: int = 303, **fields: str) -> TestResponse:
        given = {"salad_key": SALAD_KEY, "organization": "acme", "project": "default"} | fields
        own = browser.form("/ui/sign-in", "/ui/sign-in").fields
        del own["key"]
        return browser.post("/ui/sign-in", own | given, status)

    def test_an_operator_sees_the_project_and_the_key_is_sealed(
        self, app: Flask, browser: Browser, db: Database
    ) -> None:
        job = with_salad_key(app, SALAD_KEY).submit(name="of-acme")
        self.sign_in(browser)
        page = browser.page("/ui/jobs")
        assert "of-acme" in page.text and "acme / default" in re.sub(r"\s+", " ", page.text)
        form = browser.form(f"/ui/jobs/{job['id']}", f"/ui/jobs/{job['id']}/hold")
        browser.post(form.action, form.fields)
        [row] = db.all("select key_id, sealed_key from sessions")
        assert row["key_id"] is None and SALAD_KEY.encode() not in row["sealed_key"]
        assert SALAD_KEY not in "".join(browser.get(place).text for place in ("/ui", "/ui/settings"))

    def test_it_ends_once_salad_refuses_the_key_which_is_erased(
        self, browser: Browser, salad: SaladDouble, db: Database
    ) -> None:
        self.sign_in(browser)
        browser.get("/ui")
        salad.revoke(SALAD_KEY)
        browser.get("/ui", 303)
        assert db.all("select from sessions") == []
        salad.allow(SALAD_KEY, "acme", "default")
        browser.get("/ui", 303)

    def test_it_outlasts_a_silence_of_salads(self, browser: Browser, salad: SaladDouble) -> None:
        self.sign_in(browser)
        salad.end()
        browser.get("/ui")

    def test_the_key_is_erased_with_signing_out_after_its_time_and_with_the_secret_key(
        self, browser: Browser, app: Flask, db: Database
    ) -> None:
        self.sign_in(browser)
        browser.post("/ui/sign-out", browser.form("/ui", "/ui/sign-out").fields)
        assert db.all("select from sessions") == []
        self.sign_in(browser)
        db.execute("update sessions set expires = now()")
        browser.get("/ui", 303)
        EndedSessions(db).forget_sessions()
        assert db.all("select from sessions") == []
        self.sign_in(browser)
        db.execute("update sessions set sealed_key = 'of another'")
        browser.get("/ui", 303)
        assert db.all("select from sessions") == []
        self.sign_in(browser)
        encryption.change(db, Seal(f"another-secret-key-{SECRET_KEY},{SECRET_KEY}"))
        assert db.all("select from sessions") == []

    def test_what_salad_does_not_confirm_is_refused(self, browser: Browser, db: Database) -> None:
        for odd in ({"salad_key": "wrong"}, {"salad_key": ""}, {"project": "other"}, {"organization": "rival"}):
            assert 'role="alert"' in self.sign_in(browser, 403, **odd).text
        for odd in ({"organization": "<script>"}, {"project": ""}, {"project": "x" * 2**20}):
            answer = self.sign_in(browser, 400, **odd)
            assert "<script>" not in answer.text and len(answer.text) < 20_000
        own = browser.form("/ui/sign-in", "/ui/sign-in").fields
        fields = {"salad_key": SALAD_KEY, "organization": "acme", "project": "default"}
        browser.post("/ui/sign-in", own | fields | {"form_token": ""}, 403)
        assert db.all("select from sessions") == []


class TestATokenOfALocalStack:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"one_time_sign_in": True}

    def send(self, app: Flask, token: str, status: int) -> tuple[Browser, str]:
        browser = Browser(app.test_client())
        fields = browser.form("/ui/once", "/ui/once").fields
        return browser, browser.post("/ui/once", fields | {"token": token}, status).text

    def test_begins_one_session_and_is_good_for_nothing_then(
        self, app: Flask, db: Database, tenant: Tenant
    ) -> None:
        token = sessions.invite(db, tenant.key)
        browser, _ = self.send(app, token, 303)
        assert "acme" in browser.page("/ui").text
        for odd in (token, "", "é", "x" * 10_000):
            _, text = self.send(app, odd, 403)
            assert "was used already" in text
        assert len(db.all("select from sessions")) == 1

    def test_is_no_cookie_and_is_kept_as_a_digest(self, browser: Browser, db: Database, tenant: Tenant) -> None:
        token = sessions.invite(db, tenant.key)
        browser.http.set_cookie("kelpie", token)
        browser.get("/ui", 303)
        [kept] = db.all("select digest from sessions")
        assert token.encode() not in kept["digest"] and kept["digest"] != users.digest(token)

    def test_is_taken_from_our_form_and_on_this_machine_only(
        self, browser: Browser, db: Database, tenant: Tenant
    ) -> None:
        token = sessions.invite(db, tenant.key)
        browser.post("/ui/once", {"token": token}, 403)
        for elsewhere in (
            {"base_url": "http://kelpie.example"},
            {"environ_overrides": {"REMOTE_ADDR": "192.0.2.7"}},
        ):
            assert browser.http.get("/ui/once", **elsewhere).status_code == 404
            assert browser.http.post("/ui/once", data={"token": token}, **elsewhere).status_code == 404
        assert len(db.all("select from sessions")) == 1

    def test_ends_with_its_key(self, app: Flask, db: Database, tenant: Tenant) -> None:
        token = sessions.invite(db, tenant.key)
        db.execute("delete from api_keys where tenant_id = %(id)s", id=tenant.caller.tenant_id)
        self.send(app, token, 403)


def test_a_deployed_coordinator_takes_no_such_token(browser: Browser, db: Database, tenant: Tenant) -> None:
    token = sessions.invite(db, tenant.key)
    browser.get("/ui/once", 404)
    browser.post("/ui/once", {"token": token}, 404)


class TestASessionEnds:
    def test_with_signing_out_also_for_a_copy_of_its_cookie(self, app: Flask, operator: Browser) -> None:
        cookie = operator.http.get_cookie("kelpie")
        assert cookie is not None
        operator.post("/ui/sign-out", operator.form("/ui", "/ui/sign-out").fields)
        assert operator.http.get_cookie("kelpie") is None
        thief = Browser(app.test_client())
        thief.http.set_cookie("kelpie", cookie.value)
        thief.get("/ui", 303)

    def test_with_its_key(self, operator: Browser, db: Database, tenant: Tenant) -> None:
        operator.get("/ui")
        [key] = db.all("select id from api_keys where tenant_id = %(id)s", id=tenant.caller.tenant_id)
        keys.delete(db, tenant.caller, key["id"], is_meant=True)
        operator.get("/ui", 303)

    def test_after_half_a_day(self, operator: Browser, db: Database) -> None:
        [row] = db.all("select extract(epoch from expires - begun)::integer as seconds from sessions")
        assert row == {"seconds": 12 * 3600}
        db.execute("update sessions set expires = now()")
        operator.get("/ui", 303)

    def test_and_is_erased_then(self, app: Flask, operator: Browser, db: Database, tenant: Tenant) -> None:
        db.execute("update sessions set expires = now() - interval '1 second'")
        signed_in(app, tenant)
        EndedSessions(db).forget_sessions()
        assert len(db.all("select from sessions")) == 1

    def test_where_its_key_has_too_many(self, app: Flask, db: Database, tenant: Tenant) -> None:
        first = signed_in(app, tenant)
        [key] = db.all("select key_id from sessions")
        db.execute(
            "insert into sessions (digest, key_id, expires)"
            " select sha256(n::text::bytea), %(key)s, now() + interval '1 hour' from generate_series(1, 49) n",
            key=key["key_id"],
        )
        signed_in(app, tenant)
        assert len(db.all("select from sessions")) == 50
        first.get("/ui", 303)


class TestAForm:
    def test_without_its_token_is_refused(self, operator: Browser) -> None:
        for fields in ({}, {"form_token": ""}, {"form_token": "é"}, {"form_token": "0" * 64}):
            operator.post("/ui/sign-out", fields, 403)
        operator.get("/ui")

    def test_of_another_session_is_refused(self, operator: Browser, rival: Browser) -> None:
        operator.post("/ui/sign-out", rival.form("/ui", "/ui/sign-out").fields, 403)

    def test_of_another_origin_is_refused(self, operator: Browser) -> None:
        fields = operator.form("/ui", "/ui/sign-out").fields
        for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
            operator.post("/ui/sign-out", fields, 403, Origin=origin)
        for site in ("cross-site", "same-site"):
            operator.post("/ui/sign-out", fields, 403, **{"Sec-Fetch-Site": site})
        operator.post("/ui/sign-out", fields, Origin="http://localhost", **{"Sec-Fetch-Site": "same-origin"})

    def test_for_signing_in_has_a_token_too(self, browser: Browser, tenant: Tenant) -> None:
        browser.post("/ui/sign-in", {"key": tenant.key}, 403)
        fields = browser.form("/ui/sign-in", "/ui/sign-in").fields
        browser.post("/ui/sign-in", fields | {"key": tenant.key}, 403, Origin="https://evil.example")

    def test_without_a_session_is_refused_as_a_page(self, browser: Browser) -> None:
        assert "sign in again" in browser.post("/ui/sign-out", {}, 401).text


def test_the_cookie_opens_no_route_of_the_api(operator: Browser) -> None:
    for path in ("/jobs", "/users/me", "/keys"):
        assert operator.http.get(path).status_code == 401


def test_a_key_in_a_header_opens_no_page(api: Client) -> None:
    assert api.get("/ui").status_code == 303


def test_a_hostile_name_is_shown_as_text(app: Flask, db: Database) -> None:
    name = "<script>alert(1)</script>'\"&\u202egnp.exe"
    browser = signed_in(app, make_tenant(db, name, "default"))
    answer = browser.get("/ui")
    assert "<script>" not in answer.text and "\u202e" not in answer.text
    assert "&lt;script&gt;" in answer.text


@pytest.mark.parametrize("name", ["nothing.css", "pages.css.map", "..%2fpages.py", "%00"])
def test_no_other_file_is_served(browser: Browser, name: str) -> None:
    browser.get(f"/ui/assets/{name}", 404)


def test_pages_load_their_own_files_only_and_keep_them(browser: Browser) -> None:
    for link in browser.page("/ui/sign-in").links:
        if link.startswith("/ui/assets/"):
            answer = browser.get(link)
            assert (
                answer.mimetype in ("text/css", "image/svg+xml") and "max-age" in answer.headers["Cache-Control"]
            )
            answer.close()


def test_what_a_route_cannot_take_is_a_page_too(operator: Browser) -> None:
    assert "no such page" in operator.get("/ui/nothing/at/all", 404).text
