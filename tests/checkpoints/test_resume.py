"""What one attempt reports of its checkpoint, and what the next one gets: real workers, a real S3 server."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.doubles.coordinator import FakeCoordinator
from tests.doubles.faulty_proxy import Fault, FaultyProxy
from tests.real_worker import Worker, finished, kill_everything, shell

Sync = dict[str, list[dict[str, Any]]]
# The first attempt trains until a file lets it go on, and saves once more then; the second prints what it found.
TRAIN = """
if test -e checkpoint/second; then echo "$KELPIE_CHECKPOINT_STATUS" > out/status; exit 0; fi
echo "$KELPIE_CHECKPOINT_STATUS" > first-status
trap 'echo 2 > checkpoint/second; exit 0' TERM
echo 1 > checkpoint/first
while :; do sleep 0.1; done
"""


def keys(manifest: dict[str, Any]) -> list[str]:
    return sorted(file["key"] for file in manifest["files"])


def interrupted(coordinator: FakeCoordinator, worker: Worker, sync: Sync) -> str:
    """A job that was given back by a worker in the middle of its work."""
    job = coordinator.submit(**shell(TRAIN), sync=sync)
    worker.start()
    wait_for(lambda: coordinator.manifests(job), "the first manifest")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    return job


def resumed_status(coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, job: str) -> str:
    before = len(coordinator.reports(job))
    coordinator.hand_out_again(job)
    worker.start()
    wait_for(lambda: len(coordinator.reports(job)) > before, "the report of the second attempt")
    return s3.get(bucket, "out/status").decode().strip()


def test_the_last_checkpoint_is_reported_before_the_job_is_given_back_and_the_next_attempt_finds_it_clean(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker], s3: S3Server, bucket: str, sync: Sync
) -> None:
    worker = make_worker("one")
    job = interrupted(coordinator, worker, sync)

    assert (worker.folder / "first-status").read_text() == "none\n"
    told = [call.path.rpartition("/")[2] for call in coordinator.calls if call.path.startswith(f"/jobs/{job}/")]
    assert [word for word in told if word in ("checkpoint", "released")][-2:] == ["checkpoint", "released"]
    manifest = coordinator.manifests(job)[-1]
    assert (keys(manifest), manifest["attempt"]) == (["checkpoint/first", "checkpoint/second"], 1)
    assert all(file["etag"] and file["bucket"] == bucket and file["size"] == 2 for file in manifest["files"])

    second = make_worker("two")
    assert resumed_status(coordinator, second, s3, bucket, job) == "clean"
    assert [resume["checkpoint"] for resume in coordinator.resumes(job)] == ["clean"]


@pytest.mark.parametrize("change", ["another version", "younger", "missing"])
def test_what_was_changed_after_the_last_report_is_said_to_be_torn(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    sync: Sync,
    change: str,
) -> None:
    job = interrupted(coordinator, make_worker("one"), sync)
    if change == "missing":
        s3.delete(bucket, "checkpoint/first")
    else:
        s3.put(bucket, "checkpoint/first" if change == "another version" else "checkpoint/third", b"9\n")

    second = make_worker("two")
    assert resumed_status(coordinator, second, s3, bucket, job) == "torn"

    wait_for(lambda: coordinator.resumes(job), "what the worker says of it")
    [resume] = coordinator.resumes(job)
    assert resume["checkpoint"] == "torn" and "checkpoint/" in resume["detail"]
    assert second.seen("checkpoint_torn", job_id=job)


# Saves a first state and, when told, a second one, each as a directory that appears at once.
SAVES = """
if test -e checkpoint/2/w; then echo "$KELPIE_CHECKPOINT_STATUS" > out/status; exit 0; fi
for step in 1 2; do
  mkdir new-$step; for name in w opt index.json; do echo $step > new-$step/$name; done
  mv new-$step checkpoint/$step
  until [ -e go ]; do sleep 0.05; done
