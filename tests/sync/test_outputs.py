"""Outputs on their way into the bucket: every one of them, whatever storage and disk do meanwhile."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import kelpie_worker.s3.whose_fault
from kelpie_worker import config
from kelpie_worker.checkpoints.fence import Fence
from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.lease import Lease
from kelpie_worker.messages import Download, Flushed, Message, Refused, Stage, Staged, Troubled, Upload
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.s3.errors import Misconfigured, NoBucket, RefusedOnTheWay, StorageRefused, StorageUnreachable
from kelpie_worker.s3.objects import Target
from kelpie_worker.sync import job_files
from kelpie_worker.sync import outputs as outputs_module
from kelpie_worker.sync.job_files import JobFiles
from kelpie_worker.sync.outputs import Outputs
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.transfer.file_upload import Transfer
from kelpie_worker.workspace import before_command, directories, tree
from kelpie_worker.workspace.before_command import DirectoryRecord
from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.checkpoints.watched import Watched
from tests.doubles.coordinator import FakeCoordinator
from tests.doubles.faulty_proxy import Fault, FaultyProxy
from tests.doubles.leases import held
from tests.real_worker import Worker, believing_refusals_soon, block, finished, python, shell


def older_generation(bucket: str, **prefixes: str) -> dict[str, str]:
    """The fields of a job that name its places without `sync`."""
    return {
        f"{kind}_{field}": value
        for kind, prefix in prefixes.items()
        for field, value in (("bucket", bucket), ("prefix", prefix))
    }


def puts(fault: Fault) -> Callable[[str, str], Fault | None]:
    return lambda method, path: fault if method == "PUT" else None


def test_outputs_that_storage_refuses_stay_and_go_up_once_it_takes_them(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
) -> None:
    faulty.fault = puts("403")
    job = coordinator.submit(**shell("echo 1 > out/x"), sync={"after": [block(bucket, "out")]})
    worker = make_worker(AWS_ENDPOINT_URL=faulty.url, MAX_RETRIES="0").start()
    worker.wait_for("upload_refused", count=2)
    after = coordinator.submit(**shell("test ! -e out/x"), sync={"after": [block(bucket, "out", prefix="next/")]})
    assert finished(coordinator, after)[0] == "completed"  # nothing of it had to be uploaded
    assert coordinator.reports(job) == []
    (waiting,) = [entry for entry in worker.state()["jobs"] if entry["id"] == job]
    (upload,) = waiting["activeUploads"]
    assert waiting["status"] == "running" and Path(upload).read_bytes() == b"1\n"

    faulty.fault = lambda method, path: None

    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "out/") == {"x": b"1\n"}
    wait_for(lambda: not Path(upload).exists(), "the files set aside to be removed")


class Refusing:
    """A transfer that is refused, and counts how often."""

    def __init__(self, error: StorageRefused) -> None:
        self.error = error
        self.tries = 0

    def key_in(self, prefix: str, path: str) -> str:
        return prefix + path

    def target(self, bucket: str, prefix: str, path: str) -> Target:
        return Target(bucket, prefix + path, "text/plain")

    def prepare(self, *_: Any) -> Any:
        self.tries += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "patience", "tries"),
    [
        (NoBucket("not now"), 0.0, 1),
        (NoBucket("not now"), 0.4, 2),
        (StorageRefused("not now"), 0.0, 1),
        (StorageRefused("not now"), 0.4, 2),
    ],
)
def test_a_refusal_that_lasts_is_believed_also_that_there_is_no_bucket_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: StorageRefused, patience: float, tries: int
) -> None:
    monkeypatch.setattr(kelpie_worker.s3.whose_fault, "CONFIRMED", 0.0)
    monkeypatch.setattr(kelpie_worker.s3.whose_fault, "LONGEST", patience)
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / "result").write_text("1")
    job = Job("claim", "job", after=(SyncBlock("b", "p/", str(tmp_path / "out")),))
    transfer = Refusing(error)
    lease = Lease()
    fence = Fence(job, cast(Storage, transfer), lease, lambda: None)
    sending = Outputs(job, cast(Transfer, transfer), lease, fence, {}, DirectoryRecord())
    with pytest.raises(type(error)):
        sending.upload(((str(tmp_path / "out"), str(tmp_path / "aside")),), lambda paths: None)
    assert transfer.tries == tries
    assert (tmp_path / "aside" / "result").exists()


def test_an_upload_that_storage_only_claims_to_have_is_sent_again_before_completed_is_reported(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
) -> None:
    faulty.break_in_turn(["swallow"], "PUT", "/out/x")
    job = coordinator.submit(**shell("echo 1 > out/x"), sync={"after": [block(bucket, "out")]})
    make_worker(AWS_ENDPOINT_URL=faulty.url).start()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "out/") == {"x": b"1\n"}


# --- an attempt that lost its lease ---------------------------------------------------------------------

SMALL, LARGE = "echo loser > out/x", "head -c 6000000 /dev/zero > out/x"  # sent whole, and in parts


@pytest.mark.parametrize("script", [SMALL, LARGE], ids=["whole", "in parts"])
@pytest.mark.parametrize(
    ("conditions", "earlier", "delivered"),
    [
        ("", b"", False),
        ("", b"", True),  # when it is too late
        ("", b"an earlier attempt's", False),
        ("", b"an earlier attempt's", True),
        ("ignored", b"an earlier attempt's", False),
    ],
)
def test_cut_off_from_both_it_leaves_the_outputs_of_the_attempt_that_completed_the_job(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
    script: str,
    conditions: Fault,
    earlier: bytes,
    delivered: bool,
) -> None:
    """Its write hangs; then the API is cut off, another attempt completes the job, and the bucket is back."""
    hangs, reachable = threading.Event(), threading.Event()
    # The first write finds the earlier object, where that is told.
    left = ["pass"] if earlier and not conditions else []

    def cut_off(method: str, path: str) -> Fault | None:
        if reachable.is_set() or not is_final(method, path) or (left and left.pop()):
            return None
        hangs.set()
        reachable.wait(60)
        return None if delivered else "reset"

    if earlier:
        s3.put(bucket, "out/x", earlier)
    faulty.fault, faulty.conditions = cut_off, conditions
    job = coordinator.submit(**shell(script), sync={"after": [block(bucket, "out")]})
    worker = make_worker(AWS_ENDPOINT_URL=faulty.url).start()
    assert hangs.wait(30)
    coordinator.down = True
    worker.wait_for("lease_unsafe")
    coordinator.hand_to_another(job)
    s3.put(bucket, "out/x", b"the winner's")
    reachable.set()
    before = len(worker.seen("heartbeat_unanswered"))
    worker.wait_for("heartbeat_unanswered", count=before + 3)
    assert s3.get(bucket, "out/x") == b"the winner's"

    coordinator.down = False

    worker.wait_for("wiped")
    assert s3.get(bucket, "out/x") == b"the winner's" and coordinator.reports(job) == []


def is_final(method: str, path: str) -> bool:
    """Whether a request makes something visible."""
    return (method == "PUT" and "partNumber" not in path) or (method == "POST" and "uploadId" in path)


def test_what_lies_there_from_before_is_replaced_at_the_cost_of_few_heartbeats(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    """By an earlier attempt, or by the user: a heartbeat that is accepted shows that no newer attempt wrote it."""
    names = [f"{number:02}" for number in range(40)]
    for name in names:
        s3.put(bucket, f"out/{name}", b"before")
    job = coordinator.submit(
        **shell("for n in $(seq -w 0 39); do echo now > out/$n; done; head -c 6000000 /dev/zero > out/39"),
        heartbeat_interval=60,
        sync={"after": [block(bucket, "out")]},
    )
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "out/") == {**dict.fromkeys(names, b"now\n"), "39": bytes(6_000_000)}
    assert coordinator.heartbeats(job) <= 10


def test_an_input_that_the_command_overwrites_is_replaced_as_it_was_found_at_the_start(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
) -> None:
    s3.put(bucket, "x/file", b"before")
    place = {"bucket": bucket, "prefix": "x/", "local_path": "x"}
    job = coordinator.submit(
        **shell("echo now > x/file"), heartbeat_interval=60, sync={"before": [place], "after": [place]}
    )
    make_worker(AWS_ENDPOINT_URL=faulty.url).start()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "x/") == {"file": b"now\n"} and coordinator.heartbeats(job) <= 1
    before = hashlib.md5(b"before", usedforsecurity=False).hexdigest()
    assert [headers.get("If-Match") for method, headers in faulty.headers if method == "PUT"][-1] == f'"{before}"'


def test_a_killed_uploader_does_not_keep_the_outputs_back(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
) -> None:
    faulty.fault = puts("503")
    job = coordinator.submit(**shell("echo 1 > out/x"), sync={"after": [block(bucket, "out")]})
    worker = make_worker(AWS_ENDPOINT_URL=faulty.url, MAX_RETRIES="0").start()
    worker.wait_for("upload_delayed")
    os.kill(worker.child("uploader"), signal.SIGKILL)
    worker.wait_for("child_restarted")
    faulty.fault = lambda method, path: None
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "out/") == {"x": b"1\n"}


def test_a_directory_that_the_command_removed_is_empty(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    job = coordinator.submit(**shell("rm -r out"), sync={"after": [block(bucket, "out")]})
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.keys(bucket) == []


def test_several_blocks_may_share_a_directory_and_lie_in_one_another(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    after = [
        block(bucket, "out", prefix="all/"),
        block(bucket, "out", prefix="logs/", pattern="\\.log$"),
        {"bucket": bucket, "prefix": "deep/", "local_path": "out/deep"},
    ]
    job = coordinator.submit(
        **shell("mkdir -p out/deep; echo 1 > out/a.log; echo 2 > out/deep/b"), sync={"after": after}
    )
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "") == {
        "all/a.log": b"1\n",
        "all/deep/b": b"2\n",
        "logs/a.log": b"1\n",
        "deep/b": b"2\n",
    }


LINGER = "until [ -e go ]; do sleep 0.05; done"


@pytest.mark.parametrize("watched", [["a", "b"], ["b", "a"]], ids=["from the first", "from the second"])
@pytest.mark.parametrize("after", [[], ["b"]], ids=["checkpoint", "output too"])
def test_a_file_that_moves_to_another_directory_of_the_same_prefix_stays_in_the_bucket(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, watched: list[str], after: list[str]
) -> None:
    def blocks(names: list[str]) -> list[dict[str, str]]:
        return [{"bucket": bucket, "prefix": "all/", "local_path": name} for name in names]

    job = coordinator.submit(
        **shell(f"echo keep > a/keep; echo moved > a/f; {LINGER}; mv a/f b/f"),
        sync={"during": blocks(watched), "after": blocks(after)},
    )
    worker.start()
    wait_for(lambda: s3.keys(bucket) == ["all/f", "all/keep"], "the checkpoint")
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "all/") == {"f": b"moved\n", "keep": b"keep\n"}


def test_an_output_that_another_directory_has_overwritten_in_the_bucket_goes_up_again(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    def blocks(*names: str) -> list[dict[str, str]]:
        return [{"bucket": bucket, "prefix": "all/", "local_path": name} for name in names]

    job = coordinator.submit(
        **shell(f"echo output > b/f; {LINGER}; echo checkpoint > a/f; rm go; {LINGER}"),
        sync={"during": blocks("a", "b"), "after": blocks("b")},
    )
    worker.start()
    for content in (b"output\n", b"checkpoint\n"):
        wait_for(lambda content=content: s3.files(bucket, "all/") == {"f": content}, f"{content!r} in the bucket")
        (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "all/") == {"f": b"output\n"}


MAPPING = """
import mmap, os, time
os.makedirs("c", exist_ok=True)
with open("c/state", "w+b") as file:
    file.truncate(2 * mmap.PAGESIZE)
    pages = mmap.mmap(file.fileno(), 0)
