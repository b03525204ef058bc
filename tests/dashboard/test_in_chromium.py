"""The pages as people have them: in Chromium, by keyboard and eye (docs/pages.md).

One server and one browser for all of it: the tests stand in an order, and those that change something come last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from flask import Flask
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import expect

from kelpie_api.auth import sessions
from kelpie_api.config import Config
from kelpie_api.db import Database
from tests.conftest import SECRET_KEY
from tests.dashboard import chromium as browsers
from tests.dashboard.chromium import NARROW, PATIENCE, WIDE, Site, Visitor, places
from tests.dashboard.scene import MACHINES, OTHER_GROUP
from tests.helpers import Client, empty_tables

expect.set_options(timeout=PATIENCE)
# Whether the list is asked for again after an answer, after one that says when, after that for another part of the
# page, and after an answer that says nothing any more.
ASKED = """(seconds) => {
  const told = (headers, id = "live") => {
    const response = new Response(null, { status: 304, headers });
    return { ctx: { request: { action: "/", headers: {} }, response, sourceElement: { id } } };
  };
  const send = (name, detail) => document.dispatchEvent(new CustomEvent(name, { cancelable: true, detail }));
  const isAsked = (headers, id) => {
    send("htmx:before:response", told(headers));
    return send("htmx:before:request", told({}, id));
  };
  const later = { "Kelpie-Ask-After": String(seconds) };
  return [isAsked({}), isAsked(later), isAsked(later, "more"), isAsked({})];
}"""


@pytest.fixture(scope="module")
def site(routes: Flask, app_url: str, database: Database) -> Iterator[Site]:
    empty_tables(database)
    config = Config(database_url=app_url, secret_key=SECRET_KEY, one_time_sign_in=True, log_level="warn")
    with browsers.serving(routes, config, database) as site:
        yield site
    empty_tables(database)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with browsers.started() as browser:
        yield browser


@pytest.fixture(scope="module")
def operator(chromium: Chromium, site: Site) -> Visitor:
    visitor = Visitor.come(chromium, site, viewport=WIDE, color_scheme="light")
    visitor.sign_in(site.scene.operator.key)
    return visitor


def test_each_page_can_be_used_in_light_and_dark_and_on_a_phone(operator: Visitor, site: Site) -> None:
    """Of the second scheme only colours are looked at, for nothing else differs."""
    page, wrong = operator.page, []
    for name, place in places(site).items():
        page.set_viewport_size(WIDE)
        page.emulate_media(color_scheme="light")
        page.goto(place)
        wrong += [f"{name}, light: {found}" for found in operator.found_by_axe()]
        page.emulate_media(color_scheme="dark")
        wrong += [f"{name}, dark: {found}" for found in operator.found_by_axe("color-contrast")]
        page.set_viewport_size(NARROW)
        wrong += [f"{name}, narrow: {found}" for found in operator.cut()]
    assert wrong == []
    expected = re.compile(r"status of 40[04]")  # of the two pages that refuse
    assert [said for said in operator.complaints if not expected.search(said)] == []


def test_the_documentation_can_be_read_in_light_and_dark_and_asks_for_a_kelpie_key_first(
    chromium: Chromium, site: Site
) -> None:
    visitor = Visitor.come(chromium, site, viewport=WIDE, color_scheme="light")
    visitor.page.goto("/ui/sign-in")
    assert visitor.found_by_axe() == []
    visitor.page.goto("/docs")
    authorize = visitor.page.get_by_role("button", name="Authorize").first
    expect(authorize).to_be_visible()
    # Swagger UI's own: the button that opens an operation has one in it that copies its path.
    assert [one for one in visitor.found_by_axe() if not one.startswith("nested-interactive: ")] == []
    visitor.page.emulate_media(color_scheme="dark")
    expect(visitor.page.locator("html")).to_have_class("dark-mode")
    assert visitor.found_by_axe("color-contrast") == []
    authorize.click()
    expect(visitor.page.locator(".modal-ux input").first).to_be_focused()
    first = visitor.page.locator(".modal-ux h4").first
    expect(first).to_contain_text("X-Kelpie-Key")
    expect(first).to_be_in_viewport()
    assert visitor.complaints == []
    visitor.context.close()


def test_a_viewer_reads_all_and_changes_nothing(chromium: Chromium, site: Site) -> None:
    viewer = Visitor.come(chromium, site, viewport=WIDE)
    viewer.sign_in(site.scene.viewer_key, "/ui/jobs?phase=running")
    page = viewer.page
    expect(page.get_by_role("link", name="lora-7b", exact=True)).to_be_visible()
    for name in ("overview", "filtered", "job", "sweep", "groups"):
        page.goto(places(site)[name])
        assert page.locator("form[method=post]").count() == 1  # signing out
    forged = page.evaluate(
        """async (place) => {
             const body = new URLSearchParams(new FormData(document.querySelector("form.whose")));
             return (await fetch(place, { method: "POST", body })).status;
           }""",
        f"/ui/jobs/{site.scene.waiting}/hold",
    )
    assert forged == 403
    assert [said for said in viewer.complaints if "status of 403" not in said] == []
    viewer.context.close()


def test_the_address_of_a_local_stack_signs_in_with_a_button(chromium: Chromium, site: Site) -> None:
    visitor = Visitor.come(chromium, site)
    token = sessions.invite(site.db, site.scene.operator.key)
    visitor.page.goto(f"/ui/once#{token}")
    button = visitor.page.get_by_role("button", name="Open the pages")
    expect(button).to_be_focused()
    assert visitor.found_by_axe() == []
    assert visitor.page.url.endswith("/ui/once")
    button.press("Enter")
    visitor.page.wait_for_url("**/ui")
    assert visitor.complaints == []
    visitor.context.close()


def test_an_operator_watches_steers_and_leaves(chromium: Chromium, site: Site, routes: Flask) -> None:
    operator = Visitor.come(chromium, site, viewport=WIDE)
    scene, page = site.scene, operator.page
    operator.sign_in(scene.operator.key, "/ui/jobs")

    # filter, and cancel all that match with their number
    page.get_by_label("Label").fill("team:walk")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("row", name=re.compile("embed-"))).to_have_count(3)
    page.get_by_role("link", name="Cancel…").click()
    expect(page.get_by_role("heading", name="Cancel 3 jobs?")).to_be_visible()
    assert "3 jobs: canceled" in operator.press("Cancel 3")

    # hold two that are selected; the list keeps still meanwhile
    page.goto("/ui/jobs?name=lr-*")
    page.get_by_label("Select lr-30").check()
    page.get_by_label("Select lr-31").check()
    page.get_by_role("button", name="Hold…").click()
    assert "2 jobs: held" in operator.press("Hold 2")

    # read why, hold and resume
    page.goto(f"/ui/jobs/{scene.waiting}")
    expect(page.get_by_text("Why it waits").locator("xpath=..")).to_contain_text("It waits for")
    assert "Job held" in operator.press("Hold")
    assert "Job resumed" in operator.press("Resume")

    # watch output arrive, in a page that is not loaded anew; not while it is paused
    page.goto(f"/ui/jobs/{scene.training}")
    page.get_by_role("button", name="Live – pause").click()
    page.get_by_role("button", name="Paused – go on").click()
    say(Client(routes.test_client(), scene.operator.key), site, b"step  32000  loss 1.0712\n")
    expect(page.get_by_text("loss 1.0712")).to_be_visible()
    expect(page.get_by_role("button", name="Live – pause")).to_be_visible()
    assert "told to save and to give the job back" in operator.press("Interrupt")
    page.goto(f"/ui/jobs/{scene.in_hand}")
    assert "Job canceled" in operator.press("Cancel now")

    # ask for a part when the server says so, and no sooner
    page.goto("/ui/groups")
    assert page.evaluate(ASKED, 60) == [True, False, True, True]
    with page.expect_request(lambda asked: asked.headers.get("hx-request") == "true", timeout=5_000):
        page.evaluate("askAfter('live', 0.1)")

    # pause a group
    page.goto("/ui/groups")
    page.get_by_role("row", name=OTHER_GROUP).get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_contain_text(f"The container group {OTHER_GROUP} is paused")

    # set a secret
    page.goto("/ui/settings")
    page.get_by_label("Name", exact=True).last.fill("HF_TOKEN")
    page.get_by_label("Value").fill("hf_secret")
    assert "HF_TOKEN" in operator.press("Set")
    expect(page.get_by_text("hf_secret")).to_have_count(0)

    # leave; a copy of the cookie opens nothing then
    stolen = operator.context.cookies()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/ui/sign-in")
    page.go_back()
    expect(page).to_have_url(re.compile("/ui/sign-in"))
    assert operator.complaints == []
    operator.context.close()
    thief = Visitor.come(chromium, site)
    thief.context.add_cookies(stolen)
    thief.page.goto("/ui/jobs")
    assert "/ui/sign-in" in thief.page.url
    thief.context.close()


def say(api: Client, site: Site, content: bytes) -> None:
    """Print something, as the worker that holds the training job sends it."""
    [kept] = site.db.all("select next, attempt from outputs where job_id = %(id)s", id=site.scene.training)
    answer = api.call(
        "PUT",
        f"/jobs/{site.scene.training}/output?from={kept['next']}&machine_id={MACHINES[4]}"
        f"&container_group_id=a100-spot&attempt={kept['attempt']}",
        content,
    )
    assert answer.status_code == 200, answer.text
