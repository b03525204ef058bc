"""What the routes of the API can serve, beside a route of Flask that answers a constant on the same gunicorn.

Two processes, sixteen connections that are kept, the same machine for the server, the client and Postgres. What is
compared is measured in turns in one run. Open jobs have an environment of 4 KiB, which is sealed.
"""

from __future__ import annotations

import http.client
import itertools
import json
import multiprocessing
import os
import secrets
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import psycopg

from bench.clients import Answered, ask, request, spread
from bench.fill import Contents, fill
from bench.harness import GROUP, HELP, Goals, Tenant, make_tenant, opened, own_database, server
from kelpie_api.db import Database
from kelpie_api.encryption import Seal
from kelpie_api.queue import jobs
from kelpie_api.sealed.environments import seal_all
from local_stack.processes import Child, free_port, processes_in_session, scratch_folder, wait_until_ready

ROOT = Path(__file__).resolve().parent.parent
SECRET_KEY = "the same whenever a benchmark starts on one database"
CLIENT_PROCESSES, CLIENTS_A_PROCESS = 2, 8
CONNECTIONS = 16
BATCH = 1000  # jobs
BATCHES_AT_ONCE = 2  # connections that send batches without a pause
OTHERS, OTHERS_PAUSE = 8, 0.1  # connections beside them, and seconds between two heartbeats of each
# Answers a second of a route : of the bare one.
GOALS = {"heartbeat": 0.40, "empty poll": 0.35, "claim": 0.25, "submit": 0.20, "read": 0.40, "page of 100": 0.08}
ENVIRONMENT = 4096  # bytes, of each job
JOBS_A_SECOND, P99 = 5000, 0.250  # of batches; and seconds, of other requests beside them


@contextmanager
def gunicorn(url: str, folder: Path) -> Iterator[int]:
    """The API on a port of 127.0.0.1."""
    with serve(url, folder) as (_, port):
        yield port


@contextmanager
def serve(url: str, folder: Path, more: Mapping[str, str] | None = None) -> Iterator[tuple[Child, int]]:
    """The API, its process and its port on 127.0.0.1; `more`: settings of its environment."""
    with served(url, folder, "wsgi:app", "/readyz", more) as running:
        yield running


@contextmanager
def served(
    url: str, folder: Path, application: str, probed: str, more: Mapping[str, str] | None = None, *options: str
) -> Iterator[tuple[Child, int]]:
    """gunicorn with an application, as soon as the path `probed` is answered 200: its process and its port."""
    port = free_port()
    settings = {
        "DATABASE_URL": url,
        "KELPIE_SECRET_KEY": SECRET_KEY,
        "KELPIE_LOG_LEVEL": "warn",
        **(more or {}),
    }
    child = Child(
        f"gunicorn-{application.partition(':')[0]}",
        [
            *(sys.executable, "-m", "gunicorn", f"--config={ROOT / 'gunicorn.conf.py'}"),
            *(f"--bind=127.0.0.1:{port}", *options, application),
        ],
        folder=folder,
        env={**os.environ, **settings},
        cwd=ROOT,
    )
    try:
        wait_until_ready(child, lambda: is_ready(port, probed))
        yield child, port
    finally:
        child.stop()


