"""Pictures of the pages, for people to look at and for the documentation: scripts/screenshots."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser as Chromium

from kelpie_api.app import create_app
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.migrations import migrate
from tests import programs
from tests.conftest import SECRET_KEY, own_database, server
from tests.dashboard import chromium as browsers
from tests.dashboard.chromium import NARROW, Site, Visitor, places

WIDE, MIDDLE = {"width": 1280, "height": 900}, {"width": 820, "height": 1100}
CLOSE = {"width": 1060, "height": 900}
RULE = """  <match target="pattern">
    <test name="family"><string>{}</string></test>
    <edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit>
  </match>
"""
# The letters of fonts-inter, whatever else the machine has.
FONTS = f"""<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
  <include>/etc/fonts/fonts.conf</include>
{"".join(map(RULE.format, ("system-ui", "sans-serif", "sans", "DejaVu Sans")))}</fontconfig>
"""
OF_ALL = ("overview", "jobs", "sweep", "groups", "machines", "usage", "settings")


@contextmanager
def site() -> Iterator[Site]:
    """The pages on a Postgres of their own."""
    with server("embedded") as server_url, own_database(server_url) as url:
        migrate(url, lambda line: None)
        config = Config(database_url=url, secret_key=SECRET_KEY, log_level="warn")
        db = Database(url)
        db.open()
        try:
            with browsers.serving(create_app(config), config, db) as found:
                yield found
        finally:
            db.close()


def take(chromium: Chromium, site: Site, folder: Path) -> None:
    address = places(site)
    for scheme in ("light", "dark"):
        visitor = Visitor.come(chromium, site, viewport=WIDE, color_scheme=scheme)
        visitor.sign_in(site.scene.operator.key)
        page = visitor.page
        for name in OF_ALL if scheme == "light" else ():
            page.goto(address[name])
            page.screenshot(path=folder / f"{name}.png")
        for size, width in (("wide", WIDE), ("middle", MIDDLE), ("narrow", NARROW)):
            page.set_viewport_size(width)
            page.goto(address["job"])
            if size == "wide" or scheme == "light":
                page.evaluate(
                    "place => place && document.querySelector('#picture').scrollIntoView()", size != "wide"
                )
                page.screenshot(path=folder / f"job-{size}-{scheme}.png", full_page=size == "wide")
        visitor.context.close()
        sharp = Visitor.come(
            chromium, site, viewport={"width": 1060, "height": 900}, color_scheme=scheme, device_scale_factor=2
        )
        sharp.sign_in(site.scene.operator.key, address["job"])
        box = sharp.page.locator("#picture").bounding_box() or {}
        table = sharp.page.locator("#picture table").bounding_box() or {}
        sharp.page.screenshot(
            path=folder / f"timeline-{scheme}.png",
            clip={**box, "height": table["y"] - box["y"]},
            full_page=True,
        )
        sharp.context.close()


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as fonts:
        fonts.write(FONTS)
        fonts.flush()
        with site() as found, browsers.started(FONTCONFIG_FILE=fonts.name) as chromium:
            take(chromium, found, folder)
    pictures = sorted(folder.glob("*.png"))
    subprocess.run(
        [programs.find("pngquant", "pngquant"), "--force", "--ext=.png", "--strip", *pictures], check=True
    )
    for picture in pictures:
        print(f"{picture}: {picture.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
