"""Which errors fail the attempt, and which give the job back."""

from __future__ import annotations

import errno

import pytest

from kelpie_worker.job import Job
from kelpie_worker.messages import Download, Flush, Refused, Stage, Troubled, Upload, Watch
from kelpie_worker.s3.errors import (
    Misconfigured,
    NoDestination,
    NotThere,
    StorageRefused,
    StorageUnreachable,
)
from kelpie_worker.sync.failures import answer_to


@pytest.mark.parametrize(
    ("error", "command", "answer"),
    [
        (StorageUnreachable("x"), Download, Troubled("c", "storage", "x")),
        (StorageRefused("x"), Download, Refused("c", "download", "x")),
        (StorageRefused("x"), Flush, Refused("c", "upload", "x")),
        (Misconfigured("x"), Download, Troubled("c", "configuration", "x")),
        (NotThere("x"), Download, Troubled("c", "storage", "x")),
        (NoDestination("x"), Download, Refused("c", "upload", "x")),
        (OSError(errno.ENOSPC, "full"), Download, Troubled("c", "disk_full", "[Errno 28] full")),
        (PermissionError(13, "no"), Download, Troubled("c", "disk", "PermissionError: [Errno 13] no")),
        (ValueError("x"), Watch, Refused("c", "pattern", "x")),
        (RuntimeError("x"), Flush, Troubled("c", "internal", "RuntimeError: x")),
    ],
)
def test_an_error_fails_the_attempt_or_gives_it_back(
    error: Exception, command: type[Download | Flush | Watch], answer: Refused | Troubled
) -> None:
    assert answer_to(error, command(Job("c", "1"))) == answer


@pytest.mark.parametrize(
    ("number", "command", "answer"),
    [
        *((getattr(errno, name), Download, Troubled) for name in ("EEXIST", "ENOTDIR", "EACCES", "EROFS", "EIO")),
        (errno.ENOSPC, Download, Troubled),
        (errno.ENOSPC, Upload, Troubled),
        (errno.EACCES, Watch, Troubled),
        (errno.ENAMETOOLONG, Download, Refused),
        (errno.EACCES, Stage, Refused),
        (errno.EACCES, Upload, Refused),
    ],
)
def test_the_machines_faults_before_the_command_are_no_failures_of_the_job(
    number: int, command: type[Download | Watch | Stage | Upload], answer: type[Refused | Troubled]
) -> None:
    job = Job("c", "1")
    given = Upload(job, ()) if command is Upload else command(job)  # type: ignore[call-arg]
    assert type(answer_to(OSError(number, "words"), given)) is answer
