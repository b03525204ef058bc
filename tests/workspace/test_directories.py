"""Directories that the command did its worst to: made, wiped, and never through a link."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.messages import Refused, Stage
from kelpie_worker.sync.failures import answer_to
from kelpie_worker.workspace import before_command
from kelpie_worker.workspace.before_command import DirectoryRecord
from kelpie_worker.workspace.directories import make, wipe
from kelpie_worker.workspace.file_version import signature_of
from kelpie_worker.workspace.paths import MovedDirectories, is_own_name
from kelpie_worker.workspace.scan import Scanner
from kelpie_worker.workspace.set_aside import OutputReplaced, remove_aside, set_aside
from kelpie_worker.workspace.tree import move_contents
from tests.workspace.disk import Disk, names_in

FORKED = multiprocessing.get_context("fork")


# --- links in a directory's place -----------------------------------------------------------------------


def test_of_a_volume_only_what_the_command_wrote_is_seen(tmp_path: Path) -> None:
    for folder in (tmp_path / "lost+found", tmp_path / "step" / "lost+found"):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    found = Scanner(str(tmp_path), lambda name: True, frozenset()).scan()
    assert list(found) == ["step/lost+found/file"]


def test_a_link_that_the_command_put_in_a_directorys_place_goes_and_what_is_behind_it_stays(disk: Disk) -> None:
    known = disk.make()
    disk.replace_by_link(disk.shared)
    disk.wipe(known)
    assert disk.foreign_is_there and not os.path.lexists(disk.directory)


def test_a_link_above_the_directory_is_not_followed_either(disk: Disk) -> None:
    known = disk.make()
    shutil.rmtree(disk.directory.parent)
    disk.directory.parent.symlink_to(disk.shared)
    disk.wipe(known)
    assert disk.foreign_is_there and not disk.directory.parent.is_symlink()


@pytest.mark.parametrize("by", ["a link", "a file", "nothing"])
def test_outputs_whose_directory_was_replaced_are_not_taken_for_none(disk: Disk, by: str) -> None:
    known = disk.make()
    if by == "a link":
        disk.replace_by_link(disk.shared)
    else:
        disk.directory.rmdir()
    if by == "a file":
        disk.directory.touch()
    if by == "nothing":
        ((_, aside),) = set_aside(disk.job, disk.state_file, known)
        assert names_in(Path(aside)) == []
        return
    with pytest.raises(OutputReplaced, match=f"replaced .*{disk.directory}"):
        set_aside(disk.job, disk.state_file, known)
    assert disk.foreign_is_there
    assert answer_to(OutputReplaced("words"), Stage(disk.job)) == Refused("claim", "upload", "words")


def test_an_operators_link_is_followed_and_stays(disk: Disk) -> None:
    disk.directory.symlink_to(disk.shared)
    known = disk.make()
    (disk.directory / "made").touch()
    disk.wipe(known)
    assert disk.directory.is_symlink() and names_in(disk.shared) == []


def test_an_operators_link_survives_that_the_worker_restarts(disk: Disk) -> None:
    disk.directory.symlink_to(disk.shared)
    path = before_command.file_of(disk.state_file, "claim")
    before_command.save(disk.make(), path)
    disk.wipe(before_command.load(path))
    assert disk.directory.is_symlink() and names_in(disk.shared) == []


def test_with_nothing_remembered_no_link_is_wiped_through_but_its_outputs_are_copied(disk: Disk) -> None:
    disk.directory.symlink_to(disk.shared)
    disk.wipe(DirectoryRecord())
    ((_, aside),) = set_aside(disk.job, disk.state_file, DirectoryRecord())
    assert disk.foreign_is_there and names_in(Path(aside)) == ["ck", "foreign"]


def test_a_directory_that_the_command_made_anew_is_still_wiped(disk: Disk) -> None:
    known = disk.make()
    shutil.rmtree(disk.directory)
    disk.directory.mkdir()
    (disk.directory / "file").touch()
    disk.wipe(known)
    assert names_in(disk.directory) == []


def test_a_watched_directory_that_became_a_link_counts_as_empty(disk: Disk) -> None:
    disk.make()
    scanner = Scanner(str(disk.directory), lambda name: True, frozenset())
    (disk.directory / "file").touch()
    assert list(scanner.scan()) == ["file"] and not scanner.led_away
    disk.replace_by_link(disk.shared)
    assert scanner.scan() == {} and scanner.led_away


@pytest.mark.parametrize(
    "kept", ["{}", "not JSON", '{"real": [], "brought": {}}', '{"real": {}, "brought": {"a": [1]}}']
)
def test_rubbish_where_the_places_were_kept_counts_as_nothing(tmp_path: Path, kept: str) -> None:
    (tmp_path / "places").write_text(kept)
    assert before_command.load(tmp_path / "places") is None
    assert before_command.load(tmp_path / "missing") is None


def test_what_a_download_brought_is_known_after_a_restart(disk: Disk) -> None:
    known = disk.make()
    (disk.directory / os.fsdecode(b"\xff")).touch()
    known.brought = {str(path): signature_of(path.stat()) for path in disk.directory.iterdir()}
    path = before_command.file_of(disk.state_file, "claim")
    before_command.save(known, path)
    assert before_command.load(path) == known and is_own_name(path.name)


def dig(directory: Path, levels: int) -> None:
    """Make directories in each other, too many for a path, as a command can that enters each of them."""
    here = os.open(directory, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("deepest", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def test_directories_may_be_deeper_than_pythons_stack_and_than_a_path(disk: Disk) -> None:
    known = disk.make()
    (disk.directory / "file").touch()
    dig(disk.directory, 2500)
    scanner = Scanner(str(disk.directory), lambda name: True, frozenset())
    assert list(scanner.scan()) == ["file"]
    assert [len(path) for path in scanner.skipped] == [1025]  # where a key would be longer than 1024 bytes
    elsewhere = disk.shared.parent / "elsewhere"
    elsewhere.mkdir()
    move_contents(str(disk.directory), str(elsewhere))
    assert names_in(elsewhere) == ["d", "file"]
    move_contents(str(elsewhere), str(disk.directory))
    disk.wipe(known)
    assert names_in(disk.directory) == []


# --- what is no directory -------------------------------------------------------------------------------


@pytest.mark.parametrize("left", ["file", "nowhere", "loop", "pipe"])
@pytest.mark.parametrize("crashed", [False, True], ids=["wiped", "not wiped"])
def test_whatever_a_job_leaves_in_a_directorys_place_the_next_job_finds_it_empty(
    disk: Disk, left: str, crashed: bool
) -> None:
    known = disk.make()
    disk.directory.rmdir()
    leave: dict[str, Callable[[], object]] = {
        "file": lambda: disk.directory.write_text("x"),
        "nowhere": lambda: disk.directory.symlink_to("/nonexistent/x"),
        "loop": lambda: disk.directory.symlink_to(disk.directory),
        "pipe": lambda: os.mkfifo(disk.directory),
    }
    leave[left]()
    if not crashed:
        disk.wipe(known)
        assert not os.path.lexists(disk.directory)
    disk.make()
    assert names_in(disk.directory) == [] and not disk.directory.is_symlink()


def test_a_file_that_may_be_needed_is_kept_beside_the_directory(disk: Disk) -> None:
    disk.directory.write_text("somebody's")
    disk.wipe(DirectoryRecord())
    disk.make()
    (kept,) = (path for path in disk.directory.parent.iterdir() if path != disk.directory)
    assert kept.read_text() == "somebody's"


def test_the_state_file_never_makes_room_for_a_directory(disk: Disk) -> None:
    Path(disk.state_file).write_text("{}")
    job = Job("c", "1", before=(SyncBlock("b", "", disk.state_file),))
    with pytest.raises(NotADirectoryError):
        make(job, disk.state_file)
    wipe(job, disk.state_file, DirectoryRecord())
    assert Path(disk.state_file).read_text() == "{}"


# --- directories without permissions --------------------------------------------------------------------


@pytest.fixture
def nobodys_disk() -> Iterator[Path]:
    """A folder of an ordinary user: mode bits do not stop the superuser."""
    root = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(root, 65534, 65534)
    yield root
    subprocess.run(["chmod", "-R", "u+rwx", str(root)], check=True)
    shutil.rmtree(root)


def as_nobody(root: Path, steps: Callable[[Path], object]) -> object:
    """Take steps in a process that may do no more than mode bits allow; what they return."""
    receiver, sender = FORKED.Pipe(duplex=False)

    def child() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        sender.send(steps(root))

    process = FORKED.Process(target=child)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def closed_directory(root: Path, closed: tuple[str, ...]) -> tuple[Job, str, DirectoryRecord]:
    """A job whose directory holds a deep file behind directories that no user may enter."""
    job, state_file = Job("claim", "job", after=(SyncBlock("b", "", str(root / "ck")),)), str(root / "state")
    known = make(job, state_file)
    (root / "ck/deep/er").mkdir(parents=True)
    (root / "ck/deep/er/file").touch()
    for name in closed:
        (root / name).chmod(0)
    return job, state_file, known


@pytest.mark.parametrize("closed", [("ck",), ("ck/deep/er", "ck/deep"), ("ck/deep/er", "ck/deep", "ck")])
def test_what_the_command_closed_is_opened_to_be_wiped(nobodys_disk: Path, closed: tuple[str, ...]) -> None:
    def steps(root: Path) -> object:
        job, state_file, known = closed_directory(root, closed)
        wipe(job, state_file, known)
        return names_in(root / "ck")

    assert as_nobody(nobodys_disk, steps) == []


@pytest.mark.parametrize("mode", [0, 0o400])
def test_what_a_checkpoint_has_in_a_closed_folder_is_left_out_and_does_not_count_as_removed(
    nobodys_disk: Path, mode: int
) -> None:
    def steps(root: Path) -> object:
        (root / "closed").mkdir()
        for name in ("closed/file", "open"):
            (root / name).touch()
        (root / "closed").chmod(mode)
        scanner = Scanner(str(root), lambda name: True, frozenset())
        seen = list(scanner.scan()), scanner.shut_out, scanner.skipped
        (root / "closed").chmod(0o700)
        return *seen, sorted(scanner.scan()), scanner.shut_out

    assert as_nobody(nobodys_disk, steps) == (["open"], True, ["closed"], ["closed/file", "open"], False)


@pytest.mark.parametrize("mode", [0, 0o400])
def test_what_outputs_have_in_a_closed_folder_is_not_left_out(nobodys_disk: Path, mode: int) -> None:
    def steps(root: Path) -> object:
        (root / "closed").mkdir()
        (root / "closed/file").touch()
        (root / "closed").chmod(mode)
        try:
            return list(Scanner(str(root), lambda name: True, frozenset(), moved=MovedDirectories()).scan())
        except PermissionError:
            return "refused"

    assert as_nobody(nobodys_disk, steps) == "refused"


@pytest.mark.parametrize("closed", [("ck",), ("ck/deep",), ("ck/deep/er", "ck/deep", "ck")])
def test_what_the_command_closed_is_opened_to_be_moved_aside_and_removed(
    nobodys_disk: Path, closed: tuple[str, ...]
) -> None:
    def steps(root: Path) -> object:
        job, state_file, known = closed_directory(root, closed)
        aside = set_aside(job, state_file, known)
        moved = names_in(root / "ck"), names_in(Path(aside[0][1]))
        remove_aside(aside, job)
        return (*moved, names_in(root))

    assert as_nobody(nobodys_disk, steps) == ([], ["deep"], ["ck"])
