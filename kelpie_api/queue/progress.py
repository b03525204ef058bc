"""How far a job is: what its command tells with heartbeats, the course of it, and when it will probably end."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from kelpie_api.db import Row
from kelpie_api.queue.states import Report

MOST_METRICS = 16  # numbers of a point
LONGEST_METRIC = 64  # characters of the name of one
LONGEST_ETA = timedelta(days=3650)  # what is farther away is no estimate
OWN = ("fraction", "step", "total")  # numbers that are no metrics


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def told(report: Report) -> Row:
    """What a heartbeat tells of the job besides that it is held, as the statement takes it; null: nothing new."""
    said = report.progress
    return {
        "phase": phase_of(report),
        "fraction": None if said is None else said.get("fraction"),
        "said": None if said is None else as_json(said),
        "point": None if said is None else as_json(point_of(said)),
        "output_bytes": report.output_bytes,
    }


def phase_of(report: Report) -> str | None:
    """The phase that a heartbeat tells; null if it tells none. Only a command that runs can stall."""
    if report.stalled and report.phase in (None, "running"):
        return "stalled"
    return "running" if report.stalled is False and report.phase is None else report.phase


def point_of(said: Row) -> Row:
    """What goes into the plot: the step, and the other numbers, also those in `metrics`."""
    inner = said.get("metrics")
    numbers = {**said, **(inner if isinstance(inner, dict) else {})}
    metrics = (
        (name, value)
        for name, value in numbers.items()
        if name not in OWN and is_number(value) and len(name) <= LONGEST_METRIC
    )
    return {
        "step": as_double(said.get("step")),
        "metrics": {name: as_double(value) for name, value in islice(metrics, MOST_METRICS)},
    }


def as_double(value: Any) -> float | None:
    """A number as the database keeps it; null for what is none, or too large for it."""
    try:
        return float(value) if is_number(value) else None
    except OverflowError:
        return None


def as_json(value: Row) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def course(kept: Row | None, points: list[Row]) -> Row:
    """What is known of a job's progress, and how it came there."""
    if kept is None:
        return {"points": []}
    return {**kept, "progress": shown(kept), "resumed": resumed(kept), "points": points}


def with_progress(job: Row) -> Row:
    """A job with its progress, if its command told any."""
    told_of = shown(job)
    return job if told_of is None else job | {"progress": told_of}


def shown(kept: Row) -> Row | None:
    """The progress in the answers of jobs: what the command told, the fraction, when it was told, the estimate."""
    if kept["said"] is None:
        return None
    return {**kept["said"], "fraction": kept["said_fraction"], "at": kept["said_at"], "eta": eta(kept)}


def resumed(kept: Row) -> Row | None:
    """From where to where the last resume went; null if none was told yet."""
    if kept["went_in"] is None:
        return None
    return {"attempt": kept["went_in"], "from": kept["went_from"], "to": kept["went_to"]}


def eta(kept: Row) -> datetime | None:
    """When the job will probably be done, by the rate of the present attempt; null without a rate."""
    if not kept["is_live"] or None in (kept["first_fraction"], kept["changed_at"]):
        return None
    done, taken = kept["said_fraction"] - kept["first_fraction"], kept["changed_at"] - kept["first_at"]
    if done <= 0 or taken <= timedelta(0):
        return None
    left = taken.total_seconds() / done * (1 - kept["said_fraction"])
    return None if left > LONGEST_ETA.total_seconds() else kept["changed_at"] + timedelta(seconds=left)
