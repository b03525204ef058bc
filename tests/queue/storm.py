"""Many clients at once, correct and malicious ones, and a log of the answers that each of them got."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg

from kelpie_api.db import SQL, Database
from kelpie_api.errors import Conflict, JobNotFound
from kelpie_api.queue import jobs, submissions
from kelpie_api.queue.states import Report
from tests.helpers import Tenant, as_row, be_seen, new_claim_id
from tests.history import Call

CLIENTS = 12
INTERVAL = 4  # seconds; a stall of the machine that is shorter than half of it is no outage
REFUSALS = (Conflict, JobNotFound)


@dataclass
class Storm:
    """`steps` calls by each client. Broken rules of the database itself are collected, not raised: with a guard
    removed they are what is left, and without that there must be none."""

    db: Database
    tenants: list[Tenant]
    steps: int
    outage: bool = False
    machines: int = 4  # fewer than clients: those of one machine differ by their attempts only
    seed: int = 0
    log: list[Call] = field(default_factory=list)
    errors: list[psycopg.Error] = field(default_factory=list)

    def run(self) -> list[Call]:
        for tenant in self.tenants:
            self.submit(tenant, count=30)
        be_seen(self.db)
        stopped = threading.Event()
        alive = threading.Thread(target=self.be_alive, args=[stopped])
        alive.start()
        try:
            with ThreadPoolExecutor(CLIENTS) as pool:
                for finished in [pool.submit(StormyClient(self, number).run) for number in range(CLIENTS)]:
                    finished.result()
        finally:
            stopped.set()
            alive.join()
        return self.log

    def be_alive(self, stopped: threading.Event) -> None:
        """The coordinator's own heartbeat; without it no lease would lapse."""
        while not stopped.wait(0.2):
            self.db.execute(SQL.be_seen)

    def submit(self, tenant: Tenant, count: int) -> None:
        wanted = [
            as_row(
                container_group_id=random.choice(["g1", "g1", None]),
                heartbeat_interval=INTERVAL,
                webhook="http://receiver/",
            )
            for _ in range(count)
        ]
        submissions.submit(self.db, tenant.caller, wanted)


class StormyClient:
    """One worker of one machine. What it once held it keeps in mind: it reports late, twice, and as a zombie."""

    def __init__(self, storm: Storm, number: int) -> None:
        self.storm = storm
        self.db = storm.db
        self.number = number
        self.machine = f"m{number % storm.machines}"
        self.tenant = storm.tenants[number // storm.machines % len(storm.tenants)]
        self.others = [tenant for tenant in storm.tenants if tenant is not self.tenant]
        self.random = random.Random(storm.seed * CLIENTS + number)
        self.hands: deque[tuple[UUID, int]] = deque(maxlen=30)
        self.deeds: dict[Callable[[], None], int] = {
            self.claim: 30,
            self.beat: 20,
            self.complete: 6,
            self.fail: 8,
            self.release: 9,
            self.cancel: 2,
            self.fall_silent: 18,
            self.trespass: 3,
            self.submit: 6,
        }

    def run(self) -> None:
        for step in range(self.storm.steps):
            if self.storm.outage and self.number == 0 and step == self.storm.steps // 4:
                self.lose_the_coordinator()
            [deed] = self.random.choices(list(self.deeds), list(self.deeds.values()))
            try:
                deed()
            except psycopg.IntegrityError as error:
                self.storm.errors.append(error)

    def claim(self) -> None:
        claim_id = new_claim_id() if self.random.random() < 0.5 else None
        request = claim_id or object()
        for _ in range(2 if claim_id and self.random.random() < 0.3 else 1):
            began = time.monotonic()
            job = jobs.claim(self.db, self.tenant.caller, self.machine, "g1", claim_id)
            if job:
                self.hands.append((job["id"], job["attempt"]))
                self.note("claim", job["id"], job["attempt"], began, True, request)

    def beat(self) -> None:
        self.say("heartbeat", jobs.heartbeat)

    def complete(self) -> None:
        self.say("completed", jobs.complete)

    def fail(self) -> None:
        self.say("failed", jobs.fail)

    def release(self) -> None:
        self.say("released", jobs.release)

    def say(self, kind: str, call: Callable[..., Any], tenant: Tenant | None = None) -> None:
        """Report on something that this client held at some time, now and then without the attempt."""
        if not self.hands:
            return
        job_id, held = self.random.choice(self.hands)
        attempt = held if self.random.random() < 0.85 else None
        self.tell(kind, job_id, attempt, call, tenant or self.tenant)

    def tell(self, kind: str, job_id: UUID, attempt: int | None, call: Callable[..., Any], tenant: Tenant) -> None:
        began = time.monotonic()
        try:
            answer = call(self.db, tenant.caller, job_id, Report(self.machine, "g1", attempt))
            accepted = answer is None or answer["status"] == "running"
        except REFUSALS:
            accepted = False
        self.note(kind, job_id, attempt, began, accepted, tenant=tenant)

    def trespass(self) -> None:
        """The right job and attempt, reported by another tenant."""
        self.say("completed", jobs.complete, self.random.choice(self.others))

    def cancel(self) -> None:
        if not self.hands:
            return
        job_id, _ = self.random.choice(self.hands)
        began = time.monotonic()
        try:
            jobs.cancel(self.db, self.tenant.caller, job_id)
        except REFUSALS:
            return
        self.note("canceled", job_id, None, began, True)

    def fall_silent(self) -> None:
        """The lease of something in hand was last renewed long ago. No lease of this moment: none can be claimed
        and lapse while a single statement runs, and it would look to a claim as if one had."""
        self.db.execute(
            "update queue set heartbeat = heartbeat - interval '1 minute' where job_id = ("
            " select job_id from queue"
            "  where job_id = any(%(hands)s) and heartbeat < now() - interval '0.3 seconds'"
            "  limit 1 for update skip locked)",
            hands=[job_id for job_id, _ in self.hands],
        )

    def submit(self) -> None:
        self.storm.submit(self.tenant, count=2)

    def lose_the_coordinator(self) -> None:
        """No heartbeat could arrive for a minute, and all leases look expired."""
        with self.db.transaction() as tx:
            tx.execute(
                "update queue set heartbeat = heartbeat - interval '1 minute'"
                " where heartbeat < now() - interval '0.3 seconds'"
            )
            tx.execute("update coordinator set seen = now() - interval '1 minute'")
        self.db.execute(SQL.be_seen)

    def note(
        self,
        kind: str,
        job_id: UUID,
        attempt: int | None,
        began: float,
        accepted: bool,
        request: object = None,
        tenant: Tenant | None = None,
    ) -> None:
        tenant_id = (tenant or self.tenant).caller.tenant_id
        self.storm.log.append(
            Call(kind, tenant_id, self.machine, job_id, attempt, accepted, began, time.monotonic(), request)
        )
