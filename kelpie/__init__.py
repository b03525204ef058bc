"""Kelpie for people: submit jobs, watch them, steer them. It knows the wire only.

    k = kelpie.Client()
    job = k.submit(["python", "train.py"], name="lora", group="gpu", checkpoint={"ckpt": "s3://b/lora/ckpt"})
    job.result(timeout=86400)

Names are imported when they are first used, so that the command line starts without what it does not need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kelpie.async_client import AsyncClient, AsyncJob, AsyncJobs, AsyncSweep
    from kelpie.client import Client, Job, Jobs, Sweep, as_completed
    from kelpie.errors import (
        Ambiguous,
        DefinitionError,
        JobCanceled,
        JobEnded,
        JobFailed,
        KelpieError,
        NotAllowed,
        NotFound,
        NotSupported,
        Refused,
        SettingsError,
        TimedOut,
        Unreachable,
    )
    from kelpie.grids import grid
    from kelpie.models import Attempt, BulkResult, Event, JobData, Progress, Reason, SweepData
    from kelpie.operations import Piece

HOMES = {
    "async_client": ("AsyncClient", "AsyncJob", "AsyncJobs", "AsyncSweep"),
    "client": ("Client", "Job", "Jobs", "Sweep", "as_completed"),
    "errors": (
        "Ambiguous",
        "DefinitionError",
        "JobCanceled",
        "JobEnded",
        "JobFailed",
        "KelpieError",
        "NotAllowed",
        "NotFound",
        "NotSupported",
        "Refused",
        "SettingsError",
        "TimedOut",
        "Unreachable",
    ),
    "grids": ("grid",),
    "models": ("Attempt", "BulkResult", "Event", "JobData", "Progress", "Reason", "SweepData"),
    "operations": ("Piece",),
}

__all__ = [
    "Ambiguous",
    "AsyncClient",
    "AsyncJob",
    "AsyncJobs",
    "AsyncSweep",
    "Attempt",
    "BulkResult",
    "Client",
    "DefinitionError",
    "Event",
    "Job",
    "JobCanceled",
    "JobData",
    "JobEnded",
    "JobFailed",
    "Jobs",
    "KelpieError",
    "NotAllowed",
    "NotFound",
    "NotSupported",
    "Piece",
    "Progress",
    "Reason",
    "Refused",
    "SettingsError",
    "Sweep",
    "SweepData",
    "TimedOut",
    "Unreachable",
    "as_completed",
    "grid",
]


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"kelpie.{home}"), name)
    raise AttributeError(f"module 'kelpie' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
