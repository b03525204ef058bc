"""How long claims take beside a thousand open pages, each of which asks for its live part again and again.

Claims and heartbeats come at a steady pace, in turns without the tabs and with them, so that other load of the
machine affects both. A tab asks as live.js does: with the ETag of what it has, no sooner than it was told, on a
connection that is kept. Half of the tabs show a job, three in ten a list of jobs, the others the first page.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.pool import Pool
from multiprocessing.process import BaseProcess
from typing import Any

import click

from bench.api import Target, claimed_job, load, serve
from bench.clients import Answered
from bench.fill import SMALL, Contents, fill
from bench.harness import HELP, Goals, Tenant, make_tenant, opened, own_database, server
from bench.waiting import connections_to
from kelpie_api.auth import sessions
from kelpie_api.dashboard import job, jobs, overview
from kelpie_api.db import Database
from local_stack.processes import scratch_folder, wait_for

GOAL = 1.25  # of the p99 of claims: that beside the tabs by that without
CLAIMERS, HOLDERS, PAUSE = 8, 8, 0.1  # connections that claim, and that send heartbeats, each so often (seconds)
PEOPLE = 20  # sessions, of which the tabs are
SHOWN = 200  # jobs that tabs show, half of them in hand
# Seconds after which all tabs have asked and were told when to ask again, and after which none asks.
BEGIN, END = 12.0, 2.0
TURNS = (False, True, True, False)  # whether the tabs are looked at
MAY_BE = (200, 204, 304)  # what a tab may be answered
LATEST = "select id from jobs where status = 'pending' order by seq desc limit %(most)s"


@dataclass(frozen=True)
class Size:
    tabs: int = 1000
    rounds: int = 2
    seconds: float = 10.0  # of each turn
    jobs: int = 30_000  # that wait, and as many that have ended
    hurry: float = 1.0  # how many times as often as in a browser a tab asks
    begin: float = BEGIN
    end: float = END


TINY = Size(20, 1, 0.4, SMALL, 20.0, 0.3, 0.1)


@dataclass(frozen=True)
class Tab:
    place: str
    cookie: str
    pause: float  # seconds between two looks


@dataclass
class Turns:
    """The claims and heartbeats in the turns of one kind."""

    claims: list[Answered] = field(default_factory=list)
    heartbeats: list[Answered] = field(default_factory=list)

    def take(self, clients: Pool, target: Target, seconds: float) -> None:
        """Measure one turn."""
        claims = clients.apply_async(load, (target, "claim", CLAIMERS, seconds, PAUSE))
        heartbeats = clients.apply_async(load, (target, "heartbeat", HOLDERS, seconds, PAUSE))
        self.claims.append(claims.get())
        self.heartbeats.append(heartbeats.get())

    def in_words(self) -> str:
        return ", ".join(
            f"{name} p50 {1000 * median(seen, 0.5):.1f} ms, p99 {1000 * median(seen, 0.99):.1f} ms"
            for name, seen in (("claims", self.claims), ("heartbeats", self.heartbeats))
        )


def median(turns: Sequence[Answered], share: float) -> float:
    """Of the turns' quantiles, in seconds: what other programs do in one of the turns changes it little."""
    return statistics.median(turn.quantile(share) for turn in turns)


# --- the tabs, all in one process -------------------------------------------------------------------------


class OpenTabs:
    """Tabs that ask while they are looked at, and how often they were answered with which status."""

    def __init__(self, port: int, tabs: Sequence[Tab]) -> None:
        context = multiprocessing.get_context("spawn")
        self.seen = Seen(
            context.Value("b", 0, lock=False),
            context.Array("l", 600, lock=False),
        )
        self.process: BaseProcess = context.Process(target=open_all, args=(port, tabs, self.seen), daemon=True)

    def look(self, whether: bool, size: Size) -> None:
        """Have all tabs looked at, or none, and wait until that is so."""
        if whether != bool(self.seen.are_looked_at.value):
            self.seen.are_looked_at.value = int(whether)
            time.sleep(size.begin if whether else size.end)

    def by_status(self) -> Counter[int]:
        return Counter({status: count for status, count in enumerate(self.seen.answers) if count})


@dataclass
class Seen:
    """What the tabs' process and this one share."""

    are_looked_at: Any
    answers: Any  # of each status their number


@contextmanager
def opened_tabs(port: int, tabs: Sequence[Tab]) -> Iterator[OpenTabs]:
    opened_ones = OpenTabs(port, tabs)
    opened_ones.process.start()
    try:
        wait_for(lambda: connections_to(port) >= len(tabs), f"{len(tabs)} tabs to connect", timeout=60)
        yield opened_ones
    finally:
        opened_ones.process.kill()
        opened_ones.process.join()


def open_all(port: int, tabs: Sequence[Tab], seen: Seen) -> None:
    async def gather() -> None:
        await asyncio.gather(
            *(look_again_and_again(port, tab, number / len(tabs), seen) for number, tab in enumerate(tabs))
        )

    asyncio.run(gather())


async def look_again_and_again(port: int, tab: Tab, place_in_line: float, seen: Seen) -> None:
    """Ask for the live part of a page while the tab is looked at, and no sooner than the tab was told."""
    await asyncio.sleep(2 * place_in_line)  # so that they do not all connect at once
    browser = Connection(port)
    await browser.connect()
    await asyncio.sleep(tab.pause * place_in_line)
    known = b""
    while True:
        due = time.monotonic() + tab.pause
        if seen.are_looked_at.value:
            answer = await browser.ask(tab, known)
            known, due = answer.etag or known, max(due, time.monotonic() + answer.pause)
            seen.answers[answer.status] += 1
        await asyncio.sleep(max(0.0, due - time.monotonic()))


