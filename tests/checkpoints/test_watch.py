"""Generations of a watched directory against a real S3 server: what is visible when, and what never is."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from kelpie_worker.checkpoints import observer, two_phase_commit
from kelpie_worker.checkpoints.mirror import Look
from kelpie_worker.s3 import whose_fault
from kelpie_worker.s3.errors import StorageRefused
from kelpie_worker.system.linux import boottime
from kelpie_worker.transfer import upload_buffer
from kelpie_worker.transfer.part_sizes import WHOLE_SIZE
from kelpie_worker.workspace.file_version import PinnedFile, Snapshot, Spoiled, signature_of
from kelpie_worker.workspace.scan import Scanner
from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.checkpoints.watched import Watched, keys_of
from tests.doubles.faulty_proxy import Fault, FaultyProxy

LARGE = WHOLE_SIZE + 1


def test_the_last_file_before_the_end_is_sent(watched: Watched, s3: S3Server, bucket: str) -> None:
    watched.checkpoints.start()
    watched.write("deep/first", b"1")
    wait_for(lambda: "deep/first" in keys_of(s3, bucket), "the first file")
    watched.write("last", b"2")
    watched.checkpoints.finish()
    assert keys_of(s3, bucket) == {"deep/first": b"1", "last": b"2"}


def test_a_directory_that_is_made_anew_is_still_watched(watched: Watched, s3: S3Server, bucket: str) -> None:
    watched.checkpoints.start()
    watched.write("a", b"1")
    wait_for(lambda: "a" in keys_of(s3, bucket), "the first file")
    (watched.folder / "a").unlink()
    watched.folder.rmdir()
    watched.folder.mkdir()
    watched.write("b", b"2")
    wait_for(lambda: "b" in keys_of(s3, bucket), "the file in the new directory")


def test_what_the_download_brought_is_not_sent_back_unless_it_changes(
    aws: None, tmp_path: Path, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("same", "changed"):
        (folder / name).write_bytes(b"brought")
    watched = Watched(folder, bucket, Scanner(str(folder), lambda name: True, frozenset()).scan())
    watched.checkpoints.start()
    watched.write("changed", b"new content")
    watched.checkpoints.finish()
    assert keys_of(s3, bucket) == {"changed": b"new content"}


def test_markers_are_committed_after_the_files_they_name(
    watched: Watched, bucket: str, faulty: FaultyProxy
) -> None:
    watched.write("latest", b"2")
    watched.write("index.json", b"{}")
    watched.write("weights", b"w" * LARGE)
    watched.write("optimizer", b"o")
    watched.checkpoints.finish()
    assert committed(faulty) == ["weights", "optimizer", "latest", "index.json"]


def test_of_many_files_several_are_committed_at_once_and_each_by_one_request(
    monkeypatch: pytest.MonkeyPatch, watched: Watched, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    monkeypatch.setattr(upload_buffer, "_MOST_IN_MEMORY", 50_000)  # what is beyond it waits on disk
    written = {f"{number:02}": os.urandom(10_000) for number in range(20)} | {"latest": b"19"}
    for name, content in written.items():
        watched.write(name, content)
    together = threading.Barrier(4)

    def meet(method: str, path: str) -> None:
        if len(committed(faulty)) <= 16:
            together.wait(30)

    faulty.fault = meet
    watched.checkpoints.finish()
    assert keys_of(s3, bucket) == written
    assert len(faulty.requests) == len(written) and committed(faulty)[-2:] == ["19", "latest"]


def test_where_neither_memory_nor_disk_has_room_small_files_wait_in_the_bucket(
    monkeypatch: pytest.MonkeyPatch, watched: Watched, s3: S3Server, bucket: str
) -> None:
    monkeypatch.setattr(upload_buffer, "_MOST_IN_MEMORY", 5)
    monkeypatch.setattr(upload_buffer, "_MOST_ON_DISK", 5)
    written = {name: name.encode() * 3 for name in "abcd"}
    for name, content in written.items():
        watched.write(name, content)
    watched.checkpoints.finish()
    assert keys_of(s3, bucket) == written
    wait_for(lambda: s3.unfinished_uploads(bucket) == [], "nothing to be left of the uploads")


def test_nothing_of_a_generation_is_visible_before_all_of_it_is_there(
    watched: Watched, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    watched.write("a-small", b"1")
    watched.write("large", os.urandom(LARGE))
    faulty.fault = lambda method, path: "503" if "partNumber" in path else None
    watched.checkpoints.start()
    wait_for(lambda: sum("partNumber" in path for _, path in faulty.requests) > 2, "a part to be tried again")
    assert keys_of(s3, bucket) == {}
    faulty.fault = lambda method, path: None
    watched.checkpoints.finish()
    assert sorted(keys_of(s3, bucket)) == ["a-small", "large"]
    wait_for(lambda: s3.unfinished_uploads(bucket) == [], "nothing to be left of the uploads")


def test_past_the_lease_bytes_go_up_but_nothing_is_committed_nor_deleted(
    aws: None, tmp_path: Path, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    watched = Watched(tmp_path / "checkpoint", bucket)
    watched.write("a", b"1")
    assert watched.checkpoints.cycle(final=False)
    watched.lease._until = boottime()  # it lapses
    watched.write("b", b"2" * LARGE)
    (watched.folder / "a").unlink()

    finishing = threading.Thread(target=watched.checkpoints.finish)
    finishing.start()

    wait_for(lambda: any("/c/b" in path and "partNumber" in path for _, path in faulty.requests), "a part of b")
    assert sorted(keys_of(s3, bucket)) == ["a"]
    watched.lease.renew(boottime() + 3600)
    finishing.join(30)
    assert sorted(keys_of(s3, bucket)) == ["b"]


def test_an_old_checkpoint_is_deleted_only_when_the_generation_before_lacks_it_too(
    watched: Watched, s3: S3Server, bucket: str
) -> None:
    """Save new, delete old: at no time is the bucket without a whole checkpoint."""
    steps = watched.checkpoints
    watched.write("step-1/w", b"1")
    assert steps.cycle(final=False)
    watched.write("step-2/w", b"2")
    (watched.folder / "step-1/w").unlink()
    assert steps.cycle(final=False)
    assert sorted(keys_of(s3, bucket)) == ["step-1/w", "step-2/w"]
    watched.write("step-3/w", b"3")
    assert steps.cycle(final=False)
    assert sorted(keys_of(s3, bucket)) == ["step-2/w", "step-3/w"]
    (watched.folder / "step-2/w").unlink()
    steps.finish()
    assert sorted(keys_of(s3, bucket)) == ["step-3/w"]


def test_a_file_that_was_never_here_is_never_deleted(watched: Watched, s3: S3Server, bucket: str) -> None:
    s3.put(bucket, "c/of-an-earlier-attempt", b"0")
    watched.write("a", b"1")
    watched.checkpoints.start()
    watched.checkpoints.finish()
    assert sorted(keys_of(s3, bucket)) == ["a", "of-an-earlier-attempt"]


@pytest.mark.parametrize(
    ("origin", "sent", "left"),
    [
        ("c/x/file", False, {"x//file", "x/file.gz"}),
        ("c/x//file", False, {"x/file", "x/file.gz"}),
        ("c/x/file.gz", False, {"x/file", "x//file"}),
        ("elsewhere/file", True, {"x/file", "x//file", "x/file.gz"}),
        (None, False, {"x/file", "x//file", "x/file.gz"}),
        (None, True, {"x//file", "x/file.gz"}),
    ],
)
def test_only_what_this_attempt_downloaded_or_uploaded_is_deleted(
    aws: None, tmp_path: Path, s3: S3Server, bucket: str, origin: str | None, sent: bool, left: set[str]
) -> None:
    for key in ("x/file", "x//file", "x/file.gz"):
        s3.put(bucket, f"c/{key}", b"1")
    file = tmp_path / "checkpoint" / "x" / "file"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"1")
    brought = {"x/file": signature_of(file.stat())} if origin else {}
    watched = Watched(
        tmp_path / "checkpoint", bucket, brought, origins={"x/file": origin} if origin else None, sent=sent
    )
    watched.checkpoints.files["x/file"].was_here = True
    file.unlink()
    watched.checkpoints.finish()
    assert keys_of(s3, bucket).keys() == left


@pytest.mark.parametrize(("refused", "left"), [("x/file", {"x/file"}), ("x//file", {"x//file"})])
def test_what_the_bucket_does_not_let_go_is_reported_only_if_it_is_still_there(
    aws: None, tmp_path: Path, s3: S3Server, bucket: str, faulty: FaultyProxy, refused: str, left: set[str]
) -> None:
    file = tmp_path / "checkpoint" / "x" / "file"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"1")
    s3.put(bucket, "c/x//file", b"1")
    brought = {"x/file": signature_of(file.stat())}
    watched = Watched(tmp_path / "checkpoint", bucket, brought, origins={"x/file": "c/x//file"})
    watched.write("x/file", b"2")
    watched.write("other", b"1")
    assert watched.checkpoints.cycle(final=False)
    faulty.fault = lambda method, path: "403" if method == "DELETE" and path.endswith(f"/c/{refused}") else None
    file.unlink()
    watched.checkpoints.finish()
    assert keys_of(s3, bucket).keys() == left | {"other"}
    watched.write("other", b"2")
    watched.checkpoints.finish()
    assert {stored.key for stored in watched.checkpoints.whole} == {f"c/{name}" for name in left - {"x//file"}} | {
        "c/other"
    }


def test_a_pattern_limits_what_is_sent_and_what_is_deleted(
    aws: None, tmp_path: Path, s3: S3Server, bucket: str
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "notes.txt").write_bytes(b"brought, and none of this block's business")
    s3.put(bucket, "c/notes.txt", b"the same")
    brought = Scanner(str(folder), lambda name: True, frozenset()).scan()
    watched = Watched(folder, bucket, brought, pattern=r"\.bin$")
    watched.checkpoints.start()
    watched.write("a.bin", b"1")
    (folder / "notes.txt").unlink()
    watched.checkpoints.finish()
    assert sorted(keys_of(s3, bucket)) == ["a.bin", "notes.txt"]


# --- writers that do not wait ---------------------------------------------------------------------------


def test_a_file_that_is_replaced_while_it_is_sent_goes_up_whole(
    watched: Watched, s3: S3Server, bucket: str
) -> None:
    old, new = os.urandom(20_000_000), os.urandom(20_000_000)
    watched.write("weights", old)
    version = Scanner(str(watched.folder), lambda name: True, frozenset()).scan()["weights"]
    target = watched.transfer.target(bucket, "c/", "weights")
    with after_first_block(lambda: watched.write("weights", new)):
        upload = watched.transfer.prepare(str(watched.folder / "weights"), version, target)
    upload.ready()
    upload.commit()
    assert keys_of(s3, bucket) == {"weights": old}


def test_what_is_appended_while_a_file_is_sent_is_left_to_the_next_time(
    watched: Watched, s3: S3Server, bucket: str
) -> None:
    content = os.urandom(20_000_000)
    watched.write("log", content)
    version = Scanner(str(watched.folder), lambda name: True, frozenset()).scan()["log"]

    def append() -> None:
        with (watched.folder / "log").open("ab") as file:
            file.write(b"more")

    with after_first_block(append):
        upload = watched.transfer.prepare(
            str(watched.folder / "log"), version, watched.transfer.target(bucket, "c/", "log")
        )
    upload.ready()
    upload.commit()
    assert keys_of(s3, bucket) == {"log": content}


@pytest.mark.parametrize("grow", [0, 5], ids=["same size", "longer"])
def test_a_file_that_is_rewritten_in_place_while_it_is_sent_never_becomes_visible(
    watched: Watched, s3: S3Server, bucket: str, grow: int
) -> None:
    watched.write("weights", b"o" * 20_000_000)
    version = Scanner(str(watched.folder), lambda name: True, frozenset()).scan()["weights"]

    def rewrite() -> None:
        with (watched.folder / "weights").open("r+b") as file:
            file.write(b"n" * (20_000_000 + grow))

    with after_first_block(rewrite), pytest.raises(Spoiled):
        watched.transfer.prepare(
            str(watched.folder / "weights"), version, watched.transfer.target(bucket, "c/", "weights")
        )
    assert keys_of(s3, bucket) == {}
    # A part that was on its way arrives after the upload was aborted, which is then aborted once more.
    wait_for(lambda: s3.unfinished_uploads(bucket) == [], "nothing to be left of the upload")


def test_a_file_that_is_always_being_rewritten_does_not_keep_the_others_back(
    watched: Watched, s3: S3Server, bucket: str
) -> None:
    watched.checkpoints.stability.longest_wait = 1
    with scribbling(watched.folder / "restless"):
        watched.checkpoints.start()
        watched.write("weights", b"w")
        wait_for(lambda: "weights" in keys_of(s3, bucket), "the quiet file")
    watched.checkpoints.finish()
    assert keys_of(s3, bucket)["restless"] == (watched.folder / "restless").read_bytes()


def test_half_of_a_file_never_takes_the_place_of_a_whole_one(watched: Watched, s3: S3Server, bucket: str) -> None:
    watched.checkpoints.start()
    watched.write("weights", b"o" * 1000)
    wait_for(lambda: keys_of(s3, bucket) == {"weights": b"o" * 1000}, "the whole file")
    seen = set()
    with (watched.folder / "weights").open("wb", buffering=0) as file:
        for _ in range(20):  # for longer than the longest wait for quiet, with pauses that look like quiet
            file.write(b"n" * 100)
            seen.add(keys_of(s3, bucket)["weights"])
            time.sleep(0.1)
    wait_for(lambda: keys_of(s3, bucket) == {"weights": b"n" * 2000}, "the new file")
    assert seen == {b"o" * 1000}


def test_half_of_a_new_file_is_not_sent_for_as_long_as_its_writer_has_it_open(
    watched: Watched, s3: S3Server, bucket: str
) -> None:
    watched.checkpoints.start()
    with (watched.folder / "weights").open("wb", buffering=0) as file:
        file.write(b"n" * 100)
        watched.write("latest", b"weights")
        wait_for(lambda: watched.checkpoints.waits, "the watch to wait for the writer")
        assert keys_of(s3, bucket) == {}
        file.write(b"n" * 100)
    wait_for(lambda: keys_of(s3, bucket) == {"weights": b"n" * 200, "latest": b"weights"}, "the whole file")


def test_beside_a_file_that_never_rests_the_others_go_up_but_are_not_reported_whole(
    watched: Watched, s3: S3Server, bucket: str
) -> None:
    watched.checkpoints.stability.longest_wait = 1
    watched.checkpoints.start()
    watched.write("weights", b"1")
    watched.write("restless", b"1" * 2000)
    wait_for(lambda: len(watched.checkpoints.whole) == 2, "the first generation")
    whole = watched.checkpoints.whole
    with scribbling(watched.folder / "restless"):
        watched.write("weights", b"2")
        wait_for(lambda: keys_of(s3, bucket)["weights"] == b"2", "the quiet file")
        assert keys_of(s3, bucket)["restless"] == b"1" * 2000
        assert watched.checkpoints.whole == whole
    watched.checkpoints.finish()
    assert watched.checkpoints.whole != whole


def test_what_was_spoiled_goes_up_from_a_copy_that_bears_no_name(
    watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a kill of any process leaves nothing of it behind, and it is never uploaded."""
    seen: list[list[str]] = []
    copy_to = PinnedFile.copy_to

    def copy_and_look(file: PinnedFile, copy: IO[bytes]) -> None:
        copy_to(file, copy)
        seen.append(sorted(found.name for found in watched.folder.parent.rglob("*")))
        (watched.folder / "spoiled").write_bytes(b"rewritten")

    monkeypatch.setattr(PinnedFile, "copy_to", copy_and_look)
    watched.write("weights", b"1")
    watched.write("spoiled", b"1")
    watched.checkpoints.files["spoiled"].spoiled = 2
    watched.checkpoints.cycle(final=True)
    assert keys_of(s3, bucket) == {"weights": b"1", "spoiled": b"1"}
    assert seen == [["checkpoint", "spoiled", "weights"]]


