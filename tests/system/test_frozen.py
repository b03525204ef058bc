"""What the frozen worker hides from the command, and which folders it takes for a dead worker's."""

from __future__ import annotations

import fcntl
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from kelpie_worker.system.frozen import (
    Unpacked,
    _may_run,
    hide_bundle,
    is_alive,
    kept,
    program_files,
    remove_abandoned,
    without_bundle,
)
from kelpie_worker.workspace.directories import why_not_to_wipe

PACKED = {
    "_PYI_APPLICATION_HOME_DIR": "/tmp/_MEI",
    "_PYI_ARCHIVE_FILE": "/tmp/staticx-a/kelpie",
    "STATICX_BUNDLE_DIR": "/tmp/staticx-a",
    "STATICX_PROG_PATH": "/usr/local/bin/kelpie",
}


@pytest.mark.parametrize(
    ("environment", "frozen", "seen"),
    [
        ({"LD_LIBRARY_PATH": "/bundle", "LD_LIBRARY_PATH_ORIG": "/cuda"}, True, {"LD_LIBRARY_PATH": "/cuda"}),
        ({"LD_LIBRARY_PATH": "/bundle", **PACKED, "A": "1"}, True, {"A": "1"}),
        ({"LD_LIBRARY_PATH": "/cuda", **PACKED}, False, {"LD_LIBRARY_PATH": "/cuda", **PACKED}),
    ],
)
def test_the_command_sees_no_trace_of_the_bundle(
    environment: dict[str, str], frozen: bool, seen: dict[str, str]
) -> None:
    assert without_bundle(environment, frozen) == seen


def test_hiding_the_bundle_twice_keeps_the_users_library_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr("kelpie_worker.system.frozen._hidden", {})
    bundles = {**PACKED, "LD_LIBRARY_PATH": "/bundle", "LD_LIBRARY_PATH_ORIG": "/cuda", "A": "1"}
    monkeypatch.setattr(os, "environ", bundles)
    for _ in range(2):
        hide_bundle()
        assert os.environ == {"LD_LIBRARY_PATH": "/cuda", "A": "1"}
    assert PACKED["STATICX_PROG_PATH"] in program_files()  # nothing may delete it


@pytest.mark.parametrize("frozen", [True, False])
def test_the_authorities_that_a_frozen_program_trusts_outlive_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    file = tmp_path / "cacert.pem"
    shutil.copy(DEFAULT_CA_BUNDLE_PATH, file)
    path = kept(str(file))
    assert ssl.create_default_context(cafile=path).get_ca_certs()
    file.unlink()
    assert Path(path).exists() is frozen
    if frozen:
        assert ssl.create_default_context(cafile=path).get_ca_certs()


def test_neither_the_file_that_was_started_nor_what_is_unpacked_is_ever_wiped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = [tmp_path / "installed", tmp_path / "unpacked"]
    for directory in directories:
        directory.mkdir()
    state_file = str(tmp_path / "kelpie-state.json")
    assert [why_not_to_wipe(str(directory), state_file) for directory in directories] == [None, None]

    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "_MEIPASS", str(directories[1] / "_MEI00000001aaaaaa"), raising=False)
    monkeypatch.setenv("STATICX_PROG_PATH", str(directories[0] / "kelpie"))
    assert [why_not_to_wipe(str(directory), state_file) for directory in directories] == [
        "it is or holds the program itself"
    ] * 2


@pytest.fixture
def ours(tmp_path: Path) -> Unpacked:
    return Unpacked(unpacked(tmp_path / "_MEI00000001aaaaaa"), unpacker=os.getpid())


def unpacked(folder: Path) -> Path:
    """As a worker leaves it when it is killed."""
    folder.mkdir()
    (folder / "kelpie").write_text("")
    return folder


