"""Machines as their requests made them known: when each was seen, its bans, and jobs that all live machines are
banned from."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Collection
from datetime import timedelta
from typing import Any
from uuid import UUID

from kelpie_api import logs
from kelpie_api.auth.caller import Caller
from kelpie_api.config import Config
from kelpie_api.db import SQL, Database, Row

FLUSH_PAUSE = 10.0  # seconds between two writings
WRITTEN_FOR = 30.0  # seconds for which a machine is not written again
MOST_SEEN = 10_000  # machines remembered between two writings; callers choose the names, so there is a limit
MOST_JOBS = 1000  # of one machine, in a list
PRUNE_BATCH = 5000
SHORTEST_MEMORY = timedelta(days=1)  # longer than any machine that works goes unseen

Machine = tuple[int, str, str]  # tenant, container group, machine


class Sightings:
    """The machines that this process has seen. A thread stores them, so that a claim stays one statement."""

    def __init__(self, db: Database, most: int = Config.max_machines) -> None:
        self.db = db
        self.most = most  # machines of one tenant; 0: any number
        self.lock = threading.Lock()
        self.unwritten: set[Machine] = set()
        self.written: dict[Machine, float] = {}  # when; monotonic

    def note(self, tenant_id: int, container_group: str, machine_id: str) -> None:
        machine = (tenant_id, container_group, machine_id)
        with self.lock:
            if machine not in self.written and len(self.unwritten) < MOST_SEEN:
                self.unwritten.add(machine)

    def record_sightings(self) -> float:
        """Store the machines seen and note jobs that no live one may have; seconds until the next time."""
        self.write()
        if blocked := self.db.execute(SQL.note_blocked_jobs):
            logs.warning("jobs_blocked_on_machines", jobs=blocked)
        return FLUSH_PAUSE

    def write(self) -> None:
        """Store the machines seen; if that fails they are stored the next time.

        Where a tenant has as many as it may, its new ones are left out, and those that are long gone make room.
        """
        with self.lock:
            seen = list(self.unwritten)
        if seen:
            self._store(seen)
        now = time.monotonic()
        with self.lock:
            self.unwritten.difference_update(seen)
            self.written = {machine: at for machine, at in self.written.items() if at > now - WRITTEN_FOR}
            self.written.update(dict.fromkeys(seen, now))

    def _store(self, seen: list[Machine]) -> None:
        crowded = self.db.all(SQL.see_machines, **columns(seen), most=self.most)
        if not crowded:
            return
        logs.warning(
            "machines_left_out",
            message=f"A user's project has {self.most} machines, as many as KELPIE_MAX_MACHINES allows;"
            " further ones may work, but are not listed.",
            tenants={row["tenant_id"]: row["left_out"] for row in crowded},
        )
        self.db.execute(SQL.make_room_for_machines, tenant_ids=[row["tenant_id"] for row in crowded])


def columns(machines: Collection[Machine]) -> dict[str, list[Any]]:
    """Machines as the parameters of a statement: one list for each column."""
    tenant_ids, container_groups, machine_ids = zip(*machines, strict=True) if machines else ((), (), ())
    return {
        "tenant_ids": list(tenant_ids),
        "container_groups": list(container_groups),
        "machine_ids": list(machine_ids),
    }


def list_page(
    db: Database,
    caller: Caller,
    *,
    container_group_id: str | None,
    page: int,
    page_size: int,
    after: Machine | None = None,
) -> tuple[list[Row], Machine | None]:
    """One page of the caller's machines, by group and id, each with its newest reallocations.

    Returns them and the machine to go on after; None: these are the last. `after` takes precedence over `page`.
    """
    tenant_id, group, machine_id = after or (None, None, None)
    found = db.all(
        SQL.list_machines,
        **caller.scope,
        container_group=container_group_id,
        after_tenant=tenant_id,
        after_group=group,
        after_machine=machine_id,
        most=page_size + 1,
        most_jobs=MOST_JOBS,
        skipped=0 if after else (page - 1) * page_size,
    )
    machines = found[:page_size]
    reallocations: dict[Machine, list[Row]] = defaultdict(list)
    for reallocation in db.all(SQL.list_reallocations, **columns([key_of(machine) for machine in machines])):
        reallocations[key_of(reallocation)].append(reallocation)
    shown = [machine | {"reallocations": reallocations[key_of(machine)]} for machine in machines]
    return shown, key_of(machines[-1]) if len(found) > page_size else None


def key_of(row: Row) -> Machine:
    return row["tenant_id"], row["container_group_id"], row["machine_id"]


def blocking(db: Database, job: Row) -> list[str]:
    """The live machines that could run a waiting job, if all of them are banned from it; else an empty list."""
    was_tried = job["num_failures"] or job["attempt"]
    if not was_tried or job["phase"] not in {"pending", "waiting", "parked"}:
        return []
    found = db.one_or_none(SQL.machines_that_block, job_id=UUID(str(job["id"])))
    return list(found["machine_ids"]) if found else []


def prune(db: Database, older_than: timedelta) -> int:
    """Remove machines last seen, and reallocations ended, longer ago than `older_than`; return their number."""
    age = max(older_than, SHORTEST_MEMORY)
    pruned = 0
    for statement in (SQL.prune_machines, SQL.prune_reallocations):
        while batch := db.execute(statement, older_than=age, batch=PRUNE_BATCH):
            pruned += batch
    return pruned
