"""The worker's log on stderr: one JSON object a line, one line an event.

`event` names what happened; `job_id` and `attempt` are in every line that is about a job.
"""

import json
import os
import select
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from kelpie_worker.config import LOG_LEVELS, Config
from kelpie_worker.job import Job

_LONGEST_WAIT_MS = 250


class _Log:
    """The settings of this process, set once by `configure`."""

    threshold = LOG_LEVELS.index("info")
    machine_id = ""
    secrets: tuple[str, ...] = ()
    lost = 0  # lines that could not be written since the last one that was


def configure(config: Config) -> None:
    _Log.threshold = LOG_LEVELS.index(config.log_level)
    _Log.machine_id = config.machine_id
    _Log.secrets = config.secrets


def debug(event: str, job: Job | None = None, **facts: Any) -> None:
    _write("debug", event, job, facts)


def info(event: str, job: Job | None = None, **facts: Any) -> None:
    _write("info", event, job, facts)


def warn(event: str, job: Job | None = None, **facts: Any) -> None:
    _write("warn", event, job, facts)


def error(event: str, job: Job | None = None, **facts: Any) -> None:
    _write("error", event, job, facts)


def _write(level: str, event: str, job: Job | None, facts: dict[str, Any]) -> None:
    if LOG_LEVELS.index(level) < _Log.threshold:
        return
    about = {"job_id": job.id, "attempt": job.attempt} if job else {}
    line = {"time": now(), "level": level, "event": event, **about, "machine_id": _Log.machine_id, **facts}
    if _Log.lost:
        line["lines_lost"] = _Log.lost
    # One write for the whole line, because several processes share this stream. A full disk or a closed pipe must
    # not end a job, so that the line is dropped and counted.
    with suppress(OSError):
        if _has_room(sys.stderr.fileno()):
            os.write(sys.stderr.fileno(), (without_secrets(json.dumps(line, default=str)) + "\n").encode())
            _Log.lost = 0
            return
    _Log.lost += 1


def _has_room(stream: int) -> bool:
    """Whether a line can be written soon: a heartbeat must not wait for a log reader that is blocked."""
    poll = select.poll()
    poll.register(stream, select.POLLOUT)
    return bool(poll.poll(_LONGEST_WAIT_MS))


def without_secrets(text: str) -> str:
    for secret in _Log.secrets:
        text = text.replace(secret, "***")
    return text


def now() -> str:
    """The wall clock in ISO 8601, for people to read; no decision depends on it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
