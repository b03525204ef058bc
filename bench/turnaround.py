"""How long a machine is idle between two queued jobs: from one command's end to the next one's start."""

from __future__ import annotations

import http.client
import json
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from bench.api import ROOT, serve
from bench.harness import GROUP, HELP, Goals, make_tenant, opened, own_database, server
from local_stack.processes import Child, scratch_folder, wait_for
from local_stack.s3 import S3Server

BUCKET = "bench"
GOAL = 0.2  # seconds
# Writes a file into each of its directories, and a line with the times of its start and its end.
COMMAND = (
    'begun=$(date +%s%N); mkdir -p out checkpoint; echo "$begun" > out/result; echo "$begun" > checkpoint/state; '
    'sleep 0.1; echo "$begun $(date +%s%N)" >> times'
)
KINDS: dict[str, dict[str, Any]] = {
    "without files": {},
    "with outputs": {"after": [{"bucket": BUCKET, "prefix": "out/", "local_path": "out", "direction": "upload"}]},
    "with inputs, checkpoints and outputs": {
        "before": [{"bucket": BUCKET, "prefix": "in/", "local_path": "in", "direction": "download"}],
        "during": [{"bucket": BUCKET, "prefix": "ck/", "local_path": "checkpoint", "direction": "upload"}],
        "after": [{"bucket": BUCKET, "prefix": "out/", "local_path": "out", "direction": "upload"}],
    },
}


@click.command(help=__doc__, context_settings=HELP)
@click.option("--jobs", default=30, show_default=True, help="Of each kind.")
@click.option("--small", is_flag=True, help="Three jobs of each kind, judging no times.")
def main(jobs: int, small: bool) -> None:
    jobs = 3 if small else jobs
    goals = Goals(judged=not small)
    with (
        server() as server_url,
        own_database(server_url) as url,
        scratch_folder() as folder,
        opened(url) as db,
        serve(url, folder) as (_, port),
        storage(folder) as s3,
    ):
        key = make_tenant(db).key
        for kind, sync in KINDS.items():
            submit(port, key, jobs, sync)
            gaps = measured(folder / kind.replace(" ", "-"), port, key, s3, jobs)
            median, worst = statistics.median(gaps), max(gaps)
            what = (
                f"{kind}: idle for {median * 1000:.0f} ms between two jobs (median; longest {worst * 1000:.0f} ms)"
            )
            goals.figure(what, median < GOAL)
    sys.exit(goals.verdict())


@contextmanager
def storage(folder: Path) -> Iterator[S3Server]:
    s3 = S3Server(folder)
    s3.start()
    try:
        s3.create_bucket(BUCKET)
        s3.put(BUCKET, "in/data", b"input")
        yield s3
    finally:
        s3.stop()


def submit(port: int, key: str, jobs: int, sync: dict[str, Any], command: str = COMMAND) -> None:
    job = {"command": "sh", "arguments": ["-c", command], "container_group_id": GROUP, "sync": sync}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {"X-Kelpie-Key": key, "Content-Type": "application/json"}
        connection.request("POST", "/jobs/batch", json.dumps([job] * jobs), headers)
        answer = connection.getresponse()
        if answer.status != 202:
            raise RuntimeError(f"the batch was answered with {answer.status}: {answer.read()!r}")
    finally:
        connection.close()


def measured(folder: Path, port: int, key: str, s3: S3Server, jobs: int) -> list[float]:
    """Seconds between each command's end and the next one's start, on one worker that runs all jobs."""
    folder.mkdir()
    settings = {
        **s3.environment,
        "PYTHONPATH": str(ROOT),
        "KELPIE_API_URL": f"http://127.0.0.1:{port}",
        "KELPIE_API_KEY": key,
        "SALAD_CONTAINER_GROUP_ID": GROUP,
        "SALAD_MACHINE_ID": folder.name,
        **{f"{name.upper()}_DIR": str(folder / f"legacy-{name}") for name in ("input", "checkpoint", "output")},
    }
    worker = Child(
        "kelpie",
        [sys.executable, "-m", "kelpie_worker"],
        folder=folder,
        env={**os.environ, **settings},
        cwd=folder,
    )
    try:
        wait_for(lambda: len(times(folder)) == jobs, f"{jobs} jobs to be done", timeout=60 + 5 * jobs)
    finally:
        worker.stop()
    done = times(folder)
    return [(begun - ended) / 1e9 for (_, ended), (begun, _) in pairwise(done)]


def times(folder: Path) -> list[tuple[int, int]]:
    """When each command began and ended, in nanoseconds."""
    path = folder / "times"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(begun), int(ended)) for begun, ended in (line.split() for line in lines)]


if __name__ == "__main__":
    main()
