"""Runs every benchmark and writes bench/RESULTS.md: the goals, what was measured, and what was met or missed.

A benchmark that fails is shown as failed, and the others are run all the same. With --quick each is small: that
shows that they work, and judges no times.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from bench.api import ROOT
from bench.harness import HELP
from bench.sync import CACHE, cache_environment

RESULTS, PLOT = ROOT / "bench" / "RESULTS.md", ROOT / "bench" / "growth.png"
LONGEST = 3600  # seconds of one benchmark
MARKS = {True: "met", False: "**missed**", None: "not judged"}
# In the order of the table, with the arguments of each. bench.fill has no goals, and bench.frozen is for a binary
# that was built.
BENCHES = (
    "api",
    "fleet",
    "fleet --telling --steps 10000",
    "sync",
    "claim",
    "claim --parked",
    "bulk",
    "growth",
    "sustained",
    "waiting",
    "scaling",
    "turnaround",
    "startup",
    "idle",
    "contents",
    "growing",
    "pages",
    "tabs",
    "torn",
)
MORE = {"sync": ["--tools", "s5cmd"]}  # arguments; the table shows our rates beside this one's


@dataclass
class Run:
    """One benchmark's run. `load`: the machine's load average before and after it."""

    bench: str
    load: tuple[float, float] = (0.0, 0.0)
    seconds: float = 0.0
    rows: list[dict[str, object]] = field(default_factory=list)
    error: str = ""


@click.command(help=__doc__, context_settings=HELP)
@click.option("--quick", is_flag=True, help="Small runs, some minutes in all.")
@click.option("--only", default=",".join(BENCHES), show_default=True, help="Run these, and keep no others' rows.")
@click.option("--output", default=RESULTS, show_default=True, type=click.Path(path_type=Path))
@click.option("--plot", default=PLOT, show_default=True, type=click.Path(path_type=Path))
def main(quick: bool, only: str, output: Path, plot: Path) -> None:
    runs: list[Run] = []
    points = output.with_suffix(".points")
    for bench in only.split(","):
        click.echo(f"--- {bench}")
        runs.append(run(bench, quick, points))
        output.write_text(document(runs, quick, plot))  # what there is, should this be ended early
    if points.exists():
        draw(points, plot)
        points.unlink()
        output.write_text(document(runs, quick, plot))
    sys.exit(any(run.error or any(row["met"] is False for row in run.rows) for run in runs))


def run(bench: str, quick: bool, points: Path) -> Run:
    found = Run(bench)
    rows = points.with_suffix(".rows")
    rows.write_text("")
    name, *options = bench.split()
    command = [
        sys.executable,
        "-m",
        f"bench.{name}",
        *options,
        *(["--small"] if quick else []),
        *MORE.get(bench, []),
    ]
    if bench == "growth":
        command += ["--points", str(points)]
    before, began = os.getloadavg()[0], time.monotonic()
    try:
        ended = subprocess.run(command, cwd=ROOT, env={**os.environ, "BENCH_ROWS": str(rows)}, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        found.error = f"it did not end within {LONGEST} s"
    found.seconds, found.load = time.monotonic() - began, (before, os.getloadavg()[0])
    found.rows = [json.loads(line) for line in rows.read_text().splitlines()]
    rows.unlink()
    if not found.error and ended.returncode and not any(row["met"] is False for row in found.rows):
        found.error = f"it failed, with exit code {ended.returncode}"
    return found


def draw(points: Path, plot: Path) -> None:
    """Draw the plot by matplotlib in the environment that the peers' tools have, which is made if need be."""
    cache_environment("matplotlib")
    subprocess.run([CACHE / "bin" / "python", ROOT / "bench" / "plot.py", points, plot], check=True)


def document(runs: list[Run], quick: bool, plot: Path) -> str:
    return "\n".join(lines(runs, quick, plot)) + "\n"


def lines(runs: list[Run], quick: bool, plot: Path) -> Iterator[str]:
    yield "# What the benches measured"
    yield ""
    yield f"Written by `scripts/bench{' --quick' if quick else ''}` on {time.strftime('%Y-%m-%d', time.gmtime())}."
    yield f"Machine: {machine()}. What each bench measures, and how, says the [README](README.md)."
    if quick:
        yield "A quick run: it shows that the benches work, and judges no times."
    yield ""
    yield "| bench | measured | goal | |"
    yield "|---|---|---|---|"
    for run in runs:
        for row in run.rows:
            yield f"| {run.bench} | {cell(row['what'])} | {cell(row['goal'])} | {MARKS[row['met']]} |"  # type: ignore[index]
        if run.error:
            yield f"| {run.bench} | {run.error} | | **failed** |"
    yield ""
    yield "| bench | seconds | load of the machine before, after |"
    yield "|---|---|---|"
    for run in runs:
        yield f"| {run.bench} | {run.seconds:.0f} | {run.load[0]:.1f}, {run.load[1]:.1f} |"
    if plot.exists():
        yield ""
        yield f"![Four requests beside ever more jobs]({plot.name})"


def cell(text: object) -> str:
    return str(text).replace("|", "\\|")


def machine() -> str:
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in cpus if line.startswith("model name")), platform.machine())
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1024**2
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB of memory, Linux {platform.release()},"
        f" Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