@dataclass(frozen=True)
class Answer:
    status: int
    etag: bytes  # of a part that is new
    pause: float  # seconds


class Connection:
    """A connection as a browser has it, which is opened anew after the server closed it."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, tab: Tab, known: bytes) -> Answer:
        head = f"GET {tab.place} HTTP/1.1\r\nHost: 127.0.0.1\r\nHX-Request: true\r\nCookie: {tab.cookie}\r\n"
        request = head.encode() + (b"If-None-Match: " + known + b"\r\n" if known else b"") + b"\r\n"
        try:
            self.writer.write(request)
            return await self.answer()
        except (asyncio.IncompleteReadError, ConnectionError):
            await self.connect()
            self.writer.write(request)
            return await self.answer()

    async def answer(self) -> Answer:
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        if status not in (204, 304):
            await self.reader.readexactly(int(headers[b"content-length"]))
        if headers.get(b"connection") == b"close":
            self.writer.close()
        etag = headers.get(b"etag", b"") if status == 200 else b""
        return Answer(status, etag, float(headers.get(b"kelpie-ask-after", 0)))


# --- what is measured -------------------------------------------------------------------------------------


def tabs_of(db: Database, tenant: Tenant, held: Sequence[str], size: Size) -> list[Tab]:
    """The tabs of some people."""
    cookies = [
        f"kelpie={sessions.begin_once(db, sessions.invite(db, tenant.key))}" for _ in range(min(PEOPLE, size.tabs))
    ]
    waiting = [str(row["id"]) for row in db.all(LATEST, most=len(held))]
    of_jobs = [Tab(f"/ui/jobs/{job_id}", "", job.REFRESHED) for job_id in (*held, *waiting)]
    lists = [
        Tab(place, "", jobs.REFRESHED)
        for place in ("/ui/jobs", "/ui/jobs?phase=running", "/ui/jobs?phase=pending")
    ]
    first = [Tab("/ui", "", overview.REFRESHED)]
    kinds = (of_jobs, of_jobs, lists, of_jobs, first, of_jobs, lists, of_jobs, lists, first)
    tabs = []
    for number in range(size.tabs):
        kind = kinds[number % len(kinds)]
        tab = kind[number // 2 % len(kind)]
        tabs.append(replace(tab, cookie=cookies[number % len(cookies)], pause=tab.pause / size.hurry))
    return tabs


@dataclass
class Measured:
    """The turns of both kinds, and what the tabs asked meanwhile."""

    without: Turns = field(default_factory=Turns)
    beside: Turns = field(default_factory=Turns)
    looks: Counter[int] = field(default_factory=Counter)  # in the turns beside the tabs, by their status
    seconds: float = 0.0  # of these turns

    def take(self, clients: Pool, target: Target, tabs: OpenTabs, size: Size) -> None:
        """Measure one round of turns."""
        for are_looked_at in TURNS:
            tabs.look(are_looked_at, size)
            looks, began = tabs.by_status(), time.monotonic()
            (self.beside if are_looked_at else self.without).take(clients, target, size.seconds)
            if are_looked_at:
                self.looks += tabs.by_status() - looks
                self.seconds += time.monotonic() - began

    def report(self, goals: Goals, size: Size, tabs: OpenTabs) -> None:
        click.echo(f"without tabs: {self.without.in_words()}")
        click.echo(f"beside {size.tabs:,} open tabs: {self.beside.in_words()}")
        count = max(1, self.looks.total())
        shares = ", ".join(
            f"{100 * number / count:.0f} % {status}" for status, number in sorted(self.looks.items())
        )
        click.echo(f"answers to the tabs: {count / self.seconds:.0f} a second, {shares}")
        goals.fact("each tab was answered with what is new, or that nothing is", {*tabs.by_status()} <= {*MAY_BE})
        goals.fact("the tabs were answered all the time", bool(self.looks) and tabs.process.is_alive())
        ratio = median(self.beside.claims, 0.99) / median(self.without.claims, 0.99)
        goal = f"(goal: {GOAL} at most)"
        goals.figure(
            f"the p99 of claims beside {size.tabs:,} open tabs is {ratio:.2f} of that without {goal}",
            ratio <= GOAL,
        )


@click.command(help=__doc__, context_settings=HELP)
@click.option("--tabs", default=Size.tabs, show_default=True)
@click.option("--rounds", default=Size.rounds, show_default=True, help="Of four turns, two of them with the tabs.")
@click.option("--seconds", default=Size.seconds, show_default=True, help="Of each turn.")
@click.option("--small", is_flag=True, help="Twenty tabs, judging no times.")
def main(tabs: int, rounds: int, seconds: float, small: bool) -> None:
    goals = Goals(judged=not small)
    size = TINY if small else Size(tabs, rounds, seconds)
    with (
        server() as server_url,
        own_database(server_url) as url,
        scratch_folder() as folder,
        opened(url) as db,
        multiprocessing.get_context("spawn").Pool(2) as clients,
    ):
        tenant = make_tenant(db)
        fill(url, tenant.caller.tenant_id, Contents(size.jobs, size.jobs))
        held = [claimed_job(db, tenant, f"machine-{number}") for number in range(min(SHOWN, size.tabs) // 2)]
        with serve(url, folder) as (api, port):
            target = Target(port, port, (api.pid, api.pid), tenant.key, held)
            with opened_tabs(port, tabs_of(db, tenant, held, size)) as open_ones:
                Turns().take(clients, target, size.seconds / 4)  # until all processes and threads have started
                measured = Measured()
                for _ in range(size.rounds):
                    measured.take(clients, target, open_ones, size)
                measured.report(goals, size, open_ones)
    sys.exit(goals.verdict())


if __name__ == "__main__":
    main()
