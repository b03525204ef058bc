"""What the coordinator answers, as frozen dataclasses. What this release does not know is kept in `extra`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

FINAL = ("completed", "failed", "canceled")
TIMES = {"at", "eta", "claimed", "last_heartbeat", "ended", "created", "started", *FINAL, "heartbeat"}


def instant(text: str | None) -> datetime | None:
    """A time of the wire (RFC 3339, UTC) with its zone; None stays None."""
    return None if text is None else datetime.fromisoformat(text)


class FromJson:
    """Makes itself of a JSON object: fields by their names, the rest into `extra`."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any], **more: Any) -> Self:
        known = {part.name for part in dataclasses.fields(cls)} - {"extra"}  # type: ignore[arg-type]
        values = {name: instant(data[name]) if name in TIMES else data[name] for name in known & data.keys()}
        extra = {name: value for name, value in data.items() if name not in known}
        return cls(**values, **more, extra=extra)  # type: ignore[call-arg]


@dataclass(frozen=True)
class Progress(FromJson):
    """How far a job is: a fraction from 0 to 1, and what else its command reported."""

    fraction: float | None = None
    step: float | None = None
    total: float | None = None
    message: str | None = None
    at: datetime | None = None
    eta: datetime | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def metrics(self) -> dict[str, float]:
        """The other numbers that the command reported, such as the loss."""
        said = {**self.extra, **(self.extra.get("metrics") or {}), **(self.extra.get("data") or {})}
        return {
            name: value
            for name, value in said.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }


@dataclass(frozen=True)
class CheckpointState(FromJson):
    """The newest checkpoint that is whole in the bucket."""

    generation: int | None = None
    at: datetime | None = None
    bytes: int | None = None
    attempt: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Reason(FromJson):
    """One answer to "why is it not running?": a code of a closed list, a sentence, and what to do about it."""

    code: str = ""
    sentence: str = ""
    action: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Attempt(FromJson):
    """One handout of a job, and how it ended. Seconds in `held`, `useful` and `lost`."""

    number: int = 0
    machine_id: str = ""
    container_group_id: str = ""
    claimed: datetime | None = None
    last_heartbeat: datetime | None = None
    ended: datetime | None = None
    outcome: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    detail: str | None = None
    output: str | None = None
    held: float | None = None
    useful: float | None = None
    lost: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Event(FromJson):
    """One change of a job and its actor, such as `user:lab` or `machine:m1`."""

    id: int = 0
    at: datetime | None = None
    kind: str = ""
    actor: str = ""
    attempt: int = 0
    detail: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class JobData(FromJson):
    """A job as the coordinator showed it at one moment."""

    id: str = ""
    status: str = ""
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    phase: str = ""
    parked: Sequence[str] | None = None
    reason: str | None = None
    priority: int = 0
    sweep: str | None = None
    user_id: str | None = None
    command: str = ""
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    container_group_id: str | None = None
    sync: Mapping[str, Any] | None = field(default=None, repr=False)
    created: datetime | None = None
    started: datetime | None = None
    completed: datetime | None = None
    failed: datetime | None = None
    canceled: datetime | None = None
    heartbeat: datetime | None = None
    num_failures: int = 0
    max_failures: int = 3
    num_heartbeats: int = 0
    heartbeat_interval: int = 30
    machine_id: str | None = None
    attempt: int = 0
    warnings: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], **more: Any) -> Self:
        """A job of the wire.

        Absent collections are empty ones, and a coordinator without phases shows its states.
        """
        whole = {**data, "labels": data.get("labels") or {}, "phase": data.get("phase") or data.get("status", "")}
        whole["priority"] = data.get("priority") or 0
        return super().from_json(whole, **more)

    @property
    def title(self) -> str:
        """The name, or the end of the id, by which a person finds the job."""
        return self.name or short(self.id)

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def ended(self) -> datetime | None:
        return self.completed or self.failed or self.canceled

    @property
    def progress(self) -> Progress:
        found = self.extra.get("progress")
        if isinstance(found, int | float):
            return Progress(fraction=float(found))
        return Progress.from_json(found) if isinstance(found, Mapping) else Progress()

    @property
    def checkpoint(self) -> CheckpointState | None:
        found = self.extra.get("checkpoint")
        return CheckpointState.from_json(found) if isinstance(found, Mapping) else None


@dataclass(frozen=True)
class SweepData(FromJson):
    """Jobs that belong together, as the coordinator showed them at one moment."""

    id: str = ""
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    max_parallel: int | None = None
    closed: Any = False
    phases: Mapping[str, int] = field(default_factory=dict)
    done: int = 0
    total: int = 0
    created: datetime | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class BulkResult(FromJson):
    """What a change of many jobs did: how many it changed, and which (up to 100) it could not."""

    count: int = 0
    refused: Sequence[Any] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)


def short(job_id: str) -> str:
    """The last eight digits of an id: ids of one moment begin alike."""
    return job_id[-8:]
