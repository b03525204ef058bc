"""A storm over sweeps: many claimers, machines that vanish, changes of limits, holds and cancels, all at once.

`KELPIE_TEST_SWEEP_STORM_JOBS` is the number of jobs; thousands take minutes.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any
from uuid import UUID

from kelpie_api.db import Database, Row
from kelpie_api.errors import Conflict, JobNotFound
from kelpie_api.queue import bulk, jobs, submissions, sweeps
from kelpie_api.queue.filters import Filters
from kelpie_api.queue.maintenance import Maintenance
from kelpie_api.queue.states import Report
from tests.helpers import Tenant, as_row

JOBS = int(os.environ.get("KELPIE_TEST_SWEEP_STORM_JOBS", "240"))
CLAIMERS = 16
SWEEPS = 6
PARTS = 40  # labels, by which jobs are held and canceled
PATIENT = 0  # the worker that holds each job until it is asked to stop
LONGEST_IDLE = 3.0  # seconds that a free slot, or a job that can be claimed, may be left alone
LOOK = """
select s.id, s.max_parallel as most,
       count(q.job_id) filter (where q.parked is null) as unparked,
       count(q.job_id) filter (where q.machine_id is not null) as held,
       count(q.job_id) filter (where q.parked is null
                                 and (q.machine_id is null
                                      or lapsed(q.heartbeat, q.heartbeat_interval)
                                         and not q.ends_on_lapse)) as claimable,
       count(q.job_id) filter (where q.parked = '{sweep}') as waiting
  from sweeps s
  left join queue q on q.sweep_id = s.id
 group by s.id
