"""scripts/bootstrap, killed at any moment: the next run completes what it began, and what was there stays."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from local_stack.processes import CHECKOUT, wait_for

# Run by each of the checkout's Pythons: ends all of a bootstrap as a file of that name is opened for writing.
KILL = """
import os, signal, sys

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and "w" in str(arguments[1]):
        if arguments[0].endswith(os.environ["KILL_AT"]):
            os.killpg(0, signal.SIGKILL)

if "KILL_AT" in os.environ:
    sys.addaudithook(watch)
"""
# In the order in which they come: as the environment is made, and as pip installs a package into it.
MADE = ["bin/python", "lib/*/site-packages/pip/__init__.py", "lib/*/site-packages/pip-*/METADATA"]
INSTALLED = ["/tools/one.txt", "/tools/three.txt", "/tools-1.dist-info/METADATA", "/bin/tools"]


class Checkout:
    """With lists of one package each, which pip takes from a folder: `api` has `server`, `test` has `tools`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        self.environment = self.folder / ".venv"
        self._wheels, self._hook = folder / "wheels", folder / "hook"
        for made in (self._wheels, self._hook, self.folder / "scripts", self.folder / "requirements"):
            made.mkdir(parents=True)
        shutil.copy(CHECKOUT / "scripts" / "bootstrap", self.folder / "scripts")
        (self._hook / "sitecustomize.py").write_text(KILL)
        self.offer("api", "server")
        self.offer("demo", "stack")
        self.offer("test", "tools")

    def offer(self, name: str, package: str) -> None:
        digest = hashlib.sha256(wheel(self._wheels, package).read_bytes()).hexdigest()
        text = f"{package}==1 --hash=sha256:{digest}\n"
        (self.folder / "requirements" / f"{name}.txt").write_text(text)

    def begin(self, name: str, kill_at: str | None = None) -> subprocess.Popen[str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
        pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self._wheels)}
        killed = {"KILL_AT": kill_at, "PYTHONPATH": str(self._hook)} if kill_at else {}
        return subprocess.Popen(
            ["scripts/bootstrap", name],
            cwd=self.folder,
            env={**inherited, **pip, **killed, "PYTHON": sys.executable},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def bootstrap(self, name: str) -> str:
        """To its end; what it said."""
        process = self.begin(name)
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said
        return said

    def killed_in_pip(self, name: str, kill_at: str) -> None:
        process = self.begin(name, kill_at)
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL

    def killed_as_it_makes(self, name: str, pattern: str) -> None:
        process = self.begin(name)
        wait_for(lambda: any(self.environment.glob(pattern)), pattern, timeout=120, pause=0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=10)
        assert process.returncode == -signal.SIGKILL

    def prints(self, package: str) -> str:
        """What the package's program and its files say."""
        return subprocess.check_output([self.environment / "bin" / package], text=True)


def wheel(folder: Path, package: str) -> Path:
    """A package of some files, with a program of its name that prints how many there are."""
    count = "print(len(list(Path(__file__).parent.glob('*.txt'))), 'files')"
    described = f"{package}-1.dist-info"
    files = {
        f"{package}/__init__.py": f"from pathlib import Path\n\ndef main():\n    {count}\n",
        **{f"{package}/{number}.txt": number for number in ("one", "two", "three", "four")},
        f"{described}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n",
        f"{described}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{described}/entry_points.txt": f"[console_scripts]\n{package} = {package}:main\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{described}/RECORD"])
    path = folder / f"{package}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in (files | {f"{described}/RECORD": record}).items():
            archive.writestr(name, text)
    return path


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be copied, for making one takes long; nothing in it but its programs' first lines names its place."""
    folder = tmp_path_factory.mktemp("made") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def with_environment(checkout: Checkout, empty_environment: Path) -> Checkout:
    shutil.copytree(empty_environment, checkout.environment, symlinks=True)
    return checkout


def test_what_was_cut_short_at_any_moment_is_completed_by_the_next_run(checkout: Checkout) -> None:
    for pattern in MADE:
        checkout.killed_as_it_makes("test", pattern)
    for place in INSTALLED:
        checkout.killed_in_pip("test", place)
    assert "installing" in checkout.bootstrap("test")
    assert (checkout.environment / "bin" / "activate").exists()
    assert checkout.prints("tools") == "4 files\n"
    assert checkout.bootstrap("test") == ""  # there is nothing to do


def test_an_environment_in_use_stays_when_another_list_is_cut_short(with_environment: Checkout) -> None:
    with_environment.bootstrap("api")
    (with_environment.environment / "mark").touch()
    for place in INSTALLED:
        with_environment.killed_in_pip("test", place)
        assert (with_environment.environment / "mark").exists()
        assert with_environment.prints("server") == "4 files\n"
    with_environment.bootstrap("api")
    with_environment.bootstrap("test")
    assert (with_environment.environment / "mark").exists()
    assert (with_environment.prints("server"), with_environment.prints("tools")) == ("4 files\n", "4 files\n")


def test_lists_are_installed_side_by_side_and_again_when_they_changed(with_environment: Checkout) -> None:
    with_environment.bootstrap("api")
    with_environment.bootstrap("test")
    assert with_environment.bootstrap("api") == with_environment.bootstrap("test") == ""
    with_environment.offer("test", "others")
    assert "installing requirements/test.txt" in with_environment.bootstrap("test")
    assert with_environment.prints("others") == "4 files\n"
    assert with_environment.bootstrap("api") == ""


def test_the_list_of_the_tests_holds_what_the_others_need(with_environment: Checkout) -> None:
    with_environment.bootstrap("test")
    assert with_environment.bootstrap("api") == ""
    locked = {
        name: set((CHECKOUT / "requirements" / f"{name}.txt").read_text().splitlines())
        for name in ("api", "worker", "demo", "test")
    }
    assert locked["api"] | locked["worker"] <= locked["demo"] <= locked["test"]


def test_a_list_that_does_not_exist_is_refused_and_nothing_is_made(checkout: Checkout) -> None:
    for name in ("", "nothing"):
        process = checkout.begin(name)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 1
        assert "api, worker, demo or test" in said
    assert not checkout.environment.exists()
