"""A user's script that uses everything. It is run, and checked by mypy as a user would."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta

import kelpie


def submit(k: kelpie.Client) -> kelpie.Job:
    job = k.submit(
        ["sh", "-c", "echo hello"],
        name="one",
        group="g1",
        labels={"team": "nlp"},
        checkpoint={"ckpt": "s3://b/one/ckpt"},
        output={"out": "s3://b/one/out"},
        environment={"SEED": "1"},
        max_runtime="3d",
    )
    job.hold()
    job.resume()
    reasons: list[kelpie.Reason] = job.why()
    print(job.edit(priority=5).priority, [reason.sentence for reason in reasons], job.progress.metrics)
    return job


def look(job: kelpie.Job) -> None:
    events: list[kelpie.Event] = job.events()
    attempts: list[kelpie.Attempt] = job.attempts()
    print(events[0].kind, [attempt.outcome for attempt in attempts], list(job.logs()))
    try:
        job.result(timeout=1.0)
    except kelpie.JobCanceled as error:
        print(error, error.job.status)
    except (kelpie.JobFailed, kelpie.TimedOut) as error:
        sys.exit(str(error))


def sweep(k: kelpie.Client) -> None:
    made = k.sweep(
        ["run", "{lr}"], kelpie.grid(lr=[1e-4, 3e-4], seed=range(2)), name="grid", group="g1", max_parallel=2
    )
    result: kelpie.BulkResult = k.jobs(labels={}, sweep=made.id, phase=["pending", "parked"]).cancel(expect=4)
    ended = {job.name: job.status for job in kelpie.as_completed(made, timeout=10)}
    print(
        result.count, ended, made.refresh().done, made.jobs(since=datetime.now(UTC) - timedelta(days=1)).counts()
    )


async def also_async() -> str:
    async with kelpie.AsyncClient() as k:
        job: kelpie.AsyncJob = await k.submit(["true"], group="g1", key="once")
        await job.cancel()
        return (await job.refresh()).status


if __name__ == "__main__":
    with kelpie.Client() as client:
        first = submit(client)
        first.cancel()
        look(first)
        sweep(client)
        try:
            client.find("no-such-job")
        except kelpie.NotFound as error:
            print(error, asyncio.run(also_async()))
