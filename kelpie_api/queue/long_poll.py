"""Long polling: claims that found no job wait here until there may be one
(docs/design/protocol.md, Waiting for work).

One thread of a process looks at the queue for all its waiters, after a notification and every few seconds, and
wakes as many waiters as it sees jobs for. So a submission costs a few claims however many waiters there are. A
waiter holds no database connection.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg

from kelpie_api.db import AWAY, SQL, Database, Row
from kelpie_api.errors import Unavailable
from kelpie_api.queue.notifications import Listener
from kelpie_api.serving_threads import aside

LONGEST_WAIT = 30  # seconds that a request may wait
LOOK_PAUSE = 2.0  # seconds between two looks at the queue, since a lapse sends no notification
POLL_PAUSE = 0.4  # the same, while notifications do not arrive
FRESH = 2 * LOOK_PAUSE  # seconds for which a look that found nothing stands for a claim at the end of a wait
LONG = 10.0  # seconds of such a wait; after a shorter one much of it may lie behind the last look
SHORTEST_LOOK_PAUSE = 0.01  # seconds, in which many submissions become one look
CLAIMS_AT_ONCE = 5  # of all waiters: the other connections of the pool are for other requests
SLOT_TIMEOUT = 5.0  # seconds that a waiter waits for one of these slots

QueueKey = tuple[int, str]  # tenant and container group; '' is the null group
Handout = tuple[UUID, int]  # a job, and the number of attempts that it had when it was seen


class TooManyWaiters(Exception):
    """The process, or the tenant in it, has as many waiters as it may have."""


@dataclass(eq=False)
class Waiter:
    """One waiting claim: its machine and that one's group, and the groups whose queues it may be served from."""

    tenant_id: int
    machine_id: str
    groups: list[str]
    claim_id: UUID | None = None
    own_group: str = ""
    woken: threading.Event = field(default_factory=threading.Event)
    assigned: Handout | None = None

    @property
    def queues(self) -> list[QueueKey]:
        return [(self.tenant_id, group) for group in self.groups]

    def may_have(self, seen: Row) -> bool:
        """Whether its machine may be handed this job."""
        return self.machine_id not in seen["banned"] and self.own_group.lower() not in seen["paused"]


