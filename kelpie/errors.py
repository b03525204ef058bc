"""What can go wrong for a user, each with a sentence that says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kelpie.models import JobData


class KelpieError(Exception):
    """The base of all errors of this package; its text is one sentence."""


class SettingsError(KelpieError):
    """A setting is missing, or a file of settings cannot be used."""


class DefinitionError(KelpieError):
    """A job or a sweep whose definition is wrong; nothing was sent."""


class Unreachable(KelpieError):
    """The coordinator does not answer, or what answers is no coordinator."""


class Refused(KelpieError):
    """The coordinator refused a request; the text is its sentence.

    `status` is the HTTP status, `errors` maps paths of fields to sentences, `index` is the place in a batch.
    """

    def __init__(
        self,
        sentence: str,
        status: int,
        errors: Mapping[str, Sequence[str]] | None = None,
        index: int | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.errors = dict(errors or {})
        self.index = index


class NotFound(Refused):
    """There is no such job, sweep, key or route for this caller."""


class NotAllowed(Refused):
    """The credential is missing, wrong, or may not do this."""


class Ambiguous(KelpieError):
    """Several jobs have this name; `ids` are theirs, newest first."""

    def __init__(self, sentence: str, ids: Sequence[str]) -> None:
        super().__init__(sentence)
        self.ids = list(ids)


class NotSupported(KelpieError):
    """The coordinator is of a release that does not know what was asked for; nothing was sent."""


class TimedOut(KelpieError, TimeoutError):
    """What was waited for did not happen in time; the jobs run on."""


class JobEnded(KelpieError):
    """A job ended without its result. `job` is the job as it was then."""

    def __init__(self, sentence: str, job: JobData) -> None:
        super().__init__(sentence)
        self.job = job


class JobFailed(JobEnded):
    """A job failed for good.

    `exit_code` and `reason` are those of its last attempt, `tail` the end of its output.
    """

    def __init__(
        self, sentence: str, job: JobData, reason: str | None = None, exit_code: int | None = None, tail: str = ""
    ) -> None:
        super().__init__(sentence, job)
        self.reason = reason
        self.exit_code = exit_code
        self.tail = tail


class JobCanceled(JobEnded):
    """A job was canceled."""
