"""Calling again what has failed: the one loop of its kind in the worker."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.linux import boottime

Result = TypeVar("Result")
Error = TypeVar("Error", bound=Exception)
Error_co = TypeVar("Error_co", bound=Exception, covariant=True)


class Interrupted(Exception):
    """A pause was cut short: no further call is wanted."""


@dataclass(frozen=True)
class Failure(Generic[Error_co]):
    """A call that failed."""

    error: Error_co
    number: int  # of failures in a row, from 1
    waited: float  # seconds since the first call began


def never(failure: Failure[Exception]) -> bool:
    """Try for ever."""
    return False


def tries(most: int) -> Callable[[Failure[Exception]], bool]:
    """Until so many calls have failed."""
    return lambda failure: failure.number >= most


def within(seconds: float) -> Callable[[Failure[Exception]], bool]:
    """Until a call fails so long after the first one began."""
    return lambda failure: failure.waited >= seconds


def sleep(seconds: float) -> bool:
    """A pause that nothing cuts short."""
    return threading.Event().wait(seconds)


def retry(
    operation: Callable[[], Result],
    *,
    on: type[Error] | tuple[type[Error], ...],
    backoff: Backoff,
    pause: Callable[[float], object] = sleep,
    until: Callable[[Failure[Error]], bool] = never,
    on_failure: Callable[[Failure[Error]], object] = lambda failure: None,
    clock: Callable[[], float] = boottime,
) -> Result:
    """The operation's result, once a call of it succeeds.

    What is repeated: a call that raises one of `on`. Anything else it raises is raised at once.
    How long: until `until` says of a failure that it is the last one, whose error is then raised.
    The pause: `backoff` by the number of failures in this row; `pause` sleeps that many seconds.
    What is reported: `on_failure` gets every failure that another call follows, before the pause. What it raises
    ends the row.
    How it is cancelled: by the pause. One that raises (`Lease.pause`: Cancelled) ends the row with that; one that
    returns true (the `wait` of an event that was set) ends it with Interrupted. A call under way is not cancelled.

    `clock` counts seconds. A test gives its own, and a `pause` that moves it on.
    """
    began, failures = clock(), 0
    while True:
        try:
            return operation()
        except on as error:
            failures += 1
            failure = Failure(error, failures, clock() - began)
            if until(failure):
                raise
            on_failure(failure)
        if pause(backoff.after(failures)):
            raise Interrupted
