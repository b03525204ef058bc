"""The requests of the original's documents, typed with curl."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests import programs
from tests.contract.doubles import Salad
from tests.contract.stack import User, environment

LINES = Path(__file__).with_name("original.sh")
# Each answer on one line, and its status on the next.
CURLRC = 'silent\nwrite-out = "\\n%{http_code}\\n"\n'


def test_what_users_of_the_original_type_is_answered_as_they_know_it(
    user: User, salad: Salad, tmp_path: Path
) -> None:
    for name in ("curl", "jq"):
        programs.find(name, name)
    (tmp_path / ".curlrc").write_text(CURLRC)
    salad.groups["original", "default"].append("97f504e8-6de6-4322-b5d5-1777a59a7ad3")
    settings = {"CURL_HOME": str(tmp_path), "API": user.stack.url, "KEY": user.key("original")}
    typed = subprocess.run(
        ["sh", "-eu", LINES], env=environment(settings), capture_output=True, text=True, timeout=60
    )
    assert typed.returncode == 0, typed.stderr
    answers = [line for line in typed.stdout.splitlines() if line]
    bodies, statuses = [json.loads(body) for body in answers[::2]], [int(status) for status in answers[1::2]]
    assert statuses == [202, 200, 200, 202, 202, 202, 201]
    job, same, listed, batch, first_release, canceled, rule = bodies
    assert job["status"] == "pending" and same["id"] == job["id"]
    assert [one["id"] for one in listed["jobs"]] == [job["id"]] and listed["_count"] == 1
    assert len(batch) == 1 and batch[0]["input_prefix"] == first_release["input_prefix"] == "inputs/job1/"
    assert canceled["message"] == "Job canceled"
    assert rule["idle_threshold_seconds"] == 300
