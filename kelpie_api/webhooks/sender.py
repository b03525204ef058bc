"""The sender: takes due webhooks from the outbox, delivers them, and records the results
(docs/design/protocol.md, Webhooks).

Taking and recording are short statements; the request is in between, outside of any transaction.
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
from kelpie_api.backoff import Backoff
from kelpie_api.db import SQL, Database, Row
from kelpie_api.encryption import Seal
from kelpie_api.errors import NoAnswer, SchemaError, Unavailable, WrongSecretKey
from kelpie_api.net.public_http import PublicHttp
from kelpie_api.webhooks import fairness, signing
from kelpie_version import VERSION

IDLE = 0.5  # seconds between two looks at an empty outbox
HOLD = timedelta(seconds=60)  # longer than any delivery takes; then another sender may take it
GIVE_UP_AFTER = timedelta(hours=24)
GIVE_UP_PAUSE = 60.0  # seconds between two looks for webhooks that are too old
# The first retry must come within 10 seconds (docs/design/protocol.md, Webhooks).
BACKOFF = Backoff(timedelta(seconds=4), timedelta(hours=1))
GONE = 410


@dataclass(frozen=True)
class DeliveryResult:
    """The result of one try: the receiver's status, or None and why there was none; and the seconds it took."""

    status: int | None
    error: str | None = None
    took: float = 0.0

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def prompt(self) -> bool:
        return self.status is not None and self.took <= fairness.PROMPT


def body_of(webhook: Row) -> bytes:
    """The bytes that are signed and sent."""
    told = {name: webhook[name] for name in ("event", "sweep") if webhook[name] is not None}
    return json.dumps(
        {
            "status": webhook["status"],
            "job_id": str(webhook["job_id"]),
            "machine_id": webhook["machine_id"],
            "container_group_id": webhook["container_group"],
            **told,
        }
    ).encode()


def report_defect(delivery: Future[None]) -> None:
    """Log a defect in a delivery thread, whose result no code reads. The webhook is due again after HOLD."""
    if error := delivery.exception():
        logs.error("webhook_delivery_failed", error)


def sentence(error: Exception) -> str:
    """The database's message without the statement that it quotes."""
    return str(error).strip().partition("\n")[0]


class Sender:
    """Delivers webhooks in threads, which `Lanes` shares between receivers."""

    def __init__(self, db: Database, seal: Seal, public_http: PublicHttp) -> None:
        self.db = db
        self.seal = seal
        self.public_http = public_http
        self.stopped = threading.Event()
        self.freed = threading.Event()  # set when a thread has ended a delivery, so that a lane may have room
        self.lanes = fairness.Lanes()
        self.give_up_at = 0.0
        self.fit = False  # the schema and the secret key of the database were checked
        self.trouble: str | None = None  # what the database refused last, so that it is logged once

    def run(self) -> None:
        """Deliver until stopped, then finish what is under way. Raises SchemaError, WrongSecretKey."""
        with ThreadPoolExecutor(fairness.THREADS, thread_name_prefix="webhook") as pool:
            while not self.stopped.is_set():
                self.freed.clear()
                if not self.look(pool):
                    self.freed.wait(IDLE)

    def look(self, pool: ThreadPoolExecutor) -> int:
        """One iteration of the loop; the number of webhooks taken, 0 also while the database refuses."""
        try:
            self.require_fit()
            self.give_up_old(time.monotonic())
            taken = self.round(pool)
        except Unavailable as error:
            self.db.outage.away("sender", error)
            return 0
        except psycopg.Error as error:
            self._say_refusal(error)
            return 0
        self.db.outage.back("sender")
        if self.trouble:
            logs.info("database_back")
            self.trouble = None
        return taken

    def require_fit(self) -> None:
        """Check schema and secret key when the database first answers. Raises SchemaError, WrongSecretKey."""
        if self.fit:
            return
        if problem := self.db.repeatable(lambda tx: migrations.problem(tx.connection)):
            raise SchemaError(problem)
        self.db.repeatable(lambda tx: encryption.require(tx, self.seal))
        self.fit = True

    def _say_refusal(self, error: psycopg.Error) -> None:
        """Log a refusal of the database once, however often it is repeated."""
        message = sentence(error)
        if message != self.trouble:
            logs.warning("database_refuses", message=message)
        self.trouble = message

    def round(self, pool: ThreadPoolExecutor) -> int:
        """Take as many due webhooks as there is room for and start their delivery; return their number."""
        room = self.lanes.room()
        due = self.db.all(SQL.take_webhooks, hold=HOLD, **room) if room["batch"] > 0 else []
        for webhook in due:
            self.lanes.begin(webhook["user_id"], webhook["lane"])
            pool.submit(self._deliver_and_free, webhook).add_done_callback(report_defect)
        return len(due)

    def give_up_old(self, now: float) -> None:
        """Give up webhooks that have waited for a day; looks once a minute. `now` is monotonic, in seconds."""
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
            # Perhaps sent, but not recorded: due again after HOLD, so delivered at least once.
            logs.warning("webhook_not_recorded", webhook_id=webhook["id"], message=sentence(error))
            prompt = True
        except WrongSecretKey:
            self.fit = False  # the next iteration checks again and ends this sender
            prompt = True
        finally:
            self.lanes.end(webhook["user_id"], webhook["lane"], prompt)
            self.freed.set()

    def deliver(self, webhook: Row) -> DeliveryResult:
        answer = self.post(webhook)
        self.record(webhook, answer)
        return answer

    def post(self, webhook: Row) -> DeliveryResult:
        """Send a webhook once, on a connection of its own, without following redirects."""
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
        """The key to send; empty if there is none, or if it was sealed with a wrong secret key.

        Raises WrongSecretKey if the secret key of this process is not the database's.
        """
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
        pause = BACKOFF.after(webhook["tries_since"], random.random())
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
