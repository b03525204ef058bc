"""The worker beside an S3 server that differs from the one of the other tests: rclone's.

It checks the secret, ignores conditional writes, answers a range with 200, and changes the case of metadata keys.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local_stack.processes import wait_for
from local_stack.rclone import RcloneServer
from tests.doubles.coordinator import FakeCoordinator
from tests.real_worker import Worker, block, finished, shell

LARGE = 70_000_000  # more than is asked for as one range
# A directory for each step, the last two kept; fixed names, overwritten and renamed into place.
A_DIRECTORY_PER_STEP = """
for step in 1 2 3; do
  mkdir -p checkpoint/step-$step
  echo weights of $step > checkpoint/step-$step/weights; echo $step > checkpoint/latest
  rm -rf checkpoint/step-$((step - 2)); rest
done
"""
FIXED_NAMES = """
for step in 1 2 3; do
  echo weights of $step > checkpoint/weights
  echo optimizer of $step > checkpoint/.new && mv checkpoint/.new checkpoint/optimizer; rest
done
"""
LEFT_BY = {
    A_DIRECTORY_PER_STEP: {
        "latest": b"3\n",
        "step-2/weights": b"weights of 2\n",
        "step-3/weights": b"weights of 3\n",
    },
    FIXED_NAMES: {"weights": b"weights of 3\n", "optimizer": b"optimizer of 3\n"},
}


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneServer]:
    server = RcloneServer(tmp_path_factory.mktemp("rclone"))
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("compression", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("saves", [A_DIRECTORY_PER_STEP, FIXED_NAMES], ids=["a-directory-per-step", "fixed-names"])
def test_files_come_down_and_go_up_as_they_are(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: RcloneServer,
    bucket: str,
    sync: dict[str, list[dict[str, Any]]],
    saves: str,
    compression: bool,
) -> None:
    def bytes_of(prefix: str) -> dict[str, bytes]:
        files = s3.files(bucket, prefix)
        if not compression:
            return files
        assert all(name.endswith(".gz") for name in files)
        return {name.removesuffix(".gz"): gzip.decompress(content) for name, content in files.items()}

    s3.put(bucket, "in/a name/dätä", b"input")
    rest = "rest() { until [ -e sent ]; do sleep 0.1; done; }"
    outputs = "cp 'in/a name/dätä' 'out/deep/ä copy'; head -c 9000000 /dev/zero > out/parts"
    script = f"mkdir -p out/deep; {rest}; {saves} {outputs}"
    job = coordinator.submit(**shell(script), sync=sync, compression=compression)

    worker = make_worker().start()
    worker.wait_for("checkpoint_committed")
    (worker.folder / "sent").touch()

    assert finished(coordinator, job)[0] == "completed"
    assert bytes_of("out/") == {"deep/ä copy": b"input", "parts": bytes(9_000_000)}
    assert bytes_of("checkpoint/") == LEFT_BY[saves]
    assert len(worker.seen("checkpoint_committed")) > 1, "the rest of it"


@pytest.mark.parametrize("saves", [A_DIRECTORY_PER_STEP, FIXED_NAMES], ids=["a-directory-per-step", "fixed-names"])
def test_another_worker_goes_on_from_the_checkpoint_of_one_that_vanished(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: RcloneServer,
    bucket: str,
    sync: dict[str, list[dict[str, Any]]],
    saves: str,
) -> None:
    resumes = "[ -e checkpoint/weights ] || [ -e checkpoint/latest ]"
    script = f"rest() {{ sleep 1; }}; if {resumes}; then cp -r checkpoint out/; else {saves} sleep 600; fi"
    job = coordinator.submit(**shell(script), sync=sync)
    first = make_worker("first").start()
    wait_for(lambda: _is_reported(coordinator, job, LEFT_BY[saves]), "the report of the last checkpoint")
    first.kill()
    coordinator.hand_out_again(job)

    make_worker("second").start()

    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "out/checkpoint/") == LEFT_BY[saves]
    assert [resume["checkpoint"] for resume in coordinator.resumes(job)] == ["clean"]


def _is_reported(coordinator: FakeCoordinator, job: str, files: dict[str, bytes]) -> bool:
    """As the newest, and with their bytes."""
    newest = coordinator.manifests(job)[-1]["files"] if coordinator.manifests(job) else []
    return {stored["key"]: stored["etag"] for stored in newest} == {
        f"checkpoint/{name}": hashlib.md5(content).hexdigest() for name, content in files.items()
    }


def test_a_large_input_is_whole_where_ranges_are_not_what_they_say(
    coordinator: FakeCoordinator, worker: Worker, s3: RcloneServer, bucket: str
) -> None:
    content = b"".join(number.to_bytes(8, "big") for number in range(LARGE // 8))
    s3.put(bucket, "in/large", content)
    job = coordinator.submit(
        **shell("cp in/large out/copy"), sync={"before": [block(bucket, "in")], "after": [block(bucket, "out")]}
    )
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.get(bucket, "out/copy") == content


def test_a_wrong_secret_gives_the_job_back_and_says_so(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker], bucket: str
) -> None:
    job = coordinator.submit(**shell("exit 0"), sync={"before": [block(bucket, "in")]})
    worker = make_worker(AWS_SECRET_ACCESS_KEY="another").start()
    report, body = finished(coordinator, job)
    assert (report, body["reason"]) == ("released", "configuration")
    assert "another" not in "\n".join(worker.lines)
