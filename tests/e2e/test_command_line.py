"""What is typed in a shell beside real machines: exit codes, and output that is followed through everything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest

from local_stack.processes import CHECKOUT, wait_for
from local_stack.stack import LocalStack

# Seconds until a line is shown that is printed while the output is read along: the first one, and those after it.
# Where other programs take the processors, single lines come later. That no line is made to wait for longer is
# shown without a clock: tests/command/test_output_watch.py (the pieces), tests/queue/test_output.py (the next
# attempt hears of the reader).
FIRST, LATER = 12.0, 2.0
# Seconds in which the first twelve lines of a job that has just begun are shown, which take 2.4 to print.
BEGINNING = 6.0


@pytest.fixture
def shell(stack: LocalStack, tmp_path: Path) -> dict[str, str]:
    """The environment of a user's shell, in an empty home, with `kelpie` on its path."""
    program = tmp_path / "bin" / "kelpie"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kelpie "$@"\n')
    program.chmod(0o755)
    return {
        "HOME": str(tmp_path),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(CHECKOUT),
        "KELPIE_API_URL": stack.api_url,
        "KELPIE_API_KEY": stack.user_key,
    }


@pytest.fixture(scope="module")
def group(stack: LocalStack) -> Iterator[str]:
    """A group of three machines, of which the last test loses one."""
    name = f"typed-{uuid.uuid4().hex[:8]}"
    machines = [stack.start_worker(f"{name}-{number}", {"SALAD_CONTAINER_GROUP_ID": name}) for number in range(3)]
    yield name
    for machine in machines:
        machine.crash()


class Followed:
    """`kelpie logs -f` of a job, with the moment at which each line came."""

    def __init__(self, job: str, shell: dict[str, str]) -> None:
        self.lines: list[tuple[float, str]] = []
        self.process = subprocess.Popen(
            ["kelpie", "logs", "-f", job], env=shell, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append((time.time(), line.rstrip("\n")))

    def has(self, pattern: str) -> Callable[[], bool]:
        return lambda: any(re.fullmatch(pattern, line) for _, line in list(self.lines))

    def delays(self, beginning: str) -> list[float]:
        """Seconds from the printing of lines that begin so, and end with its time, until they were shown."""
        return [
            shown - float(line.rsplit(" at ")[-1])
            for shown, line in list(self.lines)
            if line.startswith(beginning)
        ]

    def end(self) -> int:
        code = self.process.wait(timeout=60)
        self._reader.join()
        return code


def submit(shell: dict[str, str], *words: str) -> str:
    return subprocess.run(
        ["kelpie", "submit", "-q", *words], env=shell, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


def test_a_job_that_fails_is_told_by_the_exit_code_of_wait(
    group: str, shell: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / ".kelpie.toml").write_text(f'group = "{group}"\n')
    typed = (
        "kelpie submit -n t1 -- sh -c 'exit 3'; kelpie wait t1; echo $?; kelpie ls -n t1 --json | jq -r .status"
    )
    done = subprocess.run(
        ["sh", "-c", typed], env=shell, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    _, code, status = done.stdout.splitlines()
    assert (code, status) == ("10", "failed"), done.stderr
    assert "failed after 3 failures: " in done.stderr


def test_output_is_shown_within_seconds_of_its_printing(
    stack: LocalStack, group: str, shell: dict[str, str]
) -> None:
    """Of a job with the usual interval, whose output is not read along before."""
    job = submit(shell, "-g", group, "--", "sh", "-c", "while :; do date +%s.%N; sleep 0.5; done")
    wait_for(lambda: stack.client.job(job)["phase"] == "running", "the job to run", timeout=60)
    followed = Followed(job, shell)

    def new() -> list[tuple[float, float]]:
        """When each line was shown and printed that was printed once the first ones had been shown."""
        times = [(shown, float(line)) for shown, line in followed.lines[1:]]
        return [(shown, printed) for shown, printed in times if printed > followed.lines[0][0]]

    try:
        wait_for(new, "the first line", timeout=60)
        first, _ = new()[0]
        wait_for(lambda: len([1 for _, printed in new() if printed > first]) >= 6, "more lines", timeout=60)
    finally:
        stack.client.cancel(job)
        followed.end()
    assert followed.lines[0][1] == "--- attempt 1 ---"
    assert first - followed.lines[0][0] < FIRST
    late = [shown - printed for shown, printed in new() if printed > first]
    assert median(late) < LATER, late


def test_output_is_followed_through_the_loss_of_a_machine_and_a_restart_of_the_coordinator(
    stack: LocalStack, group: str, shell: dict[str, str], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    printed = "attempt $KELPIE_ATTEMPT line $n at $(date +%s.%N)"
    loop = f"n=0; until test -e {gate}; do n=$((n + 1)); echo {printed}; sleep 0.2; done"
    job = submit(shell, "-g", group, "--interval", "1", "--", "sh", "-c", loop)
    followed = Followed(job, shell)
    try:
        wait_for(followed.has("attempt 1 line 12 .*"), "the output of the first machine", timeout=60)
        holder = stack.client.job(job)["machine_id"]
        next(worker for worker in stack.workers if worker.machine_id == holder).vanish()
        wait_for(followed.has("attempt 2 line 12 .*"), "the output of another machine", timeout=60)
        late = followed.delays("attempt 2")
        stack.kill_api()
        stack.start_api()
        known = len(followed.lines)
        wait_for(lambda: len(followed.lines) > known + 3, "output after the restart", timeout=60)
    finally:
        gate.touch()
        code = followed.end()
    lines = [line.partition(" at ")[0] for _, line in followed.lines]
    assert (code, lines[0]) == (0, "--- attempt 1 ---")
    assert followed.lines[lines.index("attempt 1 line 12")][0] - followed.lines[0][0] < BEGINNING
    second = lines[lines.index("--- attempt 2 ---") + 1 :]
    assert second == [f"attempt 2 line {number}" for number in range(1, len(second) + 1)]
    assert median(late) < LATER, late
