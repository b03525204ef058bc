"""The history checker: compares the rows in the database with the answers that clients got, and names differences.

The promises are the invariants of
docs/design/guarantees.md, as far as rows and answers show them. What happened to a
job has the order of its events, for they are written under the job's lock; a row's times say when a transaction
began, which is before it got that lock. Calls carry one monotonic clock of the process that made them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from itertools import dropwhile
from typing import Any
from uuid import UUID

from kelpie_api.db import Database, Row

FINAL = {"completed", "failed", "canceled"}
REPORTS = {"completed", "failed", "released"}
ENDS = {"interrupted", "attempt_failed", "released", "completed", "canceled"}  # what ends an attempt


@dataclass(frozen=True)
class Call:
    """One call of a client and its answer.

    `kind` is `claim`, `heartbeat`, `completed`, `failed`, `released` or `canceled` (by a user). `attempt` is the
    one that a claim handed out or that a report carried (None: an original worker). `request` is the same for
    repetitions of one claim, and of nothing else.
    """

    kind: str
    tenant_id: int
    machine: str
    job_id: UUID | None
    attempt: int | None
    accepted: bool
    began: float
    ended: float
    request: object = None


@dataclass(frozen=True)
class Rows:
    """What the database kept, table by table."""

    jobs: list[Row] = field(default_factory=list)
    queue: list[Row] = field(default_factory=list)
    attempts: list[Row] = field(default_factory=list)
    bans: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    webhooks: list[Row] = field(default_factory=list)
    outages: list[Row] = field(default_factory=list)

    @classmethod
    def read(cls, db: Database) -> Rows:
        order = {"attempts": "job_id, number", "events": "id", "webhooks": "seq"}
        return cls(
            **{
                table: db.all(f"select * from {table} order by {order.get(table, 1)}")
                for table in cls.__annotations__
            }
        )


@dataclass(frozen=True)
class Life:
    """All that is known about one job; attempts, events, webhooks and calls in the order they came."""

    job: Row
    lease: Row | None
    attempts: list[Row]
    bans: list[Row]
    events: list[Row]
    webhooks: list[Row]
    outages: list[Row]
    calls: list[Call]

    @property
    def is_final(self) -> bool:
        return self.job["status"] in FINAL

    @property
    def name(self) -> str:
        return f"job {self.job['seq']}"

    def accepted(self, *kinds: str) -> list[Call]:
        return [call for call in self.calls if call.accepted and call.kind in kinds]

    @cached_property
    def handed(self) -> list[Call]:
        return self.accepted("claim")

    def took_over_before(self, call: Call) -> Iterator[Call]:
        """Claims that were answered before this call began, and leave its caller without the job."""
        for claim in self.handed:
            if claim.ended < call.began and claim.attempt is not None:
                if call.attempt is not None:
                    if claim.attempt > call.attempt:
                        yield claim
                elif claim.machine != call.machine and not self.claimed_again(call, claim.attempt):
                    yield claim

    def claimed_again(self, call: Call, attempt: int) -> bool:
        return any(
            claim.machine == call.machine and (claim.attempt or 0) > attempt and claim.began < call.ended
            for claim in self.handed
        )


Rule = Callable[[Life], Iterator[str]]


def violations(rows: Rows, log: Sequence[Call]) -> list[str]:
    """A sentence for every promise that was broken; none of them means a clean history."""
    return [f"{life.name}: {broken}" for life in lives(rows, log) for rule in RULES for broken in rule(life)]


def lives(rows: Rows, log: Iterable[Call]) -> Iterator[Life]:
    attempts, bans, events, webhooks = (
        by_job(table) for table in (rows.attempts, rows.bans, rows.events, rows.webhooks)
    )
    leases = {lease["job_id"]: lease for lease in rows.queue}
    calls: dict[Any, list[Call]] = defaultdict(list)
    for call in sorted(log, key=lambda call: call.began):
        calls[call.job_id].append(call)
    for job in rows.jobs:
        key = job["id"]
        yield Life(
            job, leases.get(key), attempts[key], bans[key], events[key], webhooks[key], rows.outages, calls[key]
        )


def by_job(rows: list[Row]) -> dict[Any, list[Row]]:
    grouped: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row["job_id"]].append(row)
    return grouped


def one_live_lease(life: Life) -> Iterator[str]:
    """One live lease (docs/design/guarantees.md, I1)."""
    live = [attempt["number"] for attempt in life.attempts if attempt["ended"] is None]
    held = [life.lease["attempt"]] if life.lease and life.lease["machine_id"] else []
    if live != held:
        yield f"attempts {live} are not ended, the queue has {held or 'nobody'} as its holder"
    open_attempt = 0
    for event in life.events:
        if event["kind"] == "claimed":
            if open_attempt:
                yield f"attempt {event['attempt']} began before attempt {open_attempt} ended"
            open_attempt = event["attempt"]
        elif event["kind"] in ENDS and event["attempt"] == open_attempt:
            open_attempt = 0


def each_attempt_is_one_handout(life: Life) -> Iterator[str]:
    """Attempts are numbered without gaps, each handed to one request (docs/design/guarantees.md, I2)."""
    numbers = [attempt["number"] for attempt in life.attempts]
    if numbers != list(range(1, life.job["attempt"] + 1)):
        yield f"its attempts are {numbers}, its number of handouts is {life.job['attempt']}"
    told = [event["attempt"] for event in life.events if event["kind"] == "claimed"]
    if told != numbers:
        yield f"its attempts are {numbers}, its history tells of {told}"
    requests: dict[int | None, set[object]] = defaultdict(set)
    for claim in life.handed:
        requests[claim.attempt].add(claim.request)
    for attempt, askers in requests.items():
        if len(askers) > 1:
            yield f"attempt {attempt} was handed to {len(askers)} requests"


def only_the_holder_is_heard(life: Life) -> Iterator[str]:
    """Only the holder's reports are accepted (docs/design/guarantees.md, I3)."""
    for beat in life.accepted("heartbeat"):
        for claim in life.took_over_before(beat):
            yield (
                f"a heartbeat of attempt {beat.attempt} of {beat.machine} was accepted"
                f" after attempt {claim.attempt} had been handed to {claim.machine}"
            )
        if any(end.attempt == beat.attempt and end.ended < beat.began for end in own_reports(life, beat)):
            yield f"a heartbeat of attempt {beat.attempt} was accepted after its end was reported"
    for report in life.accepted(*REPORTS):
        if not is_written_down(life, report):
            yield (
                f"{report.kind} was accepted from attempt {report.attempt} of {report.machine},"
                " and that attempt did not end so"
            )


