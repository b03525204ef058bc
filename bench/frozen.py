"""How large the frozen worker is, and how soon it starts: dist/kelpie, which scripts/freeze makes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

from bench.harness import HELP, Goals

LARGEST = 40_000_000  # bytes
SLOWEST = 2.0  # seconds from the call to the first line


@click.command(help=__doc__, context_settings=HELP)
@click.argument("binary", default="dist/kelpie", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--starts", default=20, show_default=True)
def main(binary: Path, starts: int) -> None:
    goals = Goals(judged=True)
    size = binary.stat().st_size
    goals.fact(f"{size / 1e6:.1f} MB (goal: under {LARGEST / 1e6:.0f})", size < LARGEST)
    times = [start(binary) for _ in range(starts)]
    median, longest = statistics.median(times), max(times)
    goals.fact(f"starts in {median:.2f} s, {longest:.2f} s at most (goal: under {SLOWEST:.0f})", longest < SLOWEST)
    sys.exit(goals.verdict())


def start(binary: Path) -> float:
    begun = time.monotonic()
    subprocess.run([binary.resolve(), "--version"], check=True, capture_output=True)
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
