"""The version that the documents show is this release's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kelpie_version import VERSION
from local_stack.processes import CHECKOUT

SHOWN = re.compile(r"kelpie[-/](\d+\.\d+\.\d+)")
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]


def test_versions_are_found_where_they_are_shown() -> None:
    assert SHOWN.search((CHECKOUT / "README.md").read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_shows_no_other_version(page: Path) -> None:
    assert set(SHOWN.findall(page.read_text())) <= {VERSION}
