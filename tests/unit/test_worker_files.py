"""What the worker decides about files and directories that the command did its worst to."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.lease import Lease
from kelpie_worker.messages import Download, Refused, Stage, Troubled, Upload, Watch
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.sync.failures import answer_to
from kelpie_worker.transfer.two_phase_upload import Transfer
from kelpie_worker.workspace import record
from kelpie_worker.workspace.directories import make, wipe
from kelpie_worker.workspace.file_version import PinnedFile, Signature, nameless, signature_of
from kelpie_worker.workspace.paths import Moved, is_own_name, own_name
from kelpie_worker.workspace.record import DirectoryRecord
from kelpie_worker.workspace.scan import Scanner
from kelpie_worker.workspace.set_aside import OutputReplaced, bring_back, places_aside, remove_aside, set_aside

FORKED = multiprocessing.get_context("fork")


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


class Disk:
    """One job's directory `ck` on a disk with somebody else's files."""

    def __init__(self, root: Path) -> None:
        self.state_file = str(root / "state" / "kelpie-state.json")
        self.shared, self.directory = root / "shared", root / "work" / "ck"
        self.job = Job("claim", "job", after=(SyncBlock("b", "", str(self.directory)),))
        for made in (self.shared / "ck", root / "state", root / "work"):
            made.mkdir(parents=True)
        (self.shared / "foreign").write_text("somebody's")
        (self.shared / "ck" / "foreign").write_text("somebody's")

    def make(self) -> DirectoryRecord:
        return make(self.job, self.state_file)

    def wipe(self, known: DirectoryRecord) -> None:
        wipe(self.job, self.state_file, known)

    def replace_by_link(self, target: Path | str) -> None:
        shutil.rmtree(self.directory)
        self.directory.symlink_to(target)

    @property
    def foreign_is_there(self) -> bool:
        return (self.shared / "foreign").exists() and (self.shared / "ck" / "foreign").exists()


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


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
    path = record.file_of(disk.state_file, "claim")
    record.save(disk.make(), path)
    disk.wipe(record.load(path))
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
    assert record.load(tmp_path / "places") is None
    assert record.load(tmp_path / "missing") is None


def test_what_a_download_brought_is_known_after_a_restart(disk: Disk) -> None:
    known = disk.make()
    (disk.directory / os.fsdecode(b"\xff")).touch()
    known.brought = {str(path): signature_of(path.stat()) for path in disk.directory.iterdir()}
    path = record.file_of(disk.state_file, "claim")
    record.save(known, path)
    assert record.load(path) == known and is_own_name(path.name)


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


def test_a_file_that_may_be_somebodys_is_kept_beside_the_directory(disk: Disk) -> None:
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


@pytest.mark.parametrize(
    ("number", "command", "answer"),
    [
        *((getattr(errno, name), Download, Troubled) for name in ("EEXIST", "ENOTDIR", "EACCES", "EROFS", "EIO")),
        (errno.ENOSPC, Download, Troubled),
        (errno.ENOSPC, Upload, Troubled),
        (errno.EACCES, Watch, Troubled),
        (errno.ENAMETOOLONG, Download, Refused),
        (errno.EACCES, Stage, Refused),
        (errno.EACCES, Upload, Refused),
    ],
)
def test_the_machines_faults_before_the_command_are_no_failures_of_the_job(
    number: int, command: type[Download | Watch | Stage | Upload], answer: type[Refused | Troubled]
) -> None:
    job = Job("c", "1")
    given = Upload(job, ()) if command is Upload else command(job)  # type: ignore[call-arg]
    assert type(answer_to(OSError(number, "words"), given)) is answer


# --- directories without permissions --------------------------------------------------------------------


@pytest.fixture
def nobodys_disk() -> Iterator[Path]:
    """A folder of a user whom mode bits stop: the superuser is not."""
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
    """A job whose directory holds a deep file behind directories that nobody may enter."""
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
            return list(Scanner(str(root), lambda name: True, frozenset(), moved=Moved()).scan())
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


# --- copies ---------------------------------------------------------------------------------------------


def test_nothing_is_left_of_a_copy_whose_maker_is_killed(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"1" * 1000)

    def child() -> None:
        version = signature_of((tmp_path / "weights").stat())
        with PinnedFile.of(str(tmp_path / "weights"), version) as file, nameless(str(tmp_path)) as copy:
            file.copy_to(copy)
            os.kill(os.getpid(), signal.SIGKILL)

    process = FORKED.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert names_in(tmp_path) == ["weights"]


# --- links within the outputs ---------------------------------------------------------------------------


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
    aside = set_aside(
        Job("claim", "job", after=(SyncBlock("b", "", str(out)),)), str(tmp_path / "state"), DirectoryRecord()
    )
    scanner = Scanner(str(out), lambda name: True, frozenset(), str(out), Moved(aside))

    scanner.scan()

    contents = {name: Path(place).read_bytes() for name, place in scanner.locations.items()}
    usual = {"a": b"a", "d/file": b"f", "first": b"a", "folder/file": b"f"}
    if link == "d/up":
        found = {**found, "folder/up": b"a"}
    assert contents == usual | found
    warned = link in ("loop", "outside", "nowhere")
    assert (f"{out}/{link}" in capfd.readouterr().err) == warned


# --- names and versions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [".kelpie-notes", ".kelpie-x.part", ".kelpie-aside-1", ".kelpie-0123456789abcdef"]
)
def test_a_file_of_the_users_may_be_called_nearly_like_kelpies_own(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    (tmp_path / own_name("part")).touch()
    assert list(Scanner(str(tmp_path), lambda found: True, frozenset()).scan()) == [name]


def test_a_key_is_measured_in_bytes_with_all_that_belongs_to_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    transfer = Transfer(Storage(SharedClient(None), Lease(), max_retries=0), compression=True)
    for name in ("12345", "ä345", "123456", "ää45"):
        (tmp_path / name).touch()
    key_of = partial(transfer.key_in, "p" * 1015 + "/")
    scanner = Scanner(str(tmp_path), lambda name: True, frozenset(), key_of=key_of)
    assert sorted(scanner.scan()) == ["12345", "ä345"]
    assert sorted(scanner.skipped) == ["123456", "ää45"]
    assert "more than 1024 bytes" in capfd.readouterr().err


def test_the_place_aside_is_found_again_and_bears_a_name_that_no_scan_takes(disk: Disk) -> None:
    disk.make()
    (disk.directory / "file").touch()
    aside = set_aside(disk.job, disk.state_file, DirectoryRecord())
    assert aside == places_aside(disk.job, disk.state_file, DirectoryRecord())
    assert Scanner(str(disk.directory.parent), lambda name: True, frozenset()).scan() == {}
    wipe(
        Job("next", "2", before=(SyncBlock("b", "", str(disk.directory.parent)),)),
        disk.state_file,
        DirectoryRecord(),
    )
    assert names_in(Path(aside[0][1])) == ["file"]
    remove_aside(aside, disk.job)
    assert names_in(disk.directory.parent) == []


def test_outputs_aside_deep_in_another_jobs_directory_stay_until_they_are_sent(tmp_path: Path) -> None:
    state_file, data = str(tmp_path / "state"), tmp_path / "data"
    (data / "a/out").mkdir(parents=True)
    (data / "a/out/result").touch()
    (data / "a/other").touch()
    aside = set_aside(
        Job("claim", "1", after=(SyncBlock("b", "", str(data / "a/out")),)), state_file, DirectoryRecord()
    )
    outer = Job("next", "2", before=(SyncBlock("b", "", str(data)),), after=(SyncBlock("b", "", str(data)),))
    set_aside(outer, state_file, DirectoryRecord())
    wipe(outer, state_file, DirectoryRecord())
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


def test_a_file_rewritten_in_place_with_its_time_restored_is_another_version(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    before = path.stat()
    while signature_of(path.stat()) == signature_of(before):  # the clock of the file system has ticks
        path.write_text("new")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_version_is_recognized_after_renaming() -> None:
    assert Signature(1, 2, 3, 4).is_but_renamed(Signature(1, 2, 3, 5))
    assert not Signature(1, 2, 3, 4).is_but_renamed(Signature(2, 2, 3, 4))
