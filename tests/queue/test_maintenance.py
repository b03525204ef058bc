"""The housekeeping of a process leaves the database's connections to its requests."""

from __future__ import annotations

import threading

from kelpie_api.db import Database
from kelpie_api.queue.maintenance import DUTIES_AT_ONCE, Maintenance
from local_stack.processes import wait_for


def test_few_duties_take_connections_at_once_however_many_there_are(db: Database) -> None:
    under_way: list[int] = []
    seen: list[int] = []
    go_on = threading.Event()

    def duty() -> float:
        under_way.append(1)
        seen.append(len(under_way))
        go_on.wait(10)
        under_way.pop()
        return 60.0

    maintenance = Maintenance(db)
    threads = [threading.Thread(target=maintenance._once, args=(duty,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(under_way) == DUTIES_AT_ONCE, "as many as may")
    assert maintenance._once(maintenance.cut_overdue) > 0, "what takes no connection waits for none"
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(seen) == 8 and max(seen) == DUTIES_AT_ONCE
