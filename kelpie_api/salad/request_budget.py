"""How much may be asked of Salad with the coordinator's own key: one budget for all processes on all hosts.

Salad counts the requests of a key, so they are counted where all processes see it, in one row of the database.
Whoever wants to send one takes its place first and waits until it is due. A person who waits for an answer may be
further ahead than programs: it is served first, and it never waits long (docs/design/protocol.md, Scaling).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from kelpie_api.db import SQL, Database
from kelpie_api.errors import NoAnswer

A_SECOND = 3.0  # requests, in the long run
# Seconds that Salad's Retry-After keeps everybody silent. It is more than anybody's patience: then a run of the
# autoscaler ends soon, instead of asking again rule by rule.
LONGEST_SILENCE = 100.0

Result = TypeVar("Result")


@dataclass(frozen=True)
class Share:
    """`at_once`: requests that may be sent before they have to come evenly. The largest of all shares and
    60 * A_SECOND are the most in any minute: 235 where Salad allows 240. `patience`: seconds."""

    at_once: int
    patience: float


PERSON = Share(at_once=55, patience=2.0)
AUTOSCALER = Share(at_once=45, patience=75.0)
REALLOCATION = Share(at_once=45, patience=15.0)  # three of them must fit into the time that it is held
TOKEN = Share(at_once=35, patience=0.5)  # which groups a machine's token is of; anybody's machine can ask


class RequestBudget:
    """One share of the budget."""

    def __init__(self, db: Database, share: Share, a_second: float = A_SECOND) -> None:
        self.db = db
        self.share = share
        self.space = timedelta(seconds=1 / a_second)
        self.slack = (share.at_once - 1) * self.space

    def reserve(self) -> float:
        """Take one request's place; the seconds to wait until it may be sent.

        Raises NoAnswer, which says when to come again, if that is longer than this share waits.
        """
        patience = timedelta(seconds=self.share.patience)
        place = self.db.one_or_none(SQL.reserve_request, space=self.space, slack=self.slack, patience=patience)
        if place is None:
            late = self.db.one_or_none(SQL.next_request, slack=self.slack)
            raise NoAnswer("the requests that Salad allows a minute are used up", late["wait"] if late else 0.0)
        return float(place["wait"])

    def ask(self, question: Callable[[], Result], wait: Callable[[float], None] = time.sleep) -> Result:
        """Ask Salad when it may be asked. Raises NoAnswer and what `question` and `wait` raise."""
        wait(self.reserve())
        try:
            return question()
        except NoAnswer as silence:
            self._keep_silent(silence.retry_after)
            raise

    def _keep_silent(self, seconds: float) -> None:
        """Salad asked for it, and means everybody who has this key."""
        if seconds > 0:
            self.db.execute(SQL.silence_requests, silence=timedelta(seconds=min(seconds, LONGEST_SILENCE)))
