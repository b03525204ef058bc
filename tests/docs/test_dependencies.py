"""The README says of each dependency why it is there, and what users install has lower bounds."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement

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


INSTALLED = ("api", "worker", "local")  # those that are extras of the package: pip chooses the versions


def lines_of(name: str) -> list[str]:
    lines = (CHECKOUT / "requirements" / name).read_text().splitlines()
    return [line for line in lines if line and line[0] not in "#-"]


@pytest.mark.parametrize("extra", INSTALLED)
def test_what_users_install_is_not_older_than_what_the_code_needs(extra: str) -> None:
    """An environment that has an older version already is brought up to the bound, and keeps a newer one."""
    locked = dict(
        re.findall(r"^([a-z0-9-]+)==(\S+)", (CHECKOUT / "requirements" / "demo.txt").read_text(), re.MULTILINE)
    )
    for line in lines_of(f"{extra}.in"):
        needed = Requirement(line)
        assert [bound.operator for bound in needed.specifier] == [">="], line
        assert needed.specifier.contains(locked[needed.name]), line


@pytest.mark.parametrize(
    ("extra", "package", "too_old"),
    [
        ("api", "click", "8.3.3"),
        ("api", "gunicorn", "27.0.0"),
        ("worker", "boto3", "1.35.99"),
        ("worker", "watchdog", "7.0.0"),
    ],
)
def test_a_version_that_lacks_what_the_code_calls_is_refused(extra: str, package: str, too_old: str) -> None:
    found = {needed.name: needed for needed in map(Requirement, lines_of(f"{extra}.in"))}
    assert not found[package].specifier.contains(too_old)
