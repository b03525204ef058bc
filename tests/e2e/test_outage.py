"""The coordinator is away for five intervals under twenty running jobs: all go on, in their first attempt."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from local_stack.client import ApiUnavailableError, Job
from local_stack.processes import wait_for
from local_stack.stack import LocalStack

JOBS = 20
INTERVAL = 4  # seconds; a lease lapses after twice that, and on a busy machine twenty workers take a while


def heartbeats(jobs: list[Job]) -> list[int]:
    return [job["num_heartbeats"] for job in jobs]


def test_an_outage_of_five_intervals_interrupts_none_of_twenty_jobs(stack: LocalStack, tmp_path: Path) -> None:
    group, gate = f"outage-{uuid.uuid4().hex[:8]}", tmp_path / "gate"
    wanted = {
        "command": "sh",
        "arguments": ["-c", f"until test -e {gate}; do sleep 0.5; done"],
        "container_group_id": group,
        "heartbeat_interval": INTERVAL,
    }
    ids = [job["id"] for job in stack.client.submit_batch([wanted] * JOBS)]

    def listed() -> list[Job]:
        try:
            return stack.client.jobs(container_group_id=group)
        except ApiUnavailableError:  # it is slow while so many programs start beside it, or all ask at once
            return []

    def all_jobs() -> list[Job]:
        jobs = {job["id"]: job for job in wait_for(listed, "the list of the jobs", timeout=60)}
        return [jobs[job_id] for job_id in ids]

    def heard(since: list[int]) -> bool:
        return all(now > before for now, before in zip(heartbeats(all_jobs()), since, strict=True))

    def start_worker(name: str) -> None:
        stack.start_worker(f"{group}-{name}", {"SALAD_CONTAINER_GROUP_ID": group})

    for number in range(JOBS):
        start_worker(f"holder-{number}")
    wait_for(lambda: heard([0] * JOBS), "every job to run and be heard", timeout=120)
    # Machines with nothing to do ask for work every second: whatever looks lapsed they get.
    start_worker("hungry-1")
    start_worker("hungry-2")

    stack.kill_api()
    time.sleep(5 * INTERVAL)  # the outage itself, not a wait for anything
    before_restart = time.monotonic()
    stack.start_api()
    known = heartbeats(all_jobs())
    wait_for(lambda: heard(known), "every holder to be heard again", timeout=60)
    print(f"\nall {JOBS} holders heard again {time.monotonic() - before_restart:.1f} s after the restart began")

    assert [job["attempt"] for job in all_jobs()] == [1] * JOBS
    gate.touch()
    wait_for(lambda: all(job["status"] == "completed" for job in all_jobs()), "all jobs to complete", timeout=120)
    assert [job["attempt"] for job in all_jobs()] == [1] * JOBS
    assert [job["num_failures"] for job in all_jobs()] == [0] * JOBS
    for worker in stack.workers:
        if worker.machine_id.startswith(group):
            worker.vanish()
