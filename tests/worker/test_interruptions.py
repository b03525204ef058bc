"""What is cut or killed for real: processes, the network, the machine's patience."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kelpie_worker.system.linux import boottime, descendants
from local_stack.processes import free_port, wait_for
from local_stack.s3 import S3Server
from tests.doubles.coordinator import FakeCoordinator
from tests.doubles.faulty_proxy import FaultyProxy
from tests.real_worker import (
    CHECKOUT,
    Sync,
    Worker,
    believing_refusals_soon,
    block,
    command_line,
    finished,
    group_of,
    is_alive,
    python,
    shell,
    sleeping_under,
)

# Counts to 5 with a checkpoint for every number, from wherever the checkpoint is; says where it began. It stays at
# its first number until the test has interrupted it.
COUNT = """
import pathlib, time
state, begun = pathlib.Path("checkpoint/state"), pathlib.Path("out/begun")
first = int(state.read_text()) if state.exists() else 0
with begun.open("a") as file:
    file.write(f"{first} ")
for number in range(first + 1, 6):
    draft = pathlib.Path("checkpoint/draft")
    draft.write_text(str(number))
    draft.rename(state)
    while not pathlib.Path("interrupted").exists():
        time.sleep(0.05)
pathlib.Path("out/result").write_text("counted")
"""
FAMILY = "sleep 1000 & sleep 1000 & echo up > checkpoint/up; wait"


# --- the command's end ----------------------------------------------------------------------------------


def test_a_canceled_job_loses_its_whole_process_group_and_its_files(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, sync: Sync
) -> None:
    job = coordinator.submit(**shell(f"trap '' INT; {FAMILY}"), sync=sync)
    worker.start()
    pid = worker.wait_for("command_started")["pid"]
    wait_for(lambda: s3.keys(bucket, "checkpoint/"), "the first checkpoint")
    assert len(group_of(pid)) == 3

    coordinator.cancel(job)

    worker.wait_for("wiped")
    assert group_of(pid) == []
    assert coordinator.reports(job) == []
    assert not (worker.folder / "checkpoint" / "up").exists()
    after = coordinator.submit(**shell("exit 0"), sync={})
    assert finished(coordinator, after)[0] == "completed"


def test_what_a_command_leaves_running_does_not_meet_the_next_job(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    job = coordinator.submit(**shell("sleep 1000 & exit 0"), sync={})
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    pid = worker.wait_for("command_started")["pid"]
    wait_for(lambda: group_of(pid) == [], "the leftover to be gone")


def test_sigterm_flushes_the_last_checkpoint_and_releases_the_job(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, sync: Sync
) -> None:
    save = "trap 'echo last > checkpoint/state; exit 0' TERM; echo up > checkpoint/up; while :; do sleep 0.1; done"
    job = coordinator.submit(**shell(save), sync=sync)
    worker.start()
    wait_for(lambda: s3.keys(bucket, "checkpoint/"), "the first checkpoint")

    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    assert [name for name, _ in coordinator.reports(job)] == ["released"]  # not completed, whatever the exit code
    assert s3.get(bucket, "checkpoint/state") == b"last\n"
    assert worker.seen("worker_stopped")


@pytest.mark.parametrize("command", ["sleep 1000", "trap 'exit 0' TERM; sleep 1000 & wait", "sleep 1000; exit 1"])
def test_a_job_is_released_by_a_sigterm_that_reaches_its_command_first_and_then_all_processes(
    coordinator: FakeCoordinator, worker: Worker, command: str
) -> None:
    """As Slurm ends what it preempts. Neither is the command's end its own, nor is the job completed."""
    job = coordinator.submit(**shell(f"{command}"), sync={})
    worker.start()
    pid = worker.wait_for("command_started")["pid"]
    wait_for(lambda: sleeping_under(pid) or command_line(pid) == ["sleep", "1000"], "the command")
    everything = [*group_of(pid), *descendants(worker.pid), worker.pid]
    for each in everything:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGTERM)
    assert worker.wait() == 0
    assert [(name, body["reason"]) for name, body in coordinator.reports(job)] == [("released", "shutdown")]


