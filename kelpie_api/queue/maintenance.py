"""Housekeeping threads of a web process: they renew the coordinator's liveness and keep the claim fast.

Every web process runs them; the statements make it harmless that several do so at the same time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import psycopg

from kelpie_api import logs
from kelpie_api.db import SQL, Database, Transaction
from kelpie_api.errors import Unavailable
from kelpie_api.queue import dependencies, sweeps, usage, wishes

BEAT = 0.5  # seconds between two renewals of the liveness row; a gap of a second is an outage
DEAD_ROWS = 1000  # dead rows at the head of the queue, by which a claim reads tens of pages more
VACUUM_PAUSE = 1.0  # seconds
VACUUM_SHARE = 0.1  # of the time at most, even where an old snapshot lets a vacuum achieve little
LONGEST_VACUUM = 3600.0  # seconds
FORGET_PAUSE = 3600.0  # seconds
SETTLE_PAUSE = 2.0  # seconds; at a thousand submissions and reports a second a sum is of two thousand rows then
DUTIES_AT_ONCE = 3  # on connections of the pool, whose ten are for requests
FORBIDDEN_PAUSE = 3600.0  # seconds; migrations may grant meanwhile what is missing
MAY_NOT_VACUUM = (
    "The role of DATABASE_URL may not vacuum the table queue, and claims are slower until autovacuum does: run"
    " scripts/migrate with --app-role on Postgres 17 or newer, or lower autovacuum_naptime."
)


class Maintenance:
    """A thread for each duty, so that a long vacuum does not delay the liveness row.

    A duty does its work once for each call and returns the seconds until the next one. `more` are the duties of
    other parts of the process.
    """

    def __init__(self, db: Database, more: Sequence[Callable[[], float]] = ()) -> None:
        self.db = db
        self.duties = (
            self.vacuum,
            self.settle,
            self.end_due,
            self.fill_sweeps,
            self.settle_dependencies,
            self.add_up_usage,
            self.forget,
            self.cut_overdue,
            *more,
        )
        self.stopped = threading.Event()
        self._turns = threading.BoundedSemaphore(DUTIES_AT_ONCE)

    def start(self) -> None:
        threading.Thread(target=self.keep_beating, name="beat", daemon=True).start()
        for duty in self.duties:
            threading.Thread(target=self._repeat, args=(duty,), name=duty.__name__, daemon=True).start()

    def stop(self) -> None:
        self.stopped.set()

    def keep_beating(self) -> None:
        """Renew the liveness row until stopped, on a connection of its own: requests may occupy the whole pool."""
        while not self.stopped.is_set():
            try:
                with self.db.connect() as connection:
                    while not self.stopped.is_set():
                        began = time.monotonic()
                        with self.db.in_time(connection):
                            self.beat(Transaction(connection))
                        self.db.outage.back("beat")
                        self.stopped.wait(max(0.0, began + BEAT - time.monotonic()))
            except psycopg.Error as error:
                self.db.outage.away("beat", error)
                self.stopped.wait(BEAT)

    def beat(self, tx: Transaction) -> None:
        """Renew the liveness row once, and note which queues can have no lapsed lease until the next time."""
        noted = tx.one_or_none(SQL.be_seen)
        if noted and noted["ended"]:
            logs.warning("outage_noted", began=noted["began"], ended=noted["ended"])
        if noted and noted["has_recovered"]:
            logs.warning("recovery_of_database_noted")
        tx.execute(SQL.note_lapse_horizons)

    def vacuum(self) -> float:
        """Remove the dead entries that claims leave in the queue's index; return the seconds until the next look.

        Autovacuum wakes once a minute, and claims at full speed slow to a third within fifteen seconds
        (bench/README.md).
        """
        dead = self.db.one_or_none(SQL.count_dead_queue_rows)
        if dead is None or dead["n_dead_tup"] < DEAD_ROWS:
            return VACUUM_PAUSE
        if not dead["may_vacuum"]:
            logs.warning("queue_not_vacuumed", message=MAY_NOT_VACUUM)
            return FORBIDDEN_PAUSE
        began = time.monotonic()
        self.db.unrepeatable(lambda tx: tx.execute(SQL.vacuum_queue), limit=LONGEST_VACUUM)
        return max(VACUUM_PAUSE, (time.monotonic() - began) / VACUUM_SHARE)

    def settle(self) -> float:
        """Add up each tenant's counts of open jobs, since a submission reads them all; the seconds until the next
        time."""
        self.db.execute(SQL.settle_open_job_counts)
        return SETTLE_PAUSE

    def end_due(self) -> float:
        """Carry out wishes and limits of attempts that ended or fell silent; the seconds until the next time."""
        return wishes.end_due(self.db)

    def fill_sweeps(self) -> float:
        """Give free slots of sweeps to their next jobs, where that was missed; the seconds until the next time."""
        return sweeps.fill_all(self.db)

    def settle_dependencies(self) -> float:
        """Tell jobs that wait for others what has ended; the seconds until the next time."""
        return dependencies.settle_all(self.db)

    def add_up_usage(self) -> float:
        """Add what ended to the totals of usage; the seconds until the next time."""
        return usage.add_up(self.db)

    def forget(self) -> float:
        """Remove outages and submissions that no rule needs any more; return the seconds until the next time."""
        self.db.execute(SQL.forget_outages)
        self.db.execute(SQL.forget_submissions)
        return FORGET_PAUSE

    def cut_overdue(self) -> float:
        """Cut requests that a frozen database keeps waiting; return the seconds until the next look."""
        if overdue := self.db.cut_overdue(time.monotonic()):
            logs.warning("database_overdue", connections=overdue)
        return BEAT

    def _repeat(self, duty: Callable[[], float]) -> None:
        pause = BEAT
        while not self.stopped.wait(pause):
            pause = self._once(duty)

    def _once(self, duty: Callable[[], float]) -> float:
        # The duties of a process wake together once it has begun, while its pool is small: without turns a request
        # would wait for a connection behind all of them. A vacuum takes long, and what cuts others takes none.
        is_free = duty in (self.vacuum, self.cut_overdue)
        try:
            with nullcontext() if is_free else self._turns:
                pause = duty()
        except Unavailable as error:
            self.db.outage.away(duty.__name__, error)
            return BEAT
        except psycopg.Error as error:
            # Without these threads no lease would ever lapse: so they log why a round failed, and go on.
            logs.error("housekeeping_failed", error, duty=duty.__name__)
            return BEAT
        self.db.outage.back(duty.__name__)
        return pause