def own_reports(life: Life, call: Call) -> list[Call]:
    """What the same attempt of the same machine reported, where it said which attempt it is."""
    same = (call.machine, call.attempt)
    return [end for end in life.accepted(*REPORTS) if call.attempt and (end.machine, end.attempt) == same]


def is_written_down(life: Life, report: Call) -> bool:
    ended_so = [
        attempt["number"]
        for attempt in life.attempts
        if attempt["outcome"] == report.kind and attempt["machine_id"] == report.machine
    ]
    if report.attempt is not None:
        return report.attempt in ended_so
    unclaimed = [event["actor"] for event in life.events if event["attempt"] == 0]
    return bool(ended_so) or f"machine:{report.machine}" in unclaimed


def silence_is_waited_for(life: Life) -> Iterator[str]:
    """No lease is taken before two intervals of silence, and outages are none (docs/design/guarantees.md, I16)."""
    two = 2 * timedelta(seconds=life.job["heartbeat_interval"])
    for before, after in zip(life.attempts, life.attempts[1:], strict=False):
        if before["outcome"] != "interrupted":
            continue
        if after["claimed"] - before["last_heartbeat"] <= two:
            yield f"attempt {after['number']} began while the lease before it was alive"
        for outage in life.outages:
            counts = outage["ended"] - outage["began"] >= two / 4
            if counts and timedelta(0) <= after["claimed"] - outage["ended"] <= two:
                yield f"attempt {after['number']} took the job within two intervals of an outage"


