"""The wheel, installed far from the checkout: its programs, its SQL, and that both serve."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from kelpie_api.commands.server import COMMANDS
from kelpie_version import VERSION
from local_stack.client import ApiClient
from local_stack.processes import CHECKOUT, Child, free_port, wait_until_ready
from tests.conftest import SECRET_KEY
from tests.doubles.coordinator import FakeCoordinator
from tests.real_worker import UNTIL_TOLD, Worker, finished, shell
from tests.worker_fixtures import coordinator, make_worker, s3  # noqa: F401 - fixtures

# What is not built from, and what belongs to this checkout alone.
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "node_modules")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, for setuptools leaves folders behind; with the setuptools of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(CHECKOUT, folder / "checkout", ignore=LEFT_OUT, symlinks=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, folder / "checkout"], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Makes an environment with the wheel, and answers with the folder of its programs."""

    def make(with_packages: bool) -> Path:
        folder = tmp_path_factory.mktemp("installed") / "environment"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        (packages,) = folder.glob("lib/*/site-packages")
        if with_packages:
            (packages / "tests.pth").write_text(sysconfig.get_path("purelib"))
        pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python"]
        subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
        return folder / "bin"

    return make


@pytest.fixture(scope="module")
def programs(install: Callable[[bool], Path]) -> Path:
    return install(True)


def environment(**settings: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "KELPIE_SECRET_KEY": SECRET_KEY, **settings}


def run(program: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """In a folder that has nothing of Kelpie's."""
    return subprocess.run(
        [program, *arguments],
        cwd=program.parent,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_wheel_holds_the_programs_and_the_sql_and_nothing_that_only_a_checkout_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "kelpie",
        "kelpie_api",
        "kelpie_worker",
        "kelpie_version.py",
        "local_stack",
        f"kelpie-{VERSION}.dist-info",
    }
    swagger_ui = {str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob("kelpie_api/swagger_ui/*")}
    assert swagger_ui and swagger_ui <= set(names)  # its licence, too
    pages = {str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob("kelpie_api/dashboard/[!_]*/*")}
    assert pages and pages <= set(names)
    sql = {str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob("sql/*/**/*.sql")}
    assert {name.removeprefix("kelpie_api/") for name in names if name.endswith(".sql")} == sql
    for package in ("kelpie", "kelpie_api", "kelpie_worker", "local_stack"):
        code = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / package).rglob("*.py")}
        assert {name for name in names if name.startswith(f"{package}/") and name.endswith(".py")} == code


