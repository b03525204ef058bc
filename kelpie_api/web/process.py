"""The objects that all requests of one web process share."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable
from dataclasses import dataclass, field

from kelpie_api import encryption, migrations
from kelpie_api.auth.authenticator import Authenticator
from kelpie_api.auth.sessions import EndedSessions
from kelpie_api.cache import Shared
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.errors import Unavailable
from kelpie_api.machines.sightings import Sightings
from kelpie_api.pace import Pace
from kelpie_api.queue.handouts import Unsealable
from kelpie_api.queue.long_poll import LongPoll
from kelpie_api.queue.maintenance import Maintenance
from kelpie_api.queue.output import OutputLimit, OutputReaders
from kelpie_api.salad.client import Salad
from kelpie_api.scaling.rules import GroupLookups
from kelpie_api.sealed.environments import Environments
from kelpie_api.web.live_parts import Part, new_live_parts, new_pace_of_tabs


@dataclass
class Coordinator:
    """The parts of one web process: a pool, the authenticator, housekeeping threads.

    Threads and connections do not survive a fork, so they are started by the first request that a process serves.
    """

    config: Config
    db: Database
    authenticator: Authenticator
    maintenance: Maintenance
    waiting: LongPoll
    sightings: Sightings
    lookups: GroupLookups
    environments: Environments
    readers: OutputReaders
    room_for_pages: threading.BoundedSemaphore  # of these readers, how many may be pages
    live_parts: Shared[Hashable, Part] = field(default_factory=new_live_parts)
    pace_of_tabs: Pace = field(default_factory=new_pace_of_tabs)
    schema_is_current: bool = False
    begun_in: int | None = None
    beginning: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, config: Config, db: Database | None = None) -> Coordinator:
        """The parts for these settings; `db`: a pool that is there already."""
        db = db or Database(config.database_url)
        sightings = Sightings(db, config.max_machines)
        authenticator = Authenticator(db, config)
        unsealable = Unsealable(db, authenticator.seal)
        duties = [
            sightings.record_sightings,
            authenticator.key_uses.record_uses_of_keys,
            unsealable.unpark_what_opens,
            OutputLimit(db, config.max_output_gibibytes).trim_outputs,
            EndedSessions(db).forget_sessions,
        ]
        maintenance = Maintenance(db, duties)
        waiting = LongPoll(db, config.max_waiters, config.max_waiters_of_a_project)
        lookups = GroupLookups(db, Salad(config.salad_api_url), config.salad_api_key)
        readers = OutputReaders(db, config.max_readers)
        environments = Environments(db, authenticator.seal)
        room_for_pages = threading.BoundedSemaphore(max(1, config.max_readers // 2))
        return cls(
            config,
            db,
            authenticator,
            maintenance,
            waiting,
            sightings,
            lookups,
            environments,
            readers,
            room_for_pages,
        )

    def begin(self) -> None:
        """Open the pool and start housekeeping, once in each process."""
        if self.begun_in == os.getpid():
            return
        with self.beginning:
            if self.begun_in != os.getpid():
                self.db.open()
                self.maintenance.start()
                self.begun_in = os.getpid()

    def end(self) -> None:
        self.waiting.close()
        self.readers.close()
        self.maintenance.stop()
        self.authenticator.end()
        self.db.close()

    def require_current_schema(self) -> None:
        """Raise Unavailable while the schema is older than this release, WrongSecretKey if the key is another."""
        if self.schema_is_current:
            return
        problem = self.db.repeatable(lambda tx: migrations.problem(tx.connection))
        if problem:
            raise Unavailable(problem)
        self.db.repeatable(lambda tx: encryption.require(tx, self.authenticator.seal))
        self.schema_is_current = True