"""


@dataclass
class Limits:
    """The limits that may be in force, and since when the only one of them is."""

    possible: list[int]
    settled: float


@dataclass
class SweepStorm:
    """`broken` has a sentence for each rule that did not hold; `claims` counts the handouts."""

    db: Database
    tenant: Tenant
    limits: dict[UUID, Limits] = field(default_factory=dict)
    claims: int = 0
    looks: int = 0  # at which a limit was held against what was there
    asked: threading.Event = field(default_factory=threading.Event)  # the patient worker was, to stop
    broken: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    calm: threading.Event = field(default_factory=threading.Event)  # people change nothing any more
    over: threading.Event = field(default_factory=threading.Event)

    def submit(self) -> None:
        for number in range(SWEEPS):
            sweep, _ = sweeps.create(self.db, self.tenant.caller, {"max_parallel": 3 + number}, None)
            self.limits[sweep["id"]] = Limits([3 + number], time.monotonic())
            rows = [
                as_row(
                    sweep=str(sweep["id"]),
                    heartbeat_interval=10,
                    max_failures=3,
                    priority=random.choice([0, 0, 5]),
                    labels={"part": str(random.randrange(PARTS))},
                )
                for _ in range(JOBS // SWEEPS)
            ]
            for start in range(0, len(rows), 500):
                submissions.submit(self.db, self.tenant.caller, rows[start : start + 500])

    def run(self) -> None:
        """Until every job is final."""
        loops: list[Callable[[], None]] = [self.watch, self.change_limits, self.hold_and_resume, self.cancel]
        with ThreadPoolExecutor(CLAIMERS + len(loops)) as pool:
            running = [pool.submit(loop) for loop in loops]
            running += [pool.submit(self.work, number) for number in range(CLAIMERS)]
            try:
                self.wait_for_the_end()
            finally:
                self.calm.set()
                self.over.set()
            for one in running:
                one.result()

    def wait_for_the_end(self) -> None:
        """So that there is an end, people stop once a third of the jobs is left and a worker was asked to stop."""
        deadline = time.monotonic() + 30 + JOBS / 5
        while left := self.open_jobs():
            if left <= JOBS / 3 and self.asked.is_set() and not self.calm.is_set():
                self.calm.set()
                bulk.resume(self.db, self.tenant.caller, Filters(is_open=True))
            if time.monotonic() > deadline:
                raise AssertionError(f"{left} jobs are open still: {self.db.all(LOOK)}")
            time.sleep(0.1)

    def open_jobs(self) -> int:
        (found,) = self.db.all("select count(*) as n from queue")
        return int(found["n"])

    # --- workers

    def work(self, number: int) -> None:
        """Claim and end jobs; now and then vanish with one, so that its lease lapses, and report as a zombie."""
        dice = random.Random(number)
        machine = f"m{number}"
        lost: tuple[UUID, Report] | None = None
        while not self.over.is_set():
            job = jobs.claim(self.db, self.tenant.caller, machine, "g1", None, speaks=["steer"])
            if job is None:
                time.sleep(0.02)
                continue
            with self.lock:
                self.claims += 1
            report = Report(machine, "g1", job["attempt"])
            if number == PATIENT:
                self.hold_until_asked(job["id"], report)
                continue
            self.calm.wait(dice.choice([0, 0, 0.2]))  # some are held long enough to be held back by people
            if dice.random() < 0.1:
                self.vanish(job["id"], job["attempt"])
                lost = job["id"], report
                continue
            answer = jobs.heartbeat(self.db, self.tenant.caller, job["id"], report)
            end = dice.choices([jobs.complete, jobs.release, jobs.fail], [70, 20, 10])[0]
            self.say(jobs.release if "stop" in answer else end, job["id"], report)
            if lost and dice.random() < 0.3:
                self.say(jobs.complete, *lost)
                lost = None

    def hold_until_asked(self, job_id: UUID, report: Report) -> None:
        end: Callable[..., Any] = jobs.complete
        with suppress(Conflict, JobNotFound):  # canceled meanwhile
            while end is jobs.complete and not self.calm.wait(0.02):
                if "stop" in jobs.heartbeat(self.db, self.tenant.caller, job_id, report):
                    self.asked.set()
                    end = jobs.release
        self.say(end, job_id, report)

    def say(self, what: Callable[..., Any], job_id: UUID, report: Report) -> None:
        with suppress(Conflict, JobNotFound):  # canceled meanwhile, or another machine has it
            what(self.db, self.tenant.caller, job_id, report)

    def vanish(self, job_id: UUID, attempt: int) -> None:
        self.db.execute(
            "update queue set heartbeat = heartbeat - interval '1 minute'"
            " where job_id = %(id)s and attempt = %(attempt)s and machine_id is not null",
            id=job_id,
            attempt=attempt,
        )

    # --- people

    def change_limits(self) -> None:
        dice = random.Random("limits")
        while not self.calm.wait(0.05):
            sweep, most = dice.choice(list(self.limits)), dice.randint(1, 12)
            with self.lock:
                self.limits[sweep].possible.append(most)
            sweeps.change(self.db, self.tenant.caller, sweep, {"max_parallel": most})
            with self.lock:
                self.limits[sweep] = Limits([most], time.monotonic())

    def hold_and_resume(self) -> None:
        for is_for_the_patient in cycle([True, False]):
            if self.calm.is_set():
                break
            part = Filters(labels=[("part", self.part_at_work(is_for_the_patient))], is_open=True)
            bulk.hold(self.db, self.tenant.caller, part)
            self.calm.wait(0.2)
            bulk.resume(self.db, self.tenant.caller, part)

    def part_at_work(self, of_the_patient: bool) -> str:
        """That of a job which a machine holds, where there is one: of 40 at random nearly all only wait.

        Of the patient worker's job, or of any other: the holder of that one may well be done before it is asked.
        """
        held = "select j.labels ->> 'part' as part from queue q join jobs j on j.id = q.job_id"
        held += " order by (q.machine_id = %(patient)s) is not true, q.machine_id is null, random() limit 1"
        found = self.db.all(held, patient=f"m{PATIENT}" if of_the_patient else None)
        return str(found[0]["part"]) if found else "0"

    def cancel(self) -> None:
        dice = random.Random("cancel")
        while not self.calm.wait(0.5):
            part = Filters(labels=[("part", str(dice.randrange(PARTS)))], is_open=True)
            bulk.cancel(self.db, self.tenant.caller, part)

    # --- the rules

    def watch(self) -> None:
        """Look again and again. A limit is held against two looks between which it was in force all the time."""
        before: dict[UUID, Row] = {}
        idle = {"claims": 0, "since": time.monotonic()}
        free: dict[UUID, float] = {}
        last = time.monotonic()
        longest = 0.0
        while not self.over.wait(0.01):
            began = time.monotonic()
            allowed = self.in_force(last)
            claims = self.claims
            seen = {row["id"]: row for row in self.db.all(LOOK)}
            ended = time.monotonic()
            allowed = {sweep: most for sweep, most in self.in_force(last).items() if allowed.get(sweep) == most}
            longest = max(longest, ended - last)
            patience = LONGEST_IDLE + 2 * longest
            for sweep, row in seen.items():
                if before and sweep in allowed:
                    self.hold_to_limit(row, before[sweep], allowed[sweep])
                is_free = row["waiting"] and row["unparked"] < row["most"]
                free[sweep] = free.get(sweep, began) if is_free else ended
                if ended - free[sweep] > patience:
                    self.broken.append(f"a slot was free for {ended - free[sweep]:.1f} s: {row}")
            if claims != idle["claims"] or not any(row["claimable"] for row in seen.values()):
                idle = {"claims": claims, "since": ended}
            elif ended - idle["since"] > patience:
                self.broken.append(f"no claim for {ended - idle['since']:.1f} s: {seen}")
            before, last = seen, began

    def in_force(self, since: float) -> dict[UUID, int]:
        """The limits that nothing has touched since a time."""
        with self.lock:
            return {
                sweep: limits.possible[0]
                for sweep, limits in self.limits.items()
                if len(limits.possible) == 1 and limits.settled < since
            }

    def hold_to_limit(self, row: Row, before: Row, most: int) -> None:
        """Above the limit the numbers may stay as they were, from a time of a higher one, and never grow."""
        self.looks += 1
        for what in ("held", "unparked"):
            if row[what] > max(most, before[what]):
                self.broken.append(f"{row[what]} are {what}, {before[what]} were, and the limit is {most}: {row}")


@contextmanager
def maintained(db: Database) -> Iterator[None]:
    maintenance = Maintenance(db)
    maintenance.start()
    try:
        yield
    finally:
        maintenance.stop()


def test_the_limits_of_sweeps_hold_in_a_storm_and_all_jobs_end(db: Database, tenant: Tenant) -> None:
    storm = SweepStorm(db, tenant)
    storm.submit()
    with maintained(db):
        storm.run()
    assert storm.broken == []
    ends = db.all(
        "select j.status::text, count(e.id) as ends from jobs j"
        " left join events e on e.job_id = j.id and e.kind in ('completed', 'failed', 'canceled') group by j.id"
    )
    assert len(ends) == JOBS // SWEEPS * SWEEPS
    assert {row["ends"] for row in ends} == {1}
    assert {row["status"] for row in ends} <= {"completed", "failed", "canceled"}
    assert db.all("select from attempts where ended is null") == []
    happened = {row["kind"] for row in db.all("select distinct kind from events")}
    assert happened >= {"interrupted", "released", "attempt_failed", "canceled", "parked", "asked", "unparked"}
    assert storm.looks > 20, "the rules were hardly looked at"
