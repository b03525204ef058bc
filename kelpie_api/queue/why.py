"""Why a job is not running: all that stands against it, in sentences, and what can be done.

The database knows; nothing is asked at Salad. The codes are a closed list. `claimable` is among them exactly when
a machine that was never seen, of the job's group, would be handed the job once those before it are gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from kelpie_api.auth.caller import Caller
from kelpie_api.db import SQL, Database, Row
from kelpie_api.queue.listing import get

MOST_BEFORE = 1000  # jobs that are counted before this one, in each line
MOST_NAMED = 5  # machines in a sentence


class Code(StrEnum):
    ENDED = "ended"
    RUNNING = "running"
    ASKED = "asked"
    SILENT = "silent"
    AMNESTY = "amnesty"
    ENDING = "ending"
    HELD = "held"
    SWEEP_IS_FULL = "sweep_is_full"
    AWAITS_SLOT = "awaits_slot"
    DEPENDS = "depends"
    BACKOFF = "backoff"
    UNSEALABLE = "unsealable"
    GROUP_PAUSED = "group_paused"
    GROUP_STOPPING = "group_stopping"
    CLAIMABLE = "claimable"
    NO_WORKERS = "no_workers"
    ALL_BANNED = "all_banned"
    MACHINES_WAIT = "machines_wait"
    POSITION = "position"
    FLEET = "fleet"
    LAST_ATTEMPT = "last_attempt"
    RESUMES_FROM = "resumes_from"


@dataclass(frozen=True)
class Reason:
    """One of the reasons; `action` is what can be done about it, None if there is nothing to do but wait."""

    code: Code
    sentence: str
    action: str | None = None


def why(db: Database, caller: Caller, job_id: UUID) -> list[Reason]:
    """Why the job is not running, the most important first. Raises JobNotFound."""
    job = get(db, caller, job_id)
    facts = db.one_or_none(SQL.facts_of_job, job_id=job_id, most=MOST_BEFORE + 1)
    if facts is None:
        job = get(db, caller, job_id)  # it may have ended in between
        detail = f", because of {job['reason']}" if job.get("reason") else ""
        return [
            Reason(Code.ENDED, f"The job is {job['status']}{detail}.", f"POST /jobs/{job_id}/rerun repeats it.")
        ]
    found = (
        [*_of_holder(facts)]
        if facts["machine_id"] and not facts["has_lapsed"]
        else [*_of_queue(db, caller, facts)]
    )
    return [*found, *_of_past(db, job_id, facts)]


def claimable(facts: Row) -> bool:
    """Whether a machine that was never seen, of the job's group, can be handed the job."""
    held = facts["machine_id"] is not None
    ready = (facts["has_lapsed"] and not facts["ends_on_lapse"]) if held else facts["parked"] is None
    against = ("paused_since", "stopping_until", "waits_until")
    return bool(ready) and all(facts[name] is None for name in against)


def _of_holder(facts: Row) -> Iterator[Reason]:
    machine = facts["machine_id"]
    if facts["wish"]:
        yield Reason(
            Code.ASKED,
            f"{facts['wish_by']} asked for {facts['wish']}; the worker on {machine} is told with its next"
            " heartbeat, or the attempt's end does it.",
        )
    if not facts["is_silent"]:
        yield Reason(Code.RUNNING, f"It is running: machine {machine} holds it, and was heard {_ago(facts)} ago.")
        return
    if facts["lapses_at"] is None:
        yield Reason(
            Code.AMNESTY,
            f"Machine {machine} has been silent, and so has the coordinator: no silence counts until it is back.",
        )
        return
    yield Reason(
        Code.AMNESTY,
        f"Machine {machine} has been silent for {_ago(facts)}, but the coordinator or its database was away: the"
        f" job can be claimed at {_time(facts['lapses_at'])}.",
    )