def test_a_job_whose_handout_is_slow_to_arrive_is_released_by_sigterm(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    coordinator.extensions += ", wait"
    coordinator.late = threading.Event()
    job = coordinator.submit(**shell("exit 0"), sync={})
    worker.start()
    wait_for(lambda: coordinator.status(job) == "running", "the job to be handed out")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    coordinator.late.set()
    assert [name for name, _ in coordinator.reports(job)] == ["released"]
    assert (coordinator.attempts(job), worker.seen("command_started")) == (1, [])


@pytest.mark.parametrize("grace", ["0", "2"])
def test_a_command_that_ignores_sigterm_does_not_outlive_the_grace(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker], grace: str
) -> None:
    job = coordinator.submit(**shell("trap '' TERM INT; while :; do sleep 0.1; done"), sync={})
    worker = make_worker(KELPIE_SHUTDOWN_GRACE_S=grace).start()
    pid = worker.wait_for("command_started")["pid"]

    worker.signal(signal.SIGTERM)

    assert worker.wait(timeout=float(grace) + 3) == 0
    wait_for(lambda: group_of(pid) == [], "the command to be gone")
    assert [name for name, _ in coordinator.reports(job)] == ["released"]


@pytest.mark.parametrize("coordinator", [""], indirect=True)
def test_to_the_original_api_nothing_is_released(coordinator: FakeCoordinator, worker: Worker) -> None:
    job = coordinator.submit(**shell("sleep 1000"), sync={})
    worker.start()
    worker.wait_for("command_started")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert coordinator.reports(job) == []


def test_an_idle_worker_goes_at_once(coordinator: FakeCoordinator, make_worker: Callable[..., Worker]) -> None:
    worker = make_worker(HEARTBEAT_INTERVAL_S="600").start()
    wait_for(lambda: any(call.path == "/work" for call in coordinator.calls), "the first claim")
    worker.signal(signal.SIGINT)
    assert worker.wait(timeout=10) == 0


def test_sigint_does_not_wait_for_outputs_on_their_way(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker]
) -> None:
    with own_s3(upload_rate=50_000) as slow:
        slow.create_bucket("outputs")
        produce = "head -c 3000000 /dev/zero > out/result"
        job = coordinator.submit(**shell(produce), sync={"after": [block("outputs", "out")]})
        worker = make_worker(AWS_ENDPOINT_URL=slow.url).start()
        worker.wait_for("uploading")
        worker.signal(signal.SIGINT)
        assert worker.wait(timeout=20) == 0
    assert [name for name, _ in coordinator.reports(job)] == ["released"]


@pytest.mark.parametrize("grace", ["0", "2"])
def test_a_last_checkpoint_that_does_not_arrive_within_the_grace_is_taken_back_and_the_job_released(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker], grace: str
) -> None:
    with own_s3(upload_rate=200_000) as slow:
        slow.create_bucket("checkpoints")
        fill = "head -c 12000000 /dev/zero > checkpoint/large; sleep 1000"
        job = coordinator.submit(**shell(fill), sync={"during": [block("checkpoints", "checkpoint")]})
        worker = make_worker(AWS_ENDPOINT_URL=slow.url, KELPIE_SHUTDOWN_GRACE_S=grace).start()
        wait_for(lambda: slow.unfinished_uploads("checkpoints"), "the upload to begin")
        worker.signal(signal.SIGTERM)
        assert worker.wait(timeout=20) == 0
        assert slow.keys("checkpoints") == []
        if grace != "0":  # without any, there is no time to abort either
            assert slow.unfinished_uploads("checkpoints") == []
    assert [name for name, _ in coordinator.reports(job)] == ["released"]


# --- kill -9 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["supervisor", "runner"])
def test_a_killed_process_of_the_worker_leaves_no_command_behind(
    coordinator: FakeCoordinator, worker: Worker, sync: Sync, victim: str
) -> None:
    coordinator.submit(**shell(FAMILY), sync=sync)
    worker.start()
    pid = worker.wait_for("command_started")["pid"]
    wait_for(lambda: len(group_of(pid)) == 3, "the command and its children")

    os.kill(worker.pid if victim == "supervisor" else worker.child("runner"), signal.SIGKILL)

    wait_for(lambda: group_of(pid) == [], "the whole group to be gone")


