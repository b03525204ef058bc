"""A database that is away is logged once, and once when it is back, whatever notices it, however often."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from kelpie_api.outage_log import OutageLog


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    return [(record.getMessage(), record.__dict__["facts"]) for record in caplog.records]


def test_the_first_part_says_why_and_the_last_for_how_long(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kelpie")
    now = [100.0]
    outage = OutageLog(lambda: now[0])
    outage.back("beat")
    for part, why in (("beat", OSError("refused\n  now")), ("pool", "another"), ("beat", "again")):
        outage.away(part, why)
        now[0] += 2
    outage.back("pool")
    outage.back("pool")
    assert said(caplog) == [("database_away", {"message": "refused now"})]
    outage.back("beat")
    assert said(caplog)[1:] == [("database_back", {"seconds": 6.0})]
    outage.away("pool", "once more")
    assert len(said(caplog)) == 3


def test_a_reason_that_takes_time_to_find_is_asked_for_by_the_first_only(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []

    def why() -> str:
        asked.append("why")
        return "no route"

    outage = OutageLog()
    outage.away("pool", why)
    outage.away("look", why)
    assert asked == ["why"]
    assert said(caplog) == [("database_away", {"message": "no route"})]
