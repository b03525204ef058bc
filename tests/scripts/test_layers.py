"""What a file in the wrong room makes of the import contracts, and what the rooms' own files may hold."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from local_stack.processes import CHECKOUT

PROGRAMS = ("kelpie", "kelpie_api", "kelpie_worker")
TREES = (*PROGRAMS, "local_stack", "bench", "tests")
ROOMS = sorted(
    path.relative_to(CHECKOUT) for name in PROGRAMS for path in (CHECKOUT / name).glob("*/**/__init__.py")
)
OF_THE_STACK = sorted(path.relative_to(CHECKOUT) for path in (CHECKOUT / "local_stack").glob("**/__init__.py"))

FLASK = "Below the web rooms of the coordinator nothing knows Flask"
WIRE = "The client and the two programs meet on the wire only"
CLIENT = "The client's rooms, each above those that it may import"
TREE = "No program imports what tries, measures or starts it"
COORDINATOR = "The coordinator's rooms, each above those that it may import"
WORKER = "The worker's rooms, each above those that it may import"
SYSTEM = "The worker's system room knows no jobs and no settings"
QUEUE = "The queue knows no network"
HTTP = "Only the rooms that speak HTTP by hand import http and ssl"
SOCKETS = "Only the files that own a connection import socket"
ADDRESSES = "Only the rooms that read addresses import urllib"
CLIENTS = "No program brings another way onto the network"
STORAGE = "Only kelpie_worker.s3 imports boto3 and botocore"
CALLS = "Only kelpie_worker.coordinator imports requests"

# A room, what a file in it imports, and the contract that refuses it.
WRONG = [
    ("kelpie_api/queue", "import flask", FLASK),
    ("kelpie_api", "import flask", FLASK),
    ("kelpie_api/schemas", "import flask", FLASK),
    ("kelpie_api/commands", "from werkzeug import exceptions", FLASK),
    ("kelpie_api/queue", "import marshmallow", "Only the wire's rooms of the coordinator import marshmallow"),
    ("kelpie_api/queue", "import requests", QUEUE),
    ("kelpie_api/queue", "from kelpie_api.net import http", QUEUE),
    ("kelpie_api/queue", "from kelpie_api.salad import client", QUEUE),
    ("kelpie_api/queue", "import socket", SOCKETS),
    ("kelpie_api/queue", "import _socket", SOCKETS),
    ("kelpie_api/queue", "from multiprocessing.connection import Client", QUEUE),
    ("kelpie_api/queue", "import ssl", HTTP),
    ("kelpie_api/queue", "import http.client", HTTP),
    ("kelpie_api/queue", "from http.client import HTTPSConnection", HTTP),
    ("kelpie_api/queue", "import urllib.request", ADDRESSES),
    ("kelpie_api/queue", "from urllib import request", ADDRESSES),
    ("kelpie_api/queue", "import httpx", CLIENTS),
    ("kelpie_api/queue", "import urllib3", STORAGE),
    ("kelpie_api/auth", "import http.client", HTTP),
    ("kelpie_api/scaling", "import aiohttp", CLIENTS),
    ("kelpie_api/net", "import requests", CALLS),
    ("kelpie_api", "import json", COORDINATOR),
    ("kelpie_api/net", "from kelpie_api.queue import jobs", COORDINATOR),
    ("kelpie_worker", "import json", WORKER),
    ("kelpie_worker/s3", "from kelpie_worker import supervisor", WORKER),
    ("kelpie_worker/checkpoints", "from kelpie_worker.coordinator import client", WORKER),
    ("kelpie_worker/sync", "import boto3", STORAGE),
    ("kelpie_worker/sync", "import botocore.config", STORAGE),
    ("kelpie_worker/transfer", "import urllib3", STORAGE),
    ("kelpie_worker/transfer", "import s3transfer", CLIENTS),
    ("kelpie_worker/checkpoints", "from s3transfer import manager", CLIENTS),
    ("kelpie_worker/sync", "import requests", CALLS),
    ("kelpie_worker/s3", "import requests", CALLS),
    ("kelpie_worker/salad", "import requests", CALLS),
    ("kelpie_worker/coordinator", "import httpx", CLIENTS),
    ("kelpie_worker/workspace", "import http.client", HTTP),
    ("kelpie_worker/system", "from kelpie_worker import messages", SYSTEM),
    ("kelpie_worker/system", "from kelpie_worker import job", SYSTEM),
    ("kelpie_worker/system", "from kelpie_worker import config", SYSTEM),
    ("kelpie_worker/sync", "import psycopg", "The worker never talks to the database"),
    ("kelpie_worker/coordinator", "from kelpie_api import errors", WIRE),
    ("kelpie_api/routes", "from kelpie_worker import job", WIRE),
    ("kelpie/commands", "from kelpie_api import limits", WIRE),
    ("kelpie/commands", "import local_stack.stack", "Of the client only kelpie dev starts a local stack"),
    ("kelpie", "import json", CLIENT),
    ("kelpie_api/queue", "import local_stack.stack", TREE),
    ("kelpie_api/routes", "from bench import harness", TREE),
    ("kelpie_api/commands", "from tests import helpers", TREE),
    ("kelpie_worker/sync", "import tests", TREE),
    ("kelpie_worker/system", "from local_stack import processes", TREE),
    ("local_stack/demo", "from tests import helpers", TREE),
    ("local_stack", "from bench import harness", TREE),
]

RIGHT = [
    ("kelpie_api/net", "import http.client"),
    ("kelpie_api/web", "from urllib.parse import quote"),
    ("kelpie_worker/coordinator", "import requests"),
    ("kelpie_worker/system", "from kelpie_worker import logs"),
    ("kelpie_worker/s3", "import botocore.config"),
    ("tests/queue", "from bench import harness"),
    ("local_stack", "import requests"),
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two programs, what is around them, and their contracts, where a test may put a file."""
    path = tmp_path_factory.mktemp("checkout")
    for name in TREES:
        ignored = shutil.ignore_patterns("__pycache__", "sql" if name == "kelpie_api" else "*.gz")
        shutil.copytree(CHECKOUT / name, path / name, ignore=ignored)
    for name in ("setup.cfg", "ruff.toml", "kelpie_version.py"):
        shutil.copy(CHECKOUT / name, path / name)
    return path


