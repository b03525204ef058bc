"""How a job's command is run, and what the state file tells of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local_stack.processes import wait_for
from tests.contract_worker.conftest import Pair
from tests.real_worker import block, finished, python, shell


def looked_at(own: Pair, expression: str, **fields: Any) -> Any:
    """What a Python expression is worth in a job's command."""
    script = f"import json, os, sys; open('seen', 'w').write(json.dumps({expression}))"
    job = own.api.submit(**({"sync": {}} | python(script) | fields))
    assert finished(own.api, job)[0] == "completed"
    return json.loads((own.worker.folder / "seen").read_text())


def test_arguments_arrive_as_they_were_given_and_no_shell_reads_them(own: Pair) -> None:
    given = ["$HOME", "*", "a b", "", "'", '"', "; touch pwned", "é", "line\nline", "--help"]
    script = "import json, sys; open('seen', 'w').write(json.dumps(sys.argv[1:]))"
    job = own.api.submit(command=sys.executable, arguments=["-c", script, *given], sync={})
    assert finished(own.api, job)[0] == "completed"
    assert json.loads((own.worker.folder / "seen").read_text()) == given
    assert not (own.worker.folder / "pwned").exists()


def test_a_command_is_one_program_and_no_line_of_a_shell(own: Pair) -> None:
    job = own.api.submit(command="echo hello; exit 0", sync={})
    report, body = finished(own.api, job)
    assert (report, body["reason"]) == ("failed", "not_found")


def test_the_command_runs_in_the_workers_working_directory(own: Pair) -> None:
    assert looked_at(own, "os.getcwd()") == str(own.worker.folder)


def test_a_command_by_a_relative_path_is_found_from_there(own: Pair) -> None:
    program = own.worker.folder / "bin" / "run"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    for command in ("./bin/run", "bin/run"):
        job = own.api.submit(command=command, sync={})
        assert finished(own.api, job)[0] == "completed"


@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_a_file_that_cannot_be_executed_is_a_failure_of_that_reason(own: Pair, mode: int) -> None:
    program = own.worker.folder / f"rubbish-{mode}"
    program.write_bytes(b"\x7fnot a program")
    program.chmod(mode)
    report, body = finished(own.api, own.api.submit(command=f"./{program.name}", sync={}))
    assert (report, body["reason"]) == ("failed", "not_found")


def test_a_command_is_looked_for_on_the_path_that_the_job_gives(own: Pair) -> None:
    program = own.worker.folder / "tools" / "only-here"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    job = own.api.submit(command="only-here", environment={"PATH": path}, sync={})
    assert finished(own.api, job)[0] == "completed"


def test_the_command_leads_a_process_group_of_its_own(own: Pair) -> None:
    pid, group, parents = looked_at(own, "[os.getpid(), os.getpgid(0), os.getpgid(os.getppid())]")
    assert pid == group != parents