pages[:1] = b"1"
while not os.path.exists("go"):
    time.sleep(0.05)
pages[:1] = b"2"
"""


def test_what_a_command_wrote_last_into_a_mapped_file_is_in_the_bucket_once_its_job_is_completed(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    directory = block(bucket, "c")
    job = coordinator.submit(**python(MAPPING), sync={"during": [directory], "after": [directory]})
    worker.start(FILE_WATCHER_MAX_WAIT_MS="100")  # for a file that stays open is waited for twelve times as long
    wait_for(lambda: s3.files(bucket, "c/").get("state", b"")[:1] == b"1", "the first state")
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "c/")["state"][:1] == b"2"


def test_outputs_of_the_older_generation_may_share_a_prefix_with_the_checkpoint(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    legacy = older_generation(bucket, input="all/", checkpoint="all/", output="all/")
    script = f'echo 1 > "$CHECKPOINT_DIR/final"; {LINGER}; mv "$CHECKPOINT_DIR/final" "$OUTPUT_DIR/final"'
    job = coordinator.submit(**shell(script), sync=None, **legacy)
    worker.start()
    wait_for(lambda: s3.files(bucket, "all/") == {"final": b"1\n"}, "the checkpoint")
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "all/") == {"final": b"1\n"}


@pytest.fixture
def other_device(worker: Worker) -> Iterator[Path]:
    """The job's output directory as a disk of its own; only root can mount one."""
    place = worker.folder / "out"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "none", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    worker.close()
    subprocess.run(["umount", place], check=True)


