"""What a file in the wrong room makes of the import contracts, and what the rooms' own files may hold."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local_stack.processes import CHECKOUT

PROGRAMS = ("kelpie_api", "kelpie_worker")
ROOMS = sorted(
    path.relative_to(CHECKOUT) for name in PROGRAMS for path in (CHECKOUT / name).glob("*/**/__init__.py")
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The two programs and their contracts, where a test may put a file."""
    for name in PROGRAMS:
        ignored = shutil.ignore_patterns("__pycache__", "sql")
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=ignored)
    for name in ("setup.cfg", "kelpie_version.py"):
        shutil.copy(CHECKOUT / name, tmp_path / name)
    return tmp_path


def check(checkout: Path) -> tuple[int, str]:
    """The exit code of the check that scripts/check makes, and what it said."""
    program = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    ran = subprocess.run(program, cwd=checkout, capture_output=True, text=True, timeout=120)
    return ran.returncode, ran.stdout


def test_the_rooms_as_they_are_keep_their_contracts(checkout: Path) -> None:
    code, said = check(checkout)
    assert code == 0, said
    assert "0 broken" in said


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("kelpie_api/queue/new.py", "import flask", "Below the web rooms of the coordinator nothing knows Flask"),
        ("kelpie_api/queue/new.py", "import requests", "The queue knows no network"),
        (
            "kelpie_api/queue/new.py",
            "from kelpie_api.net import http",
            "The queue knows no network",
        ),
        (
            "kelpie_api/new.py",
            "import json",
            "The coordinator's rooms, each above those that it may import",
        ),
        (
            "kelpie_api/net/new.py",
            "from kelpie_api.queue import jobs",
            "The coordinator's rooms, each above those that it may import",
        ),
        (
            "kelpie_worker/new.py",
            "import json",
            "The worker's rooms, each above those that it may import",
        ),
        (
            "kelpie_worker/s3/new.py",
            "from kelpie_worker import supervisor",
            "The worker's rooms, each above those that it may import",
        ),
        (
            "kelpie_worker/sync/new.py",
            "import botocore.config",
            "Only kelpie_worker.s3 imports boto3 and botocore",
        ),
        (
            "kelpie_worker/sync/new.py",
            "import requests",
            "Only kelpie_worker.coordinator imports requests",
        ),
        (
            "kelpie_worker/coordinator/new.py",
            "from kelpie_api import errors",
            "The two programs meet on the wire only",
        ),
        (
            "kelpie_api/routes/new.py",
            "from kelpie_worker import job",
            "The two programs meet on the wire only",
        ),
        ("kelpie_worker/sync/new.py", "import psycopg", "The worker never talks to the database"),
    ],
)
def test_a_file_in_the_wrong_room_breaks_a_contract(checkout: Path, file: str, line: str, contract: str) -> None:
    (checkout / file).write_text(f"{line}\n")
    code, said = check(checkout)
    assert code != 0
    assert f"{contract} BROKEN" in said


@pytest.mark.parametrize("room", ROOMS, ids=str)
def test_a_room_begins_with_what_it_is_for_and_holds_no_code(room: Path) -> None:
    tree = ast.parse((CHECKOUT / room).read_text())
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


def test_the_coordinators_package_is_empty() -> None:
    assert (CHECKOUT / "kelpie_api" / "__init__.py").read_text() == ""
