"""One stack for all end-to-end tests; each has its own queue, bucket prefix and machines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local_stack.processes import scratch_folder
from local_stack.stack import LocalStack
from tests.conftest import own_database
from tests.warm_worker import WarmChild


@pytest.fixture(scope="session")
def stack(server_url: str) -> Iterator[LocalStack]:
    """The whole system as real processes, on the tests' own Postgres server."""
    with (
        own_database(server_url) as url,
        scratch_folder() as root,
        LocalStack(root, database_url=url, worker_process=WarmChild) as running,
    ):
        yield running
