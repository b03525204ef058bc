"""The worker's processes: how they start and end, and what a kill of one does to the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kelpie_worker.command.process import RunningCommand, Step
from kelpie_worker.job import Job
from kelpie_worker.system.linux import children_of_all, descendants
from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.doubles.coordinator import FakeCoordinator
from tests.real_worker import (
    CHECKOUT,
    ESCAPES,
    Worker,
    finished,
    is_alive,
    own_namespace,
    python,
    shell,
    sleeping_under,
)

CGROUPS = Path("/sys/fs/cgroup")
LIMIT = 400 * 1024 * 1024  # bytes; the worker itself needs a third of it
GREEDY = "blocks = [b'x' * 10_000_000 for _ in range(200)]"


def test_a_full_disk_under_the_log_costs_no_job(coordinator: FakeCoordinator, worker: Worker) -> None:
    job = coordinator.submit(**shell("exit 0"), sync={})
    worker.start(through=["sh", "-c", 'exec "$@" 2> /dev/full', "sh"])
    assert finished(coordinator, job)[0] == "completed"


def test_closed_standard_streams_cost_no_job(coordinator: FakeCoordinator, worker: Worker) -> None:
    job = coordinator.submit(**shell("echo heard; echo heard >&2"), sync={})
    worker.start(through=["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"])
    assert finished(coordinator, job)[0] == "completed"


def test_a_log_that_is_not_read_keeps_no_job_and_no_heartbeat_waiting(
    coordinator: FakeCoordinator, worker: Worker, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "log")
    unread = os.open(tmp_path / "log", os.O_RDWR | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(unread, b"x" * 4096)
    job = coordinator.submit(**shell("until [ -e go ]; do sleep 0.05; done"), sync={})
    worker.start(through=["sh", "-c", f'exec "$@" 2> {tmp_path}/log', "sh"])
    wait_for(lambda: coordinator.heartbeats(job) >= 3, "heartbeats")
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    os.close(unread)


# --- memory ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A cgroup of either version with little memory; only root can make one."""
    first = CGROUPS / "memory" / "memory.limit_in_bytes"
    name = f"kelpie-{uuid.uuid4().hex[:8]}"
    cgroup, limit = (
        (CGROUPS / "memory" / name, "memory.limit_in_bytes") if first.exists() else (CGROUPS / name, "memory.max")
    )
    try:
        cgroup.mkdir()
        (cgroup / limit).write_text(str(LIMIT))
    except OSError as error:
        if cgroup.exists():
            cgroup.rmdir()
        pytest.skip(f"no cgroup can be made here: {error}")
    yield cgroup
    wait_for(lambda: not (cgroup / "cgroup.procs").read_text(), "the cgroup to be empty")
    cgroup.rmdir()


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        (python(GREEDY), 137),
        (shell(f'"{sys.executable}" -c "{GREEDY}"'), 137),  # the shell reports the end of its child
        (shell(f'"{sys.executable}" -c "{GREEDY}" || exit 1'), 1),  # as a trainer does of a data loader's
    ],
)
def test_a_kill_for_memory_is_named(
    coordinator: FakeCoordinator,
    make_worker: Callable[..., Worker],
    small_memory: Path,
    command: dict[str, object],
    exit_code: int,
) -> None:
    worker = make_worker()
    job = coordinator.submit(**command, sync={})
    worker.start(through=["sh", "-c", f'echo $$ > {small_memory}/cgroup.procs; exec "$@"', "sh"])
    report, body = finished(coordinator, job)
    assert (report, body["reason"], body["exit_code"]) == ("failed", "oom", exit_code)

    after = coordinator.submit(**shell("kill -KILL $$"), sync={})
    report, body = finished(coordinator, after)
    assert (report, body["reason"]) == ("failed", "signal")  # the kill before it is not this one's
    worker.close()


# --- the command's processes ----------------------------------------------------------------------------


def reaped(pid: int) -> dict[int, int]:
    with suppress(ChildProcessError):
        return dict([os.waitpid(pid, os.WNOHANG)])
    return {}


def test_a_cancel_asks_twice_before_it_kills_and_each_time_the_whole_group(tmp_path: Path) -> None:
    member = "trap 'echo INT >> {0}' INT; trap 'echo TERM >> {0}' TERM; touch {0}; while :; do sleep 0.02; done"
    one, other = tmp_path / "one", tmp_path / "other"
    script = f"({member.format(one)}) | ({member.format(other)})"
    command = RunningCommand(Job("claim", "job", command="sh", arguments=("-c", script)), os.environ)
    wait_for(lambda: one.exists() and other.exists(), "both to listen", pause=0.02)
    command.stop([Step(signal.SIGINT, 0.4), Step(signal.SIGTERM, 0.4), Step(signal.SIGKILL, 0)])

    def over() -> bool:
        command.look(reaped(command.pid))
        return command.exited is not None

    wait_for(over, "the command to be over", pause=0.02)
    assert [path.read_text().split() for path in (one, other)] == [["INT", "TERM"]] * 2
    assert command.exited and command.exited.signalled