done
exec sleep 1000
"""


@pytest.mark.parametrize(("committed", "status"), [(3, "clean"), (2, "torn")])
def test_a_generation_that_could_not_be_reported_any_more_is_clean_if_all_of_it_is_there(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    sync: Sync,
    faulty: FaultyProxy,
    committed: int,
    status: str,
) -> None:
    """The worker is killed when so many of its three files are in the bucket, and the API has heard of none."""
    job = coordinator.submit(**shell(SAVES), sync=sync, heartbeat_interval=30)
    first = make_worker("one", AWS_ENDPOINT_URL=faulty.url).start()
    wait_for(
        lambda: coordinator.manifests(job) and len(keys(coordinator.manifests(job)[-1])) == 3, "the first one"
    )
    puts: list[str] = []

    def cut_off(method: str, path: str) -> Fault | None:
        if method != "PUT":
            return None
        puts.append(path)
        return "stall" if len(puts) > committed else None

    faulty.fault = cut_off
    coordinator.down = True
    (first.folder / "go").touch()
    if committed == 3:
        first.wait_for("checkpoint_not_reported")
    else:
        wait_for(lambda: len(puts) == 3, "the last file to be sent")
    kill_everything(first)
    coordinator.down = False
    faulty.fault = lambda method, path: None

    second = make_worker("two")
    assert resumed_status(coordinator, second, s3, bucket, job) == status

    wait_for(lambda: coordinator.resumes(job), "what the worker says of it")
    assert [resume["checkpoint"] for resume in coordinator.resumes(job)] == [status]
    if status == "clean":
        wait_for(lambda: "checkpoint/2/w" in keys(coordinator.manifests(job)[-1]), "it to be reported")
        assert {file["key"]: file["etag"] for file in coordinator.manifests(job)[-1]["files"]} == s3.etags(
            bucket, "checkpoint/"
        )


def test_where_the_bucket_keeps_versions_the_reported_ones_are_brought_back_and_stand_there_again(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    sync: Sync,
) -> None:
    s3.keep_versions(bucket)
    job = interrupted(coordinator, make_worker("one"), sync)
    s3.put(bucket, "checkpoint/first", b"half of the next generation")

    second = make_worker("two")
    assert resumed_status(coordinator, second, s3, bucket, job) == "clean"
    assert s3.files(bucket, "checkpoint/") == {"first": b"1\n", "second": b"2\n"}
    assert second.seen("checkpoint_brought_back", job_id=job)


def test_versions_are_gone_back_to_however_many_attempts_died_before_they_sent_a_whole_checkpoint(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    sync: Sync,
    tmp_path: Path,
) -> None:
    s3.keep_versions(bucket)
    found = tmp_path / "found"
    script = 'test -e checkpoint/first || echo 1 > checkpoint/first; echo "$KELPIE_CHECKPOINT_STATUS" '
    script += f"$(cat checkpoint/first) >> {found}; sleep 1000"
    job = coordinator.submit(**shell(script), sync=sync)
    for attempt in range(1, 5):
        worker = make_worker(f"machine-{attempt}").start()
        wait_for(lambda at=attempt: found.exists() and len(found.read_text().splitlines()) == at, "the command")
        wait_for(
            lambda at=attempt: any(kept["attempt"] == at for kept in coordinator.manifests(job)), "its manifest"
        )
        kill_everything(worker)
        if attempt > 1:  # which found it clean, and sent nothing
            s3.put(bucket, "checkpoint/first", b"half of the next generation of attempt %d" % attempt)
        coordinator.hand_out_again(job)
    assert found.read_text().splitlines() == ["none 1", "clean 1", "clean 1", "clean 1"]


def test_a_command_that_runs_again_on_the_same_disk_is_not_told_that_its_files_are_clean(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker], sync: Sync, tmp_path: Path
) -> None:
    found = tmp_path / "found"

    def statuses() -> list[str]:
        return found.read_text().splitlines() if found.exists() else []

    script = f'echo "$KELPIE_CHECKPOINT_STATUS" >> {found}; echo 1 > checkpoint/first; sleep 1000'
    job = coordinator.submit(**shell(script), sync=sync)
    first = make_worker("one").start()
    wait_for(lambda: coordinator.manifests(job), "the manifest")
    kill_everything(first)
    coordinator.hand_out_again(job)
    second = make_worker("two").start()
    wait_for(lambda: statuses() == ["none", "clean"], "the second attempt")
    kill_everything(second)
    second.start()
    wait_for(lambda: statuses() == ["none", "clean", "none"], "the command again")


def test_a_resumed_attempt_reports_also_what_it_was_given_and_did_not_change(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker], s3: S3Server, bucket: str, sync: Sync
) -> None:
    s3.put(bucket, "checkpoint/old", b"0")
    job = coordinator.submit(**shell("echo 1 > checkpoint/new; echo 0 > out/x"), sync=sync)
    make_worker().start()
    assert finished(coordinator, job)[0] == "completed"
    wait_for(lambda: coordinator.manifests(job), "the manifest")
    assert keys(coordinator.manifests(job)[-1]) == ["checkpoint/new", "checkpoint/old"]


@pytest.mark.parametrize("coordinator", ["attempt, claim-id, release", ""], indirect=True)
def test_a_server_that_does_not_name_the_extension_hears_nothing_of_checkpoints(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, sync: Sync
) -> None:
    script = 'echo 1 > checkpoint/a; echo "$KELPIE_CHECKPOINT_STATUS" > out/status'
    job = coordinator.submit(**shell(script), sync=sync)
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.get(bucket, "out/status") == b"none\n"
    assert not [call for call in coordinator.calls if call.path.endswith(("/checkpoint", "/resumed"))]


@pytest.mark.parametrize("what", ["the directory", "its contents"])
def test_a_restarted_worker_whose_local_files_are_gone_gives_the_job_back_and_deletes_nothing(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, sync: Sync, what: str
) -> None:
    s3.put(bucket, "checkpoint/state", b"of many hours")
    job = coordinator.submit(**shell('echo "$(cat checkpoint/state)" >> begun; sleep 1000'), sync=sync)
    worker.start()
    wait_for((worker.folder / "begun").exists, "the command")
    kill_everything(worker)
    shutil.rmtree(worker.folder / "checkpoint")  # as with a new container over the same volume
    if what == "its contents":
        (worker.folder / "checkpoint").mkdir()

    worker.start()

    wait_for(lambda: coordinator.reports(job), "the report")
    assert [(name, body["reason"]) for name, body in coordinator.reports(job)] == [("released", "disk")]
    assert s3.files(bucket, "checkpoint/") == {"state": b"of many hours"}
    assert (worker.folder / "begun").read_text() == "of many hours\n"
    coordinator.hand_out_again(job)
    wait_for(lambda: (worker.folder / "begun").read_text() == 2 * "of many hours\n", "the next attempt")


@pytest.mark.parametrize("lost", ["checkpoint", "out"])
def test_a_job_whose_files_did_not_survive_the_workers_restart_is_not_completed_without_them(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker], faulty: FaultyProxy, sync: Sync, lost: str
) -> None:
    faulty.fault = lambda method, path: "503" if method == "PUT" else None
    job = coordinator.submit(**shell("echo of weeks > out/result; echo last > checkpoint/last"), sync=sync)
    worker = make_worker(AWS_ENDPOINT_URL=faulty.url).start()
    worker.wait_for("checkpoint_delayed")
    worker.wait_for("command_exited")
    assert worker.state()["jobs"][0]["kelpie"]["phase"] == "flushing"
    kill_everything(worker)
    shutil.rmtree(worker.folder / lost)
    faulty.fault = lambda method, path: None

    worker.start()

    name, body = finished(coordinator, job)
    assert (name, body["reason"]) == ("released", "disk") and lost in body["detail"]
