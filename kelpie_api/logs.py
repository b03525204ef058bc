"""Structured logs: one JSON object a line on standard error, one event per fact, no secrets."""

from __future__ import annotations

import functools
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

# What KELPIE_LOG_LEVEL may say, the least first; the worker's are the same.
LEVELS = {
    "trace": 5,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "silent": logging.CRITICAL + 1,
}
_logger = logging.getLogger("kelpie")
_write = json.JSONEncoder(default=str).encode  # json.dumps would make an encoder for each line


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": word_of(record.levelno),
            "event": record.getMessage(),
        }
        line.update(getattr(record, "facts", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _write(line)


@functools.cache
def word_of(level: int) -> str:
    """What KELPIE_LOG_LEVEL calls a level of Python's logging; one between two is the lower of them."""
    return next((word for word, least in reversed(LEVELS.items()) if word != "silent" and least <= level), "trace")


def configure(level: str) -> None:
    """Send this process's log lines, the libraries' warnings among them, to standard error, but none below the
    level, one of LEVELS."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(LEVELS[level])
    handler.setFormatter(JsonLines())
    # No line has what the library would find out for each: the place in the program and the thread. gunicorn's own
    # lines, which it writes itself, have the process.
    logging._srcfile = None
    logging.logThreads = logging.logMultiprocessing = False
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    _logger.setLevel(LEVELS[level])
    leave_attempts_out()


def leave_attempts_out() -> None:
    """The pool reports each failed connection attempt; `database_away` or a refusal says it once."""
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def info(event: str, **facts: Any) -> None:
    _logger.info(event, extra={"facts": facts})


def warning(event: str, **facts: Any) -> None:
    _logger.warning(event, extra={"facts": facts})


def error(event: str, error: BaseException, **facts: Any) -> None:
    _logger.error(event, extra={"facts": facts}, exc_info=error)
