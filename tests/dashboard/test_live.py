"""The live part of a page, which its script asks for again every few seconds (docs/pages.md, What is live)."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from uuid import UUID

import pytest
from flask import Flask

from kelpie_api.auth import users
from kelpie_api.auth.caller import Role
from kelpie_api.cache import Shared
from kelpie_api.dashboard.job import REFRESHED
from kelpie_api.dashboard.pages import HTMX, STATIC, UPLOT
from kelpie_api.db import Database
from kelpie_api.pace import Pace
from kelpie_api.queue import wishes
from kelpie_api.web.sessions import FIELD
from tests.dashboard.browser import Browser, Markup, signed_in
from tests.dashboard.chromium import AXE
from tests.dashboard.conftest import Passes
from tests.helpers import Client, Tenant, make_job

LIVE = {"HX-Request": "true"}


@pytest.mark.parametrize("place", ["/ui", "/ui/jobs?name=a", "/ui/groups"])
def test_the_live_part_is_asked_for_at_the_pages_own_address(
    operator: Browser, db: Database, tenant: Tenant, place: str
) -> None:
    make_job(db, tenant, name="a")
    page = operator.get(place)
    assert f'data-hx-get="{place}"' in page.text and page.headers["Vary"] == "HX-Request"
    assert [source.partition("?")[0] for source in Markup(page.text).scripts] == [
        "/ui/assets/htmx.min.js",
        "/ui/assets/live.js",
    ]
    part = operator.get(place, **LIVE)
    assert "<html" not in part.text and part.text.strip() in page.text
    assert operator.get(place, 304, **LIVE, **{"If-None-Match": part.headers["ETag"]}).data == b""


def test_a_job_that_waits_is_unchanged_until_something_happens(
    operator: Browser, db: Database, tenant: Tenant, passes: Passes
) -> None:
    job_id = make_job(db, tenant)
    place = f"/ui/jobs/{job_id}"
    known = operator.get(place, **LIVE).headers["ETag"]
    assert operator.get(place, 304, **LIVE, **{"If-None-Match": f'"other", W/{known}'}).headers["ETag"] == known
    form = operator.form(place, f"{place}/hold")
    operator.post(form.action, form.fields)
    assert "It is held" in operator.get(place).text
    passes(REFRESHED / 2)
    changed = operator.get(place, **LIVE, **{"If-None-Match": known})
    assert "It is held" in changed.text and "HX-Refresh" not in changed.headers


def test_tabs_that_show_the_same_share_one_part_and_have_forms_of_their_own(
    app: Flask, operator: Browser, viewer: Browser, rival: Browser, db: Database, tenant: Tenant, passes: Passes
) -> None:
    place = f"/ui/jobs/{make_job(db, tenant)}"
    key = users.create_token(db, tenant.caller.user_id, "acme", "default", Role.OPERATOR)
    colleague = signed_in(app, Tenant(tenant.caller, key))
    parts = [operator.get(place, **LIVE)]
    wishes.hold(db, tenant.caller, UUID(place.rpartition("/")[2]))
    parts.append(colleague.get(place, **LIVE))
    assert not any("It is held" in part.text for part in parts)
    assert len({part.headers["ETag"] for part in parts}) == 2
    tokens = [Markup(part.text).forms[0].fields[FIELD] for part in parts]
    assert tokens == [one.form(place, f"{place}/cancel").fields[FIELD] for one in (operator, colleague)]

    # of another role, of another tenant, of another address
    seen = viewer.get(place, **LIVE).text
    assert "It is held" in seen and "<form" not in seen
    rival.get(place, 404, **LIVE)
    listed = (
        operator.get("/ui/jobs", **LIVE),
        rival.get("/ui/jobs", **LIVE),
        operator.get("/ui/jobs?name=b", **LIVE),
    )
    assert [place in part.text for part in listed] == [True, False, False]

    # of a role that is another one by now, and of a session that has ended
    db.execute("update api_keys set role = 'viewer'")
    assert "<form" not in colleague.get(place, **LIVE).text
    db.execute("delete from sessions")
    colleague.get(place, 401, **LIVE)


def test_a_part_with_the_values_of_an_environment_is_not_kept(
    api: Client, operator: Browser, passes: Passes
) -> None:
    job = api.submit(environment={"TOKEN": "the-value"})
    place = f"/ui/jobs/{job['id']}?environment=shown"
    part = operator.get(place, **LIVE)
    assert "the-value" in part.text and part.headers["HX-Refresh"] == "true"
    api.delete(f"/jobs/{job['id']}")
    assert "canceled" in operator.get(place, **LIVE).text


def test_a_tab_for_which_there_is_no_room_is_told_that_there_is_nothing_new(
    app: Flask, operator: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Kelpie-Ask-After" not in operator.get("/ui", **LIVE).headers
    monkeypatch.setattr(app.extensions["kelpie"], "live_parts", Shared(1, places=0, rest=0))
    assert operator.get("/ui", 204, **LIVE).data == b""
    assert "<html" in operator.get("/ui").text


def test_where_many_tabs_ask_each_is_told_to_ask_later_than_the_one_before(
    app: Flask, operator: Browser, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.extensions["kelpie"], "pace_of_tabs", Pace(0.1, 60, clock=lambda: 0.0))
    first = operator.get("/ui", **LIVE)
    browser.get("/ui", 401, **LIVE)
    second = operator.get("/ui", 304, **LIVE, **{"If-None-Match": first.headers["ETag"]})
    operator.get("/ui")
    third = operator.get("/ui/jobs/odd", 404, **LIVE)
    assert [answer.headers["Kelpie-Ask-After"] for answer in (first, second, third)] == ["10", "20", "30"]


def test_the_page_of_a_job_that_has_ended_is_loaded_once_more_and_then_rests(
    operator: Browser, db: Database, tenant: Tenant
) -> None:
    job_id = make_job(db, tenant, "completed")
    assert operator.get(f"/ui/jobs/{job_id}", **LIVE).headers["HX-Refresh"] == "true"
    page = operator.page(f"/ui/jobs/{job_id}")
    assert page.scripts == [] and not [name for name in page.attributes if name.startswith("data-hx")]


def test_without_a_session_it_is_refused_and_not_led_to_the_form(browser: Browser) -> None:
    browser.get("/ui", 401, **LIVE)


def test_a_refusal_keeps_its_status(operator: Browser) -> None:
    operator.get("/ui/jobs?phase=odd", 400, **LIVE)
    operator.get("/ui/nothing", 404, **LIVE)


def test_a_form_sent_to_a_page_that_takes_none_is_refused_by_a_page(browser: Browser) -> None:
    for place in ("/ui", "/ui/jobs", "/ui/nothing", "/ui/assets/pages.css"):
        assert "There is no such page." in browser.post(place, {}, 404).text


def test_a_viewers_part_has_no_form(viewer: Browser, db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant, "held")
    assert "<form" not in viewer.get(f"/ui/jobs/{job_id}", **LIVE).text


@pytest.mark.parametrize(
    ("folder", "files", "named"),
    [
        (HTMX, {"htmx.min.js"}, ("htmx.min.js", '"{}"')),
        (UPLOT, {"uPlot.iife.min.js", "uPlot.min.css"}, ("uPlot.iife.min.js", "(v{})")),
        (AXE.parent, {"axe.min.js", "LICENSE-3RD-PARTY.txt"}, ("axe.min.js", "axe v{}")),
    ],
    ids=["htmx", "uPlot", "axe"],
)
def test_what_comes_from_elsewhere_is_the_release_that_was_recorded(
    folder: Path, files: set[str], named: tuple[str, str]
) -> None:
    """scripts/update-npm writes both; its licence goes with it."""
    recorded = dict(reversed(line.split("  ./")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    found = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if file.name != "SHA256SUMS"
    }
    assert found == recorded and files | {"LICENSE", "VERSION"} == found.keys()
    assert named[1].format((folder / "VERSION").read_text().strip()) in (folder / named[0]).read_text()


def test_the_pages_own_scripts_store_no_more_than_a_pause() -> None:
    text = "".join(file.read_text() for file in STATIC.glob("*.js"))
    assert re.findall(r"(?:local|session)Storage\.setItem\((\w+)", text) == ["PAUSED"]
    assert "innerHTML" not in text and "eval" not in text
