"""What every web process does beside answering: keep the coordinator's liveness, and keep the claim fast.

Several processes may do it at once; the statements see to it that one is enough.
"""

from __future__ import annotations

import threading
import time

import psycopg

from kelpie_api import logs
from kelpie_api.db import SQL, Database
from kelpie_api.errors import Unavailable

BEAT = 0.5  # seconds between two signs of life; a gap of a second is an outage
DEAD_ROWS = 1000  # so many dead rows at the head of the line make a claim read tens of pages more
VACUUM_SHARE = 0.1  # of the time at most, however little a vacuum achieves under an old snapshot


class Housekeeper:
    """A thread whose loop body is `beat`."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.stopped = threading.Event()
        self.away = False
        self.next_vacuum = 0.0
        self.next_forgetting = 0.0

    def start(self) -> None:
        threading.Thread(target=self.run, name="housekeeping", daemon=True).start()

    def stop(self) -> None:
        self.stopped.set()

    def run(self) -> None:
        while not self.stopped.wait(BEAT):
            try:
                self.beat(time.monotonic())
                self.away = False
            except Unavailable as error:
                if not self.away:
                    logs.warning("database_away", message=error.message)
                self.away = True
            except psycopg.Error as error:
                # Without this thread no lease would ever lapse: it goes on, and says why a round was lost.
                logs.error("housekeeping_failed", error)

    def beat(self, now: float) -> None:
        """One round; `now` is a monotonic time in seconds."""
        outage = self.db.one_or_none(SQL.be_seen)
        if outage:
            logs.warning("outage_noted", **outage)
        self.db.execute(SQL.note_lapse_horizons)
        if now >= self.next_vacuum:
            self.vacuum(now)
        if now >= self.next_forgetting:
            self.db.execute(SQL.forget_outages)
            self.next_forgetting = now + 3600

    def vacuum(self, now: float) -> None:
        """Remove the dead entries that claims leave at the head of the queue's index.

        Autovacuum wakes once a minute, and claims at full speed slow to a third within fifteen seconds
        (reliability section 2).
        """
        dead = self.db.one_or_none(SQL.count_dead_queue_rows)
        took = 0.0
        if dead and dead["n_dead_tup"] >= DEAD_ROWS:
            began = time.monotonic()
            self.db.execute(SQL.vacuum_queue)
            took = time.monotonic() - began
        self.next_vacuum = now + max(1.0, took / VACUUM_SHARE)