def nothing_after_the_end(life: Life) -> Iterator[str]:
    """Nothing follows a final state (docs/design/guarantees.md, I4)."""
    ends = [event["kind"] for event in life.events if event["kind"] in FINAL]
    if ends != [life.job["status"]] * life.is_final:
        yield f"it is {life.job['status']}, its history tells of {ends}"
    if (life.lease is None) != life.is_final:
        yield f"it is {life.job['status']} and {'has no' if life.lease is None else 'has a'} row in the queue"
    for event in dropwhile(lambda event: event["kind"] not in FINAL, life.events):
        if event["kind"] not in FINAL:
            yield f"{event['kind']} comes after its end"
    for end in life.accepted("completed", "canceled"):
        for call in life.accepted("heartbeat", "claim"):
            if call.began > end.ended:
                yield f"a {call.kind} was accepted after it was {end.kind}"


def each_failed_attempt_counts_once(life: Life) -> Iterator[str]:
    """Each failed attempt counts once (docs/design/guarantees.md, I7)."""
    told = [(event["attempt"], event["actor"]) for event in life.events if event["kind"] == "attempt_failed"]
    failed = [attempt["number"] for attempt in life.attempts if attempt["outcome"] == "failed"]
    if sorted(number for number, _ in told if number) != failed or len(set(told)) != len(told):
        yield f"attempts {failed} failed, its history tells of {told}"
    if life.job["num_failures"] != len(told):
        yield f"it counts {life.job['num_failures']} failures, its history tells of {len(told)}"
    if (life.job["status"] == "failed") != (life.job["num_failures"] >= life.job["max_failures"]):
        yield f"it is {life.job['status']} after {life.job['num_failures']} of {life.job['max_failures']} failures"


def never_to_a_banned_machine(life: Life) -> Iterator[str]:
    """No banned machine is handed the job (docs/design/guarantees.md, I9)."""
    failed = set()
    for event in life.events:
        if event["kind"] == "attempt_failed":
            failed.add(event["actor"])
        elif event["kind"] == "claimed" and event["actor"] in failed:
            yield f"attempt {event['attempt']} was handed to {event['actor']}, which is banned from it"
    banned = {f"machine:{ban['machine_id']}" for ban in life.bans}
    if failed != banned:
        yield f"{failed} failed it and {banned} are banned"


def only_its_own_tenant(life: Life) -> Iterator[str]:
    """No call of another tenant is accepted (docs/design/guarantees.md, I10)."""
    for call in life.calls:
        if call.accepted and call.tenant_id != life.job["tenant_id"]:
            yield f"a {call.kind} of tenant {call.tenant_id} was accepted, it belongs to {life.job['tenant_id']}"


def a_webhook_for_each_transition(life: Life) -> Iterator[str]:
    """Each transition has its webhook (docs/design/guarantees.md, I11)."""
    due = ["running"] * life.job["attempt"]
    if life.job["status"] in {"completed", "failed"}:
        due.append(life.job["status"])
    written = [webhook["status"] for webhook in life.webhooks]
    if written != (due if life.job["webhook"] else []):
        yield f"its webhooks are {written}, due are {due if life.job['webhook'] else []}"


RULES: list[Rule] = [
    one_live_lease,
    each_attempt_is_one_handout,
    only_the_holder_is_heard,
    silence_is_waited_for,
    nothing_after_the_end,
    each_failed_attempt_counts_once,
    never_to_a_banned_machine,
    only_its_own_tenant,
    a_webhook_for_each_transition,
]