def test_a_killed_supervisor_takes_its_children_along(worker: Worker) -> None:
    worker.start()
    children = [worker.child(name) for name in ("runner", "heartbeat", "uploader")]
    worker.kill()
    wait_for(lambda: not any(is_alive(pid) for pid in children), "the children to be gone")


@pytest.mark.parametrize("child", ["runner", "heartbeat", "uploader"])
def test_a_killed_child_is_replaced_and_the_job_completes(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, sync: Sync, child: str
) -> None:
    job = coordinator.submit(**python(COUNT), sync=sync)
    worker.start()
    wait_for(lambda: s3.keys(bucket, "checkpoint/"), "the first checkpoint")

    os.kill(worker.child(child), signal.SIGKILL)

    worker.wait_for("child_restarted", child=child)
    (worker.folder / "interrupted").touch()
    assert [name for name, _ in coordinator.reports(job)] or finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "out/")["result"] == b"counted"
    assert coordinator.attempts(job) == 1
    assert len(worker.seen("command_started")) == (2 if child == "runner" else 1)


def test_a_restarted_worker_goes_on_from_its_own_disk(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, sync: Sync
) -> None:
    secret = {"TOKEN": "canary-in-the-environment"}
    job = coordinator.submit(**python(COUNT), sync=sync, environment=secret)
    worker.start()
    wait_for(lambda: s3.keys(bucket, "checkpoint/"), "the first checkpoint")
    assert "canary" not in worker.state_file.read_text()
    worker.kill()

    (worker.folder / "interrupted").touch()
    worker.start()

    assert finished(coordinator, job)[0] == "completed"
    assert worker.wait_for("resumed")["phase"] == "running"
    assert len(worker.seen("downloading")) == 1
    begun = s3.get(bucket, "out/begun").split()
    assert begun[0] == b"0" and int(begun[1]) > 0
    assert coordinator.attempts(job) == 1


def test_a_restarted_worker_whose_lease_is_gone_drops_the_job(
    coordinator: FakeCoordinator, worker: Worker, sync: Sync
) -> None:
    job = coordinator.submit(**shell("echo 1 > checkpoint/state; sleep 1000"), sync=sync)
    worker.start()
    worker.wait_for("checkpoint_committed")
    worker.kill()
    coordinator.cancel(job)

    worker.start()

    worker.wait_for("wiped")
    assert len(worker.seen("command_started")) == 1
    assert list((worker.folder / "checkpoint").iterdir()) == []
    wait_for(lambda: worker.state()["jobs"][-1]["end"], "the job to be listed as finished")


def test_a_worker_killed_before_the_claim_is_answered_gets_the_same_attempt(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    with coordinator.silent("/work"):
        job = coordinator.submit(**shell("exit 0"), sync={})
        worker.start()
        wait_for(lambda: coordinator.attempts(job) == 1, "the claim to arrive")
        worker.kill()
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    assert coordinator.attempts(job) == 1


@pytest.mark.parametrize("report", ["completed", "failed"])
def test_a_report_whose_answer_is_lost_is_repeated(
    coordinator: FakeCoordinator, worker: Worker, report: str
) -> None:
    code = 0 if report == "completed" else 1
    job = coordinator.submit(**shell(f"exit {code}"), sync={})
    with coordinator.silent(f"/jobs/{job}/{report}"):
        worker.start()
        wait_for(lambda: coordinator.reports(job), "the report to arrive")
        worker.kill()
    worker.start()
    wait_for(
        lambda: not worker.state()["jobs"] or worker.state()["jobs"][-1]["end"], "the job to be off the books"
    )
    assert [name for name, _ in coordinator.reports(job)] == [report]


# --- storage --------------------------------------------------------------------------------------------


def test_without_storage_the_job_is_released_and_the_next_claim_waits(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker], sync: Sync
) -> None:
    job = coordinator.submit(**shell("exit 0"), sync=sync)
    worker = make_worker(AWS_ENDPOINT_URL=f"http://127.0.0.1:{free_port()}", MAX_RETRIES="1").start()
    report, body = finished(coordinator, job)
    assert (report, body["reason"]) == ("released", "storage")
    assert not worker.seen("command_started")
    claims = sum(call.path == "/work" for call in coordinator.calls)
    worker.wait_for("wiped")
    assert sum(call.path == "/work" for call in coordinator.calls) == claims


