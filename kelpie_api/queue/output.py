"""The end of what commands print: pieces from the holder, and readers that wait for more.

A piece notifies nothing. Readers look every 0.8 seconds, all of a process with one statement, and their number is
bounded by itself, so that workers that wait for jobs lack neither threads nor connections because of them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from uuid import UUID

import psycopg

from kelpie_api import logs
from kelpie_api.auth.caller import Caller
from kelpie_api.db import SQL, Database, Row
from kelpie_api.errors import Forbidden, NotTheHolder, Unavailable
from kelpie_api.queue import jobs, listing
from kelpie_api.queue.states import Report
from kelpie_api.serving_threads import aside

PAUSE = 0.8  # seconds between two looks; with the second between two pieces, a line is read within two
MOST_WATCHED = 50  # jobs of a tenant
TRIM_PAUSE = 5.0  # seconds between two looks at what tenants keep
TRIM_AGAIN = 0.2  # seconds, where there may be more to remove


class TooManyReaders(Exception):
    """The process has as many waiting readers as it may have."""


@dataclass(frozen=True)
class Output:
    """Some of an attempt's output: the offset after it, and how many bytes before it were not kept."""

    content: bytes
    next: int
    left_out: int
    is_over: bool  # nothing comes any more


def keep(db: Database, caller: Caller, job_id: UUID, report: Report, start: int, content: bytes) -> Row:
    """Keep a piece that begins at this offset; the offset after all that came, and whether it is `watched`.

    Raises NotTheHolder, JobNotFound.
    """
    kept = db.one_or_none(
        SQL.keep_output,
        job_id=job_id,
        **caller.scope,
        machine_id=report.machine_id,
        attempt=report.attempt,
        start=start,
        content=content,
    )
    if kept is None:
        raise NotTheHolder(jobs.why_refused(db, caller, job_id, report))
    return kept


def attempt_to_read(db: Database, caller: Caller, job_id: UUID, attempt: int | None) -> int:
    """The attempt that is meant: the newest where none is named. Raises JobNotFound.

    Raises Forbidden for a machine's token that does not hold the job: output may show what other machines do.
    """
    job = listing.get(db, caller, job_id)
    if caller.is_worker and not listing.held_by(db, caller, [job_id]):
        raise Forbidden("A machine's token may read the output of the job that it holds; use a key for others.")
    return attempt or job["attempt"] or 1


def read(db: Database, job_id: UUID, attempt: int, start: int, whole: bool = False) -> Output:
    """The output from this offset on, up to the next bytes that were not kept; with `whole` beyond these, too."""
    found = db.one_or_none(SQL.output_of_attempt, job_id=job_id, attempt=attempt)
    if found is None:
        return Output(b"", start, 0, is_over=True)
    begin = max(start, found["next"] - found["most"])
    pieces = db.all(SQL.list_output_pieces, job_id=job_id, attempt=attempt, start=begin)
    content, at, left_out = bytearray(), start, 0
    for piece in pieces:
        first = max(begin, piece["start"])
        if first > at and content and not whole:
            break
        left_out += max(0, first - at)
        content += piece["content"][first - piece["start"] :]
        at = piece["start"] + len(piece["content"])
    if not content and found["next"] > start:  # nothing of it is kept
        return Output(b"", found["next"], found["next"] - start, found["is_over"])
    return Output(bytes(content), at, left_out, found["is_over"])


def tail(db: Database, job_id: UUID, attempt: int, most: int, start: int = 0) -> Output:
    """What is kept of an attempt's output from an offset on, but of more than `most` bytes the last ones.

    Where some are left out it begins with a line, if there is one.
    """
    found = db.one_or_none(SQL.output_of_attempt, job_id=job_id, attempt=attempt)
    begin = max(start, found["next"] - most) if found else start
    end = read(db, job_id, attempt, begin, whole=True)
    left_out = begin - start + end.left_out
    first = end.content.find(b"\n") + 1 if left_out else 0
    return Output(end.content[first:], end.next, left_out + first, end.is_over)


def watch(db: Database, job_id: UUID, attempt: int) -> bool:
    """Have the holder send its output every second for a while; whether it does so."""
    return db.one_or_none(SQL.watch_output, job_id=job_id, attempt=attempt, most=MOST_WATCHED) is not None


@dataclass(eq=False)
class Reader:
    job_id: UUID
    attempt: int
    start: int
    woken: threading.Event = field(default_factory=threading.Event)

    @property
    def asked(self) -> tuple[str, int]:
        return str(self.job_id), self.attempt


class OutputReaders:
    """The readers of this process that wait, and the thread that wakes them."""

    def __init__(self, db: Database, most: int) -> None:
        self.db = db
        self.most = most
        self.closed = False
        self._lock = threading.Lock()
        self._waiting: dict[Reader, None] = {}
        self._looking = False

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self, reader: Reader, seconds: float, gone: Callable[[], bool]) -> None:
        """Return once there may be more than the reader has, the attempt is over, the time is, or the client is
        gone. Raises TooManyReaders."""
        until = time.monotonic() + seconds
        with self._registered(reader):
            while (left := until - time.monotonic()) > 0 and not self.closed and not gone():
                with aside():
                    woken = reader.woken.wait(min(PAUSE, left))
                if woken:
                    return

    def close(self) -> None:
        """Answer all readers, and accept no other; for the end of a process."""
        self.closed = True
        with self._lock:
            for reader in self._waiting:
                reader.woken.set()

    def look(self) -> None:
        """Look once how far the outputs are, and wake the readers that can read on."""
        with self._lock:
            readers = sorted(self._waiting, key=lambda reader: reader.asked)
        by_attempt = {asked: list(group) for asked, group in groupby(readers, lambda reader: reader.asked)}
        asked = [{"job_id": job_id, "attempt": attempt} for job_id, attempt in by_attempt]
        for row in self.db.all(SQL.look_at_outputs, asked=json.dumps(asked)):
            for reader in by_attempt[str(row["job_id"]), row["attempt"]]:
                if row["next"] > reader.start or row["is_over"]:
                    reader.woken.set()

    @contextmanager
    def _registered(self, reader: Reader) -> Iterator[None]:
        with self._lock:
            if self.closed or len(self._waiting) >= self.most:
                raise TooManyReaders
            if not self._looking:
                threading.Thread(target=self._keep_looking, name="look at output", daemon=True).start()
                self._looking = True  # not before: the system may have no room for a thread
            self._waiting[reader] = None
        try:
            yield
        finally:
            with self._lock:
                del self._waiting[reader]

    def _keep_looking(self) -> None:
        """Look while there are readers; the thread ends with the last one."""
        while True:
            time.sleep(PAUSE)
            with self._lock:
                if not self._waiting or self.closed:
                    self._looking = False
                    return
            try:
                self.look()
            except (Unavailable, psycopg.Error) as error:
                logs.warning("output_not_looked_at", reason=str(error))


class OutputLimit:
    """Removes what tenants keep beyond their limit, the attempts that ended first."""

    def __init__(self, db: Database, gibibytes: int) -> None:
        self.db = db
        self.most = gibibytes * 2**30

    def trim_outputs(self) -> float:
        """Remove what is too much; the seconds until the next time."""
        done = self.db.one_or_none(SQL.trim_outputs, most=self.most)
        return TRIM_AGAIN if done and done["removed"] else TRIM_PAUSE
