"""The sender: takes due webhooks from the outbox, delivers them, and writes down how it went
(docs/design/protocol.md, Webhooks).

Taking and writing down are short statements; the network is in between, in no transaction.
"""

from __future__ import annotations

import json
import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import psycopg

from kelpie_api import encryption, logs, migrations
from kelpie_api.db import SQL, Database, Row
from kelpie_api.encryption import Seal
from kelpie_api.errors import NoAnswer, SchemaError, Unavailable, WrongSecretKey
from kelpie_api.net.public_http import PublicHttp
from kelpie_api.webhooks import fairness, signing
from kelpie_version import VERSION

IDLE = 0.5  # seconds between two looks at an empty outbox
HOLD = timedelta(seconds=60)  # longer than any delivery takes: then another sender may have it
GIVE_UP_AFTER = timedelta(hours=24)
GIVE_UP_PAUSE = 60.0  # seconds between two looks for webhooks that are too old
FIRST_PAUSE = 4.0
LONGEST_PAUSE = 3600.0
GONE = 410


@dataclass(frozen=True)
class DeliveryResult:
    """What a receiver said: its status, or None and why there was none; and how many seconds it took."""

    status: int | None
    error: str | None = None
    took: float = 0.0

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def prompt(self) -> bool:
        return self.status is not None and self.took <= fairness.PROMPT


def backoff(tries: int, jitter: float) -> timedelta:
    """The pause after the `tries`-th try: doubling from 4 seconds to an hour, less up to half (`jitter` 0 to 1).

    The first is at most 4 seconds, so the first retry comes within 10 (docs/design/protocol.md, Webhooks).
    """
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(tries - 1, 20))
    return timedelta(seconds=longest * (1 - jitter / 2))


def body_of(webhook: Row) -> bytes:
    """The bytes that are signed and sent."""
    return json.dumps(
        {
            "status": webhook["status"],
            "job_id": str(webhook["job_id"]),
            "machine_id": webhook["machine_id"],
            "container_group_id": webhook["container_group"],
        }
    ).encode()


def report_defect(delivery: Future[None]) -> None:
    """Nobody waits for a delivery, so what it raises would be heard by nobody. It is due again after its hold."""
    if error := delivery.exception():
        logs.error("webhook_delivery_failed", error)


def sentence(error: Exception) -> str:
    """What the database said, without the statement that it quotes after it."""
    return str(error).strip().partition("\n")[0]


