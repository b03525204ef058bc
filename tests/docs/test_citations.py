"""The pages and headings that comments cite exist, and so do the tests that docs/design/guarantees.md names."""

from __future__ import annotations

import ast
import configparser
import functools
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUARANTEES = "docs/design/guarantees.md"
INVARIANTS = [f"I{number}" for number in range(1, 18)]

# `docs/design/protocol.md, Claim`: a page, and what may be one of its headings.
CITATION = re.compile(r"\b(docs/[\w./-]*\w\.md)(?:, (\S.{0,80}))?")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
FILE = re.compile(
    r"`((?:kelpie_api|kelpie_worker|sql|tests|local_stack|bench|deploy|docs|packaging)/[\w./-]+\.(?:py|sql|md|conf|env))`"
)
TEST = re.compile(r"\b(tests/[\w/]+\.py)::(test_\w+)")
UNKNOWN_PAGES = re.compile(
    r"\bcontract sections?\b|\breliability section\b|\bnewest seed\b|\bhouse\.md\b|\binvariants? I\d",
    re.IGNORECASE,
)
BARE_INVARIANT = re.compile(r"(?<!guarantees\.md, )\bI(?:1[0-7]|[1-9])\b(?!:)")


def tracked() -> list[Path]:
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def in_one_line(text: str) -> str:
    """The text without line breaks and without the marks of comments, so that a citation may be wrapped."""
    return re.sub(r"\s*\n\s*(?:#|--)?\s*", " ", text)


SOURCES = [
    file
    for file in tracked()
    if (
        file.suffix in {".py", ".sql", ".md", ".cfg", ".toml", ".sh"}
        or file.parent.name in {"scripts", "packaging"}
    )
    and file != Path(__file__)
]


@functools.cache
def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.*?)\s*$", (ROOT / page).read_text(), re.MULTILINE)


def is_heading(page: str, text: str) -> bool:
    """Whether a heading of the page, or its number (`I12`), begins the text."""
    known = [short for heading in headings(page) for short in (heading, heading.partition(":")[0])]
    return any(re.match(re.escape(name) + r"(?!\w)", text) for name in known)


def problems_of(file: Path) -> list[str]:
    text = in_one_line(file.read_text())
    found = [f"{hit.group()} is not a page of this repository" for hit in UNKNOWN_PAGES.finditer(text)]
    for page, place in CITATION.findall(text):
        if not (ROOT / page).is_file():
            found.append(f"there is no {page}")
        elif place[:1].isupper() and file.suffix != ".md" and not is_heading(page, place):
            found.append(f"{page} has no heading {place}")
    return found


def test_every_cited_page_and_heading_exists() -> None:
    assert [f"{name_of(file)}: {problem}" for file in SOURCES for problem in problems_of(file)] == []


def test_a_relative_link_of_a_document_leads_somewhere() -> None:
    dead = [
        f"{name_of(file)}: {target}"
        for file in SOURCES
        if file.suffix == ".md"
        for target in LINK.findall(file.read_text())
        if not (file.parent / target).exists()
    ]
    assert dead == []


def test_a_file_that_a_document_names_by_its_path_exists() -> None:
    gone = [
        f"{name_of(file)}: {path}"
        for file in SOURCES
        if file.suffix == ".md" and file.name != "CHANGELOG.md"
        for path in FILE.findall(file.read_text())
        if not (ROOT / path).is_file()
    ]
    assert gone == []


def test_an_invariant_is_cited_with_its_page() -> None:
    bare = [
        f"{name_of(file)}: {hit.group()}"
        for file in SOURCES
        if file.suffix in {".py", ".sql"}
        for hit in BARE_INVARIANT.finditer(in_one_line(file.read_text()))
    ]
    assert bare == []


def places_of_tests() -> dict[str, list[str]]:
    places = defaultdict(list)
    for file in tracked():
        if file.suffix == ".py" and name_of(file).startswith("tests/"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                    places[node.name].append(name_of(file))
    return places


def test_every_test_that_the_guarantees_name_exists_at_its_place() -> None:
    places = places_of_tests()
    missing = [
        f"{path}::{name} is not there; it is now in {places.get(name) or 'no file'}"
        for path, name in TEST.findall((ROOT / GUARANTEES).read_text())
        if path not in places.get(name, [])
    ]
    assert missing == []


@pytest.mark.parametrize("number", INVARIANTS)
def test_every_invariant_has_a_heading_and_a_test(number: str) -> None:
    _, _, section = (ROOT / GUARANTEES).read_text().partition(f"\n### {number}: ")
    assert TEST.search(section.partition("\n## ")[0].partition("\n### ")[0])


@pytest.mark.parametrize(
    "text",
    [
        "# as the contract section 3 says",
        "# see docs/design/nowhere.md",
        "# see docs/design/protocol.md, Nonsense",
        "# see docs/design/guarantees.md, I99",
    ],
)
def test_a_citation_that_leads_nowhere_is_found(tmp_path: Path, text: str) -> None:
    file = tmp_path / "comment.py"
    file.write_text(f"{text}\n")
    assert problems_of(file)


def test_a_citation_may_be_wrapped(tmp_path: Path) -> None:
    file = tmp_path / "comment.sql"
    file.write_text("-- see docs/design/protocol.md,\n-- Attempt and fence.\n")
    assert problems_of(file) == []


@pytest.mark.parametrize("program", ["kelpie_api", "kelpie_worker"])
def test_the_architecture_names_every_room_that_the_import_contracts_order(program: str) -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / "setup.cfg")
    (layers,) = (
        section["layers"] for section in contracts.values() if section.get("containers", "").strip() == program
    )
    page = (ROOT / "docs/design/architecture.md").read_text()
    rooms = re.findall(r"\w+", layers)
    assert rooms and [room for room in rooms if not re.search(rf"\b{room}\b", page)] == []
