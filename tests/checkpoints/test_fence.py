"""An attempt that lost its lease without noticing, and other programs that write to the same keys."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kelpie_worker.job import StoredObject
from kelpie_worker.lease import Cancelled, safe_until
from kelpie_worker.s3.errors import Forbidden
from kelpie_worker.system.linux import boottime
from kelpie_worker.transfer import file_upload
from kelpie_worker.workspace.scan import Scanner
from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.checkpoints.watched import Watched, keys_of
from tests.doubles.coordinator import FakeCoordinator
from tests.doubles.faulty_proxy import Fault, FaultyProxy
from tests.real_worker import Worker, block, shell

NAMES = ["a", "b", "large", "latest"]
# Its last heartbeat was just now, so that its own clock lets it write; but no later one is ever answered.
LAST_HEARTBEAT = 45


@pytest.fixture(autouse=True)
def less_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_upload, "WHOLE_SIZE", 100)


def content(version: bytes) -> dict[str, bytes]:
    return {name: version * (1000 if name == "large" else 10) for name in NAMES}


def is_final(method: str, path: str) -> bool:
    """Whether a request makes something visible."""
    return (method == "PUT" and "partNumber" not in path) or (method == "POST" and "uploadId" in path)


@pytest.fixture(params=["new", "brought", "own"])
def zombie(request: pytest.FixtureRequest, aws: None, tmp_path: Path, s3: S3Server, bucket: str) -> Watched:
    """Its next commit makes objects where there were none, or replaces what it downloaded or wrote itself."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    brought, objects = {}, {}
    if request.param == "brought":
        for name, body in content(b"0").items():
            (folder / name).write_bytes(body)
            s3.put(bucket, f"c/{name}", body)
        brought = Scanner(str(folder), lambda name: True, frozenset()).scan()
        etags = s3.etags(bucket, "c/")
        objects = {
            name: StoredObject(bucket, f"c/{name}", brought[name].size, etags[f"c/{name}"]) for name in brought
        }
    watched = Watched(folder, bucket, brought, safe_for=LAST_HEARTBEAT, objects=objects)
    if request.param == "own":
        for name, body in content(b"0").items():
            watched.write(name, body)
        assert watched.checkpoints.cycle(final=True)
    return watched


@pytest.mark.parametrize("fault", [None, "lost"])
@pytest.mark.parametrize("moment", range(len(NAMES)))
def test_an_attempt_without_a_lease_overwrites_nothing_newer(
    zombie: Watched, s3: S3Server, bucket: str, faulty: FaultyProxy, moment: int, fault: Fault | None
) -> None:
    """The newer attempt writes while a final request of the zombie is on its way, or just after it."""
    newer = threading.Event()
    finals = []

    def overtake(method: str, path: str) -> Fault | None:
        if not is_final(method, path):
            return None
        finals.append(path)
        if len(finals) == moment + 1 and fault:
            return fault
        if len(finals) > moment and not newer.is_set():
            for name, body in content(b"n").items():
                s3.put(bucket, f"c/{name}", body)
            newer.set()
        return None

    for name, body in content(b"z").items():
        zombie.write(name, body)
    faulty.fault = overtake
    sending = threading.Thread(target=lambda: ended_by_cancel(zombie))
    sending.start()
    wait_for(newer.is_set, "the newer attempt")
    wait_for(lambda: "HEAD" in [method for method, _ in faulty.requests], "the zombie to find other objects")
    zombie.lease.cancel()
    sending.join(30)
    assert not sending.is_alive()
    assert keys_of(s3, bucket) == content(b"n")


@pytest.mark.parametrize("versions", [[b"2"], [b"1", b"2"]], ids=["of an unknown bucket", "of one seen to refuse"])
def test_an_attempt_without_a_lease_deletes_nothing_newer(
    aws: None,
    tmp_path: Path,
    s3: S3Server,
    bucket: str,
    capfd: pytest.CaptureFixture[str],
    versions: list[bytes],
) -> None:
    zombie = Watched(tmp_path / "checkpoint", bucket, safe_for=LAST_HEARTBEAT)
    for version in versions:
        for name in ("kept", "removed", "old"):
            zombie.write(name, version)
        assert zombie.checkpoints.cycle(final=True)
    s3.put(bucket, "c/removed", b"newer")
    (zombie.folder / "removed").unlink()
    (zombie.folder / "old").unlink()
    assert zombie.checkpoints.cycle(final=True)
    assert keys_of(s3, bucket) == {"kept": b"2", "removed": b"newer"}
    assert "delete_met_another_version" in capfd.readouterr().err


