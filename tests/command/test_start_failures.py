"""Why a command could not be started."""

from __future__ import annotations

import errno

import pytest

from kelpie_worker.command.process import why_not_started
from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.messages import (
    Exited,
    Message,
    Refused,
    Troubled,
)

CLAIM = "5ab3a9b4-6fd1-4ef5-9a3e-0d6d3a0e9c11"
BLOCK = SyncBlock("b", "p/", "/out", "x$")
JOB = Job(CLAIM, "job", 3, 5.0, before=(BLOCK,), during=(BLOCK,), after=(BLOCK,))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file"), Exited),
        (PermissionError(errno.EACCES, "Permission denied"), Exited),
        (OSError(errno.ENOEXEC, "Exec format error"), Exited),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), Exited),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), Troubled),
        (OSError(errno.E2BIG, "Argument list too long"), Refused),
        (ValueError("embedded null byte"), Refused),
    ],
)
def test_why_a_command_could_not_be_started(error: OSError | ValueError, message: type[Message]) -> None:
    told = why_not_started(JOB, error)
    assert type(told) is message
    if isinstance(told, Refused):
        assert told == Refused(CLAIM, "not_started", str(error))