def test_what_it_prints_passes_through(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    pair.api.submit(**shell("echo to the output; echo to the errors >&2"), sync={})
    pair.worker.start(["sh", "-c", 'exec "$@" >printed', "sh"])
    wait_for(lambda: "to the errors" in pair.worker.lines, "the line on standard error")
    printed = pair.worker.folder / "printed"
    wait_for(lambda: printed.read_text() == "to the output\n", "the line on standard output")


def test_kelpies_own_names_are_there_and_win(own: Pair) -> None:
    names = ["INPUT_DIR", "CHECKPOINT_DIR", "OUTPUT_DIR", "KELPIE_JOB_ID", "KELPIE_STATE_FILE"]
    seen = looked_at(own, f"[os.environ[n] for n in {names}]", environment=dict.fromkeys(names, "the job's"))
    folder = own.worker.folder
    directories = [str(folder / name) for name in ("input", "checkpoint", "output")]
    job = own.api.claims()[-1] and own.worker.seen("command_started")[-1]["job_id"]
    assert seen == [*directories, job, str(own.worker.state_file)]


def test_the_three_directories_are_there_for_every_command(own: Pair) -> None:
    names = ["INPUT_DIR", "CHECKPOINT_DIR", "OUTPUT_DIR"]
    assert looked_at(own, f"[os.path.isdir(os.environ[n]) for n in {names}]") == [True] * 3


def test_directories_that_cannot_be_made_keep_no_job_that_does_not_use_them(
    make_pair: Callable[..., Pair],
) -> None:
    pair = make_pair()
    job = pair.api.submit(command="true", sync={})
    pair.worker.start(INPUT_DIR="/proc/nowhere/in", OUTPUT_DIR="/dev/null/out")
    assert finished(pair.api, job)[0] == "completed"
    warned = [event for event in pair.worker.events if event["level"] == "warn"]
    assert any("/proc/nowhere/in" in json.dumps(event) for event in warned)


def test_directories_of_a_setting_may_be_relative(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    pair.worker.start(INPUT_DIR="data/in", MAX_JOB_FAILURES="0")
    where = looked_at(pair, "os.path.realpath(os.environ['INPUT_DIR'])")
    assert where == str(pair.worker.folder / "data" / "in")


# --- the state file -------------------------------------------------------------------------------------

JOB_KEYS = {"id", "status", "start", "exitTime", "exitCode", "end", "activeUploads", "activeDownloads"}


def test_the_command_can_read_its_job_in_the_state_file(own: Pair) -> None:
    state = looked_at(own, "json.load(open(os.environ['KELPIE_STATE_FILE']))")
    assert state["start"].endswith("Z")
    job = state["jobs"][-1]
    assert job.keys() >= JOB_KEYS
    assert (job["status"], job["exitTime"], job["exitCode"], job["end"]) == ("running", None, None, None)
    assert (job["activeUploads"], job["activeDownloads"]) == ([], [])
    assert job["id"] == own.worker.seen("command_started")[-1]["job_id"] and job["start"].endswith("Z")


@pytest.mark.parametrize(("code", "status"), [(0, "completed"), (5, "failed")])
def test_a_finished_job_stays_listed_with_its_end(own: Pair, code: int, status: str) -> None:
    job = own.api.submit(**shell(f"exit {code}"), sync={})
    entry = wait_for(lambda: ended(own, job), "the job's end in the state file")
    assert (entry["status"], entry["exitCode"]) == (status, code)
    assert entry["start"] <= entry["exitTime"] <= entry["end"]


def test_uploads_under_way_are_named_in_the_state_file(own: Pair, bucket: str) -> None:
    script = "for n in b a c; do echo $n > out/$n; done"
    job = own.api.submit(**shell(script), sync={"after": [block(bucket, "out")]})
    assert finished(own.api, job)[0] == "completed"
    entry = wait_for(lambda: ended(own, job), "the job's end in the state file")
    assert entry["activeUploads"] == []


def test_a_job_that_was_taken_away_is_not_listed_as_running(own: Pair) -> None:
    job = own.api.submit(**shell("sleep 1000"), sync={}, heartbeat_interval=0.3)
    own.worker.wait_for("command_started", job_id=job)
    own.api.cancel(job)
    assert wait_for(lambda: ended(own, job), "the job's end in the state file")["status"] != "running"


def ended(own: Pair, job: str) -> dict[str, Any] | None:
    listed = {entry["id"]: entry for entry in own.worker.state()["jobs"]}
    return listed[job] if job in listed and listed[job]["end"] else None


def test_a_state_file_in_a_folder_that_is_not_there_yet_is_made(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    place = Path("states/of/worker-1.json")
    job = pair.api.submit(**shell('test -s "$KELPIE_STATE_FILE"'), sync={})
    pair.worker.start(KELPIE_STATE_FILE=str(place))
    assert finished(pair.api, job)[0] == "completed"
    assert json.loads((pair.worker.folder / place).read_text())["jobs"][0]["id"] == job
