"""The words of a job's life: its statuses, how attempts end, and what a report says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

LEGACY_FIELDS = (
    "input_bucket",
    "input_prefix",
    "checkpoint_bucket",
    "checkpoint_prefix",
    "output_bucket",
    "output_prefix",
)


class Status(StrEnum):
    """The states of a job; sql/README.md draws the moves between them."""

    PENDING = "pending"
    RUNNING = "running"
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
    """What a worker says about a job: who it is, and how the command ended.

    `attempt` is the fence; it is None from the original's worker, then the machine alone is compared. `reason` is
    one of a few classes, `detail` the worker's own sentence. `output` is the last of what the command printed,
    from a worker that was asked for it. `checkpoint_lag` is of a heartbeat.
    """

    machine_id: str
    container_group_id: str
    attempt: int | None = None
    exit_code: int | None = None
    reason: str | None = None
    detail: str | None = None
    output: str | None = None
    checkpoint_lag: int | None = None  # seconds