def is_ready(port: int, probed: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", probed)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def claims_a_second(url: str, key: str, seconds: float, folder: Path) -> float:
    """Claims answered with a job, a second, over all clients."""
    with gunicorn(url, folder) as port:
        # A warm-up, so that every process of gunicorn has started before the measurement.
        claim_for(port, key, seconds / 5)
        before, began = claimed(url), time.monotonic()
        context = multiprocessing.get_context("spawn")
        clients = [context.Process(target=claim_for, args=(port, key, seconds)) for _ in range(CLIENT_PROCESSES)]
        for client in clients:
            client.start()
        # The start of the clients does not count: the measurement begins with their first claim.
        while claimed(url) == before and any(client.is_alive() for client in clients):
            began = time.monotonic()
        for client in clients:
            client.join()
        took = time.monotonic() - began
        if any(client.exitcode for client in clients):
            raise RuntimeError("a client of the API failed; its error is printed above")
        return (claimed(url) - before) / took


def claimed(url: str) -> int:
    """How many claims have been answered with a job so far."""
    with psycopg.connect(url) as connection:
        found = connection.execute("select count(*) from attempts").fetchone()
    return int(found[0]) if found else 0


def claim_for(port: int, key: str, seconds: float) -> None:
    """Claim without a pause from several threads, each with its own connection."""
    failed: list[BaseException] = []
    deadline = time.monotonic() + seconds
    threads = [
        threading.Thread(target=claim_until, args=(port, key, deadline, number, failed))
        for number in range(CLIENTS_A_PROCESS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def claim_until(port: int, key: str, deadline: float, number: int, failed: list[BaseException]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    machine = f"machine-{os.getpid()}-{number}"
    try:
        while time.monotonic() < deadline:
            connection.request(
                "GET",
                f"/work?machine_id={machine}&container_group_id={GROUP}&claim_id={uuid4()}",
                headers={"X-Kelpie-Key": key},
            )
            answer = connection.getresponse()
            body = json.loads(answer.read())
            if answer.status == 503:  # more is asked for than the machine can do: that is no claim, and no failure
                time.sleep(float(answer.headers["Retry-After"]))
                continue
            if answer.status != 200 or not body:
                raise RuntimeError(f"a claim was answered {answer.status}: {body}")
    except Exception as error:  # noqa: BLE001 - raised by the thread that joins this one
        failed.append(error)
    finally:
        connection.close()


@dataclass(frozen=True)
class Target:
    """What the clients send requests to."""

    port: int
    bare_port: int
    sessions: tuple[int, int]  # of the processes of the API, and of those of the bare route
    key: str
    held: list[str]  # jobs, one for each of CONNECTIONS machines


class Measured:
    """One run: what each round saw of the bare route and of each route of the API.

    `clients` are processes of their own, which have no other work.
    """

    def __init__(self, target: Target, clients: Pool, seconds: float) -> None:
        self.target, self.clients, self.seconds = target, clients, seconds
        self.rates: dict[str, list[float]] = {"bare": [], **{name: [] for name in GOALS}}
        self.medians: dict[str, list[float]] = {name: [] for name in self.rates}
        self.processor_times: dict[str, list[float]] = {name: [] for name in self.rates}

    def warm_up(self) -> None:
        """Send requests until every process and thread of the servers has started."""
        for name in ("bare", "submit"):
            self.clients.apply(load, (self.target, name, CONNECTIONS, self.seconds))

    def round(self) -> None:
        """Measure each route once."""
        for name in self.rates:
            session = self.target.sessions[name == "bare"]
            before = processor_time(session)
            seen = self.clients.apply(load, (self.target, name, CONNECTIONS, self.seconds))
            self.rates[name].append(seen.rate)
            self.medians[name].append(seen.quantile(0.5))
            self.processor_times[name].append((processor_time(session) - before) / len(seen.latencies))

    def ratio(self, name: str) -> float:
        """The rate of a route by that of the bare one in the same round, the median of all rounds."""
        return statistics.median(
            rate / bare for rate, bare in zip(self.rates[name], self.rates["bare"], strict=True)
        )

    def batches(self) -> tuple[float, Answered]:
        """Jobs a second in batches, and the answers to heartbeats that were sent beside them."""
        seconds = 3 * self.seconds
        batches = self.clients.apply_async(load, (self.target, "batch", BATCHES_AT_ONCE, seconds))
        others = self.clients.apply_async(load, (self.target, "heartbeat", OTHERS, seconds, OTHERS_PAUSE))
        return batches.get().rate * BATCH, others.get()


def processor_time(session: int) -> float:
    """Seconds that the processes of a server have taken so far."""
    stats = [
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in processes_in_session(session)
    ]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def claimed_job(db: Database, tenant: Tenant, machine: str) -> str:
    """The id of a job that the machine holds in its first attempt."""
    job = jobs.claim(db, tenant.caller, machine, GROUP, uuid4())
    if job is None:
        raise RuntimeError("there is no job to claim")
    return str(job["id"])


def load(target: Target, name: str, connections: int, seconds: float, pause: float = 0.0) -> Answered:
    """What the clients see that send requests of one kind from so many connections."""
    make = MADE[name]
    requests = [(make(target, number) for _ in itertools.count()) for number in range(connections)]
    port = target.bare_port if name == "bare" else target.port
    return ask(spread(port, target.sessions[name == "bare"], connections), requests, seconds, pause)


def heartbeat(target: Target, number: int) -> bytes:
    report = {"machine_id": f"machine-{number}", "container_group_id": GROUP, "attempt": 1, "checkpoint_lag": 0}
    return request("POST", f"/jobs/{target.held[number]}/heartbeat", target.key, json.dumps(report).encode())


def claim(target: Target, number: int, group: str = GROUP) -> bytes:
    machine = f"machine_id=machine-{number}&container_group_id={group}"
    return request("GET", f"/work?{machine}&claim_id={uuid4()}", target.key)


def environment() -> dict[str, str]:
    """Variables of ENVIRONMENT bytes, names and values."""
    names = [f"SETTING_{number:02}" for number in range(16)]
    each = ENVIRONMENT // len(names) - len(names[0])
    return {name: secrets.token_hex(each)[:each] for name in names}


def definition(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A job with inputs, checkpoints and outputs in a folder of its own, and with these variables or new ones."""
    folder = f"jobs/{uuid4()}"
    own = {"bucket": "my-bucket", "prefix": f"{folder}/state/", "local_path": "state"}
    data = {"bucket": "my-bucket", "prefix": "data/", "local_path": "data", "direction": "download"}
    results = {"bucket": "my-bucket", "prefix": f"{folder}/out/", "local_path": "out", "direction": "upload"}
    return {
        "command": "python",
        "arguments": ["train.py", "--steps", "1000"],
        "environment": variables or environment(),
        "container_group_id": "submitted",
        "sync": {
            "before": [data, own | {"direction": "download"}],
            "during": [own | {"direction": "upload"}],
            "after": [results],
        },
        "max_failures": 3,
        "heartbeat_interval": 30,
    }


def batch(target: Target, number: int) -> bytes:
    variables = environment()  # the same for all: to make them takes the client longer than all else
    submitted = [definition(variables) for _ in range(BATCH)]
    return request("POST", "/jobs/batch", target.key, json.dumps(submitted).encode())


MADE: dict[str, Callable[[Target, int], bytes]] = {
    "bare": lambda target, number: request("GET", "/"),
    "heartbeat": heartbeat,
    "empty poll": lambda target, number: claim(target, number, "no-jobs"),
    "claim": claim,
    "submit": lambda target, number: request("POST", "/jobs", target.key, json.dumps(definition()).encode()),
    "read": lambda target, number: request("GET", f"/jobs/{target.held[number]}", target.key),
    "page of 100": lambda target, number: request("GET", "/jobs?page_size=100", target.key),
    "batch": batch,
}


def table(measured: Measured) -> Iterator[str]:
    """The lines of a table in Markdown."""
    yield "| | goal | rate : bare | answers a second | median | processor time of gunicorn |"
    yield "|---|---|---|---|---|---|"
    for name, rates in measured.rates.items():
        goal = f"{GOALS[name]:.2f}" if name in GOALS else ""
        rate, latency = statistics.median(rates), statistics.median(measured.medians[name]) * 1000
        taken = statistics.median(measured.processor_times[name]) * 1000
        yield f"| {name} | {goal} | {measured.ratio(name):.3f} | {rate:,.0f} | {latency:.1f} ms | {taken:.2f} ms |"


@click.command(help=__doc__, context_settings=HELP)
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Of each route in each round.")
@click.option("--processes", default=2, show_default=True, help="Of gunicorn.")
@click.option("--table", "written", type=click.Path(path_type=Path), help="A file that gets the table as well.")
@click.option("--small", is_flag=True, help="One short round, judging no times.")
def main(rounds: int, seconds: float, processes: int, written: Path | None, small: bool) -> None:
    if small:
        rounds, seconds = 1, 0.3
    goals = Goals(judged=not small)
    settings = {"KELPIE_WEB_PROCESSES": str(processes), "KELPIE_LOG_LEVEL": "info"}
    with server() as server_url, own_database(server_url) as url, scratch_folder() as folder, opened(url) as db:
        tenant = make_tenant(db)
        pending = 1000 + int(2000 * rounds * seconds)
        fill(url, tenant.caller.tenant_id, Contents(pending, 1000, environment=environment()))
        seal_all(db, Seal(SECRET_KEY), sleep=lambda seconds: None)
        with (
            serve(url, folder, settings) as (api, port),
            served(url, folder, "bench.bare:app", "/", settings, "--worker-class=gthread") as (bare, bare_port),
            multiprocessing.get_context("spawn").Pool(2) as clients,
        ):
            held = [claimed_job(db, tenant, f"machine-{number}") for number in range(CONNECTIONS)]
            measured = Measured(Target(port, bare_port, (api.pid, bare.pid), tenant.key, held), clients, seconds)
            measured.warm_up()
            for _ in range(rounds):
                measured.round()
            jobs_a_second, others = measured.batches()
    lines = list(table(measured))
    click.echo("\n".join(lines))
    for name, goal in GOALS.items():
        ratio = measured.ratio(name)
        goals.figure(f"{name}: {ratio:.3f} of the bare route (goal: at least {goal:.2f})", ratio >= goal)
    goals.figure(
        f"batches of {BATCH:,}: {jobs_a_second:,.0f} jobs a second (goal: at least {JOBS_A_SECOND:,})",
        jobs_a_second >= JOBS_A_SECOND,
    )
    late = others.quantile(0.99)
    goals.figure(
        f"other requests beside them: p99 {late * 1000:.0f} ms (goal: under {P99 * 1000:.0f} ms)", late < P99
    )
    if written:
        written.write_text("\n".join(lines) + "\n")
    sys.exit(goals.verdict())


if __name__ == "__main__":
    main()
