"""Clients that use every route through the proxy, and record the answers."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import requests

from tests.containers.caller import Caller
from tests.containers.compose import Compose
from tests.helpers import new_claim_id
from tests.history import Call

INTERVAL = 2  # seconds between the heartbeats that a job asks for
RETRY = (0.2, 1.0)  # seconds until a call that was not answered is repeated
EXPECTED = {200, 202, 409}
Answer = requests.Response


@dataclass
class Crowd:
    """`tally` counts the answers by their status, and connections that broke as `broken`; `unexpected` has what no
    client should ever be told."""

    stack: Compose
    key: str
    tenant_id: int
    webhook: str
    log: list[Call] = field(default_factory=list)
    tally: Counter[int | str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def served(self) -> int:
        return sum(self.tally[status] for status in EXPECTED)

    def turned_away(self) -> int:
        return self.tally[503] + self.tally["broken"]


class Member:
    """One worker of a machine of its own, which is its user as well. A call that was not answered is repeated."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd = crowd
        self.machine = f"m{number}"
        self.random = random.Random(number)
        self.hands: deque[tuple[UUID, int]] = deque(maxlen=10)
        self.caller = Caller(crowd.stack, "", crowd.key)
        self.deeds: dict[Callable[[], None], int] = {
            self.submit: 16,
            self.claim: 24,
            self.beat: 30,
            self.complete: 10,
            self.fail: 6,
            self.release: 8,
            self.cancel: 3,
        }

    def run(self) -> None:
        with self.caller:
            while not self.crowd.stopped.is_set():
                [deed] = self.random.choices(list(self.deeds), list(self.deeds.values()))
                deed()

    def submit(self) -> None:
        self.ask(
            "POST",
            "/jobs",
            {
                "command": "work",
                "container_group_id": self.random.choice(["g1", "g1", None]),
                "heartbeat_interval": INTERVAL,
                "webhook": self.crowd.webhook if self.random.random() < 0.1 else None,
            },
        )

    def claim(self) -> None:
        request = new_claim_id()
        began = time.monotonic()
        answer = self.ask("GET", f"/work?machine_id={self.machine}&container_group_id=g1&claim_id={request}")
        for job in answer.json() if answer is not None and answer.ok else []:
            self.hands.append((UUID(job["id"]), job["attempt"]))
            self.note("claim", UUID(job["id"]), job["attempt"], began, True, request)

    def beat(self) -> None:
        self.report("heartbeat")

    def complete(self) -> None:
        self.report("completed")

    def fail(self) -> None:
        self.report("failed")

    def release(self) -> None:
        self.report("released")

    def report(self, kind: str) -> None:
        """On something that this member held at some time; now and then without the attempt."""
        if not self.hands:
            return
        job_id, held = self.random.choice(self.hands)
        self.say(kind, job_id, held if self.random.random() < 0.9 else None)

    def say(self, kind: str, job_id: UUID, attempt: int | None) -> None:
        began = time.monotonic()
        holder = {"machine_id": self.machine, "container_group_id": "g1", "attempt": attempt}
        answer = self.ask(
            "POST",
            f"/jobs/{job_id}/{kind}",
            {name: value for name, value in holder.items() if value is not None},
        )
        if answer is not None:
            self.note(kind, job_id, attempt, began, is_accepted(kind, answer))

    def cancel(self) -> None:
        if self.hands:
            job_id, _ = self.random.choice(self.hands)
            began = time.monotonic()
            answer = self.ask("DELETE", f"/jobs/{job_id}")
            if answer is not None:
                self.note("canceled", job_id, None, began, answer.ok)

    def ask(self, method: str, path: str, body: Any = None) -> Answer | None:
        """Call until the API answers, as a worker does; None if the test ends before."""
        while True:
            answer = self.call(method, path, body)
            if answer is not None and answer.status_code != 503:
                return answer
            if self.crowd.stopped.wait(self.random.uniform(*RETRY)):
                return None

    def call(self, method: str, path: str, body: Any) -> Answer | None:
        try:
            answer = self.caller.call(method, path, body)
        except requests.RequestException as error:
            self.crowd.tally["broken"] += 1
            self.crowd.tally[f"broken: {type(error).__name__}"] += 1
            return None
        self.crowd.tally[answer.status_code] += 1
        if not is_expected(answer):
            self.crowd.unexpected.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer

    def note(
        self, kind: str, job_id: UUID, attempt: int | None, began: float, accepted: bool, request: object = None
    ) -> None:
        ended = time.monotonic()
        self.crowd.log.append(
            Call(kind, self.crowd.tenant_id, self.machine, job_id, attempt, accepted, began, ended, request)
        )


def is_accepted(kind: str, answer: Answer) -> bool:
    if not answer.ok:
        return False
    said = answer.json()
    return bool(said.get("status") == "running") if kind == "heartbeat" else "Ignored" not in said["message"]


def is_expected(answer: Answer) -> bool:
    is_json = answer.headers.get("Content-Type") == "application/json"
    if answer.status_code == 503:
        return is_json and "Retry-After" in answer.headers and set(answer.json()) == {"error", "message"}
    return is_json and answer.status_code in EXPECTED