def test_a_missing_bucket_fails_the_attempt(coordinator: FakeCoordinator, worker: Worker) -> None:
    job = coordinator.submit(**shell("exit 0"), sync={"before": [block("no-such-bucket", "in")]})
    worker.start()
    report, body = finished(coordinator, job)
    assert (report, body["reason"]) == ("failed", "download")
    assert not worker.seen("command_started")


@pytest.mark.parametrize("when", ["during", "after"])
def test_a_bucket_that_outputs_cannot_go_to_is_found_before_the_command_starts(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker], faulty: FaultyProxy, bucket: str, when: str
) -> None:
    """One that does not exist, or one in whose prefix the key may list, and not write."""
    faulty.counts_looks = True
    faulty.fault = lambda method, path: "403" if "/out/" in path and method in ("POST", "PUT") else None
    place, said = {
        "during": (
            block("no-such-bucket", "ck"),
            "looking whether no-such-bucket/ck/ takes uploads: NoSuchBucket",
        ),
        "after": (
            block(bucket, "out"),
            f"looking whether {bucket}/out/ takes uploads: AccessDenied; let the AWS key put objects there",
        ),
    }[when]
    sync = {"before": [block(bucket, "in")], when: [block(bucket, "ck"), place]}
    job = coordinator.submit(**shell("echo 1 > out/x"), sync=sync)
    worker = make_worker(AWS_ENDPOINT_URL=faulty.url).start()
    report, body = finished(coordinator, job)
    assert (report, body["reason"]) == ("failed", "upload")
    assert body["detail"].startswith(said)
    assert not worker.seen("command_started")


def test_a_bucket_that_could_not_be_looked_for_before_the_download_is_looked_for_after_it(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker], faulty: FaultyProxy, bucket: str
) -> None:
    faulty.break_in_turn(["503"], "GET", "/no-such-bucket")
    sync = {"before": [block(bucket, "in")], "after": [block("no-such-bucket", "out")]}
    job = coordinator.submit(**shell("echo 1 > out/x"), sync=sync)
    worker = make_worker(AWS_ENDPOINT_URL=faulty.url, MAX_RETRIES="0").start()
    report, body = finished(coordinator, job)
    assert (report, body["reason"]) == ("failed", "upload")
    assert worker.seen("bucket_not_looked_at") and not worker.seen("command_started")


@pytest.mark.parametrize("when", ["during", "after"])
def test_a_bucket_that_could_not_be_looked_for_before_the_command_is_looked_for_once_storage_answers(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    faulty: FaultyProxy,
    bucket: str,
    tmp_path: Path,
    when: str,
) -> None:
    """The command does not run to its end for nothing, and one whose buckets are there is not disturbed."""
    faulty.fault = lambda method, path: "503"
    settings = {
        "AWS_ENDPOINT_URL": faulty.url,
        "MAX_RETRIES": "0",
        "PYTHONPATH": believing_refusals_soon(tmp_path),
    }
    worker = make_worker(**settings)
    waiting = "until test -e go; do sleep 0.05; done; echo 1 > out/x"
    job = coordinator.submit(**shell(waiting), sync={when: [block("no-such-bucket", "out")]})
    worker.start()
    worker.wait_for("command_started")
    faulty.fault = lambda method, path: None
    report, body = finished(coordinator, job)
    assert (report, body["reason"]) == ("failed", "upload")
    assert body["detail"] == "looking whether no-such-bucket/out/ takes uploads: NoSuchBucket"

    faulty.fault = lambda method, path: "503"
    passed: list[str] = []
    job = coordinator.submit(**shell(waiting), sync={when: [block(bucket, "out")]})
    worker.wait_for("command_started", count=2)
    faulty.fault = lambda method, path: passed.append(path)
    wait_for(
        lambda: any(path.startswith(f"/{bucket}?list-type") for path in passed), "the bucket to be looked for"
    )
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"


def test_outputs_wait_until_storage_is_back(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
) -> None:
    faulty.fault = lambda method, path: "503" if method == "PUT" else None
    job = coordinator.submit(**shell("echo 1 > out/x"), sync={"after": [block(bucket, "out")]})
    worker = make_worker(AWS_ENDPOINT_URL=faulty.url, MAX_RETRIES="0").start()
    worker.wait_for("upload_delayed")
    assert coordinator.reports(job) == []

    faulty.fault = lambda method, path: None

    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "out/") == {"x": b"1\n"}


