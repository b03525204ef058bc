"""Which directories are emptied after a job, and which never."""

from __future__ import annotations

from pathlib import Path

import pytest

from kelpie_worker import logs
from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.workspace.before_command import DirectoryRecord
from kelpie_worker.workspace.directories import why_not_to_wipe, wipe


@pytest.mark.parametrize("spelling", ["{}", "{}/", "{}/sub/..", "{link}"])
@pytest.mark.parametrize("precious", ["root", "home", "cwd", "above_cwd", "state", "program"])
def test_what_is_precious_is_never_wiped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str, precious: str
) -> None:
    for name in ("home", "work/cwd", "state"):
        (tmp_path / name).mkdir(parents=True)
    state_file = tmp_path / "state" / "kelpie-state.json"
    sentinel = tmp_path / "work" / "cwd" / "sentinel"
    sentinel.touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work" / "cwd")
    directory = {
        "root": Path("/"),
        "home": tmp_path / "home",
        "cwd": tmp_path / "work/cwd",
        "above_cwd": tmp_path / "work",
        "state": tmp_path / "state",
        "program": Path(logs.__file__).parent,
    }[precious]
    (tmp_path / "link").symlink_to(directory)
    spelled = spelling.format(directory, link=tmp_path / "link")
    assert why_not_to_wipe(spelled, str(state_file))
    wipe(Job("c", "1", before=(SyncBlock("b", "", spelled),)), str(state_file), DirectoryRecord())
    assert sentinel.exists()


def test_wiping_empties_the_directory_and_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outside, directory = tmp_path / "outside", tmp_path / "in"
    outside.mkdir()
    (outside / "kept").touch()
    (directory / "deep").mkdir(parents=True)
    (directory / "deep/file").touch()
    (directory / "link").symlink_to(outside)
    wipe(Job("c", "1", before=(SyncBlock("b", "", str(directory)),)), str(tmp_path / "state"), DirectoryRecord())
    assert list(directory.iterdir()) == [] and (outside / "kept").exists()