class LongPoll:
    """The waiters of this process, and the thread that wakes them."""

    def __init__(self, db: Database, most: int, most_of_a_tenant: int = 0) -> None:
        self.db = db
        self.most = most
        self.most_of_a_tenant = most_of_a_tenant  # 0: no limit but `most`
        self.closed = False
        self.listener = Listener(db, self._on_notification)
        self._lock = threading.Lock()
        self._by_queue: dict[QueueKey, dict[Waiter, None]] = {}  # in the order of arrival
        self._waiting: dict[Waiter, None] = {}
        self._of_tenants: Counter[int] = Counter()
        self._assigned: dict[Handout, Waiter] = {}
        self._failed: dict[Handout, float] = {}  # taken or locked by others; not assigned again at once
        self._slots = threading.BoundedSemaphore(CLAIMS_AT_ONCE)
        self._look_now = threading.Event()
        self._looked = -math.inf  # monotonic: when the last look that was answered began
        self._looked_at_claims = -math.inf  # the same, of the last one at claims that others may have carried out
        self._to_start = [self._keep_looking, self.listener.keep_listening]

    def claim(
        self, waiter: Waiter, take: Callable[[], Row | None], seconds: float, gone: Callable[[], bool]
    ) -> Row | None:
        """The job that `take` returns, as soon as it returns one; None after so many seconds.

        `gone` says whether the client has closed its connection: then nothing is taken. Raises TooManyWaiters
        before the first try, Unavailable, and what `take` raises.
        """
        deadline = time.monotonic() + seconds
        with self._registered(waiter):  # before the first try, so that what comes after it wakes the waiter
            job = self._take_with_slot(take)
            while job is None and not self.closed:
                with aside():
                    called = waiter.woken.wait(max(0.0, deadline - time.monotonic()))
                if self.closed or gone() or not (called or self._is_worth_a_try(waiter, seconds)):
                    return None
                job = self._take_when_woken(waiter, take)
                if not called:
                    return job
            return job

    def close(self) -> None:
        """Answer all waiters with nothing and accept no other; for the end of a process."""
        self.closed = True
        with self._lock:
            for waiter in self._waiting:
                waiter.woken.set()
        self._look_now.set()
        self.listener.stop()

    def __len__(self) -> int:
        return len(self._waiting)

    def look(self) -> None:
        """Look at the queue once, and wake the waiters that can take what is there; every two seconds also those
        whose claim was carried out by another request."""
        with self._lock:
            waiting = list(self._waiting)
            queues = {queue_key: list(waiters) for queue_key, waiters in self._by_queue.items()}
        if not waiting:
            return
        began = time.monotonic()
        claims = []
        if began - self._looked_at_claims >= LOOK_PAUSE:  # of thousands: it takes longer than all else here
            self._looked_at_claims = began
            claims = [
                {"tenant_id": waiter.tenant_id, "claim_id": str(waiter.claim_id)}
                for waiter in waiting
                if waiter.claim_id is not None
            ]
        found = self.db.all(
            SQL.peek_at_lines,
            lines=json.dumps([as_seen_by_peek(queue_key, waiters) for queue_key, waiters in queues.items()]),
            claims=json.dumps(claims),
        )
        with self._lock:
            self._wake_for(found)
        self._looked = began

    # --- in the threads of the waiters ----------------------------------------------------------------

    @contextmanager
    def _registered(self, waiter: Waiter) -> Iterator[None]:
        with self._lock:
            of_tenant = self._of_tenants[waiter.tenant_id]
            if self.closed or len(self._waiting) >= self.most or of_tenant >= (self.most_of_a_tenant or self.most):
                raise TooManyWaiters
            self._waiting[waiter] = None
            self._of_tenants[waiter.tenant_id] += 1
            for queue_key in waiter.queues:
                self._by_queue.setdefault(queue_key, {})[waiter] = None
        try:
            self._start_threads()
            yield
        finally:
            with self._lock:
                self._remove(waiter)

    def _remove(self, waiter: Waiter) -> None:
        del self._waiting[waiter]
        self._of_tenants[waiter.tenant_id] -= 1
        if not self._of_tenants[waiter.tenant_id]:
            del self._of_tenants[waiter.tenant_id]
        for queue_key in waiter.queues:
            if waiters := self._by_queue.get(queue_key):
                waiters.pop(waiter, None)
                if not waiters:
                    del self._by_queue[queue_key]
        if waiter.assigned is not None:  # it gave up or failed: its job is for the next waiter
            self._assigned.pop(waiter.assigned, None)
            self._look_now.set()

    def _is_worth_a_try(self, waiter: Waiter, waited: float) -> bool:
        """Whether a claim at the end of a wait may find what no look did, or that the database is away.

        Ten thousand workers that wait would each ask in vain every twenty seconds, and ask again at once.
        """
        return waited < LONG or waiter.woken.is_set() or time.monotonic() - self._looked > FRESH

    def _take_when_woken(self, waiter: Waiter, take: Callable[[], Row | None]) -> Row | None:
        waiter.woken.clear()
        job = self._take_with_slot(take)
        with self._lock:
            self._settle(waiter, job)
        return job

    def _settle(self, waiter: Waiter, job: Row | None) -> None:
        """End the assignment of a woken waiter. If it did not take its job, look again for another waiter."""
        handout, waiter.assigned = waiter.assigned, None
        if handout is None:
            return
        self._assigned.pop(handout, None)
        if job is None:
            self._failed[handout] = time.monotonic()
        if job is None or job["id"] != handout[0]:
            self._look_now.set()

    def _take_with_slot(self, take: Callable[[], Row | None]) -> Row | None:
        if not self._slots.acquire(timeout=SLOT_TIMEOUT):
            raise Unavailable(AWAY)
        try:
            return take()
        finally:
            self._slots.release()

    # --- in the thread that looks ----------------------------------------------------------------------

    def _wake_for(self, found: list[Row]) -> None:
        now = time.monotonic()
        self._failed = {handout: at for handout, at in self._failed.items() if at > now - self._pause()}
        for row in found:
            if row["claim_id"] is not None:
                self._wake_repeated_claims(row)
            else:
                self._wake_first((row["tenant_id"], row["container_group"]), row)

    def _wake_repeated_claims(self, row: Row) -> None:
        """Wake the waiters whose claim_id was carried out by another request, whose answer is theirs too."""
        for waiter in self._waiting:
            if (waiter.tenant_id, waiter.claim_id) == (row["tenant_id"], row["claim_id"]):
                waiter.woken.set()

    def _wake_first(self, queue_key: QueueKey, row: Row) -> None:
        handout = (row["job_id"], row["attempt"])
        if handout in self._assigned or handout in self._failed:
            return
        for waiter in self._by_queue.get(queue_key, {}):
            if waiter.assigned is None and waiter.may_have(row):
                self._assigned[handout] = waiter
                waiter.assigned = handout
                waiter.woken.set()
                return

    def _on_notification(self, word: str) -> None:
        """A notification: tenant and group of a queue that got something."""
        tenant_id, _, group = word.partition(" ")
        if tenant_id.isdigit() and (int(tenant_id), group) in self._by_queue:
            self._look_now.set()

    def _start_threads(self) -> None:
        """Start the threads with the first waiter: a process may be forked after this object was made."""
        with self._lock:
            while self._to_start:  # what the system had no room for is started with the next waiter
                loop = self._to_start[0]
                threading.Thread(target=loop, name=loop.__name__, daemon=True).start()
                del self._to_start[0]

    def _pause(self) -> float:
        return LOOK_PAUSE if self.listener.proven else POLL_PAUSE

    def _keep_looking(self) -> None:
        while not self.closed:
            self._look_now.wait(self._pause())
            self._look_now.clear()
            try:
                self.look()
                self.db.outage.back("look")
            except (Unavailable, psycopg.Error) as error:
                # The waiters stay; each final try answers that the database is away.
                self.db.outage.away("look", error)
                time.sleep(POLL_PAUSE)
            time.sleep(SHORTEST_LOOK_PAUSE)


def as_seen_by_peek(queue_key: QueueKey, waiters: list[Waiter]) -> dict[str, Any]:
    """A queue as the statement `peek_at_lines` takes it; the machine with the most waiters first."""
    machines = Counter(waiter.machine_id for waiter in waiters)
    return {
        "tenant_id": queue_key[0],
        "container_group": queue_key[1],
        "waiters": len(waiters),
        "machines": [machine for machine, _ in machines.most_common()],
    }
