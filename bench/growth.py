"""The times of four requests as the database grows: a claim, a heartbeat, a page of 100 jobs, a submission.

One size after the other, each in a database of its own, over HTTP. Beside them stands a request that reads no
table (`GET /healthz`), by whose times the load of the machine shows.
"""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import click

from bench.api import serve
from bench.fill import Contents, fill
from bench.harness import GROUP, HELP, Goals, make_tenant, opened, own_database, server
from local_stack.processes import scratch_folder

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
SMALL_SIZES = (1_000, 4_000)
PENDING = 10  # one in so many jobs waits; the others have finished
MOST_TIMES = 2.0  # the time beside the most rows : beside the fewest, less what the load did to /healthz
Times = dict[str, float]  # milliseconds, medians


class Client:
    """One connection to the API, and the times of its requests."""

    def __init__(self, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._key = key
        self.close = self._connection.close

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer. Raises RuntimeError if it is a refusal."""
        headers = {"X-Kelpie-Key": self._key, "Content-Type": "application/json"}
        self._connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path} was answered {answer.status}: {content!r}")
        return json.loads(content)


@click.command(help=__doc__, context_settings=HELP)
@click.option("--sizes", default=",".join(map(str, SIZES)), show_default=True, help="Jobs in each database.")
@click.option("--requests", default=200, show_default=True, help="Of each kind, of which the medians are shown.")
@click.option("--points", type=click.Path(path_type=Path), help="Write the medians to this file, as JSON.")
@click.option("--small", is_flag=True, help="Two sizes of thousands, judging no times.")
def main(sizes: str, requests: int, points: Path | None, small: bool) -> None:
    counts = SMALL_SIZES if small else tuple(map(int, sizes.split(",")))
    requests = 10 if small else requests
    goals = Goals(judged=not small)
    measured: dict[int, Times] = {}
    with server() as server_url:
        for jobs in counts:
            measured[jobs] = medians_beside(server_url, jobs, requests)
            click.echo(f"{jobs:>12,} jobs: " + ", ".join(f"{n} {t:.2f} ms" for n, t in measured[jobs].items()))
            if points:
                points.write_text(json.dumps(measured))
    judge(measured, goals)
    sys.exit(goals.verdict())


def judge(measured: dict[int, Times], goals: Goals) -> None:
    fewest, most = min(measured), max(measured)
    load = measured[most]["no table"] / measured[fewest]["no table"]
    for what in measured[most]:
        if what == "no table":
            continue
        ratio = measured[most][what] / measured[fewest][what] / load
        goals.figure(
            f"{what}: {ratio:.2f} times as long beside {most:,} jobs as beside {fewest:,}, {load:.2f} of the load"
            f" taken out (goal: {MOST_TIMES} at most)",
            ratio <= MOST_TIMES,
        )


def medians_beside(server_url: str, jobs: int, requests: int) -> Times:
    """Fill a database with so many jobs, and measure beside them."""
    with own_database(server_url) as url, scratch_folder() as folder:
        with opened(url) as db:
            tenant = make_tenant(db)
        fill(url, tenant.caller.tenant_id, Contents(jobs // PENDING, jobs - jobs // PENDING))
        with serve(url, folder) as (_, port), closing(Client(port, tenant.key)) as client:
            return medians(client, requests)


def medians(client: Client, requests: int) -> Times:
    """The kinds of requests in turns, so that all see the same load."""
    held: list[dict[str, Any]] = []

    def claim() -> None:
        query = f"machine_id=machine-1&container_group_id={GROUP}&claim_id={uuid4()}"
        held.extend(client.ask("GET", f"/work?{query}"))

    def beat() -> None:
        job = held[-1]
        body = {"machine_id": "machine-1", "container_group_id": GROUP, "attempt": job["attempt"]}
        if client.ask("POST", f"/jobs/{job['id']}/heartbeat", body)["status"] != "running":
            raise RuntimeError("a holder's heartbeat was refused")

    kinds: dict[str, Callable[[], Any]] = {
        "claim": claim,
        "heartbeat": beat,
        "page of 100 jobs": lambda: client.ask("GET", "/jobs?page_size=100"),
        "submission": lambda: client.ask("POST", "/jobs", {"command": "work", "container_group_id": GROUP}),
        "no table": lambda: client.ask("GET", "/healthz"),
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(-max(3, requests // 10), requests):
        for kind, request in kinds.items():
            began = time.perf_counter()
            request()
            if number >= 0:  # those before are a warm-up
                times[kind].append((time.perf_counter() - began) * 1000)
    return {kind: statistics.median(found) for kind, found in times.items()}


if __name__ == "__main__":
    main()
