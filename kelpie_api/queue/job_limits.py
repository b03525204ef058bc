"""The limits of a job, as far as claims and leases need them in its row of the queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def limits_in_queue(options: Mapping[str, Any]) -> dict[str, int | None]:
    """The columns of the queue that follow from the options of a job that was not held yet."""
    # The attempt from which on a lapse may be the job's end, so that claims leave it to maintenance.
    from_attempts = [
        options.get("max_attempts"),
        options.get("max_fruitless_attempts"),
        int("max_runtime" in options),
    ]
    return {
        "ends_from_attempt": min((number for number in from_attempts if number), default=None),
        "attempt_seconds": options.get("max_attempt_runtime"),
        "seconds_left": options.get("max_runtime"),
    }
