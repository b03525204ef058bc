"""Which directories are emptied after a job, and which never."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kelpie_worker import logs
from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.workspace import before_command
from kelpie_worker.workspace.before_command import DirectoryRecord
from kelpie_worker.workspace.directories import why_not_to_wipe, wipe
from tests.workspace.disk import names_in


def job_in(directory: Path | str) -> Job:
    return Job("c", "1", before=(SyncBlock("b", "", str(directory)),))


def made_for(directory: Path | str) -> DirectoryRecord:
    """The record of a job that has this directory."""
    record = DirectoryRecord()
    record.remember([str(directory)])
    return record


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
    wipe(job_in(spelled), str(state_file), made_for(spelled))
    assert sentinel.exists()


def test_wiping_empties_the_directory_and_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outside, directory = tmp_path / "outside", tmp_path / "in"
    outside.mkdir()
    (outside / "kept").touch()
    (directory / "deep").mkdir(parents=True)
    (directory / "deep/file").touch()
    (directory / "link").symlink_to(outside)
    wipe(job_in(directory), str(tmp_path / "state"), made_for(directory))
    assert list(directory.iterdir()) == [] and (outside / "kept").exists()


@pytest.mark.parametrize("recorded", ["nothing", "a directory in it", "a directory beside it"])
def test_a_directory_that_only_the_state_file_gives_to_the_job_is_not_wiped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], recorded: str
) -> None:
    """The state file may have been forged."""
    monkeypatch.chdir(tmp_path)
    directory, places = tmp_path / "foreign", tmp_path / "places"
    (directory / "deep").mkdir(parents=True)
    (directory / "file").touch()
    inner = {"a directory in it": directory / "deep", "a directory beside it": tmp_path / "own"}
    before_command.save(made_for(inner[recorded]) if recorded in inner else DirectoryRecord(), places)
    record = before_command.load(places)
    assert record
    wipe(job_in(directory), str(tmp_path / "state"), record)
    assert names_in(directory) == ["deep", "file"] and "wipe_refused" in capfd.readouterr().err


def test_an_empty_directory_without_a_record_is_not_warned_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The worker crashed once it had emptied the directory and deleted the record."""
    (tmp_path / "in").mkdir()
    for directory in (tmp_path / "in", tmp_path / "missing"):
        wipe(job_in(directory), str(tmp_path / "state"), DirectoryRecord())
    assert not capfd.readouterr().err


def test_a_record_of_an_earlier_version_has_its_directories_wiped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    directory, places = tmp_path / "in", tmp_path / "places"
    directory.mkdir()
    (directory / "file").touch()
    places.write_text(json.dumps({"real": {str(directory): str(directory)}, "brought": {}}))
    record = before_command.load(places)
    assert record
    wipe(job_in(directory), str(tmp_path / "state"), record)
    assert names_in(directory) == []
