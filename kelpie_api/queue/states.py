"""Statuses of jobs, outcomes of attempts, and the content of a worker's report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

LEGACY_FIELDS = (
    "input_bucket",
    "input_prefix",
    "checkpoint_bucket",
    "checkpoint_prefix",
    "output_bucket",
    "output_prefix",
)


SPOKEN = ("output", "phase", "progress", "steer")  # what a worker may say that it speaks besides


class Status(StrEnum):
    """The states of a job; sql/README.md draws the moves between them."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"


class Phase(StrEnum):
    """Where a job stands, for people; computed by the database (phase_in_queue)."""

    PENDING = "pending"
    PARKED = "parked"
    WAITING = "waiting"
    DOWNLOADING = "downloading"
    RUNNING = "running"
    UPLOADING = "uploading"
    STALLED = "stalled"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    RELEASED = "released"
    CANCELED = "canceled"


@dataclass(frozen=True)
class Report:
    """What a worker reports about a job: its own name, and how the command ended.

    `attempt` is the fencing token; the original's worker sends None, and then the machine alone is compared.
    `reason` is one of a few classes, `detail` a sentence. `output` is the end of what the command printed, where
    the worker is configured to send it, `output_bytes` the number of all bytes that it printed. `progress` is as
    the command told it. What comes with heartbeats only: `checkpoint_lag`, `phase`, and whether it has `stalled`.
    """

    machine_id: str
    container_group_id: str
    attempt: int | None = None
    exit_code: int | None = None
    reason: str | None = None
    detail: str | None = None
    output: str | None = None
    checkpoint_lag: int | None = None  # seconds
    phase: str | None = None
    progress: dict[str, Any] | None = None
    output_bytes: int | None = None
    stalled: bool | None = None
    stop: str | None = None  # why the worker ended the attempt, where it was told to

    def without_news(self) -> Report:
        """The heartbeat that only renews the lease."""
        return replace(self, phase=None, progress=None, output_bytes=None, stalled=None)
