"""Comments and docstrings call programs by the terms of the field, never `nobody`, `whoever` or `who`."""

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
    *("kelpie_api", "kelpie_worker", "local_stack", "sql/queries", "sql/functions"),
    *("bench", "examples", "packaging", "scripts", "tests"),
)
# Written by the wire alone and left as they are, so that a change of the programs passes them without an edit.
LEFT_ALONE = ("tests/contract/", "tests/contract_worker/")
PERSONAL = re.compile(r"\b(?:nobody|whoever|somebody|everybody|anybody|who|whom)\b", re.IGNORECASE)

# Lines about people, to whom such a word belongs: file, and a part of the line.
ABOUT_PEOPLE: set[tuple[str, str]] = {
    ("tests/auth/test_salad_keys.py", "Another customer who creates an organization"),
    ("tests/checkpoints/test_watch.py", "a user whom mode bits stop"),
    ("tests/docs/test_words.py", "nobody"),
    ("tests/docs/test_words.py", "to whom such a word belongs"),
    ("tests/local_stack/test_postgres.py", "the same user, who can read the files"),
}


def tracked() -> list[Path]:
    names = subprocess.check_output(["git", "ls-files", "-z", *FOLDERS], cwd=ROOT, text=True).split("\0")
    checked = [name for name in names if name.endswith((".py", ".sql")) and not name.startswith(LEFT_ALONE)]
    return [ROOT / name for name in checked if (ROOT / name).is_file()]


def prose(file: Path) -> Iterator[str]:
    """The lines of comments and docstrings."""
    text = file.read_text()
    if file.suffix == ".sql":
        yield from (line.partition("--")[2] for line in text.splitlines())
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (ast.get_docstring(node) or "").splitlines()


def personal_lines(file: Path) -> list[str]:
    name = str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else file.name
    return [
        f"{name}: {line.strip()}"
        for line in prose(file)
        if PERSONAL.search(line) and not any(name == allowed and part in line for allowed, part in ABOUT_PEOPLE)
    ]


def test_programs_are_not_spoken_of_as_persons() -> None:
    assert [line for file in tracked() for line in personal_lines(file)] == []


def test_every_exception_is_still_needed() -> None:
    unused = [(name, part) for name, part in ABOUT_PEOPLE if part not in (ROOT / name).read_text()]
    assert unused == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("comment.py", "x = 1  # nobody waits for it\n"),
        ("docstring.py", 'def f() -> None:\n    """For whoever\n    asks."""\n'),
        ("statement.sql", "select 1; -- for somebody else\n"),
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
