"""How long an operation that storage refuses is repeated before the refusal counts: a rule for `system.retry`.

An expired key, a wrong clock or a policy may be repaired within minutes.
"""

from __future__ import annotations

from kelpie_worker.s3.errors import StorageRefused, StorageUnreachable
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
