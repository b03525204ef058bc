"""A known value in every place that holds a secret, and failures of every kind: none of the values is logged."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.doubles.coordinator import STEERING, FakeCoordinator
from tests.doubles.faulty_proxy import FaultyProxy
from tests.real_worker import Worker, block, finished, shell

CANARY = "canary-"
SECRETS = {
    "KELPIE_API_KEY": f"{CANARY}of-the-api",
    "SALAD_API_KEY": f"{CANARY}of-salad",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}of-the-bucket",
    "AWS_SESSION_TOKEN": f"{CANARY}of-the-session",
    "WANDB_API_KEY": f"{CANARY}of-the-container",
}


@pytest.mark.parametrize("coordinator", [STEERING], indirect=True)
def test_no_secret_is_logged_saved_or_reported_whatever_goes_wrong(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
) -> None:
    worker = make_worker(
        AWS_ENDPOINT_URL=faulty.url,
        KELPIE_LOG_LEVEL="trace",
        KELPIE_REPORT_OUTPUT="8192",
        MAX_RETRIES="1",
        **SECRETS,
    )
    job = {"environment": {"HF_TOKEN": f"{CANARY}of-the-job"}, "arguments": [], "keep_output": 65536}
    sync = {"before": [block(bucket, "in")], "during": [block(bucket, "ck")]}
    s3.put(bucket, "in/data", b"1")
    faulty.fault = lambda method, path: {"GET": "403", "PUT": "503"}.get(method)
    refused = coordinator.submit(**job | shell("exit 0") | {"sync": sync})
    worker.start()
    assert finished(coordinator, refused)[0] == "failed"

    faulty.fault = lambda method, path: "503" if method == "PUT" else None
    tell = 'echo "$HF_TOKEN $KELPIE_API_KEY" | tee $KELPIE_PROGRESS; echo "openjd_status: $HF_TOKEN"; '
    tell += "echo 1 > ck/a; until [ -e go ]; do sleep 0.05; done; "
    failing = coordinator.submit(
        **job | shell(tell + 'echo "$HF_TOKEN $WANDB_API_KEY" >&2; exit 3') | {"sync": sync}
    )
    worker.wait_for("checkpoint_delayed")
    saved = worker.state_file.read_text()
    coordinator.down = True
    worker.wait_for("heartbeat_unanswered")
    worker.kill()
    coordinator.down = False
    worker.start()
    worker.wait_for("command_started", count=2)
    saved += worker.state_file.read_text()
    faulty.fault = lambda method, path: None
    (worker.folder / "go").touch()
    wait_for(lambda: coordinator.reports(failing), "the second job's failure")
    missing = coordinator.submit(**job | {"command": "no-such-program", "sync": {}})
    assert finished(coordinator, missing)[0] == "failed"
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    saved += worker.state_file.read_text()

    own_words = [line for line in worker.lines if line.startswith("{")]
    assert len(own_words) > 20 and CANARY not in "\n".join(own_words)
    assert CANARY not in saved
    told = [body for number in (refused, failing, missing) for body in coordinator.reports(number)]
    assert "exit_code" in json.dumps(told) and CANARY not in json.dumps(told)
    assert [body["output"] for _, body in coordinator.reports(failing)] != [None]
    assert CANARY not in "".join(
        f"{call.path} {call.query} {call.body} {call.content!r}" for call in coordinator.calls
    )
    assert coordinator.output(failing).count(b"*" * 10) >= 4
    assert "****" in str([beat.get("progress") for beat in coordinator.beats(failing)])
    left = [path for path in Path(worker.folder).rglob("*") if path.is_file()]
    assert left and not [path for path in left if CANARY.encode() in path.read_bytes()]
