"""The rate limit for requests to Salad with the coordinator's own key: one for all processes on all hosts.

Salad counts the requests of a key, so one row of the database counts them for all processes. A request first
reserves a time and waits for it. Requests that a person waits for have a larger burst than those of programs, so
they are served first and never wait long (docs/design/protocol.md, Scaling).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from kelpie_api.db import SQL, Database
from kelpie_api.errors import NoAnswer

A_SECOND = 3.0  # requests a second in the long run
# Seconds for which Salad's Retry-After stops all requests, at most. It is longer than every share's patience, so
# that a run of the autoscaler then ends soon instead of trying rule by rule.
LONGEST_SILENCE = 100.0

Result = TypeVar("Result")


@dataclass(frozen=True)
class Share:
    """`at_once`: the burst, in requests; `patience`: seconds that a request may wait for its time.

    The largest burst and 60 * A_SECOND are the most in any minute: 235, where Salad allows 240.
    """

    at_once: int
    patience: float


PERSON = Share(at_once=55, patience=2.0)
AUTOSCALER = Share(at_once=45, patience=75.0)
REALLOCATION = Share(at_once=45, patience=15.0)  # three requests fit into the hold of a reallocation
TOKEN = Share(at_once=35, patience=0.5)  # about the group of a machine's token; any machine can cause it


class RequestBudget:
    """One share of the rate limit."""

    def __init__(self, db: Database, share: Share, a_second: float = A_SECOND) -> None:
        self.db = db
        self.share = share
        self.space = timedelta(seconds=1 / a_second)
        self.slack = (share.at_once - 1) * self.space

    def reserve(self) -> float:
        """Reserve the time of one request; return the seconds to wait until it may be sent.

        Raises NoAnswer, with the seconds after which to try again, if that is longer than this share's patience.
        """
        patience = timedelta(seconds=self.share.patience)
        place = self.db.one_or_none(SQL.reserve_request, space=self.space, slack=self.slack, patience=patience)
        if place is None:
            late = self.db.one_or_none(SQL.next_request, slack=self.slack)
            raise NoAnswer("the requests that Salad allows a minute are used up", late["wait"] if late else 0.0)
        return float(place["wait"])

    def ask(self, question: Callable[[], Result], wait: Callable[[float], None] = time.sleep) -> Result:
        """Wait for the request's time, then send it. Raises NoAnswer and what `question` and `wait` raise."""
        wait(self.reserve())
        try:
            return question()
        except NoAnswer as silence:
            self._keep_silent(silence.retry_after)
            raise

    def _keep_silent(self, seconds: float) -> None:
        """Stop all requests for as long as Salad asked: it means all that use this key."""
        if seconds > 0:
            self.db.execute(SQL.silence_requests, silence=timedelta(seconds=min(seconds, LONGEST_SILENCE)))
