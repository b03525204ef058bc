"""A job from its submission to its end, over HTTP."""

from tests.helpers import Client


def test_a_job_is_submitted_claimed_and_completed(api: Client) -> None:
    job = api.submit()
    claimed = api.claim()
    assert claimed and claimed["id"] == job["id"] and claimed["attempt"] == 1
    assert api.report(job, "heartbeat", attempt=1).json == {"status": "running"}
    assert api.report(job, "completed", attempt=1).json == {"message": "Completed reported"}
    assert (api.get(f"/jobs/{job['id']}").json or {})["status"] == "completed"
    assert api.claim() is None
