"""The API and the database are killed, again and again, under a crowd; and no promise is broken."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kelpie_api.auth.users import digest
from kelpie_api.db import Database
from local_stack.demo.receiver import WebhookReceiver
from local_stack.processes import wait_for
from tests.containers.compose import Compose
from tests.containers.crowd import Crowd, Member
from tests.history import Rows, violations

MEMBERS = 50
ROUNDS = 3
UNFINISHED = "select count(*) as n from jobs where status in ('pending', 'running') and tenant_id = %(tenant)s"
UNSENT = "select count(*) as n from webhooks where next_try is not null"


@contextmanager
def at_work(crowd: Crowd) -> Iterator[None]:
    """The crowd in threads of its own, until the end of the block."""
    threads = [threading.Thread(target=Member(crowd, number).run) for number in range(MEMBERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        crowd.stopped.set()
        for thread in threads:
            thread.join()


def is_served_again(crowd: Crowd, count: int) -> None:
    before = crowd.served()
    wait_for(lambda: crowd.served() > before + count, f"{count} answers", timeout=90)


def kill_and_start(stack: Compose, crowd: Crowd, service: str) -> None:
    before = crowd.turned_away()
    stack.kill(service)
    wait_for(lambda: crowd.turned_away() > before + MEMBERS, "the crowd to notice", timeout=60)
    stack.start(service)
    is_served_again(crowd, 6 * MEMBERS)


def count(db: Database, statement: str, **values: object) -> int:
    found = db.all(statement, **values)  # type: ignore[arg-type]
    return int(found[0]["n"])


def drive_to_the_end(crowd: Crowd, db: Database) -> None:
    """Machines that nothing is banned from take what is left, as soon as its leases lapse, and complete it."""
    crowd.stopped.clear()
    finisher = Member(crowd, MEMBERS)

    def all_is_finished() -> bool:
        finisher.claim()
        while finisher.hands:
            finisher.say("completed", *finisher.hands.popleft())
            finisher.claim()
        return count(db, UNFINISHED, tenant=crowd.tenant_id) == 0

    with finisher.caller:
        try:
            wait_for(all_is_finished, "all jobs to be finished", timeout=240)
        except TimeoutError:
            print(
                db.all("select * from queue"), db.all("select * from outages"), db.all("select * from coordinator")
            )
            raise


@pytest.mark.timeout(600)
def test_kills_of_the_api_and_the_database_break_no_promise(stack: Compose) -> None:
    with WebhookReceiver(stack.gateway) as receiver, stack.database() as db:
        key = stack.new_key("crowd")
        [owner] = db.all("select tenant_id from api_keys where digest = %(digest)s", digest=digest(key))
        crowd = Crowd(stack, key, owner["tenant_id"], receiver.url)
        with at_work(crowd):
            is_served_again(crowd, 10 * MEMBERS)
            for _ in range(ROUNDS):
                kill_and_start(stack, crowd, "api")
                kill_and_start(stack, crowd, "postgres")
        drive_to_the_end(crowd, db)
        rows = Rows.read(db)
        print(f"\n{dict(crowd.tally)}; {len(rows.jobs)} jobs, {len(rows.attempts)} attempts")
        assert crowd.unexpected == []
        # An answer that was under way when the API died is cut short. That is all that may break, and it is rare.
        assert crowd.tally["broken"] == crowd.tally["broken: ChunkedEncodingError"] < crowd.served() / 100
        assert violations(rows, crowd.log) == []
        assert {attempt["outcome"] for attempt in rows.attempts} >= {"completed", "failed", "released", "canceled"}
        wait_for(lambda: count(db, UNSENT) == 0, "all webhooks to be sent", timeout=120)
        sent = {str(row["id"]) for row in db.all("select id from webhooks")}
        assert sent <= {name for heard in list(receiver.received.values()) for name in heard}
