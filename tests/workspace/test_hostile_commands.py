"""Commands that do to their directories what no command should, and a worker that neither loses nor deletes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.doubles.coordinator import FakeCoordinator
from tests.doubles.faulty_proxy import FaultyProxy
from tests.real_worker import Worker, believing_refusals_soon, block, finished, python, shell


@pytest.mark.parametrize("kind", ["during", "after"])
def test_what_the_command_linked_to_is_neither_deleted_nor_uploaded(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, tmp_path: Path, kind: str
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "foreign").write_text("somebody's")
    script = f"rm -rf ck; ln -s {shared} ck"
    job = coordinator.submit(**shell(script), sync={kind: [block(bucket, "ck")]})
    worker.start()
    report, body = finished(coordinator, job)
    expected = ("failed", "upload") if kind == "after" else ("completed", None)
    assert (report, body.get("reason")) == expected
    worker.wait_for("wiped", job_id=job)
    assert (shared / "foreign").read_text() == "somebody's"
    assert s3.keys(bucket, "ck/") == []
    assert worker.seen("directory_replaced")
    assert not os.path.lexists(worker.folder / "ck")


def test_a_checkpoint_in_the_bucket_outlives_a_link_in_its_directorys_place(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    s3.put(bucket, "ck/state", b"half")
    script = f"mkdir {tmp_path}/fast; rm -rf ck; ln -s {tmp_path}/fast ck"
    sync = {"before": [block(bucket, "ck")], "during": [block(bucket, "ck")]}
    job = coordinator.submit(**shell(script), sync=sync)
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "ck/") == {"state": b"half"}


@pytest.mark.parametrize("script", ["rm -rf ck; ln -s ck ck", "rm -rf ck; mkfifo ck", "rm -rf ck; echo x > ck"])
@pytest.mark.parametrize("code", [0, 1])
def test_whatever_is_in_a_directorys_place_the_next_job_has_an_empty_one(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, script: str, code: int
) -> None:
    sync = {"during": [block(bucket, "ck")], "after": [block(bucket, "ck", prefix="out/")]}
    first = coordinator.submit(**shell(f"{script}; exit {code}"), sync=sync)
    worker.start()
    report, body = finished(coordinator, first)
    assert (report, body["reason"]) == ("failed", "exit_code" if code else "upload")
    worker.wait_for("wiped", job_id=first)
    second = coordinator.submit(**shell("ls -A ck > listing; mv listing ck/listing"), sync=sync)
    assert finished(coordinator, second)[0] == "completed"
    assert s3.files(bucket, "out/") == {"listing": b""}
    if not code:
        (refused,) = worker.seen("refused", job_id=first)
        assert "the command replaced" in refused["detail"]


def test_absolute_links_within_the_outputs_go_up_as_what_they_lead_to(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    script = (
        "mkdir out/d; echo 1 > out/a; echo 2 > out/d/b; ln -s $PWD/out/a out/abs; ln -s $PWD/out/d out/latest; "
        "ln -s /etc/hostname out/foreign; ln -s $PWD/out/none out/dangling"
    )
    job = coordinator.submit(**shell(script), sync={"after": [block(bucket, "out")]})
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "out/") == {"a": b"1\n", "abs": b"1\n", "d/b": b"2\n", "latest/b": b"2\n"}
    for name in ("foreign", "dangling"):
        assert worker.seen("file_skipped", path=str(worker.folder / "out" / name))


def test_a_hard_link_to_the_state_file_is_not_uploaded(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    """The state file is replaced many times before the job has ended; the link stays on the old one."""
    script = "echo 1 > ck/a; echo 1 > out/a; ln $KELPIE_STATE_FILE ck/state; ln $KELPIE_STATE_FILE out/state"
    sync = {"during": [block(bucket, "ck")], "after": [block(bucket, "out")]}
    job = coordinator.submit(**shell(script), sync=sync)
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "") == {"ck/a": b"1\n", "out/a": b"1\n"}
    for name in ("ck/state", "out/state"):
        assert worker.seen("file_skipped", path=str(worker.folder / name))
    wait_for(lambda: not list(worker.folder.glob("*~linked")), "the old versions to be removed")


def test_a_checkpoint_that_storage_refuses_from_the_first_stops_the_command(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    script = "until [ -e go ]; do sleep 0.05; done; echo 1 > ck/state; exec sleep 600"
    job = coordinator.submit(**shell(script), sync={"during": [block(bucket, "ck")]})
    worker.start(PYTHONPATH=believing_refusals_soon(tmp_path))
    worker.wait_for("command_started")
    s3.delete_bucket(bucket)
    (worker.folder / "go").touch()
    report, body = finished(coordinator, job)
    assert (report, body["reason"]) == ("failed", "upload")


def test_what_was_both_a_checkpoint_and_an_output_is_sent_once(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
) -> None:
    sync = {"during": [block(bucket, "out")], "after": [block(bucket, "out")]}
    script = (
        "echo 1 > out/.draft; mv out/.draft out/top; mkdir out/d; echo 2 > out/d/deep; echo 3 > out/.kelpie-mine"
    )
    job = coordinator.submit(**shell(script), sync=sync)
    make_worker(AWS_ENDPOINT_URL=faulty.url).start()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "out/") == {"top": b"1\n", "d/deep": b"2\n", ".kelpie-mine": b"3\n"}
    sent = sorted(
        path.partition("?")[0].rpartition("/out/")[2] for method, path in faulty.requests if method == "PUT"
    )
    assert sent == [".kelpie-mine", "d/deep", "top"]


def test_a_checkpoint_that_is_rewritten_in_place_with_its_time_restored_is_sent_again(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    write = "echo {} > ck/state; touch -d @1000 ck/state; "
    script = write.format("old") + "until [ -e go ]; do sleep 0.05; done; " + write.format("new")
    job = coordinator.submit(**shell(script), sync={"during": [block(bucket, "ck")]})
    worker.start()
    wait_for(lambda: s3.files(bucket, "ck/") == {"state": b"old\n"}, "the first version")
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "ck/") == {"state": b"new\n"}


def test_what_the_download_brought_is_not_sent_back_by_a_restarted_uploader(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
) -> None:
    s3.put(bucket, "ck/brought", b"as it was")
    sync = {"before": [block(bucket, "ck")], "during": [block(bucket, "ck")]}
    job = coordinator.submit(**shell("until [ -e go ]; do sleep 0.05; done; echo 1 > ck/new"), sync=sync)
    worker = make_worker(AWS_ENDPOINT_URL=faulty.url).start()
    worker.wait_for("command_started")
    os.kill(worker.child("uploader"), signal.SIGKILL)
    worker.wait_for("child_started", count=2, child="uploader")
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "ck/") == {"brought": b"as it was", "new": b"1\n"}
    sent = [path for method, path in faulty.requests if method == "PUT"]
    assert len(sent) == 1 and "/ck/new" in sent[0]
    worker.wait_for("wiped")
    wait_for(lambda: not list(worker.folder.glob(".kelpie-*")), "Kelpie's own files to go")


# --- what other people name things ----------------------------------------------------------------------


def test_no_key_of_a_bucket_lands_outside_of_its_directory(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    outside = worker.folder / "victim"
    outside.write_text("sentinel")
    keys = {"../victim": False, "a/../../victim": False, "..": False, "a//b": True, "./c": True, "/abs": True}
    for key in [*keys, f"{worker.folder}/victim"]:
        s3.put(bucket, f"in/{key}", b"from the bucket")
    script = "find in -type f | sort > listing; mkdir -p out; mv listing out/"
    sync = {"before": [block(bucket, "in")], "after": [block(bucket, "out")]}
    job = coordinator.submit(**shell(script), sync=sync)
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    within = f"in{worker.folder}/victim"
    listing = s3.get(bucket, "out/listing").decode().split()
    assert listing == sorted(["in/a/b", "in/abs", "in/c", within])
    assert outside.read_text() == "sentinel"
    refused = {event["key"].removeprefix("in/") for event in worker.seen("key_refused")}
    assert refused == {key for key, lands in keys.items() if not lands}


@pytest.mark.parametrize("local_path", [".", "..", "link", "{folder}/home/../home/"])
def test_a_local_path_that_holds_what_is_not_the_jobs_is_never_emptied(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, local_path: str
) -> None:
    home = worker.folder / "home"
    (home / "deep").mkdir(parents=True)
    (worker.folder / "link").symlink_to(home)
    sentinels = [worker.folder / "sentinel", worker.folder.parent / "sentinel", home / "deep/sentinel"]
    for sentinel in sentinels:
        sentinel.write_text("somebody's")
    here = local_path.format(folder=worker.folder)
    sync = {kind: [block(bucket, "ck", local_path=here, pattern="^mine$")] for kind in ("before", "during")}
    job = coordinator.submit(**shell(f"echo 1 > {here}/mine"), sync=sync)
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    worker.wait_for("wiped", job_id=job)
    assert [sentinel.read_text() for sentinel in sentinels] == ["somebody's"] * 3
    assert worker.seen("wipe_refused", job_id=job)
    assert s3.files(bucket, "ck/") == {"mine": b"1\n"}


@pytest.mark.parametrize("kind", ["during", "after"])
def test_what_cannot_be_an_object_is_named_and_left_out_and_the_rest_goes_up(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, kind: str
) -> None:
    script = """