@pytest.mark.parametrize(
    ("faults", "method", "part"),
    [
        (["truncate", "truncate"], "GET", "/in/large"),
        (["reset", "reset"], "GET", "list-type"),
        (["503", "503"], "PUT", "/out/small"),
        (["lost", "lost"], "PUT", "/out/small"),
        (["reset", "503"], "PUT", "partNumber=2"),
        (["lost", "gone"], "POST", "uploadId="),  # the answer to the completion of a multipart upload
    ],
)
def test_a_request_to_storage_that_breaks_is_repeated(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
    faults: list[str],
    method: str,
    part: str,
) -> None:
    content = os.urandom(20_000_000)
    s3.put(bucket, "in/large", content)
    sync = {"before": [block(bucket, "in")], "after": [block(bucket, "out")]}
    job = coordinator.submit(**shell("mv in/large out/; echo 1 > out/small"), sync=sync)
    faulty.break_in_turn(faults, method, part)

    make_worker(AWS_ENDPOINT_URL=faulty.url).start()

    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "out/") == {"large": content, "small": b"1\n"}
    assert s3.unfinished_uploads(bucket) == []


def test_a_pattern_that_does_not_compile_fails_before_the_command(
    coordinator: FakeCoordinator, worker: Worker, bucket: str
) -> None:
    job = coordinator.submit(**shell("exit 0"), sync={"during": [block(bucket, "out", pattern="(")]})
    worker.start()
    report, body = finished(coordinator, job)
    assert (report, body["reason"]) == ("failed", "pattern")
    assert not worker.seen("command_started")


# --- the coordinator is away ----------------------------------------------------------------------------


def test_in_a_partition_commits_are_held_until_a_heartbeat_is_accepted(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, sync: Sync
) -> None:
    go = worker.folder / "go"
    script = f"echo 1 > checkpoint/a; while [ ! -e {go} ]; do sleep 0.05; done; echo 2 > checkpoint/b; sleep 1000"
    job = coordinator.submit(**shell(script), sync=sync)
    worker.start()
    worker.wait_for("checkpoint_committed")
    coordinator.down = True
    worker.wait_for("heartbeat_unanswered", count=3)
    worker.wait_for("lease_unsafe")
    go.touch()

    worker.wait_for("checkpoint_prepared", count=2)
    worker.wait_for("heartbeat_unanswered", count=6)
    assert s3.keys(bucket, "checkpoint/") == ["checkpoint/a"]

    coordinator.down = False
    worker.wait_for("checkpoint_committed", count=2)
    assert s3.keys(bucket, "checkpoint/") == ["checkpoint/a", "checkpoint/b"]
    assert coordinator.status(job) == "running"
    assert len(worker.seen("command_started")) == 1


def test_in_a_partition_outputs_are_held_too(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    go = worker.folder / "go"
    script = f"while [ ! -e {go} ]; do sleep 0.05; done; echo 1 > out/result"
    job = coordinator.submit(**shell(script), sync={"after": [block(bucket, "out")]})
    worker.start()
    worker.wait_for("command_started")
    coordinator.down = True
    worker.wait_for("lease_unsafe")
    go.touch()
    worker.wait_for("uploading")
    worker.wait_for("heartbeat_unanswered", count=len(worker.seen("heartbeat_unanswered")) + 2)
    assert s3.keys(bucket) == []
    coordinator.down = False
    assert finished(coordinator, job)[0] == "completed"
    assert s3.keys(bucket) == ["out/result"]


def test_a_worker_that_slept_through_its_lease_changes_nothing_any_more(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, sync: Sync
) -> None:
    job = coordinator.submit(
        **shell("echo 1 > checkpoint/a; sleep 1; echo 2 > checkpoint/a; sleep 1000"), sync=sync
    )
    worker.start()
    worker.wait_for("checkpoint_committed")
    os.killpg(worker.pid, signal.SIGSTOP)
    coordinator.hand_to_another(job)
    s3.put(bucket, "checkpoint/a", b"the newer attempt's")
    wait_until_lapsed(worker)

    os.killpg(worker.pid, signal.SIGCONT)

    worker.wait_for("lease_lost")
    worker.wait_for("wiped")
    assert s3.get(bucket, "checkpoint/a") == b"the newer attempt's"


def test_two_workers_on_one_machine_do_not_disturb_each_other(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker], s3: S3Server, bucket: str, sync: Sync
) -> None:
    first, second = (make_worker(name).start() for name in ("one", "two"))
    jobs = [coordinator.submit(**python(COUNT), sync=sync) for _ in range(2)]
    pids = [worker.wait_for("command_started")["pid"] for worker in (first, second)]
    first.kill()
    wait_for(lambda: not is_alive(pids[0]), "the command of the killed worker to be gone")
    for worker in (first, second):
        (worker.folder / "interrupted").touch()
    first.start()
    for job in jobs:
        assert finished(coordinator, job)[0] == "completed"
    assert len(second.seen("command_started")) == 1 and second.seen("command_exited", exit_code=0)


