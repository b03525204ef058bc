"""The sender: takes due webhooks from the outbox, delivers them, and writes down how it went (contract section 4).

Taking and writing down are short statements; the network is in between, in no transaction.
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import requests

from kelpie_api import logs
from kelpie_api.db import SQL, Database, Row
from kelpie_api.errors import Unavailable
from kelpie_api.sealing import Seal

SENDERS = 32
IDLE = 0.5  # seconds between two looks at an empty outbox
TIMEOUTS = (5, 15)  # seconds to connect, to wait for the answer
HOLD = timedelta(seconds=60)  # longer than any delivery takes: then another sender may have it
GIVE_UP_AFTER = timedelta(hours=24)
FIRST_PAUSE = 4.0
LONGEST_PAUSE = 3600.0
GONE = 410


@dataclass(frozen=True)
class Answer:
    """What a receiver said: its status, or None and why there was none."""

    status: int | None
    error: str | None = None

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def backoff(tries: int, jitter: float) -> timedelta:
    """The pause after the `tries`-th try: doubling from 4 seconds to an hour, less up to half (`jitter` 0 to 1).

    The first is at most 4 seconds, so the first retry comes within 10 (contract section 4).
    """
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(tries - 1, 20))
    return timedelta(seconds=longest * (1 - jitter / 2))


def report_defect(delivery: Future[None]) -> None:
    """Nobody waits for a delivery, so what it raises would be heard by nobody. It is due again after its hold."""
    if error := delivery.exception():
        logs.error("webhook_delivery_failed", error)


class Sender:
    """Delivers in threads, so that a slow receiver delays nobody else's webhooks."""

    def __init__(self, db: Database, seal: Seal) -> None:
        self.db = db
        self.seal = seal
        self.stopped = threading.Event()
        self.free = threading.Semaphore(SENDERS)

    def run(self) -> None:
        """Until stopped; then what is under way is finished."""
        with ThreadPoolExecutor(SENDERS, thread_name_prefix="webhook") as pool:
            while not self.stopped.is_set():
                try:
                    taken = self.round(pool)
                except Unavailable as error:
                    logs.warning("database_away", message=error.message)
                    taken = 0
                if not taken:
                    self.stopped.wait(IDLE)

    def round(self, pool: ThreadPoolExecutor) -> int:
        """Take as many due webhooks as there are free threads, and set them going; the number taken."""
        room = self._take_room()
        due: list[Row] = []
        try:
            due = self.db.all(SQL.take_webhooks, batch=room, hold=HOLD)
        finally:
            for _ in range(room - len(due)):
                self.free.release()
        for webhook in due:
            pool.submit(self._deliver_and_free, webhook).add_done_callback(report_defect)
        return len(due)

    def _take_room(self) -> int:
        room = 0
        while room < SENDERS and self.free.acquire(blocking=False):
            room += 1
        return room

    def _deliver_and_free(self, webhook: Row) -> None:
        try:
            self.deliver(webhook)
        except Unavailable as error:
            # Sent, but not written down: it is due again when the hold ends. At least once, never lost.
            logs.warning("webhook_not_recorded", webhook_id=webhook["id"], message=error.message)
        finally:
            self.free.release()

    def deliver(self, webhook: Row) -> None:
        answer = self.post(webhook)
        self.record(webhook, answer)

    def post(self, webhook: Row) -> Answer:
        """One try, with its own connection and no redirects."""
        try:
            response = requests.post(
                webhook["url"],
                json={
                    "status": webhook["status"],
                    "job_id": str(webhook["job_id"]),
                    "machine_id": webhook["machine_id"],
                    "container_group_id": webhook["container_group"],
                },
                headers={"X-Kelpie-Key": self.seal.open(webhook["sealed_key"]), "webhook-id": str(webhook["id"])},
                timeout=TIMEOUTS,
                allow_redirects=False,
                stream=True,
            )
            response.close()
        except (requests.RequestException, ValueError) as error:
            # ValueError: a host that no name server could know comes out of the library unwrapped.
            return Answer(None, f"{type(error).__name__}: {error}"[:500])
        return Answer(response.status_code)

    def record(self, webhook: Row, answer: Answer) -> None:
        """2xx is delivered, 410 and a day of tries are given up, anything else is tried again."""
        facts = {"webhook_id": webhook["id"], "job_id": webhook["job_id"], "status": webhook["status"]}
        pause = backoff(webhook["tries"], random.random())
        if answer.delivered:
            self.db.execute(SQL.webhook_delivered, id=webhook["id"], answer=answer.status)
            logs.info("webhook_delivered", answer=answer.status, **facts)
        elif answer.status == GONE or self._too_old(webhook, pause):
            self.db.execute(SQL.webhook_given_up, id=webhook["id"], answer=answer.status, error=answer.error)
            logs.warning("webhook_given_up", answer=answer.status, error=answer.error, **facts)
        else:
            self.db.execute(
                SQL.webhook_failed, id=webhook["id"], answer=answer.status, error=answer.error, pause=pause
            )
            logs.info("webhook_failed", answer=answer.status, error=answer.error, **facts)

    def _too_old(self, webhook: Row, pause: timedelta) -> bool:
        return bool(webhook["age"] + pause > GIVE_UP_AFTER)
