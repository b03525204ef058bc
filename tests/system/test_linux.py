"""What is read from the kernel."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kelpie_worker.system import linux


@pytest.mark.parametrize(
    ("cgroup", "files", "kills"),
    [
        ("0::/a/b", {"sys/fs/cgroup/a/b/memory.events": "low 0\noom 3\noom_kill 2\n"}, 2),
        ("0::/of/the/host", {"sys/fs/cgroup/memory.events": "oom 1\noom_kill 1\n"}, 1),
        ("4:cpu,memory:/a\n0::/", {"sys/fs/cgroup/memory/a/memory.oom_control": "under_oom 0\noom_kill 5\n"}, 5),
        ("4:memory:/host", {"sys/fs/cgroup/memory/memory.oom_control": "oom_kill 4\n"}, 4),
        ("0::/", {"proc/vmstat": "nr_free_pages 7\noom_kill 6\n"}, 6),
        ("0::/", {"sys/fs/cgroup/memory.events": "oom_kill 1\n", "proc/vmstat": "oom_kill 6\n"}, 1),
        ("rubbish", {}, None),
        ("0::/", {}, None),
    ],
)
def test_where_the_kernel_counts_its_kills(
    tmp_path: Path, cgroup: str, files: dict[str, str], kills: int | None
) -> None:
    for name, content in {"proc/self/cgroup": cgroup, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert linux.oom_kills(tmp_path) == kills


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def test_a_process_is_killed_only_if_it_is_the_one_that_was_meant(sleeper: subprocess.Popen[bytes]) -> None:
    linux.kill_if(lambda pid: pid != sleeper.pid, sleeper.pid)
    assert sleeper.poll() is None
    linux.kill_if(lambda pid: pid == sleeper.pid, sleeper.pid)
    assert sleeper.wait() == -9


def test_a_process_that_took_the_id_of_one_that_ended_meanwhile_is_let_be(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_pid = os.pidfd_open
    with subprocess.Popen(["true"]) as ended:
        handle = open_pid(ended.pid)
        ended.wait()
    monkeypatch.setattr(os, "pidfd_open", lambda pid: handle)  # as if the sleeper had got that id since
    linux.kill_if(lambda pid: True, sleeper.pid)
    assert sleeper.poll() is None


def test_where_the_kernel_holds_no_processes_by_descriptors_the_meant_one_is_killed_too(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(pid: int) -> int:
        raise PermissionError(pid)

    monkeypatch.setattr(os, "pidfd_open", forbidden)
    linux.kill_if(lambda pid: pid != sleeper.pid, sleeper.pid)
    assert sleeper.poll() is None
    linux.kill_if(lambda pid: pid == sleeper.pid, sleeper.pid)
    assert sleeper.wait() == -9


def test_processes_are_killed_and_reaped_until_none_is_found(sleeper: subprocess.Popen[bytes]) -> None:
    later = subprocess.Popen(["sleep", "1000"])
    started = [sleeper]

    def reap() -> None:
        for process in started:
            process.wait()
        started[:] = [later] if started == [sleeper] else []

    linux.kill_until_gone(lambda: {process.pid for process in started}, lambda pid: True, reap)
    assert (sleeper.returncode, later.returncode) == (-9, -9)


def test_a_process_that_cannot_be_killed_is_named_and_not_waited_for(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(linux, "_LONGEST_KILLING", 0.0)
    linux.kill_until_gone(lambda: {sleeper.pid}, lambda pid: False, lambda: None)
    assert sleeper.poll() is None
    assert f'"pids": [{sleeper.pid}]' in capfd.readouterr().err


def test_the_state_and_the_parent_are_told_whatever_the_process_is_called(tmp_path: Path) -> None:
    program = tmp_path / "a ) b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "1000"]) as process:
        assert linux.stat_of(process.pid)[1] == str(os.getpid()).encode()
        assert linux.parent_of(process.pid) == os.getpid()
        process.kill()


def test_descendants_are_told_from_others(sleeper: subprocess.Popen[bytes]) -> None:
    assert linux.descends_from(sleeper.pid, os.getpid())
    assert linux.descends_from(sleeper.pid, os.getppid())
    assert not linux.descends_from(os.getppid(), os.getpid())


def test_two_mounts_of_one_disk_are_two_places(tmp_path: Path) -> None:
    assert linux.mount_of(tmp_path) == linux.mount_of(tmp_path.parent)
    assert linux.mount_of(tmp_path) != linux.mount_of(Path("/proc"))
