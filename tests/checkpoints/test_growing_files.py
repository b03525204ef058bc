"""Files that only grow: what is sent of them, against a real S3 server."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from kelpie_worker.job import StoredObject
from kelpie_worker.s3.errors import NotCopied
from kelpie_worker.transfer.file_upload import Beginning, Rewritten
from kelpie_worker.transfer.part_sizes import WHOLE_SIZE
from kelpie_worker.workspace.file_version import PinnedFile, Signature, signature_of
from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.checkpoints.watched import Watched, keys_of
from tests.doubles.faulty_proxy import Fault, FaultyProxy

LARGE = WHOLE_SIZE + 1000
GROWTH = 20_000


def append(watched: Watched, name: str, content: bytes) -> None:
    with (watched.folder / name).open("ab") as file:
        file.write(content)


def arrives(watched: Watched, s3: S3Server, bucket: str, name: str) -> bool:
    """Whether the bucket has the file as it is, after another look."""
    watched.checkpoints.cycle(final=False)
    return keys_of(s3, bucket).get(name) == (watched.folder / name).read_bytes()


def sent(faulty: FaultyProxy) -> int:
    """Bytes of all uploads."""
    return sum(int(headers.get("Content-Length") or 0) for method, headers in faulty.headers if method == "PUT")


def test_of_a_file_that_grows_only_what_is_new_is_sent_and_the_generation_is_whole(
    watched: Watched, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    append(watched, "trajectory", os.urandom(LARGE))
    for step in range(5):
        watched.write("state", b"%d" % step)
        watched.checkpoints.cycle(final=False)
        assert keys_of(s3, bucket) == {
            "state": b"%d" % step,
            "trajectory": (watched.folder / "trajectory").read_bytes(),
        }
        assert {stored.key: stored.etag for stored in watched.checkpoints.whole} == s3.etags(bucket)
        append(watched, "trajectory", os.urandom(GROWTH))
    watched.checkpoints.finish()
    content = (watched.folder / "trajectory").read_bytes()
    assert keys_of(s3, bucket)["trajectory"] == content and sent(faulty) < len(content) + 100
    assert s3.unfinished_uploads(bucket) == []


@pytest.mark.parametrize("same", [0, 4096, LARGE - 1], ids=["all of it", "but for its end", "one byte"])
def test_a_file_that_was_written_anew_and_is_longer_goes_up_as_it_is(
    watched: Watched, s3: S3Server, bucket: str, same: int
) -> None:
    append(watched, "weights", bytes(LARGE))
    watched.checkpoints.cycle(final=False)
    with (watched.folder / "weights").open("r+b") as file:
        file.write(os.urandom(LARGE - same))
    append(watched, "weights", bytes(GROWTH))
    watched.checkpoints.finish()
    assert keys_of(s3, bucket)["weights"] == (watched.folder / "weights").read_bytes()


def test_what_is_written_anew_under_the_same_name_goes_up_as_it_is(
    watched: Watched, s3: S3Server, bucket: str
) -> None:
    for size in (LARGE, LARGE + GROWTH):
        watched.write("weights", os.urandom(size))
        watched.checkpoints.cycle(final=False)
    assert keys_of(s3, bucket)["weights"] == (watched.folder / "weights").read_bytes()


@pytest.mark.parametrize("copies", ["501", "403", "400", "html", "503", "ignored", "whole"])
def test_where_storage_copies_no_parts_a_file_that_grows_is_sent_three_times_at_most_and_small_ones_each_time(
    watched: Watched, s3: S3Server, bucket: str, faulty: FaultyProxy, copies: Fault
) -> None:
    faulty.copies = copies
    append(watched, "trajectory", os.urandom(LARGE))
    for step in range(6):
        watched.write("state", b"%d" % step)
        assert watched.checkpoints.cycle(final=False)
        assert keys_of(s3, bucket)["state"] == b"%d" % step
        append(watched, "trajectory", os.urandom(GROWTH))
    watched.checkpoints.finish()
    content = (watched.folder / "trajectory").read_bytes()
    assert keys_of(s3, bucket)["trajectory"] == content
    assert sent(faulty) <= 3 * len(content) + 100
    assert s3.unfinished_uploads(bucket) == []


def test_a_generation_without_a_file_that_is_held_back_is_not_reported_whole(
    watched: Watched, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    faulty.copies = "501"
    append(watched, "trajectory", os.urandom(LARGE))
    for step in range(4):
        watched.write("state", b"%d" % step)
        watched.checkpoints.cycle(final=False)
        append(watched, "trajectory", os.urandom(GROWTH))
    reported = {stored.key: stored.etag for stored in watched.checkpoints.whole}
    assert reported["c/state"] != s3.etags(bucket)["c/state"]
    assert watched.checkpoints.behind_since is not None
    watched.checkpoints.finish()
    assert {stored.key: stored.etag for stored in watched.checkpoints.whole} == s3.etags(bucket)


def test_what_only_looks_as_if_it_grew_is_not_held_back(watched: Watched, s3: S3Server, bucket: str) -> None:
    """A file that was written anew with the same end as before, where only all of its content tells."""
    for step in range(5):
        with (watched.folder / "weights").open("r+b" if step else "wb") as file:
            file.write(bytes([step]) * 100_000 + bytes(10_000 + step * 20))
        wait_for(partial(arrives, watched, s3, bucket, "weights"), f"version {step}")


def test_a_file_that_a_resumed_job_goes_on_writing_is_copied_if_the_bucket_has_its_beginning(
    aws: None, tmp_path: Path, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    watched = brought(tmp_path, s3, bucket, os.urandom(LARGE))
    append(watched, "trajectory", os.urandom(GROWTH))
    watched.checkpoints.finish()
    assert keys_of(s3, bucket)["trajectory"] == (watched.folder / "trajectory").read_bytes()
    assert sent(faulty) == GROWTH


def test_a_file_that_a_resumed_job_wrote_anew_is_not_copied(
    aws: None, tmp_path: Path, s3: S3Server, bucket: str
) -> None:
    watched = brought(tmp_path, s3, bucket, bytes(LARGE))
    with (watched.folder / "trajectory").open("r+b") as file:
        file.write(b"anew")
    append(watched, "trajectory", bytes(GROWTH))
    watched.checkpoints.finish()
    assert keys_of(s3, bucket)["trajectory"] == (watched.folder / "trajectory").read_bytes()


def brought(tmp_path: Path, s3: S3Server, bucket: str, content: bytes) -> Watched:
    """A directory with a file that was downloaded."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "trajectory").write_bytes(content)
    s3.put(bucket, "c/trajectory", content)
    stored = StoredObject(bucket, "c/trajectory", len(content), s3.etags(bucket)["c/trajectory"], None)
    version = signature_of((folder / "trajectory").stat())
    return Watched(folder, bucket, brought={"trajectory": version}, objects={"trajectory": stored})


