"""The README says of each dependency why it is there."""

from __future__ import annotations

import re

from local_stack.processes import CHECKOUT


def asked_for() -> set[str]:
    """The packages that requirements/*.in name."""
    lines = [line for path in (CHECKOUT / "requirements").glob("*.in") for line in path.read_text().splitlines()]
    return {re.split(r"[\[<>=]", line)[0].strip() for line in lines if line and line[0] not in "#-"}


def explained() -> set[str]:
    _, _, after = (CHECKOUT / "README.md").read_text().partition("Why each dependency is there:")
    rows = re.findall(r"^\| ([^|]+) \|", after, re.MULTILINE)
    return {name.strip() for row in rows for name in row.split(",")} - {"package"}


def test_every_dependency_is_explained_and_nothing_else() -> None:
    assert "psycopg" in asked_for()
    assert explained() == asked_for()