class Sender:
    """Delivers in threads; `Lanes` says who may have how many of them."""

    def __init__(self, db: Database, seal: Seal, public_http: PublicHttp) -> None:
        self.db = db
        self.seal = seal
        self.public_http = public_http
        self.stopped = threading.Event()
        self.freed = threading.Event()  # since the last look a thread came free, so there may be room in a lane
        self.lanes = fairness.Lanes()
        self.give_up_at = 0.0
        self.fit = False  # the database has this release's schema and knows our key
        self.trouble: str | None = None  # what the last look at the database was refused with

    def run(self) -> None:
        """Until stopped; then what is under way is finished. Raises SchemaError and WrongSecretKey."""
        with ThreadPoolExecutor(fairness.THREADS, thread_name_prefix="webhook") as pool:
            while not self.stopped.is_set():
                self.freed.clear()
                if not self.look(pool):
                    self.freed.wait(IDLE)

    def look(self, pool: ThreadPoolExecutor) -> int:
        """One turn of the loop; the number taken. A database that refuses is asked again until it does not."""
        try:
            self.require_fit()
            self.give_up_old(time.monotonic())
            taken = self.round(pool)
        except (Unavailable, psycopg.Error) as error:
            self._say_trouble(error)
            return 0
        if self.trouble:
            logs.info("database_back")
            self.trouble = None
        return taken

    def require_fit(self) -> None:
        """Raise SchemaError or WrongSecretKey, at the first look that the database answers."""
        if self.fit:
            return
        if problem := self.db.repeatable(lambda tx: migrations.problem(tx.connection)):
            raise SchemaError(problem)
        self.db.repeatable(lambda tx: encryption.require(tx, self.seal))
        self.fit = True

    def _say_trouble(self, error: Exception) -> None:
        """Once, however often it is met in a row."""
        message = sentence(error)
        if message != self.trouble:
            logs.warning(
                "database_away" if isinstance(error, Unavailable) else "database_refuses", message=message
            )
        self.trouble = message

    def round(self, pool: ThreadPoolExecutor) -> int:
        """Take as many due webhooks as there is room for, and set them going; the number taken."""
        room = self.lanes.room()
        due = self.db.all(SQL.take_webhooks, hold=HOLD, **room) if room["batch"] > 0 else []
        for webhook in due:
            self.lanes.begin(webhook["user_id"], webhook["lane"])
            pool.submit(self._deliver_and_free, webhook).add_done_callback(report_defect)
        return len(due)

    def give_up_old(self, now: float) -> None:
        """End what has waited for a day; looked for once a minute."""
        if now < self.give_up_at:
            return
        self.give_up_at = now + GIVE_UP_PAUSE
        for webhook in self.db.all(SQL.give_up_old_webhooks, age=GIVE_UP_AFTER):
            facts = {"webhook_id": webhook["id"], "job_id": webhook["job_id"], "status": webhook["status"]}
            logs.warning("webhook_given_up", tries=webhook["tries"], **facts)

    def _deliver_and_free(self, webhook: Row) -> None:
        prompt = False
        try:
            prompt = self.deliver(webhook).prompt
        except (Unavailable, psycopg.Error) as error:
            # Perhaps sent, but not written down: due again when the hold ends. At least once, never lost.
            logs.warning("webhook_not_recorded", webhook_id=webhook["id"], message=sentence(error))
            prompt = True
        except WrongSecretKey:
            self.fit = False  # the next look ends this sender
            prompt = True
        finally:
            self.lanes.end(webhook["user_id"], webhook["lane"], prompt)
            self.freed.set()

    def deliver(self, webhook: Row) -> DeliveryResult:
        answer = self.post(webhook)
        self.record(webhook, answer)
        return answer

    def post(self, webhook: Row) -> DeliveryResult:
        """One try, with its own connection and no redirects."""
        secrets = signing.valid_secrets(self.db, self.seal, webhook["user_id"])
        body = body_of(webhook)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"kelpie/{VERSION}",
            "X-Kelpie-Key": self._key_of(webhook),
            **signing.headers([row["secret"] for row in secrets], str(webhook["id"]), int(time.time()), body),
        }
        began = time.monotonic()
        try:
            return DeliveryResult(
                self.public_http.post(webhook["url"], headers, body), None, time.monotonic() - began
            )
        except NoAnswer as error:
            return DeliveryResult(None, str(error), time.monotonic() - began)

    def _key_of(self, webhook: Row) -> str:
        """Empty if there is none, or who sealed it had a wrong key. Raises WrongSecretKey if ours is."""
        key = self.seal.open(webhook["sealed_key"])
        if webhook["sealed_key"] is not None and not key:
            self.db.repeatable(lambda tx: encryption.require(tx, self.seal))
            logs.warning("webhook_key_unreadable", webhook_id=webhook["id"])
        return key

    def record(self, webhook: Row, answer: DeliveryResult) -> None:
        """2xx is delivered, 410 and a day of tries are given up, anything else is tried again."""
        facts = {"webhook_id": webhook["id"], "job_id": webhook["job_id"], "status": webhook["status"]}
        took = timedelta(seconds=answer.took)
        said = {"id": webhook["id"], "tries": webhook["tries"], "took": took, "answer": answer.status}
        pause = backoff(webhook["tries_since"], random.random())
        if answer.delivered:
            self.db.execute(SQL.webhook_delivered, **said)
            logs.info("webhook_delivered", answer=answer.status, **facts)
        elif answer.status == GONE or self._too_old(webhook, pause):
            self.db.execute(SQL.webhook_given_up, error=answer.error, **said)
            logs.warning("webhook_given_up", answer=answer.status, error=answer.error, **facts)
        else:
            self.db.execute(SQL.webhook_failed, error=answer.error, pause=pause, **said)
            logs.info("webhook_failed", answer=answer.status, error=answer.error, **facts)

    def _too_old(self, webhook: Row, pause: timedelta) -> bool:
        return bool(webhook["age"] + pause > GIVE_UP_AFTER)