def test_what_another_program_put_there_is_not_copied(watched: Watched, s3: S3Server, bucket: str) -> None:
    append(watched, "trajectory", bytes(LARGE))
    watched.checkpoints.cycle(final=False)
    etag = s3.etags(bucket)["c/trajectory"]
    s3.put(bucket, "c/trajectory", b"x" * LARGE)
    append(watched, "trajectory", bytes(GROWTH))
    path = watched.folder / "trajectory"
    beginning = Beginning(etag, LARGE, watched.checkpoints.files["trajectory"].content.digest)
    target = watched.transfer.target(bucket, "c/", "trajectory")
    with pytest.raises(NotCopied):
        watched.transfer.prepare_growth(str(path), signature_of(path.stat()), target, beginning, copied=True)
    with pytest.raises(Rewritten):
        watched.transfer.prepare_growth(
            str(path), signature_of(path.stat()), target, Beginning(etag, LARGE, b"another"), copied=True
        )
    assert s3.unfinished_uploads(bucket) == []


def test_compressed_files_are_sent_again_and_never_copied(watched: Watched, s3: S3Server, bucket: str) -> None:
    watched.transfer.compression = True
    append(watched, "trajectory", os.urandom(LARGE))
    watched.checkpoints.cycle(final=False)
    append(watched, "trajectory", os.urandom(GROWTH))
    watched.checkpoints.finish()
    packed = keys_of(s3, bucket)["trajectory.gz"]
    assert gzip.decompress(packed) == (watched.folder / "trajectory").read_bytes()