def test_outputs_on_another_device_are_moved_by_copying(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, other_device: Path
) -> None:
    assert other_device.stat().st_dev != worker.folder.stat().st_dev
    after = {"after": [block(bucket, "out")]}
    first = coordinator.submit(
        **shell("mkdir out/d; echo 1 > out/d/x; ln -s d/x out/link; mkfifo out/pipe"), sync=after
    )
    second = coordinator.submit(**shell('test -z "$(ls -A out)"'), sync=after)
    worker.start()
    assert finished(coordinator, first)[0] == finished(coordinator, second)[0] == "completed"
    assert s3.files(bucket, "out/") == {"d/x": b"1\n", "link": b"1\n"}
    assert list(other_device.iterdir()) == []


def small_disk_with_a_volume(folder: Path, size: str) -> list[str]:
    """What starts a worker with a disk of 40 MiB as its folder `small`, and a volume at `small/out`."""
    (folder / "small").mkdir()
    mounts = (
        f'cd "{folder}" && mount -t tmpfs -o size=40m none small && mkdir small/out && '
        f'mount -t tmpfs -o size={size} none small/out && exec "$@"'
    )
    return ["unshare", "--mount", "sh", "-c", mounts, "sh"]


def test_a_volume_that_fits_nowhere_else_is_set_aside_within_itself_and_the_next_job_runs(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    start = small_disk_with_a_volume(worker.folder, "200m")
    first = coordinator.submit(
        **shell("head -c 60000000 /dev/zero > small/out/large; ln -s large small/out/link"),
        sync={"after": [block(bucket, "one", local_path="small/out")]},
    )
    second = coordinator.submit(
        **shell('test -z "$(ls small/out)"; echo 2 > small/out/x'),
        sync={"after": [block(bucket, "two", local_path="small/out")]},
    )
    worker.start(start, KELPIE_STATE_FILE=str(worker.folder / "small/state.json"))
    assert finished(coordinator, first)[0] == finished(coordinator, second)[0] == "completed"
    assert {name: len(content) for name, content in s3.files(bucket, "one/").items()} == {
        "large": 60_000_000,
        "link": 60_000_000,
    }
    assert s3.files(bucket, "two/") == {"x": b"2\n"}
    worker.wait_for("wiped", count=2)
    volume = Path(f"/proc/{worker.pid}/root{worker.folder}/small/out")
    assert list(volume.iterdir()) == [] and not worker.seen("outputs_sent_in_place")


def test_outputs_that_must_be_copied_and_fit_nowhere_are_sent_before_the_next_job_starts(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    start = small_disk_with_a_volume(worker.folder, "200m")
    sync = {"after": [block(bucket, "one", local_path="small/out", pattern="large")]}
    first = coordinator.submit(**shell("head -c 60000000 /dev/zero > small/out/large"), sync=sync)
    second = coordinator.submit(**shell("true"))
    worker.start(start, KELPIE_STATE_FILE=str(worker.folder / "small/out/state.json"))
    assert finished(coordinator, first)[0] == finished(coordinator, second)[0] == "completed"
    assert {name: len(content) for name, content in s3.files(bucket, "one/").items()} == {"large": 60_000_000}
    assert worker.seen("outputs_sent_in_place", job_id=first)
    small = Path(f"/proc/{worker.pid}/root{worker.folder}/small")
    assert [path.name for path in small.iterdir()] == ["out"]


def test_outputs_of_the_older_generation_go_up_as_they_appear(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    legacy = older_generation(bucket, input="i/", checkpoint="c/", output="o/")
    script = 'echo 1 > "$OUTPUT_DIR/early"; until [ -e go ]; do sleep 0.05; done; echo 2 > "$OUTPUT_DIR/late"'
    job = coordinator.submit(**shell(script), sync=None, **legacy)
    worker.start()
    wait_for(lambda: s3.files(bucket, "o/") == {"early": b"1\n"}, "the first output")
    assert coordinator.status(job) == "running"
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "o/") == {"early": b"1\n", "late": b"2\n"}


# --- checkpoints that are refused -----------------------------------------------------------------------


def test_after_an_uploaders_restart_a_checkpoint_that_is_refused_from_the_first_stops_the_command(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    script = "until [ -e go ]; do sleep 0.05; done; echo 1 > ck/state; exec sleep 1000"
    job = coordinator.submit(**shell(script), sync={"during": [block(bucket, "ck")]})
    worker.start(PYTHONPATH=believing_refusals_soon(tmp_path))
    worker.wait_for("command_started")
    s3.delete_bucket(bucket)
    os.kill(worker.child("uploader"), signal.SIGKILL)
    worker.wait_for("child_started", count=2, child="uploader")
    (worker.folder / "go").touch()
    report, body = finished(coordinator, job)
    assert (report, body["reason"]) == ("failed", "upload")


def test_what_the_bucket_took_before_the_uploaders_restart_keeps_a_refusal_from_stopping_the_command(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
) -> None:
    script = "echo 1 > ck/one; until [ -e go ]; do sleep 0.05; done; echo 2 > ck/two; exec sleep 1000"
    job = coordinator.submit(**shell(script), sync={"during": [block(bucket, "ck")]})
    worker = make_worker(AWS_ENDPOINT_URL=faulty.url, MAX_RETRIES="0").start()
    (remembered,) = wait_for(lambda: list(worker.folder.glob("*places")), "the places to be kept")
    wait_for(lambda: f'"taken": ["{worker.folder}/ck"]' in remembered.read_text(), "the checkpoint to be noted")
    os.kill(worker.child("uploader"), signal.SIGKILL)
    worker.wait_for("child_started", count=2, child="uploader")
    faulty.fault = puts("403")
    (worker.folder / "go").touch()
    worker.wait_for("checkpoint_delayed", count=2)
    assert not worker.seen("refused") and coordinator.status(job) == "running"
    faulty.fault = lambda method, path: None
    wait_for(lambda: s3.files(bucket, "ck/") == {"one": b"1\n", "two": b"2\n"}, "the second checkpoint")


def test_the_last_checkpoint_waits_until_storage_takes_it_again(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
) -> None:
    faulty.fault = puts("403")
    sync = {"during": [block(bucket, "ck")], "after": [block(bucket, "out")]}
    job = coordinator.submit(**shell("echo 1 > ck/state; echo 1 > out/x"), sync=sync)
    worker = make_worker(AWS_ENDPOINT_URL=faulty.url, MAX_RETRIES="0").start()
    worker.wait_for("command_exited")
    worker.wait_for("checkpoint_delayed", count=len(worker.seen("checkpoint_delayed")) + 2)
    assert coordinator.reports(job) == []
    faulty.fault = lambda method, path: None
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "ck/") == {"state": b"1\n"}


@pytest.mark.parametrize("started", [False, True])
def test_a_refused_checkpoint_is_believed_in_after_a_while(
    aws: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: str, faulty: FaultyProxy, started: bool
) -> None:
    """While the command runs, and when it has ended."""
    monkeypatch.setattr(kelpie_worker.s3.whose_fault, "LONGEST", 0.5)
    faulty.fault = puts("403")
    told: list[Exception] = []
    watched = Watched(tmp_path / "ck", bucket, refused=told.append)
    watched.write("state", b"1")
    if started:
        watched.checkpoints.start()
        wait_for(lambda: told, "the refusal to be told")
    with pytest.raises(StorageRefused):
        watched.checkpoints.finish()
    assert len(told) == int(started)


def sender(kind: str, folder: Path, bucket: str) -> Callable[[], object]:
    """What sends a file `state` once the command has ended, as that kind of file."""
    if kind == "checkpoint":
        watched = Watched(folder / "ck", bucket)
        watched.write("state", b"1")
        return watched.checkpoints.finish
    (folder / "aside").mkdir()
    (folder / "aside" / "state").write_text("1")
    job = Job("claim", "job", after=(SyncBlock(bucket, "p/", str(folder / "out")),))
    storage, lease = Storage(SharedClient("us-east-1"), held(), max_retries=0), held()
    fence = Fence(job, storage, lease, lambda: None)
    outputs = Outputs(job, Transfer(storage, compression=False), lease, fence, {}, DirectoryRecord())
    return lambda: outputs.upload(((str(folder / "out"), str(folder / "aside")),), lambda paths: None)


@pytest.mark.parametrize("kind", ["checkpoint", "output"])
def test_an_upload_that_a_gateway_refuses_for_good_fails_the_job_once_others_pass(
    aws: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
    kind: str,
) -> None:
    """While nothing passes, the storage is out of reach, and waited for."""
    monkeypatch.setattr(kelpie_worker.s3.whose_fault, "LONGEST", 0.2)
    monkeypatch.setattr(outputs_module, "_BETWEEN_TRIES", Backoff(0.2, 0.2))
    faulty.fault = lambda method, path: "413 page" if method != "GET" else None
    ended: list[BaseException | None] = []

    def send() -> None:
        try:
            sender(kind, tmp_path, bucket)()
            ended.append(None)
        except StorageRefused as error:
            ended.append(error)

    threading.Thread(target=send, daemon=True).start()
    wait_for(lambda: any("~probe" in path for method, path in faulty.requests), "another upload to be tried")
    tried = len(faulty.requests)
    wait_for(lambda: len(faulty.requests) > tried + 4, "more tries")
    assert not ended
    faulty.fault = lambda method, path: "413 page" if method == "PUT" and "/state" in path else None
    wait_for(lambda: ended, "the refusal to be believed")
    assert isinstance(ended[0], RefusedOnTheWay)
    assert re.search("state: 413 .*other uploads get to the bucket", str(ended[0]))
    assert s3.files(bucket, "") == {} and s3.unfinished_uploads(bucket) == []


def files_in(folder: Path) -> JobFiles:
    settings = {"SALAD_CONTAINER_GROUP_ID": "g", "KELPIE_API_KEY": "k", "KELPIE_API_URL": "x"}
    settings["KELPIE_STATE_FILE"] = str(folder / "state.json")
    return JobFiles("claim", config.load(settings), SharedClient(None), lambda message: None)


class Full:
    """Work that fails for lack of space a set number of times."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left = times
        self.error = error

    def __call__(self, command: Any) -> Message:
        if self.left:
            self.left -= 1
            raise self.error
        return Flushed("claim")


NO_SPACE = OSError(errno.ENOSPC, "full")


@pytest.mark.parametrize(
    ("command", "error", "patience", "answer"),
    [
        (Stage(Job("claim", "1")), NO_SPACE, 600.0, Flushed),
        (Stage(Job("claim", "1")), NO_SPACE, 0.0, Troubled),
        (Upload(Job("claim", "1"), ()), NO_SPACE, 0.0, Flushed),  # harmless
        (Upload(Job("claim", "1"), ()), PermissionError(13, "no"), 600.0, Refused),
        (Upload(Job("claim", "1"), ()), RuntimeError("a defect"), 0.0, Refused),
        (Upload(Job("claim", "1"), ()), Misconfigured("a key that has expired"), 0.0, Troubled),
        (Download(Job("claim", "1")), NO_SPACE, 600.0, Troubled),  # nothing is lost yet
        (Download(Job("claim", "1")), StorageRefused("once or twice"), 600.0, Flushed),
        (Download(Job("claim", "1")), Misconfigured("a key that was just made"), 600.0, Flushed),
        (Download(Job("claim", "1")), StorageUnreachable("a proxy"), 600.0, Troubled),
    ],
)
def test_once_the_command_has_ended_trouble_is_waited_out(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: Any,
    error: Exception,
    patience: float,
    answer: type[Message],
) -> None:
    monkeypatch.setattr(kelpie_worker.s3.whose_fault, "LONGEST", patience)
    monkeypatch.setattr(job_files, "_BETWEEN_TRIES", Backoff(first=0.01, longest=60.0))
    assert type(files_in(tmp_path)._answer(command, Full(2, error))) is answer


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENAMETOOLONG])
def test_outputs_that_cannot_be_moved_are_sent_from_where_they_lie(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, "it cannot be moved")

    sent: list[tuple[Any, list[Path]]] = []
    out = tmp_path / "job" / "out"
    job = Job("claim", "1", after=(SyncBlock("b", "p/", str(out)),))
    files = files_in(tmp_path)
    files._places = directories.make(job, str(tmp_path / "state.json"))
    (out / "x").touch()
    for move in ("_rename", "_move_across"):
        monkeypatch.setattr(tree, move, fail)
    monkeypatch.setattr(Outputs, "upload", lambda _, aside, busy: sent.append((aside, sorted(out.iterdir()))))
    assert files._stage(Stage(job)) == Staged("claim", ())
    assert sent == [((), [out / "x"])] and list(out.parent.iterdir()) == [out] and list(out.iterdir()) == []


def test_the_record_of_the_directories_is_on_disk_before_the_first_download(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without it what a crash leaves is not deleted. Where it cannot be saved nothing is downloaded."""
    seen: list[bool] = []
    job = Job("claim", "1", before=(SyncBlock("b", "p/", str(tmp_path / "in")),))
    files = files_in(tmp_path)

    def look(*_: Any) -> None:
        record = before_command.load(files._places_file)
        seen.append(record is not None and record.is_the_jobs(str(tmp_path / "in")))
        raise InterruptedError

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files._storage, "check_settings", lambda: None)
    monkeypatch.setattr(job_files, "download", look)
    with pytest.raises(InterruptedError):
        files._download(Download(job))
    assert seen == [True]
    monkeypatch.setattr(before_command.atomic, "write_text", full)
    assert files._answer(Download(job), files._download) == Troubled("claim", "disk_full", "[Errno 28] full")
    assert seen == [True]