def check(checkout: Path) -> tuple[int, str]:
    """The exit code of the check that scripts/check makes, and what it said."""
    program = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    ran = subprocess.run(program, cwd=checkout, capture_output=True, text=True, timeout=120)
    return ran.returncode, ran.stdout


@pytest.fixture(scope="module")
def broken(checkout: Path) -> dict[str, str]:
    """What the check says below each broken contract, once the files of WRONG and RIGHT are in their rooms."""
    files = [*(case[:2] for case in WRONG), *RIGHT]
    written = [checkout / room / f"new_{number}.py" for number, (room, _) in enumerate(files)]
    for path, (_, line) in zip(written, files, strict=True):
        path.write_text(f"{line}\n")
    code, said = check(checkout)
    for path in written:
        path.unlink()
    assert code != 0
    _, _, sections = said.partition("Broken contracts\n")
    found = re.split(r"^(.+)\n-{3,}$", sections, flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def test_the_rooms_as_they_are_keep_their_contracts(checkout: Path) -> None:
    code, said = check(checkout)
    assert code == 0, said
    assert "0 broken" in said


@pytest.mark.parametrize(
    ("number", "contract"),
    [pytest.param(number, contract, id=f"{room}: {line}") for number, (room, line, contract) in enumerate(WRONG)],
)
def test_a_file_in_the_wrong_room_breaks_a_contract(broken: dict[str, str], number: int, contract: str) -> None:
    assert re.search(rf"\bnew_{number}\b", broken[contract])


def test_a_file_in_the_right_room_breaks_none(broken: dict[str, str]) -> None:
    said = "\n".join(broken.values())
    for number in range(len(WRONG), len(WRONG) + len(RIGHT)):
        assert not re.search(rf"\bnew_{number}\b", said)


@pytest.mark.parametrize("room", ["kelpie_api/web", "kelpie_api/net", "kelpie_worker/s3"])
@pytest.mark.parametrize("line", ["import urllib.request", "from urllib import request"])
def test_no_room_of_a_program_may_open_addresses_by_urllib(checkout: Path, room: str, line: str) -> None:
    ruff = [Path(sys.executable).with_name("ruff"), "check", "--no-cache", "--stdin-filename", f"{room}/new.py"]
    ran = subprocess.run(ruff, input=f"{line}\n", cwd=checkout, capture_output=True, text=True, timeout=60)
    assert "TID251" in ran.stdout, ran.stdout + ran.stderr


# Libraries that a named one brings and shows in its own interface.
BROUGHT = {
    "apispec": "flask-smorest",
    "webargs": "flask-smorest",
    "werkzeug": "flask",
    "botocore": "boto3",
    "urllib3": "boto3",
}


@pytest.mark.parametrize(("program", "requirements"), [("kelpie_api", "api.in"), ("kelpie_worker", "worker.in")])
def test_a_program_imports_only_libraries_that_its_requirements_name(program: str, requirements: str) -> None:
    lines = (CHECKOUT / "requirements" / requirements).read_text().splitlines()
    named = {re.split(r"[\[<>=]", line)[0].strip() for line in lines if line and line[0] not in "#-"}
    for library in sorted(libraries_of(CHECKOUT / program) - {program, "kelpie_version"}):
        package = BROUGHT.get(library, packages_distributions()[library][0].lower().replace("_", "-"))
        assert package in named, f"{program} imports {library}, and {requirements} does not name {package}"


def libraries_of(program: Path) -> set[str]:
    """What the files of the program import while it runs, by its first name, without the standard library."""
    found: set[str] = set()
    for path in program.rglob("*.py"):
        for node in running(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes below this one, without what only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            yield node
            yield from running(node)


@pytest.mark.parametrize("room", [*ROOMS, *OF_THE_STACK], ids=str)
def test_a_room_begins_with_what_it_is_for_and_holds_no_code(room: Path) -> None:
    tree = ast.parse((CHECKOUT / room).read_text())
    said = " ".join((ast.get_docstring(tree) or "").split())
    assert re.search(r"\b(?:in come|come in|takes|schema in)\b", said, re.IGNORECASE), "says not what comes in"
    assert re.search(
        r"\b(?:out goe?s?|goes out|schema out|returns|answers|commits|passes|scans)\b", said, re.IGNORECASE
    ), "says not what goes out"
    assert len(tree.body) == 1


# The rooms whose tests lie in a folder of another name.
TESTED_IN = {
    "kelpie/commands": "client",
    "kelpie_api/commands": "scripts",
    "kelpie_api/routes": "contract",
    "kelpie_worker/salad": "instance",
}
# The folders of tests that are of no one room.
OF_NO_ROOM = {
    *("api", "worker", "contract_worker"),  # a program's few files on top, and its wire
    *("bench", "containers", "docs", "frozen", "local_stack", "openapi", "packaging", "sql"),
    *("e2e", "slurm", "doubles"),
}


def test_the_folders_of_tests_mirror_the_rooms() -> None:
    folders = {path.parent.name for path in (CHECKOUT / "tests").glob("*/__init__.py")}
    mirrors = {TESTED_IN.get(str(room.parent), room.parent.name) for room in ROOMS}
    assert mirrors <= folders
    assert folders - mirrors == OF_NO_ROOM


def test_the_coordinators_package_is_empty() -> None:
    assert (CHECKOUT / "kelpie_api" / "__init__.py").read_text() == ""