@pytest.fixture
def dead() -> Iterator[int]:
    """A process that has ended and is not reaped yet: a zombie."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid
    process.wait()


@pytest.fixture
def abandoned(tmp_path: Path, dead: int) -> list[Path]:
    return [unpacked(tmp_path / f"_MEI{dead:08x}bbbbbb"), unpacked(tmp_path / "staticx-cccccc")]


def test_the_dead_are_not_alive_though_they_are_not_reaped(dead: int) -> None:
    assert is_alive(os.getpid())
    assert not is_alive(dead)


def test_what_dead_workers_left_is_removed(ours: Unpacked, abandoned: list[Path]) -> None:
    remove_abandoned([ours], quiet=0)
    assert ours.folder.exists()
    assert not any(folder.exists() for folder in abandoned)


def test_what_was_unpacked_a_moment_ago_is_left_to_its_worker(ours: Unpacked, abandoned: list[Path]) -> None:
    remove_abandoned([ours], quiet=60)
    assert all(folder.exists() for folder in abandoned)


def test_what_another_process_has_a_lock_on_stays(ours: Unpacked, abandoned: list[Path]) -> None:
    descriptors = [os.open(folder, os.O_RDONLY) for folder in abandoned]
    for descriptor in descriptors:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    remove_abandoned([ours], quiet=0)
    assert all(folder.exists() for folder in abandoned)

    for descriptor in descriptors:
        os.close(descriptor)
    remove_abandoned([ours], quiet=0)
    assert not any(folder.exists() for folder in abandoned)


def test_what_a_living_process_unpacks_stays_until_it_holds_it(ours: Unpacked, tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder = unpacked(tmp_path / f"_MEI{other.pid:08x}dddddd")
    remove_abandoned([ours], quiet=0)
    assert folder.exists()

    other.communicate(b"\n")
    remove_abandoned([ours], quiet=0)
    assert not folder.exists()


def test_what_a_namesake_of_a_living_process_unpacked_is_removed(ours: Unpacked, tmp_path: Path) -> None:
    """In a container that is restarted, process ids repeat those of its previous run."""
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder = unpacked(tmp_path / f"_MEI{other.pid:08x}dddddd")
    an_hour_ago = time.time() - 3600
    os.utime(folder, (an_hour_ago, an_hour_ago))
    remove_abandoned([ours], quiet=0)
    other.communicate()
    assert not folder.exists()


def test_what_a_living_process_runs_from_stays(ours: Unpacked, tmp_path: Path) -> None:
    folder = unpacked(tmp_path / "staticx-eeeeee")
    program = shutil.copy(shutil.which("cat") or "", folder / "program")
    other = subprocess.Popen([program], stdin=subprocess.PIPE)
    remove_abandoned([ours], quiet=0)
    assert folder.exists()

    other.communicate(b"")
    remove_abandoned([ours], quiet=0)
    assert not folder.exists()


def test_folders_of_other_programs_and_links_stay(ours: Unpacked, tmp_path: Path, dead: int) -> None:
    theirs = tmp_path / f"_MEI{dead:08x}ffffff"
    theirs.mkdir()
    elsewhere = unpacked(tmp_path / "elsewhere")
    (tmp_path / "staticx-gggggg").symlink_to(elsewhere)
    remove_abandoned([ours], quiet=0)
    assert theirs.exists()
    assert (elsewhere / "kelpie").exists()


@pytest.mark.parametrize(
    ("names", "age", "goes"),
    [
        (["libc.so.6"], 3600, True),
        ([], 3600, True),
        (["libc.so.6"], 60, False),  # it may still be being unpacked
        (["libc.so.6", "another-program"], 3600, False),
    ],
)
def test_what_was_cut_short_while_it_was_unpacked_goes_after_a_while(
    tmp_path: Path, names: list[str], age: float, goes: bool
) -> None:
    own = unpacked(tmp_path / "staticx-aaaaaa")
    (own / "libc.so.6").touch()
    folder = tmp_path / "staticx-bbbbbb"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    os.utime(folder, (time.time() - age,) * 2)
    remove_abandoned([Unpacked(own, unpacker=os.getpid())], quiet=0)
    assert folder.exists() is not goes and own.exists()


NOBODY = 65534


def test_an_orphans_new_parent_of_another_user_is_not_taken_for_the_keeper() -> None:
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:  # root may look into the first process too
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            os._exit(int(_may_run(1, "/usr/local/bin/kelpie")))
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_keeper_of_ours_whose_program_was_replaced_is_still_one() -> None:
    assert _may_run(os.getpid(), sys.executable)
    assert _may_run(os.getpid(), "/usr/local/bin/that-is-gone")