def _of_queue(db: Database, caller: Caller, facts: Row) -> Iterator[Reason]:
    yield from _of_lapse(facts)
    yield from _of_parking(facts)
    yield from _of_group(facts)
    if facts["waits_until"]:
        yield Reason(
            Code.MACHINES_WAIT,
            "It was taken and released thirty times within a minute, so all machines wait for it until"
            f" {_time(facts['waits_until'])}.",
            "The reasons of its last attempts (GET /jobs/{id}/attempts) say why.",
        )
    if claimable(facts):
        yield Reason(Code.CLAIMABLE, "It can be claimed now, by the next free machine.")
        yield from _of_machines(facts)
        yield _place(facts)
        yield from _of_fleet(db, caller, facts)


def _of_lapse(facts: Row) -> Iterator[Reason]:
    if not facts["machine_id"]:
        return
    sentence = f"Machine {facts['machine_id']} has been silent for {_ago(facts)}, so its lease is over."
    yield Reason(Code.SILENT, sentence)
    if facts["ends_on_lapse"]:
        yield Reason(
            Code.ENDING,
            f"The attempt is about to be ended: {facts['wish'] or 'a limit of the job or its sweep'} says what"
            " comes next.",
        )


def _of_parking(facts: Row) -> Iterator[Reason]:
    parked = facts["parked"] or ()
    if "hold" in parked:
        because = f", because of {facts['reason']}" if facts["reason"] else ""
        yield Reason(Code.HELD, f"It is held{because}.", "POST /jobs/{id}/resume lets it be handed out again.")
    if "sweep" in parked:
        yield _of_slot(facts)
    if "depends" in parked:
        yield _of_dependencies(facts)
    if "backoff" in parked:
        yield Reason(
            Code.BACKOFF,
            f"It waits after a failure until {_time(facts['backoff_until'])}, as a rule of the job says.",
            "POST /jobs/{id}/resume ends the wait.",
        )
    if "unsealable" in parked:
        yield Reason(
            Code.UNSEALABLE,
            "Its environment cannot be opened with the keys of this coordinator.",
            "Start the coordinator with the KELPIE_SECRET_KEY that sealed it.",
        )


def _of_slot(facts: Row) -> Reason:
    """Without a slot a job is also while its sweep has free ones and another reason parks it."""
    limit, taken = facts["max_parallel"], facts["slots_taken"]
    if limit is not None and taken >= limit:
        return Reason(
            Code.SWEEP_IS_FULL,
            f"Its sweep lets {limit} jobs be in hand at a time, and has as many.",
            f"PATCH /sweeps/{facts['sweep_id']} raises max_parallel.",
        )
    free = f", of which {taken} of {limit} are taken" if limit else ""
    when = "within two seconds" if facts["parked"] == ["sweep"] else "once nothing else keeps it back"
    return Reason(Code.AWAITS_SLOT, f"It waits for a slot of its sweep{free}: it is given one {when}.")


def _of_dependencies(facts: Row) -> Reason:
    named = ", ".join(str(one) for one in facts["depends_on"])
    sentence = f"It waits for {facts['waits_for']} jobs or sweeps to end{f': {named}' if named else ''}."
    if not (sweep_id := facts["on_open_sweep"]):
        return Reason(Code.DEPENDS, sentence)
    return Reason(
        Code.DEPENDS,
        f"{sentence} Sweep {sweep_id} is not closed, so it may get more jobs and does not end.",
        f'PATCH /sweeps/{sweep_id} {{"closed": true}} lets it end with its last job.',
    )


def _of_group(facts: Row) -> Iterator[Reason]:
    group = facts["container_group"]
    if facts["paused_since"]:
        yield Reason(
            Code.GROUP_PAUSED,
            f"The container group {group} was paused by {facts['paused_by']} at {_time(facts['paused_since'])}.",
            f'PATCH /container-groups/{group} {{"paused": false}} goes on.',
        )
    if facts["stopping_until"]:
        yield Reason(Code.GROUP_STOPPING, f"The container group {group} is being stopped; it takes a moment.")


