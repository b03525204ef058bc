"""The embedded Postgres: what it keeps, what it does not touch, and that it ends with its owner."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import psycopg
import pytest

from local_stack import postgres
from local_stack.postgres import EmbeddedPostgres
from local_stack.processes import processes_in, scratch_folder, wait_for

OWNER = """
import sys
from pathlib import Path
from local_stack.postgres import EmbeddedPostgres

server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch_folder() as folder:
        yield folder


@pytest.fixture
def server(folder: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(folder / "postgres")
    server.start()
    yield server
    server.stop()


def modes_above(path: Path) -> dict[Path, str]:
    return {parent: stat.filemode(parent.stat().st_mode) for parent in [path, *path.parents]}


def test_committed_rows_survive_an_immediate_stop(server: EmbeddedPostgres) -> None:
    url = server.url
    with psycopg.connect(url) as db:
        db.execute("create table kept (number int)")
        db.execute("insert into kept values (42)")
    server.stop(immediate=True)
    server.start()
    assert server.url == url
    with psycopg.connect(url) as db:
        assert db.execute("select number from kept").fetchall() == [(42,)]


def test_its_text_is_utf8_and_its_clock_utc_whatever_the_machine_says(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.url) as db:
        answer = db.execute("select current_setting('server_encoding'), current_setting('timezone'), 'ä' < 'z'")
        assert answer.fetchone() == ("UTF8", "UTC", False)


def test_no_connection_is_accepted_without_the_password(server: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{server.port}/postgres")


def test_folders_above_data_and_programs_keep_their_modes(folder: Path) -> None:
    places = [folder, postgres.wheel_folder()]
    before = [modes_above(place) for place in places]
    server = EmbeddedPostgres(folder / "postgres")
    server.start()
    server.stop()
    assert [modes_above(place) for place in places] == before


def test_it_starts_from_a_wheel_in_a_closed_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = wheel_in_a_closed_home(folder / "home")
    monkeypatch.setattr(postgres, "wheel_folder", lambda: wheel)
    server = EmbeddedPostgres(folder / "postgres")
    server.start()
    server.stop()
    assert stat.S_IMODE((folder / "home").stat().st_mode) == 0o700


def wheel_in_a_closed_home(home: Path) -> Path:
    """Only its owner may enter, and everything in it is as a strict umask would leave it."""
    wheel = postgres.wheel_folder()
    shutil.copytree(wheel / "pginstall18", home / wheel.name / "pginstall18")
    shutil.copytree(wheel.with_name(f"{wheel.name}.libs"), home / f"{wheel.name}.libs")
    for path in [home, *home.rglob("*")]:
        path.chmod(path.stat().st_mode & 0o700)
    return home / wheel.name


def test_an_interrupted_initdb_is_not_taken_for_a_database(folder: Path) -> None:
    half_made = folder / "postgres" / "data.new"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(folder / "postgres")
    server.start()
    server.stop()


def test_a_folder_that_the_server_cannot_reach_is_refused_in_one_sentence(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "postgres")
    # A user other than root runs the server as the same user, who can read the files.
    with pytest.raises(RuntimeError, match="Set TMPDIR") if os.geteuid() == 0 else nullcontext():
        server.start()
    server.stop()


def test_no_process_is_left_when_its_owner_is_killed(folder: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder / "postgres")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    assert int(owner.stdout.readline()) in processes_in(folder)
    assert len(processes_in(folder)) > 1
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    wait_for(lambda: not processes_in(folder), "the end of the server and its children")
