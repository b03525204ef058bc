"""Prose calls programs by the terms of the field, never `nobody`, `whoever` or `who`.

Prose is what people read: comments and docstrings, the sentences that the programs say, and the pages.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (
    *("kelpie", "kelpie_api", "kelpie_worker", "local_stack", "sql/queries", "sql/functions"),
    *("bench", "examples", "packaging", "scripts", "tests"),
)
# Those whose strings are read, too: what they hold with a blank in it is a sentence for people.
SPEAKING = ("kelpie/", "kelpie_api/", "kelpie_worker/", "local_stack/", "bench/", "scripts/")
PAGES = ("*.md", "docs", "bench", "sql", "examples", "packaging")
# Written by the wire alone and left as they are, so that a change of the programs passes them without an edit.
LEFT_ALONE = ("tests/contract/", "tests/contract_worker/")
PERSONAL = re.compile(r"\b(?:nobody|whoever|somebody|everybody|anybody|who|whom)\b", re.IGNORECASE)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Words of the first house: Salad confirms a key, bytes wait in a buffer, a lease has a deadline.
RETIRED = re.compile(r"\b(?:vouch\w*|shelf|shelves|vigil|acquaintances?)\b", re.IGNORECASE)

# Lines about people, to whom such a word belongs: file, and a part of the line.
ABOUT_PEOPLE: set[tuple[str, str]] = {
    ("README.md", "the administrator, who makes users and keys"),
    ("docs/operating.md", "the administrator, who makes users and keys"),
    ("kelpie_api/config.py", "the administrator, who makes users and keys"),
    # drawn from the table that the second migration filled
    ("sql/README.md", "a job that nobody holds"),
    ("tests/auth/test_salad_keys.py", "Another customer who creates an organization"),
    ("tests/checkpoints/test_watch.py", "a user whom mode bits stop"),
    ("tests/docs/test_words.py", "nobody"),
    ("tests/docs/test_words.py", "to whom such a word belongs"),
    ("tests/local_stack/test_postgres.py", "the same user, who can read the files"),
}


def tracked(*folders: str) -> list[str]:
    names = subprocess.check_output(["git", "ls-files", "-z", *folders], cwd=ROOT, text=True).split("\0")
    return [name for name in names if (ROOT / name).is_file()]


def checked() -> list[Path]:
    sources = [name for name in tracked(*FOLDERS) if name.endswith((".py", ".sql"))]
    pages = [name for name in tracked(*PAGES) if name.endswith(".md")]
    return [ROOT / name for name in [*sources, *pages] if not name.startswith(LEFT_ALONE)]


def prose(file: Path) -> Iterator[str]:
    """The lines of comments, docstrings and sentences of a program; all of a page."""
    text = file.read_text()
    if file.suffix == ".md":
        yield from text.splitlines()
        return
    if file.suffix == ".sql":
        yield from (line.partition("--")[2] for line in text.splitlines())
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    tree = ast.parse(text)
    docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, DOCUMENTED)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            is_read = node.value in docstrings or is_speaking(file)
            yield from (line for line in node.value.splitlines() if is_read and " " in line.strip())


def is_speaking(file: Path) -> bool:
    return not file.is_relative_to(ROOT) or str(file.relative_to(ROOT)).startswith(SPEAKING)


def personal_lines(file: Path) -> list[str]:
    name = str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else file.name
    return [
        f"{name}: {line.strip()}"
        for line in prose(file)
        if (PERSONAL.search(line) or RETIRED.search(line))
        and not any(name == allowed and part in line for allowed, part in ABOUT_PEOPLE)
    ]


def test_programs_are_not_spoken_of_as_persons() -> None:
    assert [line for file in checked() for line in personal_lines(file)] == []


def test_every_exception_is_still_needed() -> None:
    unused = [(name, part) for name, part in ABOUT_PEOPLE if part not in (ROOT / name).read_text()]
    assert unused == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("comment.py", "x = 1  # nobody waits for it\n"),
        ("docstring.py", 'def f() -> None:\n    """For whoever\n    asks."""\n'),
        ("statement.sql", "select 1; -- for somebody else\n"),
        ("message.py", 'raise ValueError("a job that is held by nobody")\n'),
        ("message.py", 'raise ValueError(f"{job} is held by nobody")\n'),
        ("page.md", "Salad vouches for the key.\n"),
    ],
)
def test_such_a_word_is_found(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert len(personal_lines(file)) == 1


def test_other_text_of_a_program_is_not_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "user.py"
    file.write_text('name = "nobody"\n')
    assert personal_lines(file) == []
