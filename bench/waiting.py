"""What a thousand workers that wait for work cost the API, and how soon a submitted job reaches one of them."""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from uuid import uuid4

import click

from bench.api import serve
from bench.harness import GROUP, HELP, Goals, make_tenant, opened, own_database, server
from local_stack.processes import processes_in_session, scratch_folder, wait_for

WAIT = 20  # seconds, like the worker's long poll


@click.command(help=__doc__, context_settings=HELP)
@click.option("--pollers", default=1000, show_default=True)
@click.option("--submissions", default=50, show_default=True)
@click.option("--small", is_flag=True, help="Twenty pollers, judging no times.")
def main(pollers: int, submissions: int, small: bool) -> None:
    if small:
        pollers, submissions = 20, 5
    goals = Goals(judged=not small)
    with (
        server() as server_url,
        own_database(server_url) as url,
        scratch_folder() as folder,
        opened(url) as db,
        serve(url, folder) as (api, port),
    ):
        key = make_tenant(db).key
        memory, alone = pss(api.pid), latencies(port, key)
        with polling(port, key, pollers) as answered:
            time.sleep(3)  # until all first requests are answered
            crowded = latencies(port, key)
            with_pollers = pss(api.pid)
            delays = submission_delays(port, key, submissions, answered)
        report(goals, pollers, memory, with_pollers, alone, crowded, delays)
    sys.exit(goals.verdict())


def report(
    goals: Goals,
    pollers: int,
    memory: int,
    with_pollers: int,
    alone: list[float],
    crowded: list[float],
    delays: list[float],
) -> None:
    grown = (with_pollers - memory) / pollers
    click.echo(
        f"memory (PSS) of the API: {memory / 1024:.0f} MiB, with {pollers} pollers {with_pollers / 1024:.0f} MiB:"
        f" {grown:.0f} KiB each"
    )
    ratio = statistics.median(crowded) / statistics.median(alone)
    click.echo(f"another request: {in_words(alone)} alone, {in_words(crowded)} beside them")
    goals.figure(f"the ratio of the medians is {ratio:.2f}, at most 1.5", ratio <= 1.5)
    goals.fact(f"{len(delays)} submissions reached a poller", len(delays) > 0)
    median = statistics.median(delays) if delays else float("inf")
    goals.figure(
        f"from a submission to its poller's answer: {in_words(delays)}; median at most 100 ms", median <= 0.1
    )


def in_words(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    p95 = ordered[int(len(ordered) * 0.95)] if len(ordered) > 1 else ordered[0]
    return f"median {1000 * statistics.median(ordered):.1f} ms, p95 {1000 * p95:.1f} ms"


def pss(session: int) -> int:
    """The memory of all processes of gunicorn in KiB; shared pages are counted once."""
    total = 0
    for pid in processes_in_session(session):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def latencies(port: int, key: str, requests: int = 300) -> list[float]:
    took = []
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        for _ in range(requests):
            began = time.monotonic()
            ask(connection, key, "GET", "/jobs?page_size=1", 200)
            took.append(time.monotonic() - began)
            time.sleep(0.005)
    return took


def submission_delays(port: int, key: str, submissions: int, answered: Connection) -> list[float]:
    """Seconds from sending each submission to the moment at which a poller has the job."""
    delays = []
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        for _ in range(submissions):
            began = time.monotonic()
            body = {"command": "work", "container_group_id": GROUP}
            job = ask(connection, key, "POST", "/jobs", 202, json.dumps(body))
            if not answered.poll(WAIT):
                raise RuntimeError(f"job {job['id']} was handed out to no poller")
            job_id, at = answered.recv()
            if job_id != job["id"]:
                raise RuntimeError(f"job {job_id} was handed out, not {job['id']}")
            delays.append(at - began)
            time.sleep(0.05)
    return delays


def ask(
    connection: http.client.HTTPConnection, key: str, method: str, path: str, status: int, body: str | None = None
) -> dict[str, str]:
    connection.request(method, path, body=body, headers={"X-Kelpie-Key": key})
    answer = connection.getresponse()
    content: dict[str, str] = json.loads(answer.read())
    if answer.status != status:
        raise RuntimeError(f"{method} {path} was answered {answer.status}: {content}")
    return content


# --- the pollers, all in one process --------------------------------------------------------------------


@contextmanager
def polling(port: int, key: str, pollers: int) -> Iterator[Connection]:
    """So many clients wait for work; yields a connection with each job they get: (id, monotonic time)."""
    context = multiprocessing.get_context("spawn")
    parent_end, child_end = context.Pipe(duplex=False)
    process = context.Process(target=poll_all, args=(port, key, pollers, child_end), daemon=True)
    process.start()
    child_end.close()
    try:
        wait_for(lambda: connections_to(port) >= pollers, f"{pollers} clients to connect", timeout=60)
        yield parent_end
    finally:
        process.kill()
        process.join()


def connections_to(port: int) -> int:
    """How many connections to that port of this machine are established."""
    far_end = f":{port:04X} 01"
    return Path("/proc/net/tcp").read_text().count(far_end)


def poll_all(port: int, key: str, pollers: int, handed_out: Connection) -> None:
    asyncio.run(gather(port, key, pollers, handed_out))


async def gather(port: int, key: str, pollers: int, handed_out: Connection) -> None:
    await asyncio.gather(*(poll(port, key, number, handed_out) for number in range(pollers)))


async def poll(port: int, key: str, number: int, handed_out: Connection) -> None:
    await asyncio.sleep(number / 500)  # so that they do not all connect at once
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    machine = f"poller-{os.getpid()}-{number}"
    while True:
        path = f"/work?machine_id={machine}&container_group_id={GROUP}&wait={WAIT}&claim_id={uuid4()}"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Kelpie-Key: {key}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        jobs = json.loads(await reader.readexactly(length))
        at = time.monotonic()
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"a poller was answered {head.splitlines()[0]!r}: {jobs}")
        if jobs:
            handed_out.send((jobs[0]["id"], at))


if __name__ == "__main__":
    main()
