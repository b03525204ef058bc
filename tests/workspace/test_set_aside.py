"""Outputs out of the way of the next job, until they are sent."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.workspace.directories import make, wipe
from kelpie_worker.workspace.paths import MovedDirectories, own_name
from kelpie_worker.workspace.scan import Scanner
from kelpie_worker.workspace.set_aside import bring_back, moved_path, places_aside, remove_aside, set_aside
from tests.workspace.disk import Disk, names_in


def test_outputs_are_set_aside_once_however_many_blocks_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    (out / "deep/file").write_text("1")
    blocks = tuple(SyncBlock("b", "", str(path)) for path in (out, out, out / "deep", tmp_path / "missing"))
    job = Job("c", "1", after=blocks)
    known = make(job, str(tmp_path / "state"))
    aside = set_aside(job, str(tmp_path / "state"), known)
    assert set_aside(job, str(tmp_path / "state"), known) == aside  # repeated after a crash
    assert list(out.iterdir()) == []
    assert Path(moved_path(str(out / "deep"), aside), "file").read_text() == "1"


def test_nothing_is_deleted_that_kelpie_did_not_set_aside(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever the state file says, which may have been forged."""
    job = Job("claim", "1")
    foreign = tmp_path / "home"
    (foreign / "0").mkdir(parents=True)
    link = tmp_path / own_name("aside", job.claim_id)
    link.symlink_to(foreign)
    other = tmp_path / own_name("aside", "of another attempt") / "0"
    other.mkdir(parents=True)
    targets = [str(path) for path in (foreign, foreign / "0", link, link / "0", other)]
    remove_aside(tuple(("/out", target) for target in targets), job)
    assert (foreign / "0").is_dir() and link.is_symlink() and other.is_dir()
    assert capfd.readouterr().err.count("wipe_refused") == len(targets)


@pytest.mark.parametrize(
    ("link", "target", "found"),
    [
        ("abs", "{out}/a", {"abs": b"a"}),
        ("latest", "{out}/d", {"latest/file": b"f"}),
        ("relative", "d/file", {"relative": b"f"}),
        ("d/up", "../a", {"d/up": b"a"}),
        ("round", "../out/a", {"round": b"a"}),
        ("twice", "{out}/first", {"twice": b"a"}),
        ("through", "{out}/folder/file", {"through": b"f"}),
        ("loop", "{out}/loop", {}),
        ("above", "{out}", {}),
        ("outside", "{out}/../outside", {}),
        ("nowhere", "{out}/nowhere", {}),
    ],
)
def test_links_mean_what_they_meant_before_the_outputs_were_moved(
    tmp_path: Path, link: str, target: str, found: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "work" / "out"
    (out / "d").mkdir(parents=True)
    (out / "a").write_bytes(b"a")
    (out / "d/file").write_bytes(b"f")
    (out.parent / "outside").touch()
    (out / "first").symlink_to(out / "a")
    (out / "folder").symlink_to(out / "d")
    (out / link).symlink_to(target.format(out=out))
    job = Job("claim", "job", after=(SyncBlock("b", "", str(out)),))
    aside = set_aside(job, str(tmp_path / "state"), make(job, str(tmp_path / "state")))
    scanner = Scanner(str(out), lambda name: True, frozenset(), str(out), MovedDirectories(aside))

    scanner.scan()

    contents = {name: Path(place).read_bytes() for name, place in scanner.locations.items()}
    usual = {"a": b"a", "d/file": b"f", "first": b"a", "folder/file": b"f"}
    if link == "d/up":
        found = {**found, "folder/up": b"a"}
    assert contents == usual | found
    warned = link in ("loop", "outside", "nowhere")
    assert (f"{out}/{link}" in capfd.readouterr().err) == warned


def test_the_place_aside_is_found_again_and_bears_a_name_that_no_scan_takes(disk: Disk) -> None:
    known = disk.make()
    (disk.directory / "file").touch()
    aside = set_aside(disk.job, disk.state_file, known)
    assert aside == places_aside(disk.job, disk.state_file, known)
    assert Scanner(str(disk.directory.parent), lambda name: True, frozenset()).scan() == {}
    outer = Job("next", "2", before=(SyncBlock("b", "", str(disk.directory.parent)),))
    wipe(outer, disk.state_file, make(outer, disk.state_file))
    assert names_in(Path(aside[0][1])) == ["file"]
    remove_aside(aside, disk.job)
    assert names_in(disk.directory.parent) == []


def test_outputs_aside_deep_in_another_jobs_directory_stay_until_they_are_sent(tmp_path: Path) -> None:
    state_file, data = str(tmp_path / "state"), tmp_path / "data"
    (data / "a/out").mkdir(parents=True)
    (data / "a/out/result").touch()
    (data / "a/other").touch()
    inner = Job("claim", "1", after=(SyncBlock("b", "", str(data / "a/out")),))
    aside = set_aside(inner, state_file, make(inner, state_file))
    outer = Job("next", "2", before=(SyncBlock("b", "", str(data)),), after=(SyncBlock("b", "", str(data)),))
    known = make(outer, state_file)
    set_aside(outer, state_file, known)
    wipe(outer, state_file, known)
    assert names_in(Path(aside[0][1])) == ["result"]
    assert not (data / "a/other").exists()


@pytest.mark.parametrize("full", ["while moving", "while copying"])
def test_outputs_that_found_no_room_lie_where_they_lay(
    disk: Disk, full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = disk.make()
    (disk.directory / "d/deep").mkdir(parents=True)
    (disk.directory / "a").write_text("1")
    (disk.directory / "d/deep/b").write_text("2")
    (disk.directory / "z").write_text("3")
    if full == "while copying":
        monkeypatch.chdir(disk.directory)
    ((_, aside),) = places_aside(disk.job, disk.state_file, known)
    real_copy = shutil.copy2

    def copy(source: str, target: Path, **more: bool) -> object:
        if source.endswith("/z"):
            raise OSError(errno.ENOSPC, "no room")
        return real_copy(source, target, **more)

    def rename(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "another device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copy2", copy)
        patched.setattr("kelpie_worker.workspace.tree._rename", rename)
        with pytest.raises(OSError, match="no room"):
            set_aside(disk.job, disk.state_file, known)
        bring_back(((str(disk.directory), aside),), disk.job, disk.state_file, known)
    found = {str(path.relative_to(disk.directory)) for path in disk.directory.rglob("*") if path.is_file()}
    assert found == {"a", "d/deep/b", "z"}
    assert not [path for path in Path(aside).rglob("*") if path.is_file()]
