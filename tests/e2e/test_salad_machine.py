"""A worker on a machine of Salad's, without any key: its token opens the real API, its instance is spoken of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local_stack.client import ApiClient
from local_stack.processes import scratch_folder, wait_for
from local_stack.stack import LocalStack
from tests.conftest import own_database
from tests.doubles.tokens import TokenDouble


@pytest.fixture
def trusting(server_url: str, tokens: TokenDouble) -> Iterator[LocalStack]:
    """A stack of its own, whose coordinator trusts the tokens of this metadata service."""
    with (
        own_database(server_url) as url,
        scratch_folder() as root,
        LocalStack(root, database_url=url, web_processes=1, settings={"SALAD_JWKS_URL": tokens.jwks_url}) as stack,
    ):
        yield stack


def test_a_job_is_done_under_a_token_and_the_idle_instance_given_up(
    trusting: LocalStack, tokens: TokenDouble
) -> None:
    admin = ApiClient(trusting.api_url, trusting.admin_key)
    client = ApiClient(trusting.api_url, admin.create_key(admin.create_user("acme"), "acme", "default"))
    job = client.submit(
        {
            "command": "sleep",
            "arguments": ["2.5"],
            "container_group_id": tokens.workload,
            "heartbeat_interval": 1,
        }
    )
    tokens.life = 6  # renewed on the way
    worker = trusting.start_worker(
        tokens.machine,
        {
            "KELPIE_API_KEY": "",
            "SALAD_PROJECT_NAME": "default",
            "SALAD_CONTAINER_GROUP_ID": tokens.workload,
            "SALAD_IMDS_URL": tokens.url,
            "MAX_TIME_WITH_NO_WORK_S": "1",
        },
    )
    wait_for(lambda: client.job(job["id"])["status"] == "completed", "the job to be completed")
    wait_for(lambda: tokens.departures, "the instance to be given up")
    assert tokens.departures == ["reallocate: no work for 1 seconds"]
    assert (tokens.costs[0], tokens.costs[-1]) == (0, 0) and max(tokens.costs) > 1
    (attempt,) = client.attempts(job["id"])
    assert (attempt["machine_id"], attempt["outcome"]) == (tokens.machine, "completed")
    wait_for(lambda: not worker.alive, "the worker to exit")