@pytest.fixture
def slow_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any large file takes longer than others are to wait for it."""
    monkeypatch.setattr("kelpie_worker.checkpoints.pacing.LONGEST_TOGETHER", 0)


def send_once(watched: Watched, faulty: FaultyProxy) -> None:
    """Send a trajectory, which has grown since, where storage copies nothing."""
    faulty.copies = "501"
    append(watched, "trajectory", os.urandom(LARGE))
    watched.checkpoints.cycle(final=False)
    watched.checkpoints.files["trajectory"].sendings.is_not_copied = True
    append(watched, "trajectory", os.urandom(GROWTH))


@pytest.fixture
def sent_aside(watched: Watched, faulty: FaultyProxy, slow_line: None) -> Iterator[threading.Event]:
    """A trajectory is being sent again beside the generations, and arrives once the event is set."""
    arrives = threading.Event()

    def hold_parts(method: str, path: str) -> Fault | None:
        if method == "PUT" and "partNumber" in path:
            arrives.wait()
        return None

    send_once(watched, faulty)
    faulty.fault = hold_parts
    watched.checkpoints.cycle(final=False)
    yield arrives
    arrives.set()


def test_a_small_checkpoint_does_not_wait_for_a_large_file_that_is_sent_again(
    watched: Watched, s3: S3Server, bucket: str, sent_aside: threading.Event
) -> None:
    for step in range(3):
        watched.write("state", b"%d" % step)
        assert watched.checkpoints.cycle(final=False)
        assert keys_of(s3, bucket)["state"] == b"%d" % step
    assert len(keys_of(s3, bucket)["trajectory"]) == LARGE
    sent_aside.set()
    wait_for(partial(arrives, watched, s3, bucket, "trajectory"), "the trajectory")
    watched.checkpoints.cycle(final=False)
    assert {stored.key: stored.etag for stored in watched.checkpoints.whole} == s3.etags(bucket)


def test_a_refusal_of_what_is_sent_aside_keeps_no_other_file_back_and_is_tried_again(
    watched: Watched, s3: S3Server, bucket: str, faulty: FaultyProxy, slow_line: None
) -> None:
    send_once(watched, faulty)
    faulty.break_in_turn(["403"], "POST", "uploads")

    def is_refused() -> bool:
        watched.write("state", b"1")
        watched.checkpoints.cycle(final=False)
        return watched.checkpoints.files["trajectory"].refused == 1

    wait_for(is_refused, "the refusal")
    assert keys_of(s3, bucket)["state"] == b"1"
    wait_for(partial(arrives, watched, s3, bucket, "trajectory"), "the trajectory")


def test_at_the_end_what_is_still_being_sent_aside_is_given_up_for_the_last_version(
    watched: Watched, s3: S3Server, bucket: str, sent_aside: threading.Event
) -> None:
    append(watched, "trajectory", os.urandom(GROWTH))
    watched.checkpoints.stop()
    sent_aside.set()
    watched.checkpoints.finish()
    assert keys_of(s3, bucket)["trajectory"] == (watched.folder / "trajectory").read_bytes()
    wait_for(lambda: s3.unfinished_uploads(bucket) == [], "nothing to be left of the upload")


def test_a_file_that_was_written_anew_while_it_was_sent_aside_is_not_overwritten_by_that(
    watched: Watched, s3: S3Server, bucket: str, sent_aside: threading.Event
) -> None:
    watched.write("trajectory", b"anew")
    watched.checkpoints.cycle(final=False)
    sent_aside.set()
    wait_for(lambda: watched.checkpoints.cycle(final=False) and not s3.unfinished_uploads(bucket), "its end")
    assert keys_of(s3, bucket)["trajectory"] == b"anew"


def test_a_file_that_is_appended_to_all_the_time_goes_up_for_the_first_time_while_it_grows(
    watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray()

    def append_more(size: int = GROWTH) -> None:
        piece = os.urandom(size)
        append(watched, "trajectory", piece)
        content.extend(piece)

    opened = PinnedFile.of

    def of(path: str, version: Signature, may_have_grown: bool = False) -> PinnedFile:
        append_more()  # there is always an append between the look and the upload
        return opened(path, version, may_have_grown)

    append_more(LARGE)
    monkeypatch.setattr(PinnedFile, "of", of)

    def has_arrived() -> bool:
        watched.checkpoints.cycle(final=False)
        return "trajectory" in keys_of(s3, bucket)

    wait_for(has_arrived, "the trajectory")
    assert content.startswith(keys_of(s3, bucket)["trajectory"])
