"""SIGKILL at every point of a worker's way through a job: it completes, bytes equal, no failure counted.

Each point is tried twice: the same machine comes back with its disk, and it is gone and another takes over.
"""

from __future__ import annotations

import hashlib
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from local_stack.processes import wait_for
from local_stack.stack import LocalStack, Worker
from tests.e2e.proxy import Hold, HoldingProxy, Moment

JOB = Path(__file__).with_name("job.py")
STEPS = 15
PAUSE = 0.2
FILES_TO_WIPE = 20_000
BUCKET = "crash-points"
INPUT = b"the input of the job"


@dataclass
class Scene:
    """One job, one worker, and proxies between the worker and both of its servers."""

    stack: LocalStack
    api: HoldingProxy
    s3: HoldingProxy
    hurry: Path  # once it is there the job makes its steps without pauses, and ends
    name: str = field(default_factory=lambda: f"scene-{uuid.uuid4().hex[:8]}")
    job_id: str = ""
    worker: Worker = field(init=False)

    def submit(self, files: int = 0) -> None:
        def block(kind: str, path: str, direction: str) -> dict[str, str]:
            return {
                "bucket": BUCKET,
                "prefix": f"{self.name}/{kind}/",
                "local_path": path,
                "direction": direction,
            }

        self.stack.s3.put(BUCKET, f"{self.name}/in/data", INPUT)
        job = {
            "command": sys.executable,
            "arguments": [str(JOB), str(STEPS), str(PAUSE), str(files), str(self.hurry)],
            "container_group_id": self.name,
            "heartbeat_interval": 1,
            "sync": {
                "before": [block("in", "in", "download"), block("checkpoint", "checkpoint", "download")],
                "during": [block("checkpoint", "checkpoint", "upload")],
                "after": [block("out", "out", "upload")],
            },
        }
        self.job_id = self.stack.client.submit(job)["id"]

    def start_worker(self, machine: str) -> None:
        self.worker = self.stack.start_worker(
            f"{self.name}-{machine}",
            {
                "KELPIE_API_URL": self.api.url,
                "AWS_ENDPOINT_URL": self.s3.url,
                "SALAD_CONTAINER_GROUP_ID": self.name,
            },
        )

    @property
    def job(self) -> dict[str, Any]:
        return self.stack.client.job(self.job_id)

    @property
    def attempts(self) -> list[dict[str, Any]]:
        return self.stack.client.attempts(self.job_id)

    def checkpoint_in_bucket(self) -> bytes | None:
        key = f"{self.name}/checkpoint/state"
        return self.stack.s3.get(BUCKET, key) if key in self.stack.s3.keys(BUCKET, key) else None

    def left_on_disk(self) -> bool:
        folders = [self.worker.disk / name for name in ("in", "checkpoint", "out")]
        return any(any(folder.iterdir()) for folder in folders if folder.exists())


def wait_until_held(hold: Hold) -> None:
    wait_for(hold.reached.is_set, f"a {hold.method} {hold.path.pattern}")


def before_the_claims_answer_is_stored(scene: Scene) -> None:
    wait_until_held(scene.api.hold("GET", "^/work", Moment.ON_THE_WAY_BACK))


def while_downloading(scene: Scene) -> None:
    wait_until_held(scene.s3.hold("GET", f"{scene.name}/in/data", Moment.ON_THE_WAY_BACK))


def while_running(scene: Scene) -> None:
    wait_for(scene.checkpoint_in_bucket, "a checkpoint in the bucket")


def while_uploading_a_checkpoint(scene: Scene) -> None:
    wait_until_held(scene.s3.hold("PUT", f"{scene.name}/checkpoint/state", Moment.ON_THE_WAY_THERE, spared=1))
    assert scene.checkpoint_in_bucket(), "an earlier checkpoint is in the bucket"


def while_uploading_outputs(scene: Scene) -> None:
    scene.hurry.touch()
    wait_until_held(scene.s3.hold("PUT", f"{scene.name}/out/result", Moment.ON_THE_WAY_THERE))


def after_completed_was_sent(scene: Scene) -> None:
    scene.hurry.touch()
    wait_until_held(scene.api.hold("POST", "/completed$", Moment.ON_THE_WAY_BACK))