import os, pathlib, socket
os.chdir("ck")
pathlib.Path("plain").write_bytes(b"1")
pathlib.Path("Grüße, 世界 +&%.txt").write_bytes(b"2")
open(b"not-utf-8-\\xff", "wb").close()
os.mkfifo("pipe")
socket.socket(socket.AF_UNIX).bind("socket")
os.symlink("/etc", "etc")
deep = pathlib.Path(*["d" * 250] * 2)
deep.mkdir(parents=True)
(deep / ("e" * 100)).write_bytes(b"3")
(deep / ("f" * 101)).write_bytes(b"4")
"""
    prefix = "p" * 421 + "/"  # with it, a file's key is as long as S3 takes, and another's longer by one
    job = coordinator.submit(**python(script), sync={kind: [block(bucket, "ck", prefix=prefix)]})
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    longest = "/".join(["d" * 250, "d" * 250, "e" * 100])
    assert s3.files(bucket, prefix) == {"plain": b"1", "Grüße, 世界 +&%.txt": b"2", longest: b"3"}
    named = sorted(Path(event["path"]).name[:9] for event in worker.seen("file_skipped"))
    assert named == ["etc", "f" * 9, "not-utf-8", "pipe", "socket"]
    if kind == "after":
        (skipped,) = worker.seen("outputs_skipped", job_id=job)
        assert skipped["count"] == 5 and f"{worker.folder}/ck/etc" in skipped["first"]
    worker.wait_for("wiped", job_id=job)
    assert list((worker.folder / "ck").iterdir()) == []