def ended_by_cancel(watched: Watched) -> None:
    with pytest.raises(Cancelled):
        watched.checkpoints.cycle(final=True)


def test_a_worker_that_is_overtaken_while_a_commit_is_on_its_way_changes_nothing(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
) -> None:
    """Long before its lease would lapse by its own clock, as where the clock stood still."""
    held, go_on = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> Fault | None:
        if is_final(method, path) and s3.keys(bucket):
            held.set()
            go_on.wait(60)
        return None

    faulty.fault = hold
    job = coordinator.submit(
        **shell("echo 1 > ck/a; until [ -e go ]; do sleep 0.05; done; echo 2 > ck/a; exec sleep 1000"),
        heartbeat_interval=60,
        sync={"during": [block(bucket, "ck")]},
    )
    worker = make_worker(AWS_ENDPOINT_URL=faulty.url).start()
    worker.wait_for("checkpoint_committed")
    (worker.folder / "go").touch()
    assert held.wait(30)
    coordinator.hand_to_another(job)
    s3.put(bucket, "ck/a", b"the newer attempt's")

    go_on.set()

    worker.wait_for("lease_lost")
    worker.wait_for("wiped")
    assert s3.get(bucket, "ck/a") == b"the newer attempt's"


def test_what_a_user_changed_meanwhile_is_replaced_once_a_heartbeat_is_accepted(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    s3.put(bucket, "ck/b", b"an earlier attempt's, that was not brought")
    job = coordinator.submit(
        **shell("echo 1 > ck/a; until [ -e go ]; do sleep 0.05; done; echo 2 | tee ck/a ck/b; exec sleep 1000"),
        heartbeat_interval=60,
        sync={"during": [block(bucket, "ck")]},
    )
    worker.start()
    worker.wait_for("checkpoint_committed")
    s3.put(bucket, "ck/a", b"a user's")
    (worker.folder / "go").touch()
    wait_for(lambda: s3.files(bucket, "ck/") == {"a": b"2\n", "b": b"2\n"}, "the command's version")
    assert worker.seen("commit_met_another_version") and coordinator.status(job) == "running"
    assert coordinator.heartbeats(job) <= 2


def test_many_changed_objects_cost_few_heartbeats(aws: None, tmp_path: Path, s3: S3Server, bucket: str) -> None:
    watched = Watched(tmp_path / "checkpoint", bucket, safe_for=LAST_HEARTBEAT)
    doubts: list[float] = []

    def heartbeat() -> None:
        doubts.append(boottime())
        watched.lease.renew(safe_until(boottime(), 30))

    watched.doubt = heartbeat
    names = [f"{number:02}" for number in range(30)]
    for version in (b"1", b"2"):
        for name in names:
            s3.put(bucket, f"c/{name}", b"a user's" + version)
            watched.write(name, version)
        assert watched.checkpoints.cycle(final=True)
        assert keys_of(s3, bucket) == dict.fromkeys(names, version)
    assert 2 <= len(doubts) <= 2 * 8


@pytest.mark.parametrize("name", ["a", "large"])
def test_a_commit_whose_answer_is_lost_is_known_again(
    aws: None, tmp_path: Path, s3: S3Server, bucket: str, faulty: FaultyProxy, name: str
) -> None:
    watched = Watched(tmp_path / "checkpoint", bucket, safe_for=LAST_HEARTBEAT)
    for version in (b"1", b"2"):
        watched.write(name, content(version)[name])
        faulty.break_in_turn(
            ["lost"], "POST" if name == "large" else "PUT", "uploadId=" if name == "large" else "/c/"
        )
        assert watched.checkpoints.cycle(final=True)  # without another heartbeat
        assert keys_of(s3, bucket) == {name: content(version)[name]}


@pytest.mark.parametrize("conditions", ["ignored", "403", "501", "412"])
def test_where_storage_knows_no_conditions_checkpoints_go_up_without_and_that_is_said_once(
    aws: None,
    tmp_path: Path,
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
    capfd: pytest.CaptureFixture[str],
    conditions: Fault,
) -> None:
    faulty.conditions = conditions
    watched = Watched(tmp_path / "checkpoint", bucket)
    for version in (b"1", b"2", b"3"):
        for name, body in content(version).items():
            watched.write(name, body)
        watched.checkpoints.cycle(final=True)
        assert keys_of(s3, bucket) == content(version)
    assert capfd.readouterr().err.count("conditional_writes_not_usable") == 1


@pytest.mark.parametrize("fault", ["403 InvalidAccessKeyId", "403", "400 BadDigest", "400", "404 page", "501"])
def test_one_refusal_that_passes_takes_no_condition_from_later_writes(
    aws: None, tmp_path: Path, s3: S3Server, bucket: str, faulty: FaultyProxy, fault: Fault
) -> None:
    watched = Watched(tmp_path / "checkpoint", bucket)
    faulty.break_in_turn([fault], "PUT", "/c/")
    for version in (b"1", b"2", b"3"):
        watched.write("a", version)
        watched.checkpoints.cycle(final=True)
    assert keys_of(s3, bucket) == {"a": b"3"}
    writes = [headers for method, headers in faulty.headers if method == "PUT"]
    assert len(writes) >= 4
    assert all(headers.get("If-Match") or headers.get("If-None-Match") for headers in writes)


@pytest.mark.parametrize("refusals", [2, 4])
@pytest.mark.parametrize("writes", [1, 3], ids=["of an unknown bucket", "of one seen to refuse"])
def test_refusals_that_pass_let_no_write_without_a_condition_replace_a_foreign_object(
    aws: None, tmp_path: Path, s3: S3Server, bucket: str, faulty: FaultyProxy, writes: int, refusals: int
) -> None:
    """The second refusal in a row is believed; in a bucket that is not known two more are, of the trial."""
    zombie = Watched(tmp_path / "checkpoint", bucket, safe_for=LAST_HEARTBEAT)
    for version in range(writes):
        zombie.write("a", b"%d" % version)
        assert zombie.checkpoints.cycle(final=True)
    s3.put(bucket, "c/a", b"a newer attempt's")
    faulty.break_in_turn(["403"] * refusals, "PUT", "/c/")
    zombie.doubt = zombie.lease.cancel
    zombie.write("a", b"the zombie's")
    ended_by_cancel(zombie)
    assert keys_of(s3, bucket) == {"a": b"a newer attempt's"}
    sent = [headers for method, headers in faulty.headers if method == "PUT"]
    assert all(headers.get("If-Match") or headers.get("If-None-Match") for headers in sent)


def test_where_conditions_work_a_refusal_is_one_of_the_write(
    aws: None, tmp_path: Path, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    watched = Watched(tmp_path / "checkpoint", bucket)
    for version in (b"1", b"2", b"3"):
        watched.write("a", version)
        assert watched.checkpoints.cycle(final=True)
    faulty.break_in_turn(["403"] * 2, "PUT", "/c/")
    watched.write("a", b"4")
    with pytest.raises(Forbidden):
        watched.checkpoints.cycle(final=True)
    assert watched.checkpoints.cycle(final=True)
    assert keys_of(s3, bucket) == {"a": b"4"}
    sent = [headers for method, headers in faulty.headers if method == "PUT"]
    assert all(headers.get("If-Match") or headers.get("If-None-Match") for headers in sent)


@pytest.mark.parametrize("methods", [["HEAD"], ["HEAD", "GET"]])
def test_where_objects_cannot_be_read_checkpoints_go_up_all_the_same(
    aws: None, tmp_path: Path, s3: S3Server, bucket: str, faulty: FaultyProxy, methods: list[str]
) -> None:
    for name, body in content(b"0").items():
        s3.put(bucket, f"c/{name}", body)
    faulty.fault = lambda method, path: "403" if method in methods else None
    watched = Watched(tmp_path / "checkpoint", bucket)
    for version in (b"1", b"2"):
        for name, body in content(version).items():
            watched.write(name, body)
        watched.checkpoints.cycle(final=True)
        assert keys_of(s3, bucket) == content(version)
