"""How soon the client's command line answers: its help, and a list of jobs from an API on this machine."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from bench.api import ROOT, serve
from bench.harness import HELP, Goals, make_tenant, opened, own_database, server
from bench.turnaround import submit
from local_stack.processes import scratch_folder

CALLS = {"--help": 0.3, "ls": 0.5}  # arguments, and the seconds that the median must stay below
JOBS = 20


@dataclass(frozen=True)
class Spent:
    """Seconds of one call: on the clock, and of a processor."""

    clock: float
    processor: float


@click.command(help=__doc__, context_settings=HELP)
@click.option("--calls", default=10, show_default=True, help="Of each command.")
@click.option("--program", help="The installed kelpie to measure; else the one of this checkout.")
@click.option("--small", is_flag=True, help="Three calls of each, judging no times.")
def main(calls: int, program: str | None, small: bool) -> None:
    goals = Goals(judged=not small)
    command = [program] if program else [sys.executable, "-m", "kelpie"]
    with (
        server() as server_url,
        own_database(server_url) as url,
        scratch_folder() as folder,
        opened(url) as db,
        serve(url, folder) as (_, port),
    ):
        key = make_tenant(db).key
        submit(port, key, JOBS, {})
        user = {"HOME": str(folder), "KELPIE_API_URL": f"http://127.0.0.1:{port}", "KELPIE_API_KEY": key}
        for argument, goal in CALLS.items():
            spent = [one_call([*command, argument], user) for _ in range(3 if small else calls)]
            median = statistics.median(one.clock for one in spent)
            processor = statistics.median(one.processor for one in spent)
            what = f"kelpie {argument}: {median:.2f} s, of a processor {processor:.2f} s (median of {len(spent)})"
            goals.figure(f"{what} (goal: under {goal} s)", median < goal)
    sys.exit(goals.verdict())


def one_call(command: list[str], user: Mapping[str, str]) -> Spent:
    used, begun = processor_seconds(), time.monotonic()
    environment = {**os.environ, **user, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=Path(user["HOME"]), capture_output=True, check=True)
    clock = time.monotonic() - begun
    if not done.stdout:
        raise RuntimeError(f"{' '.join(command)} printed nothing")
    return Spent(clock, processor_seconds() - used)


def processor_seconds() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