def test_the_orphans_of_a_command_do_not_pile_up_while_it_runs(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    orphans = "for n in 1 2 3 4 5; do (sh -c 'sleep 0.1' &); done"
    coordinator.submit(**shell(f"{orphans}; touch left; exec sleep 1000"), sync={})
    worker.start()
    command = worker.wait_for("command_started")["pid"]
    wait_for((worker.folder / "left").exists, "the orphans to be left")
    wait_for(lambda: children_of_all()[worker.child("runner")] == {command}, "the orphans to be reaped")


def test_the_seeds_shell_loop_runs_two_workers_on_one_node(coordinator: FakeCoordinator, worker: Worker) -> None:
    """A shell has what it starts with & ignore SIGINT, which the commands must not inherit."""
    loop = 'for n in 1 2; do KELPIE_STATE_FILE=state-$n "$@" & done; wait'
    stubborn = shell("trap 'touch asked-$KELPIE_JOB_ID; exit 0' INT; while :; do sleep 0.05; done")
    jobs = [coordinator.submit(**stubborn, sync={}) for _ in range(2)]
    worker.start(through=["sh", "-c", loop, "sh"])
    for job in jobs:
        worker.wait_for("command_started", job_id=job)
    for job in jobs:
        coordinator.cancel(job)
        wait_for((worker.folder / f"asked-{job}").exists, "the command to be asked by SIGINT")
    worker.wait_for("wiped", count=2)
    os.killpg(worker.pid, signal.SIGTERM)
    worker.wait()
    assert len(worker.seen("worker_stopped")) == 2


def test_a_worker_whose_parent_ignores_the_ends_of_children_hears_of_its_commands(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    ignoring = "import os, signal, sys; signal.signal(17, signal.SIG_IGN); os.execvp(sys.argv[1], sys.argv[1:])"
    job = coordinator.submit(**shell("exit 3"), sync={})
    worker.start(through=[sys.executable, "-c", ignoring])
    report, body = finished(coordinator, job)
    assert (report, body["exit_code"]) == ("failed", 3)


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_a_killed_runner_leaves_nothing_of_the_command_behind(
    coordinator: FakeCoordinator, worker: Worker, escape: str
) -> None:
    coordinator.submit(**shell(f"{escape}\nexec sleep 2000"), sync={})
    worker.start()
    runner = worker.child("runner")
    (escaped,) = wait_for(lambda: sleeping_under(runner), "the process that got away")
    os.kill(runner, signal.SIGKILL)
    worker.wait_for("command_started", count=2)
    assert not is_alive(escaped)


def test_what_a_shell_started_before_it_became_kelpie_is_left_alone(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    coordinator.submit(**shell("sleep 1000"), sync={})
    worker.start(through=["sh", "-c", 'sleep 3000 > /dev/null 2>&1 & echo $! > companion; exec "$@"', "sh"])
    worker.wait_for("command_started")
    companion = int((worker.folder / "companion").read_text())
    os.kill(worker.child("runner"), signal.SIGKILL)
    worker.wait_for("command_started", count=2)
    assert is_alive(companion)
    worker.signal(signal.SIGTERM)
    worker.wait()
    assert is_alive(companion)
    os.kill(companion, signal.SIGKILL)


# --- where its own processes come from ------------------------------------------------------------------


def named(worker: Worker) -> list[str]:
    """The worker's processes beside the supervisor, by what `ps` calls them."""
    return sorted(names_below(worker).values())


def names_below(worker: Worker) -> dict[int, str]:
    names = {}
    for pid in descendants(worker.pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # the process in between of a double fork
            names[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
    return names


def test_an_idle_worker_is_its_supervisor_and_four_processes(worker: Worker) -> None:
    worker.start()
    worker.child("uploader")
    assert named(worker) == ["kelpie-forkserv", "kelpie-heartbea", "kelpie-runner", "kelpie-uploader"]


def fork_server_of(worker: Worker) -> int:
    """The fork server's pid, once it is alone under its name: a process that it just forked has the name too."""

    def alone() -> int | None:
        named = [pid for pid, name in names_below(worker).items() if name == "kelpie-forkserv"]
        return named[0] if len(named) == 1 else None

    return wait_for(alone, "the fork server", pause=0.01)


def test_a_stopped_fork_server_is_replaced_before_it_costs_a_lease(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    job = coordinator.submit(**shell("until [ -e go ]; do sleep 0.05; done"), sync={}, heartbeat_interval=10)
    worker.start()
    worker.wait_for("command_started")
    os.kill(fork_server_of(worker), signal.SIGSTOP)
    os.kill(worker.child("heartbeat"), signal.SIGKILL)
    worker.wait_for("child_started", child="heartbeat", count=2, timeout=20)
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    assert len(worker.seen("nursery_replaced")) == 1


def test_a_stopped_heartbeat_is_replaced(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from kelpie_worker.processes import watchdog\nwatchdog._PATIENCE, watchdog._SHORTEST_SILENCE = 1, 5\n"
    )
    job = coordinator.submit(**shell("until [ -e go ]; do sleep 0.05; done"), sync={})
    worker = make_worker(PYTHONPATH=f"{tmp_path}{os.pathsep}{CHECKOUT}").start()
    wait_for(lambda: coordinator.heartbeats(job), "a heartbeat")
    os.kill(worker.child("heartbeat"), signal.SIGSTOP)
    worker.wait_for("child_started", child="heartbeat", count=2)
    before = coordinator.heartbeats(job)
    wait_for(lambda: coordinator.heartbeats(job) > before + 1, "heartbeats")
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    # On a busy machine the new one may be silent for so long, too, and is replaced in turn.
    assert 1 <= len(worker.seen("child_silent")) < len(heartbeats_started(worker))


def heartbeats_started(worker: Worker) -> list[dict[str, Any]]:
    return [one for one in worker.seen("child_started") if one["child"] == "heartbeat"]


def test_a_stopped_runner_and_a_stopped_uploader_are_replaced_and_the_job_completes(
    coordinator: FakeCoordinator,
    worker: Worker,
    s3: S3Server,
    bucket: str,
    sync: dict[str, list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from kelpie_worker.processes import watchdog\nwatchdog._ASK_EVERY, watchdog._LONGEST_ANSWER = 0.5, 2\n"
    )
    job = coordinator.submit(**shell("until [ -e go ]; do sleep 0.05; done; echo 1 > out/x"), sync=sync)
    worker.start(PYTHONPATH=f"{tmp_path}{os.pathsep}{CHECKOUT}")
    worker.wait_for("command_started")
    for child in ("runner", "uploader"):
        os.kill(worker.child(child), signal.SIGSTOP)
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "out/") == {"x": b"1\n"}
    assert sorted(seen["child"] for seen in worker.seen("child_silent")) == ["runner", "uploader"]


def test_a_killed_fork_server_is_replaced_when_a_process_is_to_be_started(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, sync: dict[str, list[dict[str, Any]]]
) -> None:
    s3.put(bucket, "in/data", b"input")
    job = coordinator.submit(**shell("until [ -e go ]; do sleep 0.05; done; cp in/data out/"), sync=sync)
    worker.start()
    worker.wait_for("command_started")
    os.kill(fork_server_of(worker), signal.SIGKILL)
    for name in ("uploader", "heartbeat"):
        os.kill(worker.child(name), signal.SIGKILL)
        worker.wait_for("child_started", child=name, count=2)
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    assert s3.files(bucket, "out/") == {"data": b"input"}
    assert len(worker.seen("nursery_replaced")) == 1
    assert "kelpie-forkserv" in named(worker)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_an_uploader_without_work_gives_its_memory_back_and_serves_the_next_job(
    coordinator: FakeCoordinator,
    worker: Worker,
    s3: S3Server,
    bucket: str,
    sync: dict[str, list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from kelpie_worker.sync import uploader\nassert uploader._LONGEST_IDLE\nuploader._LONGEST_IDLE = 0.5\n"
    )
    copy = shell("cp in/data out/")
    s3.put(bucket, "in/data", b"first")
    first = coordinator.submit(**copy, sync=sync)
    worker.start(PYTHONPATH=f"{tmp_path}{os.pathsep}{CHECKOUT}")
    assert finished(coordinator, first)[0] == "completed"
    with_boto3 = private_memory(worker.child("uploader"))
    worker.wait_for("child_started", child="uploader", count=2)
    assert private_memory(worker.child("uploader")) < with_boto3 / 2
    s3.put(bucket, "in/data", b"second")
    second = coordinator.submit(**copy, sync=sync)
    assert finished(coordinator, second)[0] == "completed"
    assert s3.files(bucket, "out/") == {"data": b"second"}
    assert not worker.seen("child_restarted")


def private_memory(pid: int) -> int:
    """Kilobytes that a process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


# --- as the first process of a container ----------------------------------------------------------------


@pytest.fixture
def first_process(worker: Worker) -> Iterator[Callable[[], Worker]]:
    """Starts a worker as process 1 of a namespace of its own; only root can make one."""
    alone = own_namespace()
    yield lambda: worker.start(through=alone)
    worker.close()


def outside(worker: Worker, pid: int) -> int:
    """What a process of the worker's namespace is called out here."""
    found = []
    for candidate in descendants(worker.pid):
        with suppress(OSError):
            status = Path(f"/proc/{candidate}/status").read_text()
            names = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
            found += [candidate] if names[-1] == str(pid) else []
    (named,) = found
    return named


def test_as_process_1_it_reaps_what_no_other_process_does(first_process: Callable[[], Worker]) -> None:
    worker = first_process()
    worker.wait_for("worker_started")
    worker.child("uploader")
    kelpie = outside(worker, 1)
    before = children_of_all()[kelpie]
    enter = ["nsenter", "-t", str(kelpie), "-p", "-m", "sh", "-c", "sleep 0.2 & sleep 0.2 & sleep 30 &"]
    subprocess.run(enter, check=True)  # like `docker exec`: its orphans are process 1's
    adopted = wait_for(
        lambda: len(children_of_all()[kelpie] - before) == 3, "the orphans to be adopted", pause=0.01
    )
    assert adopted
    wait_for(lambda: len(children_of_all()[kelpie] - before) == 1, "those that ended to be reaped", pause=0.02)


def test_as_process_1_it_survives_the_deaths_of_its_children_and_ends_by_sigterm(
    coordinator: FakeCoordinator, first_process: Callable[[], Worker]
) -> None:
    job = coordinator.submit(**shell("env -i setsid sleep 1000 & exec sleep 1000"), sync={})
    worker = first_process()
    worker.wait_for("command_started")
    os.kill(outside(worker, worker.child("runner")), signal.SIGKILL)
    worker.wait_for("command_started", count=2)
    kelpie = outside(worker, 1)
    assert len(sleeping_under(kelpie)) <= 2
    os.kill(kelpie, signal.SIGTERM)
    assert worker.wait() == 0
    assert [name for name, _ in coordinator.reports(job)] == ["released"]


# --- signals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_other_signals_that_end_a_program_make_it_give_its_job_back(
    coordinator: FakeCoordinator, worker: Worker, number: signal.Signals
) -> None:
    job = coordinator.submit(**shell("exec sleep 1000"), sync={})
    worker.start()
    worker.wait_for("command_started")
    os.killpg(worker.pid, number)  # its children are not meant
    assert worker.wait() == 0
    assert [name for name, _ in coordinator.reports(job)] == ["released"]
    assert not worker.seen("child_restarted")


def test_signals_without_a_meaning_and_the_end_of_a_terminal_under_nohup_end_nothing(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    job = coordinator.submit(**shell("until [ -e go ]; do sleep 0.05; done"), sync={})
    worker.start(through=["nohup"])
    worker.wait_for("command_started")
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        os.killpg(worker.pid, number)
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    assert not worker.seen("child_restarted") and not worker.seen("stopping")


EARLY = """
import os, signal, sys

class AtOnce:
    def find_spec(self, name, path=None, target=None):
        if name == "kelpie_worker.cli":
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, AtOnce())
"""


def test_sigterm_before_the_program_is_loaded_ends_it(
    first_process: Callable[[], Worker], worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(EARLY)
    monkeypatch.setitem(worker._environment, "PYTHONPATH", f"{tmp_path}{os.pathsep}{CHECKOUT}")
    assert first_process().wait() == 0
    assert not worker.lines


# --- what it prints -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 3])
def test_a_report_carries_the_last_output_where_that_is_asked_for(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker], code: int
) -> None:
    # One stream: of two, the order of writes is not known.
    script = f"exec 1>&2; echo beginning; echo out $TOKEN; echo $FROM_CONTAINER_KEY; sleep 1000 & exit {code}"
    job = coordinator.submit(**shell(script), environment={"TOKEN": "swordfish"}, sync={})
    worker = make_worker(KELPIE_REPORT_OUTPUT="25", FROM_CONTAINER_KEY="in-the-container").start()
    report, body = finished(coordinator, job)
    assert report == ("failed" if code else "completed")
    assert body["output"] == "*" * 7 + "\n" + "*" * 16 + "\n"
    assert "out swordfish" in worker.lines  # as the command printed it
    assert "swordfish" not in worker.state_file.read_text()
    assert not any("swordfish" in str(event) for event in worker.events)


def test_without_being_asked_a_report_carries_no_output(coordinator: FakeCoordinator, worker: Worker) -> None:
    job = coordinator.submit(**shell("echo something >&2"), sync={})
    worker.start()
    assert "output" not in finished(coordinator, job)[1]
    assert "something" in worker.lines


@pytest.mark.parametrize("coordinator", ["", "claim-id, release"], indirect=True)
def test_a_server_that_knows_no_attempts_gets_no_output(
    coordinator: FakeCoordinator, make_worker: Callable[..., Worker]
) -> None:
    job = coordinator.submit(**shell("echo something >&2"), sync={})
    make_worker(KELPIE_REPORT_OUTPUT="100").start()
    assert "output" not in finished(coordinator, job)[1]