# --- starting -------------------------------------------------------------------------------------------


def test_a_second_worker_with_the_same_state_file_refuses_to_start(make_worker: Callable[..., Worker]) -> None:
    first = make_worker("shared").start()
    first.wait_for("worker_started")
    second = make_worker("shared").start()
    assert second.wait() == 2
    assert "KELPIE_STATE_FILE" in second.lines[-1]


def test_a_damaged_state_file_is_set_aside(coordinator: FakeCoordinator, worker: Worker) -> None:
    worker.state_file.write_text('{"start": "2024-04-19T18:53:31.000Z", "jobs": [{')
    job = coordinator.submit(**shell("exit 0"), sync={})
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    assert worker.seen("state_file_damaged")
    assert (worker.folder / "kelpie-state.json.damaged-1").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SALAD_CONTAINER_GROUP_ID", ""),
        ("KELPIE_API_KEY", ""),
        ("KELPIE_API_URL", "ftp://example.com"),
        ("KELPIE_LOG_LEVEL", "loud"),
        ("MAX_RETRIES", "-1"),
        ("FILE_WATCHER_DEBOUNCE_MS", "soon"),
    ],
)
def test_a_bad_setting_is_refused_with_one_sentence(worker: Worker, name: str, value: str) -> None:
    worker.start(**{name: value})
    assert worker.wait() == 2
    assert len(worker.lines) == 1 and name in worker.lines[0]


def test_a_machine_without_an_id_gets_one_that_stays(worker: Worker) -> None:
    def machine_id() -> str:
        worker.start(SALAD_MACHINE_ID="")
        started = worker.wait_for("worker_started", count=len(worker.seen("worker_started")) + 1)
        worker.signal(signal.SIGTERM)
        worker.wait()
        return str(started["machine_id"])

    first = machine_id()
    assert first and machine_id() == first


def test_a_worker_started_in_the_background_of_a_shell_can_cancel_by_sigint(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    """A shell has what it starts with & ignore SIGINT, and that is inherited."""
    probe = python(
        "import signal, time; print(signal.getsignal(signal.SIGINT)); "
        "open('seen', 'w').write(str(signal.getsignal(signal.SIGINT) is signal.SIG_IGN))"
    )
    job = coordinator.submit(**probe, sync={})
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        worker.start()
    finally:
        signal.signal(signal.SIGINT, before)
    assert finished(coordinator, job)[0] == "completed"
    assert (worker.folder / "seen").read_text() == "False"


# --- tools ----------------------------------------------------------------------------------------------


@contextmanager
def own_s3(upload_rate: int | None = None) -> Iterator[S3Server]:
    """An S3 server for one test, that may stop it or have it slow."""
    with tempfile.TemporaryDirectory() as folder:
        server = S3Server(Path(folder), upload_rate)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def wait_until_lapsed(worker: Worker) -> None:
    """Three leases of a job with an interval of one second, on the worker's own clock."""
    lapsed = boottime() + 3 * 2.0
    wait_for(lambda: boottime() > lapsed, "the lease to lapse")


def test_help_of_the_module_names_no_secret() -> None:
    """The settings as a whole are never printed: their representation leaves the keys out."""
    code = "from kelpie_worker.config import load; print(load())"
    environment = {"KELPIE_API_KEY": "canary", "SALAD_CONTAINER_GROUP_ID": "g", "PYTHONPATH": str(CHECKOUT)}
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "canary" not in shown.stdout
