"""How long an operation that storage refuses is repeated before the refusal counts: a rule for `system.retry`.

An expired key, a wrong clock or a policy may be repaired within minutes.
"""

from __future__ import annotations

from collections.abc import Callable

from kelpie_worker.s3 import whose_fault as rules
from kelpie_worker.s3.errors import RefusedOnTheWay, StorageRefused, StorageUnreachable, Unsaid
from kelpie_worker.s3.whose_fault import Fault, When, whose_fault
from kelpie_worker.system.linux import boottime
from kelpie_worker.system.retry import Failure


class Patience:
    """Measures from the first of several refusals in a row. `has_ended` is an `until` of `retry`."""

    def __init__(self, when: When) -> None:
        self._when = when
        self._since: float | None = None

    def has_ended(self, failure: Failure[Exception]) -> bool:
        """Whether it is known whose fault the failure is, so that another try is not worth while."""
        return self.fault_of(failure.error) not in (None, Fault.NOT_YET)

    def fault_of(self, error: Exception) -> Fault | None:
        """Whose fault a failure is, by what storage has said since another answer; None if it is not storage's."""
        if not isinstance(error, StorageRefused):
            self.renew()
        elif self._since is None:
            self._since = boottime()
        if not isinstance(error, StorageRefused | StorageUnreachable):
            return None
        lasted = 0.0 if self._since is None else boottime() - self._since
        return whose_fault(error.says, self._when, lasted)

    def renew(self) -> None:
        """Measure from the next refusal: the last answer was something else."""
        self._since = None


class RefusalsOnTheWay:
    """Finds out whether something before the storage refuses one upload for good: for its size, or a word in it.

    `takes_others` asks whether another upload gets to the storage. If none does, the storage is only out of reach.
    """

    def __init__(self, takes_others: Callable[[], bool]) -> None:
        self._takes_others = takes_others
        self._since: float | None = None

    def note(self, error: Exception) -> None:
        """Raises RefusedOnTheWay if that is so, and every answer has been such a refusal for LONGEST seconds."""
        if not isinstance(error, Unsaid):
            self._since = None
            return
        self._since = boottime() if self._since is None else self._since
        if boottime() - self._since >= rules.LONGEST and self._takes_others():
            raise RefusedOnTheWay(
                f"{error}; other uploads get to the bucket, so have the proxy or gateway before it let this one"
                " pass, or give the file another name or size"
            ) from error
