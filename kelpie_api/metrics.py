"""Metrics for Prometheus, which name no tenant, job or machine.

Each web process counts what it does, in files of one directory (`PROMETHEUS_MULTIPROC_DIR`, made by
gunicorn_conf.py), so that any of them answers for all. The queue is measured in the database when metrics are
requested, at a limited rate, so that requests cannot keep the database busy.
"""

from __future__ import annotations

import fcntl
import functools
import os
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from kelpie_api import logs
from kelpie_api.db import SQL, Database, Row
from kelpie_api.errors import Unavailable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SHARED = "PROMETHEUS_MULTIPROC_DIR"
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
UNKNOWN = "unknown"

FRESH = 5.0  # seconds for which a measurement is used again
SHARE = 0.02  # of a process's time at most is spent on measuring, however long the queue is
LONGEST_MEASURING = 10.0

disable_created_metrics()
process_registry = CollectorRegistry()  # what this process counts

requests = Histogram(
    "kelpie_http_request_duration_seconds",
    "Answered requests, by the route's template; one label for all unknown routes.",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=process_registry,
)
claims = Counter("kelpie_claims", "Answered claims: with a job, or empty.", ["outcome"], registry=process_registry)
refusals = Counter(
    "kelpie_refused_reports",
    "Reports of workers that do not hold the job (any more); nothing was written.",
    ["report"],
    registry=process_registry,
)


def request_answered(method: str, route: str | None, status: int, seconds: float) -> None:
    """Count a request. `route` is the template, never the path: callers must not be able to add labels."""
    known = method if method in METHODS else UNKNOWN
    _requests_of(known, route or UNKNOWN, status).observe(seconds)


@functools.cache  # of a few hundred
def _requests_of(method: str, route: str, status: int) -> Histogram:
    return requests.labels(method, route, str(status))


def claim_answered(found: bool) -> None:
    claims.labels("job" if found else "empty").inc()


def report_refused(report: str) -> None:
    refusals.labels(report).inc()


class QueueGauges(Collector):
    """The queue and the outbox over all tenants, as of a few seconds ago."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.measuring = threading.Lock()
        self.next_time = 0.0
        self.measured: Row | None = None

    def collect(self) -> Iterable[Metric]:
        found = self._latest()
        yield GaugeMetricFamily(
            "kelpie_database_up", "1 if the database answered the last look.", found is not None
        )
        if found:
            yield from gauges(found)

    def _latest(self) -> Row | None:
        """The last measurement, or a new one if that is old; None while the database does not answer.

        A request waits for another one's measurement only before there is a first one.
        """
        if self.measuring.acquire(blocking=self.next_time == 0):
            try:
                self._measure_if_old()
            finally:
                self.measuring.release()
        return self.measured

    def _measure_if_old(self) -> None:
        began = time.monotonic()
        if began >= self.next_time:
            self.measured = self._measure()
            ended = time.monotonic()
            self.next_time = ended + max(FRESH, (ended - began) / SHARE)

    def _measure(self) -> Row | None:
        try:
            return self.db.unrepeatable(lambda tx: tx.one_or_none(SQL.measure_queue), limit=LONGEST_MEASURING)
        except (Unavailable, psycopg.Error) as error:
            logs.warning("queue_not_measured", message=str(error))
            return None


def gauges(measured: Row) -> Iterator[Metric]:
    jobs = GaugeMetricFamily(
        "kelpie_queue_jobs",
        "Jobs in the queue: pending, running (held by a worker), waiting (handed out before, without a holder),"
        " parked.",
        labels=["state"],
    )
    for state in ("pending", "running", "waiting", "parked"):
        jobs.add_metric([state], measured[state])
    yield jobs
    for name, what in (
        ("lapsed_leases", "Running jobs whose worker fell silent, until another claims them."),
        ("oldest_pending_seconds", "Age of the oldest pending job; 0 without one."),
        ("webhooks_unfinished", "Webhooks that are neither delivered nor given up."),
        ("webhooks_oldest_due_seconds", "For how long the webhook that is due longest has waited; 0 without one."),
    ):
        yield GaugeMetricFamily(f"kelpie_{name}", what, measured[name])


def exposition(queue: QueueGauges) -> bytes:
    """All metrics in Prometheus's text format."""
    folder = shared_folder()
    counted = process_registry
    if folder:
        counted = CollectorRegistry()
        MultiProcessCollector(counted, folder)
    measured = CollectorRegistry()
    measured.register(queue)
    with counts_locked(folder):
        text = generate_latest(counted)
    return text + generate_latest(measured)


def shared_folder() -> str | None:
    """The folder of the counts; None where one process serves alone, or where the folder was removed meanwhile."""
    folder = os.environ.get(SHARED)
    return folder if folder and Path(folder).is_dir() else None


@contextmanager
def counts_locked(folder: str | None) -> Iterator[None]:
    """Hold a shared lock, so that no count moves from one file to another while they are added up."""
    if folder is None:
        yield
        return
    with (Path(folder) / "moving").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def keep_counts_of_ended(folder: Path, living: set[int]) -> None:
    """Add the counts of ended processes up in one file for each kind, and remove theirs.

    Web processes are replaced again and again; a file for each that ever lived would fill the directory. If
    the counts are being read just now, this does nothing, and the next call does it: the caller must not wait.
    """
    with (folder / "moving").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        for counts in sorted(folder.glob("*_[0-9]*.db")):
            kind, _, pid = counts.stem.rpartition("_")
            if int(pid) not in living:
                add_up(counts, folder / f"{kind}_ended.db")


def add_up(counts: Path, total: Path) -> None:
    """Add one file's counts to another file and remove it; what a kill left half written is logged and lost."""
    sums = MmapedDict(str(total))
    try:
        for key, value, at, _ in MmapedDict.read_all_values_from_file(str(counts)):
            sums.write_value(key, sums.read_value(key)[0] + value, at)
    except (RuntimeError, ValueError, struct.error) as error:
        logs.warning("counts_lost", file=counts.name, message=str(error))
    finally:
        sums.close()
    counts.unlink()
