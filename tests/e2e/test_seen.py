"""A command tells how far it is and prints, a real worker tells it, and it is read along at the coordinator."""

from __future__ import annotations

import uuid
from pathlib import Path

import requests

from local_stack.processes import wait_for
from local_stack.stack import LocalStack

COMMAND = """
echo '{"step": 10, "total": 40, "message": "warming up"}' > $KELPIE_PROGRESS
echo begun
until test -e %s; do sleep 0.2; done
echo done
"""


def test_progress_and_output_of_a_running_command_are_seen(stack: LocalStack, tmp_path: Path) -> None:
    group, gate = f"seen-{uuid.uuid4().hex[:8]}", tmp_path / "gate"
    job = stack.client.submit(
        {
            "command": "sh",
            "arguments": ["-c", COMMAND % gate],
            "container_group_id": group,
            "heartbeat_interval": 1,
            "keep_output": 1000,
        }
    )
    worker = stack.start_worker(f"{group}-1", {"SALAD_CONTAINER_GROUP_ID": group})
    path = f"{stack.client.url}/jobs/{job['id']}/output"

    def output(**query: str | int) -> requests.Response:
        answer = requests.get(path, query, headers={"X-Kelpie-Key": stack.client.key}, timeout=40)
        assert answer.status_code == 200, answer.text
        return answer

    def told() -> dict[str, object]:
        return stack.client.job(job["id"]).get("progress") or {}

    wait_for(lambda: "fraction" in told(), "the progress to be told", timeout=60)
    assert (told()["fraction"], told()["message"]) == (0.25, "warming up")
    wait_for(lambda: output(wait=5).content == b"begun\n", "the output to come", timeout=60)
    gate.touch()
    rest = output(**{"from": 6, "wait": 30})
    assert (rest.content, rest.headers["Kelpie-Next-Offset"]) == (b"done\n", "11")
    wait_for(lambda: stack.client.job(job["id"])["status"] == "completed", "the job to complete", timeout=60)
    assert output(download="true").content == b"begun\ndone\n"
    worker.vanish()
