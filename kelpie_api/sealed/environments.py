"""Environments of jobs, sealed at rest: each is one text, encrypted for the id of its job; an empty one stays.

Every process opens them. They are sealed once the operator said that no process of the release before is left,
which could not open them (`scripts/admin seal`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from uuid import UUID

from kelpie_api import encryption
from kelpie_api.db import SQL, Database, Row
from kelpie_api.encryption import Seal
from kelpie_api.json_text import json_text, read_json

KNOWN_FOR = 10.0  # seconds for which a process remembers whether to seal, and with which key
BATCH = 100  # jobs that are sealed by one statement; each may have 256 KiB
STRETCH = 10_000  # numbers of jobs that are looked through at once
RECENT = 100_000  # numbers of jobs, more than are submitted while processes learn that they are to seal


class Environments:
    """Seals the environments of submitted jobs, and opens those of stored ones."""

    def __init__(self, db: Database, seal: Seal, clock: Callable[[], float] = time.monotonic) -> None:
        self.db = db
        self.seal = seal
        self.clock = clock
        self._sealing: Seal | None = None
        self._known_until = 0.0

    def sealed(self, job_id: UUID, environment: Mapping[str, str]) -> bytes | None:
        """The environment of a new job, sealed; None where it is to be stored as it is."""
        sealing = self._current() if environment else None
        return sealing.seal_row(job_id, as_text(environment)) if sealing else None

    def _current(self) -> Seal | None:
        """The keys, with the one first that seals; None while none does. Raises WrongSecretKey."""
        if self.clock() >= self._known_until:
            found = self.db.one_or_none(SQL.recall_sealing)
            self._sealing = self.seal.known_as(found["fingerprint"]) if found and found["seals"] else None
            self._known_until = self.clock() + KNOWN_FOR
        return self._sealing


def as_text(environment: Mapping[str, str]) -> str:
    return json_text(environment)


def opened(seal: Seal | None, job: Row) -> Row:
    """A job with its environment; with null in its place where that is sealed and these keys do not open it."""
    sealed = job.get("sealed_environment")
    if sealed is None:
        return job
    text = seal.open_row(job["id"], bytes(sealed)) if seal else None
    shown = without_seal(job)
    shown["environment"] = None if text is None else read_json(text)
    return shown


def without_seal(job: Row) -> Row:
    """A copy of a job without what is sealed in it."""
    shown = dict(job)
    shown.pop("sealed_environment", None)
    return shown


def older_processes(db: Database) -> list[str]:
    """Where connections of the release before come from, with their number."""
    return [f"{row['address']} ({row['connections']})" for row in db.all(SQL.list_older_processes)]


def are_sealed(db: Database) -> bool:
    """Whether new environments are sealed."""
    found = db.one_or_none(SQL.recall_sealing)
    return bool(found and found["seals"])


def seal_all(db: Database, seal: Seal, sleep: Callable[[float], None] = time.sleep) -> int:
    """Have new environments sealed from now on, and seal those of all jobs that are stored; return their number.

    It works half of the time at most, and may be cut short: another run goes on. Raises WrongSecretKey.
    """
    with db.transaction() as tx:
        seal = encryption.require(tx, seal)
        has_begun = tx.one_or_none(SQL.begin_sealing) is not None
    newest = _newest(db)
    number = _seal_stretch(db, seal, 0, newest, sleep)
    if has_begun:
        sleep(KNOWN_FOR + 1)  # until then some process may have written one as it is
        number += _seal_stretch(db, seal, max(0, newest - RECENT), _newest(db), sleep)
    return number


def _newest(db: Database) -> int:
    found = db.one_or_none(SQL.newest_job)
    return int(found["seq"]) if found else 0


def _seal_stretch(db: Database, seal: Seal, after: int, newest: int, sleep: Callable[[float], None]) -> int:
    number = 0
    while after < newest:
        began = time.monotonic()
        until = min(after + STRETCH, newest)
        found = db.all(SQL.list_open_environments, after=after, until=until, most=BATCH)
        if found:
            sealed = [seal.seal_row(row["id"], row["environment"]) for row in found]
            number += db.execute(SQL.seal_environments, ids=[row["id"] for row in found], sealed=sealed)
            sleep(time.monotonic() - began)
        after = found[-1]["seq"] if len(found) == BATCH else until
    return number
