"""The worker as its users get it: one file in an image that has neither Python nor a recent C library."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kelpie_version import VERSION
from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.doubles.coordinator import STEERING, FakeCoordinator
from tests.frozen.machine import Layers, Machine, variables
from tests.real_worker import block

MakeMachine = Callable[..., Machine]
KELPIES = (
    "INPUT_DIR",
    "CHECKPOINT_DIR",
    "OUTPUT_DIR",
    "KELPIE_JOB_ID",
    "KELPIE_STATE_FILE",
    "KELPIE_CHECKPOINT_STATUS",
    "KELPIE_PROGRESS",
    "KELPIE_ATTEMPT",
)
KILL = """
for process in /proc/[0-9]*; do
    read -r name <$process/comm && [ "$name" = kelpie-{name} ] && kill -KILL "${{process#/proc/}}"
done
true
"""
CREDENTIALS = '{"Version": 1, "AccessKeyId": "local", "SecretAccessKey": "local-secret"}'
ANOTHER_PROGRAMS = "_MEI00000001aaaaaa"


def completed(coordinator: FakeCoordinator, job: str) -> None:
    assert wait_for(lambda: coordinator.reports(job), f"a report of job {job}")[0][0] == "completed"


def test_it_is_small(binary: Path) -> None:
    assert binary.stat().st_size < 40_000_000


def test_it_says_its_version(make_machine: MakeMachine, image: str) -> None:
    machine = make_machine(image, command=("kelpie", "--version"))
    assert machine.wait() == 0
    assert machine.printed() == f"kelpie {VERSION}\n"


def test_it_has_the_licences_of_all_that_is_in_it_and_a_list_of_it(
    make_machine: MakeMachine, binary: Path, old_image: str
) -> None:
    machine = make_machine(old_image, command=("kelpie", "licenses"))
    assert machine.wait() == 0
    texts = machine.printed()
    document = json.loads(binary.with_name("kelpie.cdx.json").read_text())
    headings = [f"{part['name']} {part['version']}: " for part in document["components"]]
    assert [heading for heading in headings if heading not in texts] == []
    names = {part["name"] for part in document["components"]}
    assert {"boto3", "botocore", "requests", "certifi", "regress", "watchdog", "pyinstaller", "staticx"} <= names
    assert {name.rstrip("0123456789.") for name in names} >= {"libssl", "libc"}
    assert f"kelpie {VERSION}: MIT" in texts and "PYTHON SOFTWARE FOUNDATION LICENSE" in texts.upper()


def test_it_refuses_a_bad_setting_with_one_line(make_machine: MakeMachine, old_image: str) -> None:
    machine = make_machine(old_image, command=("kelpie",), environment={"MAX_RETRIES": "many"})
    assert machine.wait() == 2
    assert machine.complaints() == "kelpie: MAX_RETRIES must be a whole number from 0 to 999999999, not 'many'.\n"


def test_it_carries_a_job_through_and_leaves_nothing_unpacked(
    make_machine: MakeMachine, image: str, coordinator: FakeCoordinator, s3: S3Server, bucket: str
) -> None:
    s3.put(bucket, "in/data", b"input")
    script = "cat in/data > out/result; echo whole > checkpoint/next"
    job = coordinator.submit(
        command="sh",
        arguments=["-euc", script],
        sync={
            "before": [block(bucket, "in"), block(bucket, "checkpoint")],
            "during": [block(bucket, "checkpoint")],
            "after": [block(bucket, "out")],
        },
    )
    machine = make_machine(image, command=("kelpie",))

    completed(coordinator, job)
    assert s3.files(bucket, "out/") == {"result": b"input"}
    assert s3.files(bucket, "checkpoint/") == {"next": b"whole\n"}
    assert machine.stop() == 0
    assert [path for path in machine.changed() if path.startswith("/tmp/")] == []


@pytest.mark.parametrize("coordinator", [STEERING], indirect=True)
def test_it_tells_how_far_a_command_is_and_stops_it_gracefully(
    make_machine: MakeMachine, old_image: str, coordinator: FakeCoordinator
) -> None:
    script = 'trap "echo saved; exit" TERM; echo 0.5 > $KELPIE_PROGRESS; echo begun; while :; do sleep 0.1; done'
    job = coordinator.submit(command="sh", arguments=["-c", script], sync={}, keep_output=65536)
    make_machine(old_image, command=("kelpie",))

    def progress() -> list[dict[str, float]]:
        return [beat["progress"] for beat in coordinator.beats(job) if "progress" in beat]

    wait_for(lambda: progress() == [{"fraction": 0.5}], "the progress")
    coordinator.wishes = {"stop": {"why": "interrupt"}}
    (report,) = wait_for(lambda: coordinator.reports(job), f"a report of job {job}")
    assert (report[0], report[1]["stop"]) == ("released", {"why": "interrupt"})
    lines = coordinator.output(job).splitlines()
    assert lines[0] == b"begun" and b"saved" in lines  # beside what the shell says of its sleep


@pytest.mark.parametrize(
    "environment", [{}, {"LD_LIBRARY_PATH": "/usr/local/cuda/lib64:/opt/lib", "LANG": "C.UTF-8"}]
)
def test_the_command_sees_what_it_would_see_without_kelpie(
    make_machine: MakeMachine, image: str, coordinator: FakeCoordinator, environment: dict[str, str]
) -> None:
    job = coordinator.submit(command="env", sync={})
    machine = make_machine(image, command=("kelpie",), environment=environment)

    completed(coordinator, job)
    seen = variables(machine.printed())
    assert {name: value for name, value in seen.items() if name not in KELPIES} == machine.environment()


def test_a_credential_process_sees_what_it_would_see_without_kelpie(
    make_machine: MakeMachine, old_image: str, coordinator: FakeCoordinator, s3: S3Server, bucket: str
) -> None:
    s3.put(bucket, "in/data", b"input")
    job = coordinator.submit(command="true", sync={"before": [block(bucket, "in")]})
    machine = make_machine(
        old_image,
        environment={
            "LD_LIBRARY_PATH": "/usr/local/cuda/lib64",
            "AWS_ACCESS_KEY_ID": "",
            "AWS_SECRET_ACCESS_KEY": "",
            "AWS_CONFIG_FILE": "/config",
        },
    )
    # Any C++ program of the image, which would not start with the bundle's libraries.
    machine.shell("echo '#!/bin/sh\nenv >/seen\napt-config dump >/dev/null && cat /key' >/creds; chmod +x /creds")
    machine.shell(f"echo '{CREDENTIALS}' >/key; printf '[default]\ncredential_process = /creds\n' >/config")
    machine.start_worker()

    completed(coordinator, job)
    seen = variables(machine.shell("cat /seen"))
    assert seen["LD_LIBRARY_PATH"] == "/usr/local/cuda/lib64"
    assert [name for name in seen if name.startswith(("_PYI", "_MEI", "STATICX", "LD_LIBRARY_PATH_"))] == []


def test_where_nothing_may_run_in_tmp_it_says_what_to_do(make_machine: MakeMachine, old_image: str) -> None:
    machine = make_machine(old_image, command=("kelpie",), tmpfs={"/tmp": "noexec"})
    assert machine.wait() != 0
    assert "Let TMPDIR name a folder that is not noexec." in machine.complaints()

    elsewhere = make_machine(
        old_image, command=("kelpie", "--version"), tmpfs={"/tmp": "noexec"}, environment={"TMPDIR": "/var/tmp"}
    )
    assert elsewhere.wait() == 0


@pytest.mark.parametrize("size", ["10m", "20m"])  # of its two layers the first does not fit, or the second
def test_where_it_has_no_room_to_unpack_it_says_how_much_it_needs(
    make_machine: MakeMachine, old_image: str, size: str
) -> None:
    machine = make_machine(old_image, command=("kelpie",), tmpfs={"/tmp": f"exec,size={size}"})
    assert machine.wait() != 0
    assert "TMPDIR needs 40 MB free" in machine.complaints()


def test_so_much_room_is_enough(make_machine: MakeMachine, old_image: str) -> None:
    machine = make_machine(old_image, command=("kelpie", "--version"), tmpfs={"/tmp": "exec,size=40m"})
    assert machine.wait() == 0, machine.complaints()


def test_a_command_that_empties_the_folder_which_the_worker_runs_from_fails_and_ends_it(
    make_machine: MakeMachine, old_image: str, coordinator: FakeCoordinator
) -> None:
    job = coordinator.submit(command="sh", arguments=["-c", "rm -rf /tmp/*; sleep 1000"], sync={})
    machine = make_machine(old_image, command=("kelpie",))
    assert machine.wait() == 1
    [(report, body)] = coordinator.reports(job)
    assert (report, body["reason"]) == ("failed", "worker_broken") and "TMPDIR" in body["detail"]


@pytest.mark.parametrize("killed", Layers._fields)
def test_whichever_process_is_killed_the_others_end_and_tmp_is_clean(
    make_machine: MakeMachine, old_image: str, coordinator: FakeCoordinator, killed: str
) -> None:
    job = coordinator.submit(command="sleep", arguments=["1000"], sync={})
    machine = make_machine(old_image)
    layers = machine.start_worker()
    wait_for(lambda: any(process.program.endswith("sleep") for process in machine.processes()), "the command")

    machine.kill(getattr(layers, killed))

    wait_for(lambda: not machine.processes(), "every process of the worker to end")
    assert machine.unpacked() == set()
    released = [("released", "shutdown")] if killed != "worker" else []
    assert [(report, body.get("reason")) for report, body in coordinator.reports(job)] == released


def test_what_killed_workers_left_goes_and_what_others_use_stays(
    make_machine: MakeMachine, old_image: str
) -> None:
    machine = make_machine(old_image)
    machine.start_worker("killed")
    machine.shell(f"mkdir /tmp/{ANOTHER_PROGRAMS}")
    machine.kill(*(process.pid for process in machine.processes()))
    left = machine.unpacked()
    assert len(left) == 3

    machine.start_worker("first")
    first = wait_for(lambda: only_new(machine.unpacked(), left), "the killed worker's folders to go")
    machine.shell("touch -d '1 hour ago' /tmp/*")
    machine.start_worker("second")

    assert machine.unpacked() > first, "a worker removed the folders of another that runs"
    assert ANOTHER_PROGRAMS in first


def test_a_killed_fork_server_is_replaced(
    make_machine: MakeMachine, old_image: str, coordinator: FakeCoordinator, s3: S3Server, bucket: str
) -> None:
    machine = make_machine(old_image)
    machine.start_worker()
    for name in ("forkserv", "uploader"):
        machine.shell(KILL.format(name=name))
    wait_for(lambda: machine.shell("cat /worker/log").count('"child_started"') == 4, "another uploader")

    s3.put(bucket, "in/data", b"input")
    sync = {"before": [block(bucket, "in")], "after": [block(bucket, "out")]}
    job = coordinator.submit(command="cp", arguments=["in/data", "out/"], sync=sync)
    completed(coordinator, job)
    assert s3.files(bucket, "out/") == {"data": b"input"}
    assert "nursery_replaced" in machine.shell("cat /worker/log")


def only_new(unpacked: set[str], left: set[str]) -> set[str] | None:
    return unpacked if unpacked & left == {ANOTHER_PROGRAMS} else None