def _of_machines(facts: Row) -> Iterator[Reason]:
    where = (
        f"of the container group {facts['container_group']}"
        if facts["container_group"]
        else "of any container group"
    )
    machines, banned = facts["machines"], {*facts["banned_machines"]}
    if not machines:
        yield Reason(
            Code.NO_WORKERS,
            f"No worker {where} was heard of in the last ten minutes.",
            "Look whether the group runs, and whether its worker has this coordinator's address and key.",
        )
    elif banned.issuperset(machines):
        yield Reason(
            Code.ALL_BANNED,
            f"All live machines are banned from it, for failures, stalls or on request: {_named(machines)}.",
            "Once the cause is mended DELETE /jobs/{id}/bans lets them have it again; or start another machine.",
        )
    if waiting := facts["waiting_machines"]:
        yield Reason(
            Code.MACHINES_WAIT,
            f"Machines that took and released it again and again wait for it: {_named(waiting)}.",
        )


def _place(facts: Row) -> Reason:
    own, null = facts["own"], facts["of_null_group"]
    counted = _up_to(own)
    beside = f", and {_up_to(null)} of the null group" if facts["container_group"] else ""
    higher = facts["of_higher_priority"]
    more = f"; {_up_to(higher)} of them have a higher priority" if higher else ""
    return Reason(
        Code.POSITION,
        f"Before it are {counted} jobs of its own line{beside}{more}.",
        "A higher priority (PATCH /jobs/{id}) moves it forward." if own or null else None,
    )


def _of_fleet(db: Database, caller: Caller, facts: Row) -> Iterator[Reason]:
    found = facts["container_group"] and db.one_or_none(
        SQL.last_decision, container_group=facts["container_group"], scope=caller.scope["scope"]
    )
    if not found:
        return
    rule = f"Its scaling rule wants {found['min_replicas']} to {found['max_replicas']} replicas"
    if found["at"] is None:
        yield Reason(
            Code.FLEET,
            f"{rule}, and no run of the autoscaler has looked at it yet.",
            "Is scripts/autoscale running?",
        )
        return
    replicas = _replicas(found)
    made = found["error"] or f"{found['action']}, to {found['desired_replicas']} replicas"
    yield Reason(
        Code.FLEET,
        f"{rule}; at {_time(found['at'])} the group was {found['observed_state'] or 'unknown'} with {replicas},"
        f" and the decision was: {made}.",
        f"GET /scaling-rules/{facts['container_group']}/decisions has the others.",
    )


def _replicas(found: Row) -> str:
    number = "an unknown number of" if found["observed_replicas"] is None else found["observed_replicas"]
    if found["observed_running"] is None:
        return f"{number} replicas"
    return (
        f"{number} replicas, of which {found['observed_running']} ran and"
        f" {found['observed_allocating'] or 0} were being allocated"
    )


def _of_past(db: Database, job_id: UUID, facts: Row) -> Iterator[Reason]:
    if not facts["attempt"]:
        return
    if last := db.one_or_none(SQL.last_attempt, job_id=job_id):
        code = "" if last["exit_code"] is None else f" with exit code {last['exit_code']}"
        told = f": {last['reason']}" if last["reason"] else ""
        yield Reason(
            Code.LAST_ATTEMPT,
            f"Attempt {last['number']} on machine {last['machine_id']} ended as {last['outcome']}{code} at"
            f" {_time(last['ended'])}{told}. {facts['num_failures']} of {facts['max_failures']} failures so far.",
        )
    newest = db.one_or_none(SQL.newest_checkpoint, job_id=job_id)
    if newest is None:
        yield Reason(
            Code.RESUMES_FROM, "No checkpoint of it is known here: an attempt begins with what is in the bucket."
        )
        return
    age = _duration((facts["at"] - newest["reported"]).total_seconds())
    yield Reason(
        Code.RESUMES_FROM,
        f"The next attempt goes on from checkpoint {newest['generation']} of attempt {newest['attempt']}, which is"
        f" {age} old.",
    )


def _up_to(number: int) -> str:
    return f"{MOST_BEFORE}+" if number > MOST_BEFORE else str(number)


def _named(machines: list[str]) -> str:
    more = f" and {len(machines) - MOST_NAMED} more" if len(machines) > MOST_NAMED else ""
    return ", ".join(machines[:MOST_NAMED]) + more


def _ago(facts: Row) -> str:
    return _duration((facts["at"] - facts["heartbeat"]).total_seconds())


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} seconds"


def _time(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