def test_every_program_tells_its_use_and_the_version(programs: Path) -> None:
    packages = next(programs.parent.glob("lib/*/site-packages"))
    (installed,) = importlib.metadata.distributions(name="kelpie", path=[str(packages)])
    assert installed.version == VERSION
    scripts = [point.name for point in installed.entry_points]
    assert sorted(scripts) == ["kelpie", "kelpie-server"]
    for name in scripts:
        assert re.fullmatch(
            rf"{name},?( version)? {re.escape(VERSION)}\n", run(programs / name, "--version").stdout
        )
        helped = run(programs / name, "--help")
        assert helped.returncode == 0 and helped.stdout.lower().startswith(f"usage: {name} ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_server_tells_its_use(programs: Path, command: str) -> None:
    helped = run(programs / "kelpie-server", command, "--help")
    assert helped.returncode == 0 and helped.stdout.startswith(f"Usage: kelpie-server {command} ")


def test_without_the_packages_of_its_extra_a_program_says_which_to_install(
    install: Callable[[bool], Path],
) -> None:
    programs = install(False)
    assert run(programs / "kelpie-server", "--help").returncode == 0
    assert run(programs / "kelpie-server", "--version").stdout == f"kelpie-server {VERSION}\n"
    for command, extra in ((["kelpie", "worker"], "[worker]"), (["kelpie-server"], "whl[api]")):
        refused = run(programs / command[0], *command[1:])
        assert refused.returncode != 0
        assert extra in refused.stderr and "Traceback" not in refused.stderr


def test_a_plain_installation_brings_ten_packages_at_most() -> None:
    """By what the packages that are installed here say that they need."""
    needed, waiting = {"kelpie"}, (CHECKOUT / "requirements" / "client.in").read_text().splitlines()
    while waiting:
        wanted = Requirement(waiting.pop().partition("#")[0].strip() or "kelpie")
        if wanted.name.lower() not in needed and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            assert not wanted.extras, "an extra brings more packages"
            needed.add(wanted.name.lower())
            waiting += importlib.metadata.requires(wanted.name) or []
    assert 3 < len(needed) <= 10, needed


def test_a_users_script_passes_a_strict_type_check_beside_an_installed_client(
    programs: Path, tmp_path: Path
) -> None:
    shutil.copy(CHECKOUT / "tests" / "client" / "everything.py", tmp_path)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", programs / "python", "everything.py"]
    checked = subprocess.run(mypy, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200)
    assert checked.returncode == 0, checked.stdout
    (tmp_path / "everything.py").write_text("import kelpie\nnumber: int = kelpie.Client().submit('true')\n")
    checked = subprocess.run(mypy, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200)
    assert '"Job"' in checked.stdout, "the types of the client are seen"


def test_an_installed_server_migrates_and_serves(programs: Path, empty_database: str, tmp_path: Path) -> None:
    server = programs / "kelpie-server"
    migrated = run(server, "migrate", DATABASE_URL=empty_database)
    assert migrated.returncode == 0, migrated.stderr
    url = f"http://127.0.0.1:{free_port()}"
    settings = environment(DATABASE_URL=empty_database, KELPIE_BIND=url.removeprefix("http://"))
    api = Child("api", [server, "serve", "--workers", "1"], folder=tmp_path, env=settings)
    try:
        wait_until_ready(api, ApiClient(url, "").is_ready)
        with urllib.request.urlopen(f"{url}/openapi.json", timeout=10) as answer:
            assert json.load(answer)["info"]["version"] == VERSION
        api.stop(signal.SIGTERM, timeout=40)
        assert api.wait(1) == 0
    finally:
        api.kill()


def test_an_installed_worker_works_replaces_its_fork_server_and_ends(
    programs: Path,
    make_worker: Callable[..., Worker],  # noqa: F811
    coordinator: FakeCoordinator,  # noqa: F811
) -> None:
    """A fork server that begins from nothing imports the program's first file, which is a script of pip's."""
    job = coordinator.submit(**shell(UNTIL_TOLD))
    worker = make_worker(PYTHONPATH="")
    # What `start` adds, the command line from a checkout, are arguments of the shell that it does not look at.
    worker.start(through=["sh", "-c", f"exec {programs / 'kelpie'} worker"])
    worker.wait_for("command_started")
    os.kill(fork_server_of(worker), signal.SIGKILL)
    os.kill(worker.child("uploader"), signal.SIGKILL)
    worker.wait_for("child_started", child="uploader", count=2)
    assert len(worker.seen("nursery_replaced")) == 1
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def fork_server_of(worker: Worker) -> int:
    """The only child of the worker that does none of its work."""
    at_work = {worker.child(name) for name in ("runner", "uploader", "heartbeat")}
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    (pid,) = {int(child) for child in children} - at_work
    return pid


def test_an_installed_worker_that_is_told_to_end_as_it_begins_ends_with_0(
    programs: Path,
    make_worker: Callable[..., Worker],  # noqa: F811
    tmp_path: Path,
) -> None:
    """Before it has imported anything that takes time: `requests` is one that never comes to its end here."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "requests.py").write_text(
        'import sys, time\nprint(\'{"event": "importing"}\', file=sys.stderr, flush=True)\ntime.sleep(1000)\n'
    )
    worker = make_worker(PYTHONPATH=str(tmp_path / "slow"))
    worker.start(through=["sh", "-c", f"exec {programs / 'kelpie'} worker"])
    worker.wait_for("importing")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
