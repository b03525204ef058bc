"""When heartbeats are due."""

from __future__ import annotations

from dataclasses import replace
from queue import SimpleQueue
from typing import cast

from kelpie_worker.coordinator.client import Api, HeartbeatAnswer, News
from kelpie_worker.coordinator.heartbeat import HeldLease
from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.system.linux import boottime

CLAIM = "5ab3a9b4-6fd1-4ef5-9a3e-0d6d3a0e9c11"
BLOCK = SyncBlock("b", "p/", "/out", "x$")
JOB = Job(CLAIM, "job", 3, 5.0, before=(BLOCK,), during=(BLOCK,), after=(BLOCK,))


class Renewing:
    """An API that records every heartbeat."""

    def __init__(self) -> None:
        self.heard = SimpleQueue[Job]()

    def heartbeat(self, job: Job, timeout: float, news: News) -> HeartbeatAnswer:
        self.heard.put(job)
        return HeartbeatAnswer("canceled")


def test_the_first_heartbeat_is_due_an_interval_after_the_claim_however_late_its_child_starts() -> None:
    api, job = Renewing(), replace(JOB, heartbeat_interval=600.0)
    late, fresh = (HeldLease(job, cast(Api, api), lambda message: None) for _ in range(2))
    fresh.start(due=boottime() + 600)
    late.start(due=boottime() - 1)
    assert api.heard.get(timeout=30) == job and late.dropped.wait(30)
    assert api.heard.empty() and not fresh.dropped.is_set()
    fresh.drop()
