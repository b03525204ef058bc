"""Patterns that take for ever, in a real worker."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from kelpie_worker.workspace.pattern import PatternTooSlow, matcher
from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.doubles.coordinator import FakeCoordinator
from tests.real_worker import Worker, finished, shell

ENDLESS = "^(a+)+$"
NAME = "a" * 60 + "!"
Sync = dict[str, list[dict[str, Any]]]


def test_a_pattern_that_takes_for_ever_is_given_up_and_the_next_is_matched() -> None:
    endless = matcher(ENDLESS)
    assert endless("aaa")
    with pytest.raises(PatternTooSlow):
        endless(NAME)
    assert endless("aaaa")
    assert matcher(r"\.bin$")("a.bin") and not matcher(r"\.bin$")("a.txt")


@pytest.mark.parametrize("place", ["before", "during", "after"])
def test_a_job_with_such_a_pattern_fails_for_that_reason_while_heartbeats_go_on(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, sync: Sync, place: str
) -> None:
    for block in sync[place]:
        block["pattern"] = ENDLESS
    if place == "before":
        s3.put(bucket, f"in/{NAME}", b"1")
        sync["before"][0]["pattern"] = "^in/(a+)+$"
    written = {"before": "in/x", "during": f"checkpoint/{NAME}", "after": f"out/{NAME}"}[place]
    steady = coordinator.submit(**shell("exit 0"), sync={})
    job = coordinator.submit(**shell(f"echo 1 > {written}; test {place} = after || sleep 600"), sync=sync)
    worker.start()
    assert finished(coordinator, steady)[0] == "completed"
    report, body = finished(coordinator, job)
    assert (report, body["reason"]) == ("failed", "pattern")
    if place != "before":
        assert not s3.keys(bucket, f"{'checkpoint' if place == 'during' else 'out'}/")
    assert not worker.seen("heartbeat_unanswered") and not worker.seen("child_restarted")


def test_while_a_pattern_is_looked_at_other_threads_go_on() -> None:
    steps = 0
    outcome: list[Exception] = []

    def look() -> None:
        try:
            matcher(ENDLESS)(NAME)
        except PatternTooSlow as error:
            outcome.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    while thread.is_alive():
        thread.join(0.01)
        steps += 1
    assert outcome and steps > 10
    wait_for(lambda: matcher("b")("b"), "the next look")
