"""Every program in scripts/ says what it is for, on a machine that has nothing of ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_printed_without_an_environment_and_nothing_is_made(checkout: Path, script: str) -> None:
    before = set(checkout.parent.rglob("*"))
    ran = run(checkout, script, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"scripts/{script}" in ran.stdout or ran.stdout.startswith(f"Usage: {script} ")
    assert len(ran.stdout.splitlines()) >= 3
    assert set(checkout.parent.rglob("*")) == before


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
