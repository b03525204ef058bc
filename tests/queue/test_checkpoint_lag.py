"""How far the bucket is behind a running command, as its worker reports with its heartbeats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kelpie_api.db import Database
from tests.helpers import Client, Job, Tenant, make_job, refused


@pytest.fixture
def job(api: Client) -> Job:
    api.submit()
    claimed = api.claim()
    assert claimed
    return claimed


def beat(api: Client, job: Job, machine: str = "m1", **more: Any) -> Any:
    return api.report(job, "heartbeat", machine, **more)


def shown(api: Client, job: Job) -> Any:
    """The lag of the job as it is read; `unknown` where there is none."""
    return (api.get(f"/jobs/{job['id']}").json or {}).get("checkpoint_lag", "unknown")


def test_a_job_shows_the_lag_of_its_last_heartbeat(api: Client, job: Job) -> None:
    assert shown(api, job) == "unknown"
    for lag in (90, 0):
        assert beat(api, job, attempt=1, checkpoint_lag=lag).json == {"status": "running"}
        assert shown(api, job) == lag
    beat(api, job)
    assert shown(api, job) == "unknown"


def test_a_heartbeat_that_is_refused_tells_no_lag(api: Client, job: Job) -> None:
    beat(api, job, attempt=1, checkpoint_lag=5)
    beat(api, job, "m2", attempt=1, checkpoint_lag=60)
    beat(api, job, attempt=2, checkpoint_lag=70)
    assert shown(api, job) == 5


@pytest.mark.parametrize("lag", [-1, 2**31, 1.5, "5", True])
def test_a_lag_that_is_no_number_of_seconds_is_a_400(api: Client, job: Job, lag: Any) -> None:
    assert refused(beat(api, job, checkpoint_lag=lag), 400)["errors"].keys() == {"checkpoint_lag"}


@pytest.mark.parametrize(
    "end",
    [
        lambda api, job: api.report(job, "released", attempt=1),
        lambda api, job: api.report(job, "failed", attempt=1),
        lambda api, job: api.report(job, "completed", attempt=1),
        lambda api, job: api.call("DELETE", f"/jobs/{job['id']}"),
    ],
)
def test_the_lag_ends_with_its_attempt(api: Client, job: Job, end: Callable[[Client, Job], object]) -> None:
    beat(api, job, attempt=1, checkpoint_lag=5)
    end(api, job)
    assert shown(api, job) == "unknown"


def test_the_lag_of_a_lapsed_attempt_is_not_the_next_ones(api: Client, db: Database, tenant: Tenant) -> None:
    job = {"id": str(make_job(db, tenant, "held", silent_for=3600))}
    db.execute("update queue set checkpoint_lag = 5")
    assert shown(api, job) == 5
    assert api.claim("m2")
    assert shown(api, job) == "unknown"