def while_wiping(scene: Scene) -> None:
    """The outputs are set aside and the job's directories are being emptied for the next job."""
    inputs = scene.worker.disk / "in"

    def files() -> int:
        return len([*os.scandir(inputs)]) if inputs.exists() else 0

    wait_for(lambda: files() > FILES_TO_WIPE, "the command to make its files")
    scene.hurry.touch()
    wait_for(lambda: '"command_exited"' in scene.worker.log.read_text(), "the command to end")
    wait_for(lambda: files() < FILES_TO_WIPE, "some files to be wiped", pause=0.001)
    assert files(), "the wipe was over before it could be interrupted"


POINTS = [
    before_the_claims_answer_is_stored,
    while_downloading,
    while_running,
    while_uploading_a_checkpoint,
    while_uploading_outputs,
    after_completed_was_sent,
    while_wiping,
]


@pytest.fixture
def scene(stack: LocalStack, tmp_path: Path) -> Iterator[Scene]:
    stack.s3.create_bucket(BUCKET)
    with HoldingProxy(stack.api_url) as api, HoldingProxy(stack.s3.url) as s3:
        scene = Scene(stack, api, s3, tmp_path / "hurry")
        yield scene
        scene.worker.crash()


def expected_result() -> bytes:
    digest = hashlib.sha256(INPUT).hexdigest()
    for step in range(STEPS):
        digest = hashlib.sha256(f"{digest} {step}".encode()).hexdigest()
    return digest.encode()


@pytest.mark.parametrize("comes_back", [True, False], ids=["same_machine", "another_machine"])
@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.__name__)
def test_a_worker_killed(point: Callable[[Scene], None], comes_back: bool, scene: Scene) -> None:
    scene.submit(FILES_TO_WIPE if point is while_wiping else 0)
    scene.start_worker("first")
    point(scene)
    if comes_back:
        scene.worker.crash()
        scene.hurry.touch()
        scene.api.let_all_go()
        scene.s3.let_all_go()
        scene.worker.start()
    else:
        scene.worker.vanish()
        scene.hurry.touch()
        scene.api.let_all_go()
        scene.s3.let_all_go()
        scene.start_worker("second")

    wait_for(lambda: scene.job["status"] == "completed", "the job to complete", timeout=60)
    wait_for(lambda: not scene.left_on_disk(), "the job's directories to be wiped", timeout=30)
    assert scene.stack.s3.get(BUCKET, f"{scene.name}/out/result") == expected_result()
    assert scene.job["num_failures"] == 0
    assert {attempt["outcome"] for attempt in scene.attempts} <= {"completed", "interrupted"}
    assert scene.attempts[-1]["outcome"] == "completed"


def test_a_claim_whose_answer_was_lost_is_answered_again_with_the_same_attempt(scene: Scene) -> None:
    scene.submit()
    scene.start_worker("first")
    before_the_claims_answer_is_stored(scene)
    scene.worker.crash()
    scene.hurry.touch()
    scene.api.let_all_go()
    scene.worker.start()
    wait_for(lambda: scene.job["status"] == "completed", "the job to complete", timeout=60)
    assert [attempt["number"] for attempt in scene.attempts] == [1]


def test_another_machine_goes_on_from_the_checkpoint(scene: Scene) -> None:
    scene.submit()
    scene.start_worker("first")
    while_running(scene)
    scene.worker.vanish()
    scene.hurry.touch()
    scene.start_worker("second")
    wait_for(lambda: scene.job["status"] == "completed", "the job to complete", timeout=60)
    assert b"resumed from step 0 of" not in scene.worker.output.read_bytes()


def test_the_checkpoint_of_a_worker_that_was_told_to_go_is_found_clean_by_the_next(scene: Scene) -> None:
    scene.submit()
    scene.start_worker("first")
    while_running(scene)
    scene.worker.stop()
    scene.hurry.touch()
    scene.start_worker("second")
    wait_for(lambda: scene.job["status"] == "completed", "the job to complete", timeout=60)
    told = [event for event in scene.stack.client.events(scene.job_id) if event["kind"] == "resumed"]
    assert [(event["attempt"], event["detail"]["checkpoint"]) for event in told] == [(2, "clean")]
