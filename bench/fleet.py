"""Ten thousand workers at once: heartbeats every 30 s, the idle ones wait for work on connections of their own.

Half of them hold jobs, some of which end while others are submitted. With --telling all of them do, for an hour
each, and each heartbeat brings another 2 KiB of progress, behind a piece of output of the same size: then the
share of updates that write no index (HOT) is shown of the tables that they change.

All is on one machine: the API, Postgres and the workers, which are coroutines of this process. They are added step
by step; the last step in which no request failed and the heartbeats kept their time says where it breaks.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import statistics
import sys
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import click
import psycopg

from bench.api import serve
from bench.harness import GROUP, HELP, Goals, make_tenant, opened, own_database, server
from bench.waiting import pss
from local_stack.processes import processes_in_session, scratch_folder

WAIT = 20  # seconds, like the worker's long poll
HELD, HELD_WHILE_TELLING = 600.0, 3600.0  # seconds that a job takes, on the average
SLOWEST = 0.25  # seconds, 99 of 100 heartbeats
TOLD_TABLES = ("queue", "progress")  # what a heartbeat with progress updates
HOT = 0.95  # of their updates
OUTPUT = 2048  # bytes of a piece
LARGEST_TOLD = 2048  # bytes of progress, written as JSON
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Seen:
    """What was seen in one step."""

    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # seconds, by kind of request
    errors: Counter[str] = field(default_factory=Counter)

    def p99(self, kind: str) -> float:
        times = sorted(self.took[kind])
        return times[int(len(times) * 0.99)] if times else 0.0


@dataclass
class Fleet:
    """What all workers share."""

    port: int
    key: str
    beat_every: float  # seconds
    held: float  # seconds that a job takes, on the average
    telling: bool = False  # progress and output with each heartbeat
    seen: Seen = field(default_factory=Seen)
    holding: int = 0
    ended: asyncio.Queue[None] = field(default_factory=asyncio.Queue)  # jobs, in whose place another is submitted

    @property
    def job(self) -> dict[str, Any]:
        """The definition of each job."""
        return {"command": "work", "container_group_id": GROUP} | ({"keep_output": 65536} if self.telling else {})

    @property
    def speaks(self) -> str:
        """What a claim says of its worker. A worker that can be steered too would beat every ten seconds."""
        return "&speaks=phase,progress,output" if self.telling else ""


class Line:
    """One connection, which is made again after an error."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, kind: str, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer; None if there was none, or a refusal, which are counted as errors."""
        seen, began = self._fleet.seen, time.monotonic()
        try:
            async with asyncio.timeout(60):  # wait_for swallows a cancellation that comes with the answer
                status, found = await self._exchange(method, path, body)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
            seen.errors[f"{kind}: {type(error).__name__}"] += 1
            self.close()
            await asyncio.sleep(1)
            return None
        seen.took[kind].append(time.monotonic() - began)
        if status >= 300:
            seen.errors[f"{kind}: {status}"] += 1
            await asyncio.sleep(1)
            return None
        return found

    async def _exchange(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._fleet.port)
        reader, writer = self._streams
        content = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nX-Kelpie-Key: {self._fleet.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        found = json.loads(await reader.readexactly(length))
        if b"connection: close" in head:
            self.close()
        return int(head.split()[1]), found

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
        self._streams = None


async def work(fleet: Fleet, number: int, after: float) -> None:
    """One worker: it waits for a job, holds it, completes it, and waits for the next."""
    await asyncio.sleep(after)
    line, machine = Line(fleet), f"machine-{number}"
    try:
        while True:
            query = f"machine_id={machine}&container_group_id={GROUP}&wait={WAIT}&claim_id={uuid4()}{fleet.speaks}"
            for job in await line.ask("claim", "GET", f"/work?{query}") or ():
                await hold(fleet, line, machine, job)
    finally:
        line.close()


async def hold(fleet: Fleet, line: Line, machine: str, job: dict[str, Any]) -> None:
    fleet.holding += 1
    holder = {"machine_id": machine, "container_group_id": GROUP, "attempt": job["attempt"]}
    ends = time.monotonic() + random.expovariate(1 / fleet.held)
    pause = fleet.beat_every * random.random()  # so that those that were claimed at once do not beat at once
    told = 0
    while (now := time.monotonic()) < ends:
        await asyncio.sleep(min(pause, ends - now))
        pause = fleet.beat_every
        if fleet.telling:
            query = urlencode({**holder, "from": told * OUTPUT})
            await line.ask("output", "PUT", f"/jobs/{job['id']}/output?{query}", random.randbytes(OUTPUT))
            told += 1
        report = holder | (news(told) if fleet.telling else {})
        answer = await line.ask("heartbeat", "POST", f"/jobs/{job['id']}/heartbeat", report)
        if answer and answer["status"] != "running":
            fleet.seen.errors[f"a holder was told {answer['status']}"] += 1
            break
    await line.ask("end", "POST", f"/jobs/{job['id']}/completed", holder)
    fleet.holding -= 1
    fleet.ended.put_nowait(None)


def news(told: int) -> dict[str, Any]:
    """What a heartbeat says of the job after so many others: nearly as much as it may, and never the same."""
    said: dict[str, Any] = {"fraction": 1 - 1 / (told + 1), "step": told, "message": ""}
    room = LARGEST_TOLD - len(json.dumps(said))
    said["message"] = random.randbytes(LARGEST_TOLD).hex()[: room - random.randrange(16)]
    return {"phase": "running", "progress": said, "output_bytes": told * OUTPUT}


async def submit_in_place_of_the_ended(fleet: Fleet) -> None:
    line = Line(fleet)
    while True:
        await fleet.ended.get()
        await line.ask("submission", "POST", "/jobs", fleet.job)


async def submit(fleet: Fleet, count: int) -> None:
    line = Line(fleet)
    for begin in range(0, count, 500):
        jobs = [fleet.job] * min(500, count - begin)
        while await line.ask("batch", "POST", "/jobs/batch", jobs) is None:
            pass  # it is counted as an error, and sent again
    line.close()


@dataclass(frozen=True)
class Updates:
    """Updates of a table's rows; `hot`: those that wrote none of its indexes."""

    all: int
    hot: int

    def since(self, before: Updates) -> Updates:
        return Updates(self.all - before.all, self.hot - before.hot)

    @property
    def share(self) -> float:
        return self.hot / self.all if self.all else 0.0


def updates(url: str) -> dict[str, Updates]:
    """What Postgres counted so far, of TOLD_TABLES."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "select relname, n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = any(%s)",
            [list(TOLD_TABLES)],
        )
        return {table: Updates(total, hot) for table, total, hot in found}


@dataclass(frozen=True)
class Step:
    workers: int
    seen: Seen
    holding: int
    shares: dict[str, float]  # of a core, by program
    memory: dict[str, float]  # MiB, PSS
    updates: dict[str, Updates]  # by table

    @property
    def errors(self) -> int:
        return self.seen.errors.total()

    @property
    def holds(self) -> bool:
        return not self.errors and self.seen.p99("heartbeat") < SLOWEST


@click.command(help=__doc__, context_settings=HELP)
@click.option("--steps", default="2500,5000,10000", show_default=True, help="Numbers of workers.")
@click.option("--seconds", default=120, show_default=True, help="Of measuring in each step.")
@click.option("--processes", default=2, show_default=True, help="Of gunicorn.")
@click.option("--telling", is_flag=True, help="All hold jobs, and each heartbeat tells progress and output.")
@click.option("--small", is_flag=True, help="Sixty workers that beat every two seconds, judging no times.")
def main(steps: str, seconds: int, processes: int, telling: bool, small: bool) -> None:
    counts, seconds = ([30, 60], 4) if small else ([int(count) for count in steps.split(",")], seconds)
    goals = Goals(judged=not small)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a connection is a descriptor; children inherit it
    waiters = str(max(1000, counts[-1]))
    settings = {
        "WEB_CONCURRENCY": str(processes),
        "KELPIE_MAX_WAITERS": waiters,
        "KELPIE_MAX_WAITERS_PER_PROJECT": "0",
    }
    with (
        server() as server_url,
        own_database(server_url) as url,
        scratch_folder() as folder,
        opened(url) as db,
        serve(url, folder, settings) as (api, port),
    ):
        beat_every, held = (2.0, 5.0) if small else (30.0, HELD_WHILE_TELLING if telling else HELD)
        fleet = Fleet(port, make_tenant(db).key, beat_every, held, telling)
        found = asyncio.run(grow(fleet, counts, seconds, Programs(api.pid, url)))
    judge(found, counts[-1], goals)
    if telling:
        judge_updates(found[-1], goals)
    sys.exit(goals.verdict())


async def grow(fleet: Fleet, counts: list[int], seconds: float, programs: Programs) -> list[Step]:
    """Add workers step by step, until one is not held."""
    tasks = [asyncio.create_task(submit_in_place_of_the_ended(fleet))]
    steps: list[Step] = []
    for count in counts:
        more = count - len(tasks) + 1
        ramp = more / 100  # seconds: a hundred workers a second start
        tasks += [
            asyncio.create_task(work(fleet, count - number, ramp * random.random())) for number in range(more)
        ]
        await submit(fleet, more if fleet.telling else more // 2)
        await asyncio.sleep(ramp + min(fleet.beat_every, seconds))
        steps.append(await measured(fleet, count, seconds, programs))
        report(steps[-1])
        if not steps[-1].holds:
            break
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return steps


async def measured(fleet: Fleet, workers: int, seconds: float, programs: Programs) -> Step:
    missed, fleet.seen = fleet.seen.errors, Seen()
    seen = fleet.seen
    for what, count in missed.most_common():
        click.echo(f"  error before the measuring: {what}: {count:,}")
    updated, before, began = updates(programs.url), programs.cpu(), time.monotonic()
    await asyncio.sleep(seconds)
    took, after = time.monotonic() - began, programs.cpu()
    shares = {name: (after[name] - before.get(name, 0.0)) / took for name in after}
    since = {table: now.since(updated[table]) for table, now in updates(programs.url).items()}
    return Step(workers, seen, fleet.holding, shares, programs.memory(), since)


class Programs:
    """The processor time and memory of the API, Postgres and this process."""

    def __init__(self, api: int, url: str) -> None:
        self._api, self.url = api, url
        with psycopg.connect(url) as connection:
            backend = connection.info.backend_pid
        stat = Path(f"/proc/{backend}/stat")
        # A server on another machine, of DATABASE_URL, is not looked at.
        self._postgres = int(_fields(stat)[1]) if stat.exists() and b"postgres" in stat.read_bytes() else None

    def _ids(self) -> dict[str, list[int]]:
        ids = {"API": processes_in_session(self._api), "workers": [os.getpid()]}
        if self._postgres:
            ids["Postgres"] = [self._postgres, *_children(self._postgres)]
        return ids

    def cpu(self) -> dict[str, float]:
        """Seconds so far. Those of Postgres's processes that have ended are with its first one."""
        total: dict[str, float] = {}
        for name, ids in self._ids().items():
            times = [fields for pid in ids if (fields := _fields(Path(f"/proc/{pid}/stat")))]
            total[name] = sum(int(part) for fields in times for part in fields[11:15]) / TICKS
        return total

    def memory(self) -> dict[str, float]:
        """MiB, PSS."""
        return {"API": pss(self._api) / 1024, **{n: _pss(i) for n, i in self._ids().items() if n != "API"}}


def _fields(stat: Path) -> list[str]:
    """The fields behind the name of a process; none if it has ended."""
    try:
        return stat.read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _fields(entry / "stat")
        if fields and int(fields[1]) == parent:
            found.append(int(entry.name))
    return found


def _pss(ids: list[int]) -> float:
    total = 0
    for pid in ids:
        with suppress(OSError):  # it ended meanwhile
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                total += int(line.split()[1]) if line.startswith("Pss:") else 0
    return total / 1024


def report(step: Step) -> None:
    click.echo(f"{step.workers:,} workers, {step.holding:,} of them with jobs:")
    for kind, times in sorted(step.seen.took.items()):
        click.echo(
            f"  {kind:10} {len(times):7,}  median {1000 * statistics.median(times):8.1f} ms"
            f"  p99 {1000 * step.seen.p99(kind):8.1f} ms"
        )
    for name, share in step.shares.items():
        click.echo(f"  {name:10} {share:5.2f} cores  {step.memory.get(name, 0):6.0f} MiB")
    for table, updated in step.updates.items():
        click.echo(f"  {table:10} {updated.all:7,} updates, {100 * updated.share:.1f} % of them HOT")
    for what, count in step.seen.errors.most_common():
        click.echo(f"  error: {what}: {count:,}")


def judge(steps: list[Step], wanted: int, goals: Goals) -> None:
    last = steps[-1]
    said = f"{last.workers:,} workers"
    errors = last.errors if last.workers == wanted else max(1, last.errors)
    goals.figure(f"{said}: {last.errors:,} requests failed (goal: none, of {wanted:,} workers)", errors == 0)
    p99 = last.seen.p99("heartbeat")
    goals.figure(
        f"{said}: 99 of 100 heartbeats within {1000 * p99:.0f} ms"
        f" (goal: under {1000 * SLOWEST:.0f} ms, of {wanted:,} workers)",
        p99 < SLOWEST and last.workers == wanted,
    )
    goals.fact(
        f"heartbeats that were answered: {len(last.seen.took['heartbeat']):,}", bool(last.seen.took["heartbeat"])
    )
    held = [step.workers for step in steps if step.holds]
    click.echo(f"all is well with {max(held, default=0):,} workers" + ("" if last.holds else f", not with {said}"))


def judge_updates(step: Step, goals: Goals) -> None:
    """Claims are updates of the queue too, and cannot be HOT: of jobs that take an hour they are one of 120."""
    for table, updated in step.updates.items():
        goals.figure(
            f"{step.workers:,} workers: {100 * updated.share:.1f} % of {updated.all:,} updates of {table} were HOT"
            f" (goal: over {100 * HOT:.0f} %)",
            updated.share > HOT,
        )
        goals.fact(f"updates of {table}: {updated.all:,}", updated.all > 0)


if __name__ == "__main__":
    main()
