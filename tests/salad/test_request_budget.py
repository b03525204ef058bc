"""The budget of requests to Salad: one row for all processes, so each test has several that take from it."""

from __future__ import annotations

import time
from datetime import timedelta
from itertools import chain

import pytest

from kelpie_api.db import Database
from kelpie_api.errors import NoAnswer
from kelpie_api.salad.request_budget import AUTOSCALER, PERSON, REALLOCATION, TOKEN, RequestBudget, Share
from tests.helpers import at_once

SALADS_LIMIT = 240  # a minute, for each key


def use_up(db: Database, share: Share) -> list[float]:
    """Take places until the share waits no longer; in how many seconds each request may be sent."""
    request_budget, waits = RequestBudget(db, share), []
    with pytest.raises(NoAnswer):
        while True:
            waits.append(request_budget.reserve())
    return waits


def test_no_minute_has_more_requests_than_salad_allows_however_many_processes_send_them(db: Database) -> None:
    began = time.monotonic()
    shares = [AUTOSCALER, REALLOCATION, TOKEN, PERSON, AUTOSCALER, PERSON]
    db.execute("delete from salad_requests")  # several will want to make the row
    used_up = at_once([lambda share=share: use_up(db, share) for share in shares])  # type: ignore[misc]
    waits = sorted(chain.from_iterable(used_up))
    spread = time.monotonic() - began
    assert len(waits) >= 250  # a minute and more is full
    for place, wait in enumerate(waits):
        # Each wait counts from its own reservation, which was made at some moment of the spread.
        assert sum(1 for later in waits[place:] if later < wait + 60 - spread) < SALADS_LIMIT


def test_a_person_is_served_at_once_while_programs_wait(db: Database) -> None:
    programs = [RequestBudget(db, AUTOSCALER), RequestBudget(db, REALLOCATION)]
    while max(program.reserve() for program in programs) <= 0:
        continue
    assert RequestBudget(db, PERSON).reserve() == 0
    with pytest.raises(NoAnswer):
        RequestBudget(db, TOKEN).reserve()


def test_a_user_gets_a_retry_after_rather_than_a_long_wait(db: Database) -> None:
    use_up(db, AUTOSCALER)
    with pytest.raises(NoAnswer, match="used up") as refused:
        RequestBudget(db, PERSON).reserve()
    assert PERSON.patience < refused.value.retry_after < AUTOSCALER.patience


def test_who_was_refused_took_no_place(db: Database) -> None:
    use_up(db, AUTOSCALER)
    before = db.one_or_none("select * from salad_requests")
    use_up(db, PERSON)
    assert db.one_or_none("select * from salad_requests") == before


def test_the_pause_that_salad_asks_for_is_kept_by_every_process(db: Database) -> None:
    def busy() -> None:
        raise NoAnswer("Salad answered 429", 30.0)

    with pytest.raises(NoAnswer, match="429"):
        RequestBudget(db, REALLOCATION).ask(busy)
    assert 25 < RequestBudget(db, AUTOSCALER).reserve() <= 30
    with pytest.raises(NoAnswer) as refused:
        RequestBudget(db, PERSON).reserve()
    assert 25 < refused.value.retry_after <= 30


def test_an_error_without_a_retry_after_pauses_no_process(db: Database) -> None:
    def away() -> None:
        raise NoAnswer("no answer (TimeoutError)")

    with pytest.raises(NoAnswer):
        RequestBudget(db, AUTOSCALER).ask(away)
    assert RequestBudget(db, AUTOSCALER).reserve() == 0


@pytest.mark.parametrize("column", ["next_at", "silent_until"])
def test_a_clock_that_was_set_back_keeps_no_caller_waiting(db: Database, column: str) -> None:
    RequestBudget(db, PERSON).reserve()
    ahead = timedelta(hours=1)
    if column == "next_at":
        db.execute("update salad_requests set next_at = now() + %(ahead)s", ahead=ahead)
    else:
        db.execute("update salad_requests set silent_until = now() + %(ahead)s", ahead=ahead)
    assert RequestBudget(db, PERSON).reserve() == 0
