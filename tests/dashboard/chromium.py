"""Chromium at the pages, and what is looked for in what it shows."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flask import Flask
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, Page, sync_playwright
from werkzeug.serving import make_server

from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.web.process import Coordinator
from tests import programs
from tests.dashboard import scene
from tests.dashboard.scene import GROUP, Scene

HERE = Path(__file__).parent
FINISH_TRANSITIONS = """
    document.getAnimations().filter(one => one instanceof CSSTransition).forEach(one => one.finish())
"""
AXE = HERE / "axe" / "axe.min.js"  # as scripts/update-npm put it there, with its licence and its hashes
NARROW, WIDE = {"width": 360, "height": 760}, {"width": 1280, "height": 860}  # screens
SETTLES = 30  # tenths of a second in which a page is laid out anew
PATIENCE = 20_000  # milliseconds for what a page is to show


@dataclass(frozen=True)
class Site:
    """The pages on a port of this machine, and what is in them."""

    url: str
    scene: Scene
    db: Database


def places(site: Site) -> dict[str, str]:
    """A name and the address of each page."""
    scene = site.scene
    return {
        "overview": "/ui",
        "jobs": "/ui/jobs",
        "filtered": "/ui/jobs?label=team:nlp",
        "change": "/ui/jobs/change/cancel?label=team:walk",
        "job": f"/ui/jobs/{scene.training}",
        "ended": f"/ui/jobs/{scene.finished}",
        "waiting": f"/ui/jobs/{scene.waiting}",
        "sweeps": "/ui/sweeps",
        "sweep": f"/ui/sweeps/{scene.sweep}",
        "groups": "/ui/groups",
        "group": f"/ui/groups/one?container_group_id={GROUP}",
        "machines": "/ui/machines",
        "settings": "/ui/settings",
        "usage": "/ui/usage",
        "refused": "/ui/jobs?phase=odd",
        "nothing": "/ui/nothing",
    }


@contextmanager
def serving(application: Flask, config: Config, db: Database) -> Iterator[Site]:
    """The application with its housekeeping, in threads of this process, with the rows of the scene."""
    application.extensions.clear()
    parts = application.extensions["kelpie"] = Coordinator.of(config)
    made = scene.make(db)
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Site(f"http://127.0.0.1:{server.port}", made, db)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        parts.end()


@contextmanager
def started(**settings: str) -> Iterator[Chromium]:
    """Debian's Chromium without a window; `settings` are more environment variables."""
    program = programs.find("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, env={**os.environ, **settings})
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visitor:
    """A person with a browser of their own, and all that the browser complained of: scripts and styles that the
    policy of the pages stops, errors of scripts, files that are missing."""

    context: BrowserContext
    site: Site
    page: Page
    complaints: list[str] = field(default_factory=list)

    @classmethod
    def come(cls, chromium: Chromium, site: Site, **options: Any) -> Visitor:
        context = chromium.new_context(base_url=site.url, reduced_motion="reduce", **options)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        visitor = cls(context, site, page)
        page.on("console", lambda said: visitor.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
        return visitor

    def sign_in(self, key: str, place: str = "/ui") -> None:
        """Go to a page, which leads to the form, and from there to it."""
        self.page.goto(place)
        self.page.get_by_label("Key").first.fill(key)
        self.page.get_by_role("button", name="Sign in").first.click()
        self.page.wait_for_url(f"**{place}")

    def press(self, name: str) -> str:
        """Press a button; what the page that follows tells."""
        self.page.get_by_role("button", name=name, exact=True).first.click()
        return self.page.get_by_role("status").inner_text()

    def found_by_axe(self, *only: str) -> list[str]:
        """What keeps people from using this page; of these rules only, where some are named.

        Colors that change over a time, as with the scheme, are taken as they are in the end.
        """
        self.page.evaluate(FINISH_TRANSITIONS)
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(AXE.read_text())
        found: list[str] = self.page.evaluate((HERE / "axe.js").read_text(), [*only])
        return found

    def cut(self) -> list[str]:
        """Text that cannot be read on a screen of this width, once the charts have taken that width."""
        look = (HERE / "cut.js").read_text()
        for _ in range(SETTLES):
            found: list[str] = self.page.evaluate(look)
            if not found:
                break
            self.page.wait_for_timeout(100)
        return found
