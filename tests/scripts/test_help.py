"""Every program in scripts/ says what it is for, on a machine that has nothing of ours."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kelpie_api.commands import server
from local_stack.processes import CHECKOUT

SCRIPTS = sorted(path.name for path in (CHECKOUT / "scripts").iterdir() if path.is_file())
Ran = subprocess.CompletedProcess[str]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a program in scripts/ finds around it but an environment; beside it an empty home and a bare Python."""
    folder = tmp_path / "checkout"
    for name in ("scripts", "kelpie_api", "sql", "requirements", "local_stack"):
        shutil.copytree(
            CHECKOUT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(CHECKOUT / "kelpie_version.py", folder)
    (tmp_path / "home").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} -I -S -B "$@"\n')
    (tmp_path / "bin" / "python3").chmod(0o755)
    return folder


def run(checkout: Path, script: str, *arguments: str) -> Ran:
    """With a Python that has its standard library and nothing else, and an empty home."""
    programs, home = checkout.parent / "bin", checkout.parent / "home"
    return subprocess.run(
        [checkout / "scripts" / script, *arguments],
        env={"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_printed_without_an_environment_and_nothing_is_made(
    checkout: Path, script: str, option: str
) -> None:
    before = set(checkout.parent.rglob("*"))
    ran = run(checkout, script, option)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"scripts/{script}" in ran.stdout or ran.stdout.startswith(f"Usage: {script} ")
    assert len(ran.stdout.splitlines()) >= 3
    assert set(checkout.parent.rglob("*")) == before


def options_of(command: click.Command) -> Iterator[tuple[str, str]]:
    """Each option's name and what click says of it, those of a group's commands too."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield from ((name, str(parameter.help)) for name in parameter.opts if name.startswith("-"))
    for part in command.commands.values() if isinstance(command, click.Group) else []:
        yield from options_of(part)


@pytest.mark.parametrize("script", ["admin", "autoscale", "migrate", "prune", "webhooks"])
def test_help_lists_all_options_without_an_environment(checkout: Path, script: str) -> None:
    lines = [" ".join(line.split()) for line in run(checkout, script, "--help").stdout.splitlines()]
    for name, meaning in options_of(server.command(script)):
        assert f"{name} {meaning}" in lines
    if script == "admin":
        assert "admin create-key USER" in lines and "--project" in "".join(lines)


def test_help_of_the_server_lists_its_commands_without_an_environment(checkout: Path) -> None:
    python = checkout.parent / "bin" / "python3"
    ran = subprocess.run(
        [python, "-c", "import sys; sys.path.insert(0, '.'); from kelpie_api.__main__ import main; main()", "-h"],
        cwd=checkout,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    for name in server.COMMANDS:
        assert re.search(rf"^  {name} +\w", ran.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "program",
    [
        ["kelpie_api"],
        ["kelpie_api", "admin", "create-key"],  # a command of a command, so all above them, too
        ["kelpie_worker", "doctor"],
        ["local_stack.demo"],
        ["bench.claim"],
    ],
    ids=" ".join,
)
def test_the_short_option_prints_what_the_long_one_does(program: list[str]) -> None:
    said = [
        subprocess.run(
            [sys.executable, "-m", *program, option], cwd=CHECKOUT, capture_output=True, text=True, timeout=60
        )
        for option in ("-h", "--help")
    ]
    assert said[0].returncode == 0, said[0].stderr
    assert said[0].stdout == said[1].stdout != ""


def test_every_benchmark_takes_the_short_option() -> None:
    for path in (CHECKOUT / "bench").glob("*.py"):
        for line in path.read_text().splitlines():
            assert not line.startswith("@click.command(") or "context_settings" in line, path


def test_a_python_without_the_packages_is_told_how_to_get_them(checkout: Path) -> None:
    ran = run(checkout, "migrate")
    assert ran.returncode == 1 and ran.stdout == ""
    assert "scripts/bootstrap api" in ran.stderr and "Traceback" not in ran.stderr


def test_the_checkouts_environment_is_used_where_the_python_lacks_packages(checkout: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "environment: $*"\n')
    python.chmod(0o755)
    ran = run(checkout, "prune", "--older-than", "30d")
    assert ran.stdout.startswith("environment: ")
    assert ran.stdout.endswith("scripts/prune --older-than 30d\n")