@pytest.mark.parametrize("size", [1, LARGE])
def test_a_file_that_is_replaced_sooner_than_it_is_looked_whether_it_is_open_goes_up_all_the_same(
    watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """As where reading /proc takes longer than the command from one version to the next."""
    versions = [bytes([65 + number]) * size for number in range(8)]
    decide = watched.checkpoints._mirror.decide
    written = iter(versions)

    def slowly(look: Look) -> Any:
        decision = decide(look)
        watched.write("state", next(written))
        return decision

    monkeypatch.setattr(watched.checkpoints._mirror, "decide", slowly)
    watched.write("state", next(written))
    for _ in range(4):
        watched.checkpoints.cycle(final=False)
    assert keys_of(s3, bucket)["state"] in versions
    assert [stored.size for stored in watched.checkpoints.whole] == [size], "it is reported as a whole"


def test_without_room_for_a_copy_what_was_spoiled_goes_up_once_it_rests(
    watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(file: PinnedFile, copy: IO[bytes]) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(PinnedFile, "copy_to", no_room)
    watched.write("weights", b"1")
    watched.write("spoiled", b"1")
    watched.checkpoints.files["spoiled"].spoiled = 2
    watched.checkpoints.finish()
    assert keys_of(s3, bucket) == {"weights": b"1", "spoiled": b"1"}


def test_a_copy_leaves_the_command_the_room_for_its_next_version(
    watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[int] = []
    monkeypatch.setattr(PinnedFile, "copy_to", lambda file, copy: copied.append(copy.write(b"c" * file.size)))
    usage = shutil.disk_usage(watched.folder)
    for free, copies in ((16 * 1024 * 1024 + 2 * LARGE - 1, 0), (16 * 1024 * 1024 + 2 * LARGE, 1)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        watched.write("spoiled", b"s" * LARGE)
        watched.checkpoints.files["spoiled"].spoiled = 2
        watched.checkpoints.cycle(final=True)
        assert len(copied) == copies
        assert set(keys_of(s3, bucket)["spoiled"]) == set(b"c" if copies else b"s")


# --- what the bucket refuses -----------------------------------------------------------------------------


def refuse(name: str, fault: Fault) -> Callable[[str, str], Fault | None]:
    return lambda method, path: fault if f"/c/{name}" in path and method in ("PUT", "POST") else None


@pytest.mark.parametrize(("fault", "size"), [("400", 1), ("403", 1), ("403", LARGE)])
def test_a_file_that_the_bucket_refuses_keeps_no_other_back_and_without_it_nothing_is_whole(
    watched: Watched,
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
    capfd: pytest.CaptureFixture[str],
    fault: Fault,
    size: int,
) -> None:
    faulty.fault = refuse("refused", fault)
    watched.write("refused", b"r" * size)
    watched.write("weights", b"1")
    watched.checkpoints.start()
    for version in (b"1", b"2"):
        watched.write("weights", version)
        wait_for(lambda: keys_of(s3, bucket) == {"weights": version}, "the other file")  # noqa: B023 - at once
    assert watched.checkpoints.whole == () and watched.checkpoints.behind_since is not None
    faulty.fault = lambda method, path: None
    watched.checkpoints.finish()
    assert keys_of(s3, bucket) == {"refused": b"r" * size, "weights": b"2"}
    assert len(watched.checkpoints.whole) == 2
    assert capfd.readouterr().err.count("checkpoint_file_refused") == 1


def test_in_the_end_a_refused_file_is_a_refusal_once_all_others_are_safe(
    watched: Watched, s3: S3Server, bucket: str, faulty: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whose_fault, "LONGEST", 0)
    faulty.fault = refuse("refused", "403")
    watched.write("old", b"0")
    assert watched.checkpoints.cycle(final=False)
    (watched.folder / "old").unlink()
    watched.write("refused", b"r")
    watched.write("a", b"1")
    assert watched.checkpoints.cycle(final=False)
    watched.write("b", b"2")
    with pytest.raises(StorageRefused, match="refused"):
        watched.checkpoints.finish()
    assert keys_of(s3, bucket) == {"old": b"0", "a": b"1", "b": b"2"}


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """Become a user whom mode bits stop, in all threads."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public(aws: None, bucket: str) -> Iterator[Watched]:
    """A directory that every user may read."""
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        directory = Watched(Path(root, "checkpoint"), bucket)
        directory.folder.chmod(0o777)
        yield directory
        directory.lease.cancel()
        directory.transfer.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can become another user for a while")
def test_a_file_that_is_closed_to_the_worker_keeps_no_other_back_and_is_no_reason_to_end_a_job_early(
    public: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(whose_fault, "LONGEST", 0)
    public.write("closed", b"0")
    assert public.checkpoints.cycle(final=False)
    (public.folder / "closed").chmod(0)
    with as_somebody_else():
        assert public.checkpoints.cycle(final=False)
        public.write("weights", b"1")
        assert public.checkpoints.cycle(final=False)
        assert keys_of(s3, bucket) == {"closed": b"0", "weights": b"1"}
        public.write("weights", b"2")
        with pytest.raises(StorageRefused, match="closed cannot be read: Permission denied"):
            public.checkpoints.finish()
    assert keys_of(s3, bucket) == {"closed": b"0", "weights": b"2"}
    assert capfd.readouterr().err.count("checkpoint_file_refused") == 1
    (public.folder / "closed").chmod(0o644)
    with as_somebody_else():
        public.checkpoints.finish()
    assert len(public.checkpoints.whole) == 2


def test_what_no_upload_in_parts_can_bring_is_not_torn_by_the_rest(
    watched: Watched, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    faulty.fault = lambda method, path: "403" if "uploads" in path else None
    watched.write("config", b"c")
    watched.write("weights", b"w" * LARGE)
    with pytest.raises(StorageRefused, match="weights"):
        watched.checkpoints.cycle(final=True)
    assert keys_of(s3, bucket) == {}


@contextmanager
def scribbling(path: Path) -> Iterator[None]:
    """Have a file rewritten in place all the time."""
    done = threading.Event()

    def scribble() -> None:
        number = 0
        while not done.wait(0.001):
            number += 1
            path.write_bytes(b"%d" % number * 2000)

    writer = threading.Thread(target=scribble)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()


@contextmanager
def after_first_block(action: Callable[[], None]) -> Iterator[None]:
    """Have something of the test's happen between the first and the second block read of a file."""
    original = PinnedFile._read_at
    reads = itertools.count()

    def read_at(file: PinnedFile, offset: int, length: int) -> bytes:
        block = original(file, offset, length)
        if next(reads) == 0:
            action()
        return block

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PinnedFile, "_read_at", read_at)
        yield


def committed(faulty: FaultyProxy) -> list[str]:
    """The names below the prefix in the order in which they became visible."""
    names = []
    for method, path in faulty.requests:
        name = re.search(r"/c/([^?]*)", path)
        whole = method == "PUT" and "partNumber" not in path
        if name and (whole or (method == "POST" and "uploadId" in path)):
            names.append(name[1])
    return names


def test_old_checkpoints_that_are_removed_while_newer_ones_go_up_spoil_nothing(
    watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3):
        for name in ("a/config", "weights", "optimizer"):
            watched.write(f"step{step}/{name}", b"%d" % step * (LARGE if name != "a/config" else 10))
    prepare = watched.transfer.prepare

    def rotate(path: str, *version: Any) -> Any:
        if path.endswith("step2/weights"):
            for step in (1, 2):
                shutil.rmtree(watched.folder / f"step{step}", ignore_errors=True)
        return prepare(path, *version)

    monkeypatch.setattr(watched.transfer, "prepare", rotate)
    assert watched.checkpoints.cycle(final=False)
    assert set(keys_of(s3, bucket)) == {"step3/a/config", "step3/weights", "step3/optimizer"}
    assert {stored.key for stored in watched.checkpoints.whole} == {f"c/{key}" for key in keys_of(s3, bucket)}
    wait_for(lambda: s3.unfinished_uploads(bucket) == [], "nothing to be left of the uploads")


def test_what_names_a_checkpoint_that_is_removed_while_it_goes_up_is_not_sent_without_it(
    watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.write("step1/weights", b"1")
    watched.write("latest", b"step1")  # the newest, so that it is read first
    prepare = watched.transfer.prepare

    def go_on(path: str, *version: Any) -> Any:
        if path.endswith("step1/weights"):
            watched.write("step2/weights", b"2")
            watched.write("latest", b"step2")
            shutil.rmtree(watched.folder / "step1")
        return prepare(path, *version)

    monkeypatch.setattr(watched.transfer, "prepare", go_on)
    assert not watched.checkpoints.cycle(final=False)
    assert keys_of(s3, bucket) == {} and watched.checkpoints.whole == ()
    assert watched.checkpoints.cycle(final=False)
    assert keys_of(s3, bucket) == {"step2/weights": b"2", "latest": b"step2"}
    assert len(watched.checkpoints.whole) == 2


def test_what_a_scan_finds_in_a_directory_that_does_not_hold_still_is_sent_and_not_called_whole(
    watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.write("step1/weights", b"1")
    watched.write("latest", b"step1")
    scan, misses = Scanner.scan, itertools.cycle([{"step1/weights"}, set()])

    def scan_too_early(scanner: Scanner) -> Snapshot:
        found, missed = scan(scanner), next(misses)
        return {path: version for path, version in found.items() if path not in missed}

    monkeypatch.setattr(observer, "_LONGEST_TRY", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(Scanner, "scan", scan_too_early)
        watched.checkpoints.cycle(final=False)
    assert "latest" in keys_of(s3, bucket) and watched.checkpoints.whole == ()
    assert watched.checkpoints.cycle(final=False)
    assert {stored.key for stored in watched.checkpoints.whole} == {"c/step1/weights", "c/latest"}


def test_a_log_that_never_rests_keeps_no_scan_from_being_one_state(
    watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.write("weights", b"w")
    watched.write("log", b"1")
    assert watched.checkpoints.cycle(final=False)
    watched.write("weights", b"v")
    scan = Scanner.scan

    def scan_and_append(scanner: Scanner) -> Snapshot:
        found = scan(scanner)
        with (watched.folder / "log").open("ab") as log:
            log.write(b"1")
        return found

    monkeypatch.setattr(Scanner, "scan", scan_and_append)
    before = watched.checkpoints.whole
    watched.checkpoints.cycle(final=False)
    assert keys_of(s3, bucket)["weights"] == b"v" and watched.checkpoints.whole != before


def test_files_that_come_and_go_all_the_time_keep_the_others_back_only_for_a_while(
    watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_phase_commit.Generations, "_room_for_removed", lambda generations: 0)
    watched.write("weights", b"w")
    watched.write("journal-0", b"j")
    number, prepare = itertools.count(1), watched.transfer.prepare

    def come_and_go(path: str, *version: Any) -> Any:
        if "journal" in path:
            Path(path).unlink()
            watched.write(f"journal-{next(number)}", b"j")
        return prepare(path, *version)

    monkeypatch.setattr(watched.transfer, "prepare", come_and_go)
    assert [watched.checkpoints.cycle(final=False) for _ in range(3)] == [False] * 3
    assert keys_of(s3, bucket) == {"weights": b"w"}
    assert watched.checkpoints.whole == ()


@pytest.mark.parametrize("brought", [False, True])
def test_a_file_that_is_longer_again_before_anybody_looks_is_no_log(
    aws: None, tmp_path: Path, s3: S3Server, bucket: str, brought: bool
) -> None:
    place = tmp_path / "checkpoint"
    place.mkdir()
    (place / "weights").write_bytes(b"1" * 10)
    (place / "log").write_bytes(b"1")
    known = {name: signature_of((place / name).stat()) for name in ("weights", "log")} if brought else None
    watched = Watched(place, bucket, brought=known)
    if brought:
        watched.checkpoints.start()
        watched.checkpoints.stop()
        watched.checkpoints._finishing.clear()
    else:
        assert watched.checkpoints.cycle(final=False)

    with (place / "weights").open("wb") as file:  # the same file, empty for a moment
        file.write(b"2" * 20)
        file.flush()
        assert not watched.checkpoints.cycle(final=False)
        assert keys_of(s3, bucket).get("weights") == (None if brought else b"1" * 10)
        file.write(b"2" * 20)
    wait_for(lambda: watched.checkpoints.cycle(final=False), "a rest")
    assert keys_of(s3, bucket)["weights"] == b"2" * 40

    with (place / "log").open("ab") as file:
        file.write(b"2" * 20)
        file.flush()
        assert watched.checkpoints.cycle(final=False)
    assert keys_of(s3, bucket)["log"] == b"1" + b"2" * 20
    watched.lease.cancel()
    watched.transfer.close()


def test_the_last_version_is_sent_also_where_generations_before_were_spoiled(
    watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.write("weights", b"last")
    prepare, spoiled = watched.transfer.prepare, iter([True])

    def spoil_once(path: str, *version: Any) -> Any:
        if next(spoiled, False):
            raise Spoiled(path)
        return prepare(path, *version)

    monkeypatch.setattr(watched.transfer, "prepare", spoil_once)
    watched.checkpoints._generations._spoiled_in_a_row = 2
    watched.checkpoints.finish()
    assert keys_of(s3, bucket) == {"weights": b"last"}
