"""The live part of a page, which its script asks for again every few seconds (docs/pages.md, What is live)."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from kelpie_api.dashboard.pages import HTMX, STATIC, UPLOT
from kelpie_api.db import Database
from tests.dashboard.browser import Browser, Markup
from tests.dashboard.chromium import AXE
from tests.helpers import Tenant, make_job

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
    operator: Browser, db: Database, tenant: Tenant
) -> None:
    job_id = make_job(db, tenant)
    place = f"/ui/jobs/{job_id}"
    known = operator.get(place, **LIVE).headers["ETag"]
    operator.get(place, 304, **LIVE, **{"If-None-Match": known})
    form = operator.form(place, f"{place}/hold")
    operator.post(form.action, form.fields)
    changed = operator.get(place, **LIVE, **{"If-None-Match": known})
    assert "It is held" in changed.text and "HX-Refresh" not in changed.headers


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
